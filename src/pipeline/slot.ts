import { isErrorCode, PagewireError } from '../errors.js';
import type { NativeResult } from '../native.js';

/** What packing or unpacking made of a slot. Plain data, so that it can come from another thread. */
export interface Outcome {
  /** The slot that holds the result. */
  slot?: number;
  /** What was wrong, where there is no slot. */
  failure?: NativeResult;
}

/** The slot, or what was wrong thrown. */
export function slotOf({ slot, failure }: Outcome): number {
  if (slot !== undefined) return slot;
  throw failureOf(failure ?? { code: 'INTERNAL', truncated: false });
}

/** A native failure as an error. */
export function failureOf({ code = 'INTERNAL', message, frame, offset }: NativeResult): PagewireError {
  return new PagewireError(isErrorCode(code) ? code : 'INTERNAL', message ?? code, { frame, offset });
}

/** What runs in a worker thread: native code on a slot, in place. */
import { native } from '../native.js';
import type { Outcome } from './outcome.js';
import type { PackTask, UnpackTask } from './workers.js';

export function pack({ handle, slot, codec, level }: PackTask): Outcome {
  return native.pack(handle, slot, codec, level);
}

export function unpack({ handle, slot }: UnpackTask): Outcome {
  return native.unpack(handle, slot);
}

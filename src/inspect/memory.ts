/** How one memory limit is kept by all that works at the same time, each of which counts Node's own share for itself. */
import { BASE_BYTES } from '../policy/memory.js';

/**
 * What a look takes besides the pages' last versions, at the most: Node, the sample (64 MiB), the contents' hashes (36 MiB,
 * and half of it more while their table grows), a byte for each page (64 MiB), device states (16 MiB).
 */
export const FIXED_BYTES = BASE_BYTES + (64 + 54 + 64 + 16) * 2 ** 20;

export interface Held {
  /** Bytes that are taken: Node's own and what is kept. */
  held: number;
  /** What a decoder takes beside its window, Node's own share with it. */
  decoder: number;
  /** Whether the stream comes out of a decoder. */
  isPagewire: boolean;
  /** What a decoder's window takes that what comes out goes through; undefined: it goes through none. */
  window?: number | undefined;
}

/**
 * What a limit leaves: `source`, for the decoder that a stream comes out of, with Node's own share as decoders count it, and
 * `rest`, for what grows with the guest. A window of the source's may be as large as that. Below 0 there is too little.
 */
export function shares(limit: number, { held, decoder, isPagewire, window }: Held): { source: number; rest: number } {
  const fixed = decoder - BASE_BYTES;
  const behind = window === undefined ? 0 : fixed + window;
  const left = Math.floor(limit - held - behind - (isPagewire ? fixed : 0));
  if (!isPagewire || left < 0) return { source: decoder, rest: left };
  const half = Math.floor(left / 2);
  return { source: decoder + half, rest: left - half };
}

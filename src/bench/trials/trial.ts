import type { PresentVariant } from '../variant.js';

/** One variant, once over its input: encoded, decoded, and held against what went in. */
export interface Turn {
  rawBytes: number;
  packedBytes: number;
  /** Undefined where a variant does not do that itself. */
  encode: Timing | undefined;
  decode: Timing | undefined;
  /** What it reckons to take at the most, where it reckons. */
  memoryBytes?: number | undefined;
  /** Of the page cache, where there is one. */
  cache?: { bytes: number; hitRate: number } | undefined;
}

export interface Timing {
  seconds: number;
  cpuSeconds: number;
}

/** A variant that is ready to be measured on a sample. */
export interface Trial {
  readonly variant: PresentVariant;
  /** The first turn, over all of the input: the turns that follow may take a part of it, for about `seconds`. */
  warm(seconds: number): Promise<Turn>;
  /** @throws PagewireError with the code INTERNAL where what comes back is not what went in. */
  turn(): Promise<Turn>;
}

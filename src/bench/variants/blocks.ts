import { type Codec, codecNumber, CODECS } from '../../codecs.js';
import { native } from '../../native.js';
import type { NativeBlockVariant } from '../variant.js';

/**
 * The levels that are compared; others can be had by a variant of one line. lz4 below 1 is faster, from 3 on it is
 * lz4hc; zlib is libdeflate's; zstd below 1 is faster, and over 19 wants more than a frame.
 */
const LEVELS: Record<Codec, readonly number[]> = {
  none: [0],
  lz4: [-8, 1, 3, 6, 9, 12],
  zlib: [1, 3, 6, 9, 12],
  zstd: [-7, -3, -1, 1, 2, 3, 5, 7, 9, 12, 15, 19],
};

/** How much faster than their fastest level lz4 and zstd are tried: up to level -64. */
const FASTER = [-64, -32, -16, -8, -7, -6, -5, -4, -3, -2, -1];

/** Smaller blocks than a frame, down to a page, for the codecs that are in use. */
const BLOCK_SIZES = [4 << 10, 64 << 10];

/** Our block codecs at chosen levels, or at every one, on blocks of 1 MiB, and the fast ones on smaller blocks. */
export function blockVariants(everyLevel: boolean): NativeBlockVariant[] {
  const levels = CODECS.flatMap((codec) =>
    (everyLevel ? every(codec) : LEVELS[codec]).map((level) => block(codec, level)),
  );
  const sizes = BLOCK_SIZES.flatMap((size) => [block('lz4', 1, size), block('zstd', 1, size)]);
  return [...levels, ...sizes];
}

function block(codec: Codec, level: number, blockSize?: number): NativeBlockVariant {
  const name = codec === 'none' ? 'stored' : `${codec} ${level}`;
  if (blockSize === undefined) return { kind: 'block', name, codec, level };
  return { kind: 'block', name: `${name}, ${blockSize >> 10}K blocks`, codec, level, blockSize };
}

/** Level 0 is one of the others. */
function every(codec: Codec): number[] {
  const [lowest, highest] = native.codecLevels(codecNumber(codec));
  const usual = Array.from({ length: highest }, (_, n) => n + 1);
  return codec === 'none' ? [0] : [...FASTER.filter((level) => level >= lowest), ...usual];
}

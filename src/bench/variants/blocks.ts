import type { Codec } from '../../codecs.js';
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

/** Smaller blocks than a frame, down to a page, for the codecs that are in use. */
const BLOCK_SIZES = [4 << 10, 64 << 10];

/** Our block codecs at their levels, on blocks of 1 MiB, and the fast ones on smaller blocks. */
export function blockVariants(): NativeBlockVariant[] {
  const levels = Object.entries(LEVELS).flatMap(([codec, numbers]) =>
    numbers.map((level) => block(codec as Codec, level)),
  );
  const sizes = BLOCK_SIZES.flatMap((size) => [block('lz4', 1, size), block('zstd', 1, size)]);
  return [...levels, ...sizes];
}

function block(codec: Codec, level: number, blockSize?: number): NativeBlockVariant {
  const name = codec === 'none' ? 'stored' : `${codec} ${level}`;
  if (blockSize === undefined) return { kind: 'block', name, codec, level };
  return { kind: 'block', name: `${name}, ${blockSize >> 10}K blocks`, codec, level, blockSize };
}

/** The block codecs, in the order of their numbers on the wire (docs/format.md). */
export const CODECS = ['none', 'lz4', 'zlib', 'zstd'] as const;

export type Codec = (typeof CODECS)[number];

/** The number that stands for a codec on the wire and in the native core. */
export function codecNumber(codec: Codec): number {
  return CODECS.indexOf(codec);
}

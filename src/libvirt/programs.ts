/** The programs that libvirt packs a save with, by its own names for the formats. */
export const PROGRAMS = ['lzop', 'gzip', 'bzip2', 'xz', 'zstd'] as const;
export type Program = (typeof PROGRAMS)[number];

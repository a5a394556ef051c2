import { closeSync, openSync, readSync } from 'node:fs';

/** A guest that libvirt saved to a file. */
export interface SavedGuest {
  /** libvirt's name for what its payload is packed with, or its number where this version has no name for it. */
  readonly format: string;
  /** Where the payload begins, in bytes. */
  readonly payload: number;
  /** Whether pagewire packed it, whatever the format says. */
  readonly isPagewire: boolean;
}

/** By their numbers in the header. */
const FORMATS = ['raw', 'gzip', 'bzip2', 'xz', 'lzop', 'zstd', 'sparse'];

/** libvirt's own header: the magic, then numbers of 32 bits in the machine's order, here all little-endian. */
const HEADER = { length: 92, magic: Buffer.from('LibvirtQemudSave'), dataLength: 20, format: 28 };

/** The magic of our frames (docs/format.md). */
const FRAMES = Buffer.from([0xf3, 0x50, 0x57, 0x46]);

/** The length of libvirt's own header, in bytes. */
export const HEADER_BYTES = HEADER.length;

/** What a header says of the image behind it; undefined where it is none, or not a whole one. */
export function parseHeader(header: Buffer): Omit<SavedGuest, 'isPagewire'> | undefined {
  if (header.length < HEADER.length || !header.subarray(0, HEADER.magic.length).equals(HEADER.magic)) return undefined;
  const number = header.readUInt32LE(HEADER.format);
  const payload = HEADER.length + header.readUInt32LE(HEADER.dataLength);
  return { format: FORMATS[number] ?? `${number}`, payload };
}

/** Whether frames of ours begin with these bytes. */
export function isFrames(bytes: Buffer): boolean {
  return bytes.subarray(0, FRAMES.length).equals(FRAMES);
}

/** Reads the header of a file; undefined where it is no guest that libvirt saved, or not a whole one. */
export function readImage(path: string): SavedGuest | undefined {
  const fd = openSync(path, 'r');
  try {
    const header = Buffer.alloc(HEADER.length);
    if (readSync(fd, header, 0, HEADER.length, 0) < HEADER.length) return undefined;
    const image = parseHeader(header);
    if (image === undefined) return undefined;
    const magic = Buffer.alloc(FRAMES.length);
    return { ...image, isPagewire: readSync(fd, magic, 0, magic.length, image.payload) > 0 && isFrames(magic) };
  } finally {
    closeSync(fd);
  }
}

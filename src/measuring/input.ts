/** What an input is by its first bytes, and the QEMU stream in it. */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { Readable } from 'node:stream';
import { PagewireError } from '../errors.js';
import { HEADER_BYTES, isFrames, parseHeader } from '../libvirt/image.js';
import { native, type NativeReader } from '../native.js';
import { Decoder } from '../pipeline/decoder.js';

/** What stands around the QEMU stream. */
export interface Container {
  /** libvirt's header, where there is one: its format, and where what follows it begins. */
  libvirt: { format: string; payload: number } | undefined;
  /** Whether the stream is in frames of pagewire's. */
  isPagewire: boolean;
  /** Bytes of the file; undefined for what is none. */
  fileBytes: number | undefined;
}

/** The QEMU stream of an input, from its start. */
export interface OpenStream {
  readonly fd: number;
  /** Reads it, until the signal aborts. */
  readonly reader: NativeReader;
  /** Bytes of it that were read already. */
  readonly head: Buffer;
  readonly container: Container;
  /** Resolves when all of it is there; rejects where what is around it is damaged. To be waited for once it is read. */
  readonly done: Promise<void>;
  close(): void;
}

export interface InputOptions {
  /** Whether what is neither a stream nor packed by a program that is known here is to be had too, as it is. */
  takesAnything?: boolean | undefined;
  /** Where to unpack what is packed to, as a shell has it; default: `> STREAM`. */
  unpackTo?: string | undefined;
  /** Files that may be the base of an incremental save. */
  bases?: readonly string[] | undefined;
  memoryLimit?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** Programs whose output somebody may have saved a stream as, by their magic. */
const PACKERS: readonly [program: string, magic: readonly number[]][] = [
  ['gzip', [0x1f, 0x8b]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ['lzop', [0x89, 0x4c, 0x5a, 0x4f]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['lz4', [0x04, 0x22, 0x4d, 0x18]],
];

/** As long as the longest magic, and the version behind QEMU's. */
const MAGIC_BYTES = 8;
const QEMU = Buffer.from('QEVM');
const LIBVIRT = 'LibvirtQemud';

/** Whether a second look is possible: an input that is no file goes by once. */
export function canReopen(spec: string, fileBytes: number | null): boolean {
  return spec !== '-' && fileBytes !== null;
}

/**
 * Opens the stream of an input: `-` or a path. Rejects with a PagewireError: OPEN_FAILED, READ_FAILED, or BAD_OPTION for
 * what is no stream, with the program that packed it.
 */
export async function openStream(spec: string, options: InputOptions = {}): Promise<OpenStream> {
  const name = spec === '-' ? 'standard input' : spec;
  const fd = spec === '-' ? 0 : openPath(spec);
  const { signal } = options;
  let stop = (): void => undefined;
  const close = (): void => {
    signal?.removeEventListener('abort', stop);
    if (fd !== 0) closeSync(fd);
  };
  try {
    const reader = native.NativeReader.open(fd);
    stop = () => {
      reader.stop();
    };
    signal?.addEventListener('abort', stop, { once: true });
    if (signal?.aborted) stop();
    const { head: magic, libvirt } = await findPayload(reader, name, spec);
    const stat = fstatSync(fd);
    const fileBytes = stat.isFile() ? stat.size : undefined;
    const container = { libvirt, isPagewire: isFrames(magic), fileBytes };
    // Of a stream that is cut off here there may be less than its magic, and nothing behind libvirt's header.
    if (!container.isPagewire && !magic.subarray(0, QEMU.length).equals(QEMU.subarray(0, magic.length))) {
      refuse(name, spec, magic, libvirt, options);
    }
    // A file is read from there again.
    if (stat.isFile()) native.rewind(fd, magic.length);
    const head = stat.isFile() ? Buffer.alloc(0) : magic;
    const raw = { fd, reader, head, container, done: Promise.resolve(), close };
    return container.isPagewire ? decoded(spec, raw, options) : raw;
  } catch (error) {
    close();
    throw PagewireError.from(error);
  }
}

/** Reads up to where the stream, or what it is packed in, begins, and its first bytes. */
async function findPayload(
  reader: NativeReader,
  name: string,
  spec: string,
): Promise<{ head: Buffer; libvirt: Container['libvirt'] }> {
  const head = await readUpTo(reader, name, MAGIC_BYTES);
  if (head.length === 0) throw new PagewireError('BAD_OPTION', `${name} is empty`);
  if (head.toString('latin1') !== LIBVIRT.slice(0, MAGIC_BYTES)) return { head, libvirt: undefined };
  const header = Buffer.concat([head, await readUpTo(reader, name, HEADER_BYTES - head.length)]);
  const libvirt = parseHeader(header);
  if (libvirt === undefined) {
    const why = header.toString('latin1', 0, 16) === 'LibvirtQemudPart' ? 'libvirt never finished it' : 'it is cut off';
    throw new PagewireError('BAD_OPTION', `${name} is no whole libvirt save image: ${why}`);
  }
  for (let left = libvirt.payload - header.length; left > 0;) {
    const skipped = await readUpTo(reader, name, Math.min(left, 1 << 20));
    if (skipped.length === 0) throw new PagewireError('BAD_OPTION', `${name} ends within libvirt's own header`);
    left -= skipped.length;
  }
  const body = await readUpTo(reader, name, MAGIC_BYTES);
  if (libvirt.format === 'sparse') {
    const why = "is of libvirt's format sparse, where pages stand at fixed places (QEMU's mapped-ram)";
    throw new PagewireError('BAD_OPTION', `${spec} ${why}: there is no stream in it`);
  }
  return { head: body, libvirt };
}

/** Throws what is wrong with an input that does not begin as a stream does, unless it may be anything. */
function refuse(
  name: string,
  spec: string,
  head: Buffer,
  libvirt: Container['libvirt'],
  { takesAnything = false, unpackTo = '> STREAM' }: InputOptions,
): void {
  const packer = PACKERS.find(([, magic]) => magic.every((byte, at) => head[at] === byte))?.[0];
  if (packer === undefined) {
    if (takesAnything && libvirt === undefined) return;
    const what = 'neither a QEMU stream nor a file of pagewire';
    throw new PagewireError('BAD_OPTION', `${name}${libvirt ? ', behind the header of libvirt,' : ''} is ${what}`);
  }
  const file = spec === '-' ? '' : ` ${spec}`;
  const unpack = libvirt ? `tail -c +${libvirt.payload + 1}${file} | ${packer} -dc` : `${packer} -dc${file}`;
  throw new PagewireError('BAD_OPTION', `${name} was packed with ${packer}: unpack it first (${unpack} ${unpackTo})`);
}

/** The stream out of frames, through a decoder. */
function decoded(spec: string, frames: OpenStream, { bases, memoryLimit, signal }: InputOptions): OpenStream {
  const [read, write] = native.pipe();
  try {
    const decoder = new Decoder({
      input: frames.head.length === 0 ? frames.fd : Readable.from(allOf(frames)),
      output: write,
      memoryLimit,
      bases,
      baseFolder: spec === '-' ? undefined : dirname(spec),
      signal,
    });
    const done = decoder.done.then(() => undefined);
    done.catch(() => undefined); // whoever waits for it hears of it
    const close = (): void => {
      decoder.stop();
      frames.reader.stop();
      closeSync(read);
      frames.close();
    };
    // Its end is the decoder's, which the signal stops.
    const reader = native.NativeReader.open(read);
    return { ...frames, fd: read, reader, head: Buffer.alloc(0), done, close };
  } catch (error) {
    closeSync(read);
    throw error;
  } finally {
    // The decoder has its own duplicate.
    closeSync(write);
  }
}

/** Bytes that are read at a time of what goes by once. */
const CHUNK = 1 << 20;

async function* allOf({ head, reader }: OpenStream): AsyncGenerator<Buffer> {
  for (let bytes = head; bytes.length > 0; bytes = await reader.read(CHUNK)) yield bytes;
}

function openPath(path: string): number {
  try {
    // A FIFO without a writer must not hold us here, where no signal is heard: the core waits for its first byte.
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    if (!fstatSync(fd).isDirectory()) return fd;
    closeSync(fd);
    throw new Error('it is a folder');
  } catch (error) {
    throw new PagewireError('OPEN_FAILED', `cannot open ${path}: ${(error as Error).message}`, { cause: error });
  }
}

/** The next bytes; fewer at the input's end. */
async function readUpTo(reader: NativeReader, name: string, length: number): Promise<Buffer> {
  try {
    return await reader.read(length);
  } catch (error) {
    const { code, message } = PagewireError.from(error);
    const named = message.replace(/^cannot read the input/, () => `cannot read ${name}`);
    throw new PagewireError(code, named, { cause: error });
  }
}

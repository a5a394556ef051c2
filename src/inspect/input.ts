/** What an input is by its first bytes, and the QEMU stream in it. */
import { close as closeFd, closeSync, createReadStream, fstatSync, open as openFd, read as readFd } from 'node:fs';
import { dirname } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { PagewireError } from '../errors.js';
import { HEADER_BYTES, isFrames, parseHeader } from '../libvirt/image.js';
import { native } from '../native.js';
import { Decoder } from '../pipeline/decoder.js';

const open = promisify(openFd);
const close = promisify(closeFd);

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
  /** Bytes of it that were read already. */
  readonly head: Buffer;
  readonly container: Container;
  /** Resolves when all of it is there; rejects where what is around it is damaged. To be waited for once it is read. */
  readonly done: Promise<void>;
  close(): void;
}

export interface InputOptions {
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
  const fd = spec === '-' ? 0 : await openPath(spec);
  const release = async (): Promise<void> => {
    if (fd !== 0) await close(fd);
  };
  try {
    const { head: magic, libvirt } = await findPayload(fd, name, spec);
    const stat = fstatSync(fd);
    const fileBytes = stat.isFile() ? stat.size : undefined;
    const container = { libvirt, isPagewire: isFrames(magic), fileBytes };
    if (!container.isPagewire && !magic.subarray(0, QEMU.length).equals(QEMU)) {
      throw notAStream(name, spec, magic, libvirt);
    }
    // A file is read from there again.
    if (stat.isFile()) native.rewind(fd, magic.length);
    const head = stat.isFile() ? Buffer.alloc(0) : magic;
    if (container.isPagewire) return decoded(spec, fd, head, container, options);
    return { fd, head, container, done: Promise.resolve(), close: () => void release() };
  } catch (error) {
    await release();
    throw error;
  }
}

/** Reads up to where the stream, or what it is packed in, begins, and its first bytes. */
async function findPayload(
  fd: number,
  name: string,
  spec: string,
): Promise<{ head: Buffer; libvirt: Container['libvirt'] }> {
  const head = await readUpTo(fd, name, MAGIC_BYTES);
  if (head.length === 0) throw new PagewireError('BAD_OPTION', `${name} is empty`);
  if (head.toString('latin1') !== LIBVIRT.slice(0, MAGIC_BYTES)) return { head, libvirt: undefined };
  const header = Buffer.concat([head, await readUpTo(fd, name, HEADER_BYTES - head.length)]);
  const libvirt = parseHeader(header);
  if (libvirt === undefined) {
    const why = header.toString('latin1', 0, 16) === 'LibvirtQemudPart' ? 'libvirt never finished it' : 'it is cut off';
    throw new PagewireError('BAD_OPTION', `${name} is no whole libvirt save image: ${why}`);
  }
  for (let left = libvirt.payload - header.length; left > 0;) {
    const skipped = await readUpTo(fd, name, Math.min(left, 1 << 20));
    if (skipped.length === 0) throw new PagewireError('BAD_OPTION', `${name} ends within libvirt's own header`);
    left -= skipped.length;
  }
  const body = await readUpTo(fd, name, MAGIC_BYTES);
  if (libvirt.format === 'sparse') {
    const why = "is of libvirt's format sparse, where pages stand at fixed places (QEMU's mapped-ram)";
    throw new PagewireError('BAD_OPTION', `${spec} ${why}: there is no stream to inspect`);
  }
  return { head: body, libvirt };
}

function notAStream(name: string, spec: string, head: Buffer, libvirt: Container['libvirt']): PagewireError {
  const packer = PACKERS.find(([, magic]) => magic.every((byte, at) => head[at] === byte))?.[0];
  if (packer === undefined) {
    const what = 'neither a QEMU stream nor a file of pagewire';
    return new PagewireError('BAD_OPTION', `${name}${libvirt ? ', behind the header of libvirt,' : ''} is ${what}`);
  }
  const file = spec === '-' ? '' : ` ${spec}`;
  const unpack = libvirt ? `tail -c +${libvirt.payload + 1}${file} | ${packer} -dc` : `${packer} -dc${file}`;
  const remedy = `${unpack} | pagewire inspect -`;
  return new PagewireError('BAD_OPTION', `${name} was packed with ${packer}: unpack it first (${remedy})`);
}

/** The stream out of frames, through a decoder. */
function decoded(
  spec: string,
  fd: number,
  head: Buffer,
  container: Container,
  { bases, memoryLimit, signal }: InputOptions,
): OpenStream {
  const [read, write] = native.pipe();
  try {
    const decoder = new Decoder({
      input: head.length === 0 ? fd : Readable.from(withHead(fd, head)),
      output: write,
      memoryLimit,
      bases,
      baseFolder: spec === '-' ? undefined : dirname(spec),
      signal,
    });
    const done = decoder.done.then(() => undefined);
    done.catch(() => undefined); // whoever waits for it hears of it
    const finish = (): void => {
      decoder.stop();
      closeSync(read);
      if (fd !== 0) void done.catch(() => undefined).finally(() => void close(fd));
    };
    return { fd: read, head: Buffer.alloc(0), container, done, close: finish };
  } catch (error) {
    closeSync(read);
    throw error;
  } finally {
    // The decoder has its own duplicate.
    closeSync(write);
  }
}

async function* withHead(fd: number, head: Buffer): AsyncGenerator<Buffer> {
  yield head;
  yield* createReadStream('', { fd, autoClose: false, highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>;
}

async function openPath(path: string): Promise<number> {
  try {
    const fd = await open(path, 'r');
    if (!fstatSync(fd).isDirectory()) return fd;
    await close(fd);
    throw new Error('it is a folder');
  } catch (error) {
    throw new PagewireError('OPEN_FAILED', `cannot open ${path}: ${(error as Error).message}`, { cause: error });
  }
}

/** How long to wait where a pipe is non-blocking and empty, in milliseconds. */
const RETRY_MS = 5;

/** The next bytes, on another thread, so that signals are heard meanwhile; fewer at the input's end. */
async function readUpTo(fd: number, name: string, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  let at = 0;
  while (at < length) {
    const count = await readSome(fd, bytes, at, name);
    if (count === 0) break;
    if (count > 0) at += count;
    else await sleep(RETRY_MS);
  }
  return bytes.subarray(0, at);
}

/** How many bytes came; -1: none yet. */
function readSome(fd: number, bytes: Buffer, at: number, name: string): Promise<number> {
  return new Promise((resolve, reject) => {
    readFd(fd, bytes, at, bytes.length - at, null, (error, count) => {
      if (!error) resolve(count);
      else if (error.code === 'EAGAIN') resolve(-1);
      else reject(new PagewireError('READ_FAILED', `cannot read ${name}: ${error.message}`, { cause: error }));
    });
  });
}

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { PagewireError } from '../errors.js';
import { type OpenStream, openStream } from '../measuring/input.js';
import { type Extent, native, type StreamFacts } from '../native.js';
import { evenly } from './statistics.js';

/** What of a stream is measured on. */
export interface Sample {
  /** For people. */
  name: string;
  /** The stream's bytes, out of whatever it is packed in. */
  streamBytes: number;
  /** A stream of the same kind that is not larger than was asked for: all of it, or that of a part of the guest. */
  path: string;
  bytes: number;
  /** SHA-256 of the sample, in hexadecimal digits: figures of two reports are of the same bytes if it is the same. */
  digest: string;
  facts: StreamFacts;
  /** Pieces of the sample, evenly from all of it, one behind the other. */
  blocks: Buffer;
  /** Pages that came more than once, with what they were before, evenly; empty where there are none. */
  pairs: { old: Buffer; new: Buffer };
}

export interface SampleLimits {
  /** Bytes of the stream that are measured on, at the most (and a quarter more, by chance). */
  bytes: number;
  /** Of those, bytes that block codecs are measured on, and bytes of new pages for deltas. */
  pieces: number;
}

/** What the pieces are cut in. */
const PIECE = 1 << 20;

/**
 * Reads what is needed of an input: a stream, whatever `pagewire inspect` finds one in, or any other file. What must be
 * written goes to `folder`, under a name that begins with `label`.
 */
export async function takeSample(
  input: { name: string; path: string },
  limits: SampleLimits,
  { folder, label, signal }: { folder: string; label: string; signal: AbortSignal },
): Promise<Sample> {
  const { name } = input;
  const { path, streamBytes } = await fileOf(input.path, limits.bytes, join(folder, `${label}.sample`), signal);
  const facts = await native.streamFacts(path);
  const [blocks, pairs, digest] = await Promise.all([
    readPieces(path, limits.pieces),
    native.streamPairs(path, facts.again, limits.pieces),
    digestOf(path),
  ]);
  return { name, streamBytes, path, bytes: (await stat(path)).size, digest, facts, blocks, pairs };
}

/** The file with the stream, or of a larger one with what is left: the input itself, where nothing stands around it, or `to`. */
async function fileOf(
  path: string,
  limit: number,
  to: string,
  signal: AbortSignal,
): Promise<{ path: string; streamBytes: number }> {
  await checkFile(path);
  const [extent, isItself] = await reading(path, signal, async ({ reader, head, container }) => {
    const { fileBytes, libvirt, isPagewire } = container;
    const known = isPagewire || fileBytes === undefined ? null : fileBytes - (libvirt?.payload ?? 0);
    const extent = await reader.extent(head, known, limit);
    return [extent, !extent.isBeyond && !isPagewire && libvirt === undefined] as [Extent, boolean];
  });
  if (isItself) return { path, streamBytes: extent.bytes };
  await reading(path, signal, ({ reader, head }) => reader.thin(head, extent, limit, to));
  return { path: to, streamBytes: extent.bytes };
}

/** What `work` makes of an input that is read from its start, where what is around the stream is whole. */
async function reading<T>(path: string, signal: AbortSignal, work: (stream: OpenStream) => Promise<T>): Promise<T> {
  const stream = await openStream(path, { signal, takesAnything: true });
  try {
    const result = await work(stream);
    await stream.done;
    return result;
  } catch (error) {
    if (signal.aborted) throw new PagewireError('STOPPED', 'stopped', { cause: error });
    const { code, message } = PagewireError.from(error);
    // The work folder is full, or gone: no fault of the input's.
    throw new PagewireError(code, code === 'WRITE_FAILED' ? message : `${path}: ${message}`, { cause: error });
  } finally {
    stream.close();
  }
}

async function checkFile(path: string): Promise<void> {
  const found = await stat(path).catch((error: unknown) => {
    throw new PagewireError('OPEN_FAILED', `cannot open ${path}: ${error instanceof Error ? error.message : '?'}`);
  });
  if (!found.isFile()) {
    throw new PagewireError('OPEN_FAILED', `${path} is no file: a stream is read more than once, so write it to one`);
  }
  if (found.size === 0) throw new PagewireError('OPEN_FAILED', `${path} is empty: there is nothing to measure on`);
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

async function readPieces(path: string, limit: number): Promise<Buffer> {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    const all = evenly(Math.ceil(size / PIECE));
    const chosen = all.slice(0, Math.max(Math.floor(limit / PIECE), 1)).sort((a, b) => a - b);
    const blocks = Buffer.alloc(chosen.reduce((sum, piece) => sum + Math.min(PIECE, size - piece * PIECE), 0));
    let at = 0;
    for (const piece of chosen) {
      const length = Math.min(PIECE, size - piece * PIECE);
      const { bytesRead } = await file.read(blocks, at, length, piece * PIECE);
      at += bytesRead;
    }
    return blocks.subarray(0, at);
  } finally {
    await file.close();
  }
}

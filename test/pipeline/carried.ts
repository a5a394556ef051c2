// Streams through an encoder or a decoder of the library, in memory.
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createDecoder, createEncoder, type DecoderOptions, PagewireError, type StreamEnd } from '#src/index.js';
import type { EncoderSnapshot, EncoderSettings } from '#src/index.js';
import { native } from '#src/native.js';

/** Takes all that is written, and keeps it. */
export class Collector extends Writable {
  readonly #chunks: Buffer[] = [];

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#chunks.push(Buffer.from(chunk));
    done();
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }
}

/** What came out, and how it ended. */
export interface Carried {
  bytes: Buffer;
  end: StreamEnd | undefined;
  error: PagewireError | undefined;
}

/** A stream of these bytes; `chunk` bytes at a time. */
export function readable(bytes: Uint8Array, chunk = 1 << 20): Readable {
  function* chunks(): Generator<Uint8Array> {
    for (let at = 0; at < bytes.length; at += chunk) yield bytes.subarray(at, at + chunk);
  }
  return Readable.from(chunks(), { objectMode: false });
}

async function settled(done: Promise<StreamEnd>, output: Collector): Promise<Carried> {
  try {
    const end = await done;
    return { bytes: output.bytes, end, error: undefined };
  } catch (error) {
    if (!(error instanceof PagewireError)) throw error;
    return { bytes: output.bytes, end: undefined, error };
  }
}

export async function tryEncode(
  stream: Uint8Array,
  settings: EncoderSettings = {},
): Promise<Carried & { snapshot: EncoderSnapshot }> {
  const output = new Collector();
  const encoder = createEncoder({ ...settings, input: readable(stream), output });
  const carried = await settled(encoder.done, output);
  return { ...carried, snapshot: encoder.snapshot() };
}

/** Into a pipe: what stood before a failure is in it when the decoder has ended. */
export async function tryDecode(
  frames: Uint8Array,
  options: Omit<DecoderOptions, 'input' | 'output'> = {},
): Promise<Carried> {
  const [readEnd, writeEnd] = native.pipe();
  const output = new Collector();
  const copied = pipeline(new Socket({ fd: readEnd, writable: false }), output);
  const decoder = createDecoder({ ...options, input: readable(frames), output: writeEnd });
  closeSync(writeEnd);
  const [carried] = await Promise.all([settled(decoder.done, output), copied]);
  return { ...carried, bytes: output.bytes };
}

export async function encoded(stream: Uint8Array, settings: EncoderSettings = {}): Promise<Buffer> {
  const { bytes, error } = await tryEncode(stream, settings);
  if (error !== undefined) throw error;
  return bytes;
}

export async function decoded(
  frames: Uint8Array,
  options: Omit<DecoderOptions, 'input' | 'output'> = {},
): Promise<Buffer> {
  const { bytes, error } = await tryDecode(frames, options);
  if (error !== undefined) throw error;
  return bytes;
}

/** Files of frames: what one is, whether it is right, a page of it, what is whole of it, and a chain made one. */
import { closeSync, openSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { PagewireError } from '../errors.js';
import { type ArchiveIndex, type ArchiveInfo, native, type SalvagedFile, type VerifiedFile } from '../native.js';
import { Decoder } from '../pipeline/decoder.js';
import type { Output } from '../pipeline/descriptors.js';
import { Encoder } from '../pipeline/encoder.js';
import type { StreamEnd } from '../pipeline/lane.js';
import { checkEncoder, type EncoderSettings } from '../pipeline/settings.js';

export type { ArchiveIndex, ArchiveInfo, SalvagedFile, VerifiedFile };

/** Where the bases of an incremental save are, if not where they were and not beside the file. */
export interface BaseOptions {
  /** Files, in any order. One that is another than was saved against is refused (WRONG_BASE). */
  bases?: readonly string[] | undefined;
}

/**
 * What a file is: sizes, codec, guest, base. Reads its end mark and its index, nothing else; a file without an index is gone
 * through frame by frame. Rejects with a PagewireError.
 */
export async function readInfo(file: string): Promise<ArchiveInfo> {
  return ours(native.archiveInfo(resolve(file)));
}

/** Reads all of a file, and of its bases what it refers to; rejects at the first thing that is not right. */
export async function verifyFile(file: string, { bases }: BaseOptions = {}): Promise<VerifiedFile> {
  return ours(native.archiveVerify(resolve(file), paths(bases)));
}

export interface PageOptions extends BaseOptions {
  /** The RAM block's name. */
  block: string;
  /** The page's offset in its block, in bytes: a multiple of the page size. */
  address: number;
}

/** The last version of a page, read without reading the file. */
export async function readPage(file: string, { block, address, bases }: PageOptions): Promise<Buffer> {
  if (!Number.isSafeInteger(address) || address < 0) {
    throw new PagewireError('BAD_OPTION', `address ${address}: a whole number, not negative`);
  }
  return ours(native.archivePage(resolve(file), block, address, paths(bases)));
}

export interface SalvageOptions extends BaseOptions {
  /**
   * Where the pieces go: what stands at the stream's beginning into this file, what stands at byte N of it into the file
   * `OUTPUT.at-N`. A file that is there already is not replaced. Without it nothing is written.
   */
  output?: string | undefined;
}

/** Finds out what is whole of a file that was cut short or damaged. Nothing is made up: what is not whole is left out. */
export async function salvage(file: string, { output, bases }: SalvageOptions = {}): Promise<SalvagedFile> {
  const to = output === undefined ? null : resolve(output);
  return ours(native.archiveSalvage(resolve(file), paths(bases), to));
}

export interface FlattenOptions extends BaseOptions, EncoderSettings {
  /** The file that is based on others. */
  input: string;
  /** Where the one that is not goes. */
  output: Output;
  signal?: AbortSignal | undefined;
}

/** A file with its bases on its way to become one without. */
export interface Flattening {
  /** Resolves once all is written and has proved right; rejects with a PagewireError. */
  readonly done: Promise<StreamEnd>;
  readonly decoder: Decoder;
  readonly encoder: Encoder;
}

/**
 * Makes one file of a chain: what comes out needs no base, and can be one.
 *
 * @throws PagewireError where a file cannot be opened or a setting is wrong; what fails later rejects `done`.
 */
export function flatten({ input, output, bases, signal, ...settings }: FlattenOptions): Flattening {
  const fds: number[] = [];
  try {
    const from = open(input);
    fds.push(from);
    const [read, write] = native.pipe();
    fds.push(read, write);
    const saving = { delta: false, index: true, ...settings, base: undefined };
    const { codec, level, fixedMemory } = checkEncoder(saving);
    const memoryLimit = settings.memoryLimit && Math.max(settings.memoryLimit - fixedMemory(codec, level), 0);
    const encoder = new Encoder({ ...saving, input: read, output, signal });
    let decoder: Decoder;
    try {
      const baseFolder = dirname(resolve(input));
      decoder = new Decoder({ input: from, output: write, bases, baseFolder, memoryLimit, signal });
    } catch (error) {
      encoder.stop();
      encoder.done.catch(() => undefined);
      throw error;
    }
    return { decoder, encoder, done: both(decoder, encoder) };
  } finally {
    // Both have their own duplicates.
    for (const fd of fds) closeSync(fd);
  }
}

/** What was read wrongly must not become a file that looks right: the encoder would take its input's end for the stream's. */
async function both(decoder: Decoder, encoder: Encoder): Promise<StreamEnd> {
  decoder.done.catch(() => {
    encoder.stop();
  });
  encoder.done.catch(() => {
    decoder.stop();
  });
  const [decoded, encoded] = await Promise.allSettled([decoder.done, encoder.done]);
  const failures = [decoded, encoded].flatMap((end) =>
    end.status === 'rejected' ? [PagewireError.from(end.reason)] : [],
  );
  // Not the one that only saw the other go.
  const cause = failures.find(({ code }) => code !== 'STOPPED' && code !== 'OUTPUT_CLOSED') ?? failures[0];
  if (cause) throw cause;
  // What the decoder was told of the stream's end, the encoder cannot know.
  return decoder.done;
}

function open(file: string): number {
  try {
    return openSync(file, 'r');
  } catch (error) {
    throw new PagewireError('OPEN_FAILED', `cannot open ${file}: ${(error as Error).message}`, { cause: error });
  }
}

function paths(bases: readonly string[] = []): string[] {
  return bases.map((base) => resolve(base));
}

async function ours<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    throw PagewireError.from(error);
  }
}

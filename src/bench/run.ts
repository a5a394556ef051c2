import { accessSync, constants, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { PagewireError } from '../errors.js';
import { thisMachine } from './machine.js';
import { measure, type Method } from './measure.js';
import { type BenchReport, type StreamReport, VERSION } from './report/schema.js';
import { type Sample, type SampleLimits, takeSample } from './sample.js';
import { guestSource, simulatedSource, type Source } from './source.js';
import { roomFor } from './trials/pieces.js';
import type { Variant } from './variant.js';

/** What a benchmark is told. */
export interface BenchSettings extends Method {
  /** Files with streams; empty: a guest under QEMU where there is one, else the simulator. */
  streams: readonly string[];
  /** No file: the simulator, also where there is a QEMU. */
  simulate: boolean;
  /** Bytes of a stream that are measured on, at the most (and a quarter more, by chance). */
  sampleBytes: number;
  variants: readonly Variant[];
  /** Called with what is being done. */
  note: (text: string) => void;
  signal: AbortSignal;
}

/** Where nothing else is said. */
export const DEFAULTS = { runs: 3, seconds: 0.25, sampleBytes: 256 << 20 };
/** To see that all works, and roughly what is what. */
export const QUICK = { runs: 2, seconds: 0.02, sampleBytes: 32 << 20 };

/** What of a sample is for the variants that take pieces of it, and so much at the least: a ratio of a few places is chance. */
const PIECES = 1 / 16;
const LEAST_PIECES = 16 << 20;

/** What a sample of so many bytes is made of. */
function limits(sampleBytes: number): SampleLimits {
  return { bytes: sampleBytes, pieces: Math.max(sampleBytes * PIECES, LEAST_PIECES) };
}

/** Measures every variant on every stream. */
export async function runBench(settings: BenchSettings): Promise<BenchReport> {
  const { signal, note, variants, runs, seconds } = settings;
  checkNumbers(settings);
  const date = new Date().toISOString();
  const machine = thisMachine();
  const folder = workFolder(settings.sampleBytes);
  const remove = (): void => {
    rmSync(folder, { recursive: true, force: true });
  };
  // Also where the process is ended before it comes back here.
  process.once('exit', remove);
  try {
    const streams: StreamReport[] = [];
    const measured: BenchReport['variants'] = [];
    for (const [index, source] of (await sourcesOf(settings, folder)).entries()) {
      note(`${source.name}: taking a sample`);
      const sample = await takeSample(source, limits(settings.sampleBytes), { folder, label: `${index}`, signal });
      const room = roomFor(Math.max(sample.blocks.length, sample.pairs.new.length));
      streams.push(streamReport(sample));
      measured.push(...(await measure(variants, sample, { runs, seconds }, { folder, room, signal, note })));
    }
    return { version: VERSION, date, machine, method: { runs, seconds }, streams, variants: measured };
  } finally {
    process.off('exit', remove);
    remove();
  }
}

function checkNumbers({ runs, seconds, sampleBytes }: BenchSettings): void {
  const bad = (message: string): PagewireError => new PagewireError('BAD_OPTION', message);
  if (!Number.isInteger(runs) || runs < 1 || runs > 1000) throw bad(`${runs} runs: from 1 to 1000`);
  if (!(seconds > 0 && seconds <= 3600)) throw bad(`${seconds} seconds: more than 0, up to 3600`);
  if (!Number.isInteger(sampleBytes) || sampleBytes < 2 ** 20 || sampleBytes > 2 ** 36) {
    throw bad(`a sample of ${sampleBytes} bytes: from 1M to 64G`);
  }
}

/** Samples that /dev/shm must have room for: one, what a chain makes of it and what comes back, and as much left. */
const SAMPLES = 8;

/** In memory where there is much room: a disk is not what is measured. */
function workFolder(sampleBytes: number): string {
  const parent = freeBytes('/dev/shm') >= SAMPLES * sampleBytes ? '/dev/shm' : tmpdir();
  try {
    return mkdtempSync(join(parent, 'pagewire-bench-'));
  } catch (error) {
    const reason = error instanceof Error ? error.message : '?';
    throw new PagewireError('OPEN_FAILED', `cannot make a folder in ${parent}: ${reason} (set TMPDIR to another)`);
  }
}

function freeBytes(folder: string): number {
  try {
    accessSync(folder, constants.W_OK);
    const { bavail, bsize } = statfsSync(folder);
    return bavail * bsize;
  } catch {
    return 0;
  }
}

async function sourcesOf(settings: BenchSettings, folder: string): Promise<Source[]> {
  const { streams, simulate, note, signal } = settings;
  if (streams.length > 0) return named(streams);
  const guest = simulate ? undefined : await guestSource(folder, note, signal);
  if (guest) return [guest];
  note('simulating a guest');
  return [await simulatedSource(folder)];
}

/** A name stands for one stream: the file's, or where that is taken its path, or that with a number. */
function named(paths: readonly string[]): Source[] {
  const taken = new Set<string>();
  return paths.map((path, index) => {
    const name = [basename(path), path].find((name) => !taken.has(name)) ?? `${path} (${index + 1})`;
    taken.add(name);
    // Not standard input, which is read once.
    return { name, path: path === '-' ? './-' : path };
  });
}

function streamReport({ name, streamBytes, bytes, digest, blocks, pairs, facts }: Sample): StreamReport {
  return {
    name,
    bytes: streamBytes,
    sampleBytes: bytes,
    sampleDigest: digest,
    blockBytes: blocks.length,
    deltaBytes: pairs.new.length,
    machine: facts.machine,
    ramBytes: facts.ramBytes,
    pageSize: facts.pageSize,
    pages: facts.records,
    pagesAgain: facts.again,
    ...(facts.fault && { notUnderstood: `byte ${facts.fault.offset} of what is measured on: ${facts.fault.reason}` }),
  };
}

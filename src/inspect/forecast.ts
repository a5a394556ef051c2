/** What each way to carry a stream would make of it on this machine, and how long that would take over links. */
import { closeSync, openSync } from 'node:fs';
import { type Codec, codecNumber } from '../codecs.js';
import { PagewireError } from '../errors.js';
import { LINKS, secondsOver } from '../measuring/links.js';
import { native, type NativeInspection, type NativeTotals } from '../native.js';
import { Decoder } from '../pipeline/decoder.js';
import { Encoder } from '../pipeline/encoder.js';
import type { EncoderSettings } from '../pipeline/settings.js';
import { defaultThreads } from '../pipeline/workers.js';
import { canReopen, type InputOptions, openStream } from './input.js';
import type { Forecast, Inspection, Variant } from './schema.js';

/** Codecs that are tried on the sample: what encode offers, from the fastest to where more takes very long. */
const CODECS: readonly [name: string, codec: Codec, level: number][] = [
  ['stored', 'none', 0],
  ['lz4', 'lz4', 1],
  ['zstd -3', 'zstd', -3],
  ['zstd 1', 'zstd', 1],
  ['zstd 3', 'zstd', 3],
  ['zstd 9', 'zstd', 9],
  ['zlib 1', 'zlib', 1],
  ['zlib 6', 'zlib', 6],
];

/** CPU time that a codec may take on the sample, in milliseconds: a slow one is measured on less of it. */
const LIMIT_MS = 1500;

/** How far back match looks in what is measured, in bytes: what a save uses. */
const WINDOW = 128 << 20;

/** What needs the stream in its order, so that all of it goes through the encoder. */
const CHAINS: readonly { name: string; delta: boolean; settings: EncoderSettings }[] = [
  { name: 'delta alone', delta: true, settings: { stock: true } },
  { name: 'delta + lz4', delta: true, settings: { codec: 'lz4', level: 1 } },
  { name: 'delta + zstd 1', delta: true, settings: { codec: 'zstd', level: 1 } },
  { name: 'match + zstd 1', delta: false, settings: { delta: false, codec: 'zstd', level: 1, match: WINDOW } },
];

/** Bytes of a stream that go through the encoder; of a longer one, its beginning. */
const CHAIN_BYTES = 4 * 2 ** 30;

/** How often it is looked whether so many have gone through, in milliseconds. */
const LOOK_MS = 20;

/** Bytes per second of one thread, and of as many as would work. */
interface Speed {
  encode: number;
  /** Undefined where the destination's QEMU decodes. */
  decode: number | undefined;
}

/** Makes a forecast of a stream that was looked at. Rejects where it cannot be read once more. */
export async function forecast(
  { file, container, stream, pages }: Inspection,
  sample: NativeInspection,
  options: InputOptions = {},
): Promise<Forecast> {
  const threads = defaultThreads();
  const [sampleBytes, oneIn] = sample.sample();
  const variants: Variant[] = [];
  const notes: string[] = [];
  for (const [name, codec, level] of CODECS) {
    const measured = await sample.measure(codecNumber(codec), level, LIMIT_MS);
    const one = (seconds: number): number => measured.rawBytes / Math.max(seconds, 1e-9);
    const speed = { encode: one(measured.packSeconds), decode: one(measured.unpackSeconds) };
    const all = { encode: speed.encode * threads, decode: speed.decode * threads };
    const { rawBytes, packedBytes } = measured;
    variants.push(variant(name, 'sample', stream.bytes, { rawBytes, wireBytes: packedBytes }, speed, all));
  }
  const isResent = (pages?.resent?.moreThanOnce ?? 1) > 0;
  if (!isResent) notes.push('No page was sent twice: delta would find nothing to do.');
  if (!canReopen(file, container.fileBytes)) {
    notes.push('Delta and match need a second look, which only a file allows: they were not measured.');
  } else {
    for (const { name, delta, settings } of CHAINS.filter((chain) => isResent || !chain.delta)) {
      try {
        const run = await carry(file, { ...settings, threads }, options);
        variants.push(variant(name, 'stream', stream.bytes, run, speedOf(run, 1), speedOf(run, threads)));
        if (delta && run.rawBytes < stream.bytes) notes.push(`${name}: ${PART}`);
      } catch (error) {
        const { code, message } = PagewireError.from(error);
        if (code !== 'OUT_OF_MEMORY' && code !== 'CACHE_TOO_LARGE') throw error;
        notes.push(`${name} was not measured: ${message}`);
      }
    }
  }
  const best = LINKS.map(({ name, bytesPerSecond }, at) => {
    const seconds = (each: Variant): number => each.links[at]?.seconds ?? Infinity;
    const winner = variants.reduce((a, b) => (seconds(b) < seconds(a) ? b : a));
    return { link: name, bytesPerSecond, variant: winner.name };
  });
  return { threads, sample: { bytes: sampleBytes, oneIn }, variants, best, notes };
}

const PART = 'measured on the first 4 GiB; what later passes would gain is not in it.';

/** What was measured on a part of a stream, for all of it. */
function variant(
  name: string,
  measuredOn: Variant['measuredOn'],
  streamBytes: number,
  { rawBytes, wireBytes }: { rawBytes: number; wireBytes: number },
  one: Speed,
  all: Speed,
): Variant {
  const ratio = rawBytes / Math.max(wireBytes, 1);
  const work = {
    rawBytes: streamBytes,
    wireBytes: Math.round(streamBytes / ratio),
    encodeBytesPerSecond: all.encode,
    decodeBytesPerSecond: all.decode ?? Infinity,
  };
  return {
    name,
    measuredOn,
    measuredBytes: rawBytes,
    wireBytes: work.wireBytes,
    ratio,
    encodeBytesPerSecond: one.encode,
    decodeBytesPerSecond: one.decode ?? null,
    links: LINKS.map(({ name: link, bytesPerSecond }) => ({ name: link, seconds: secondsOver(bytesPerSecond, work) })),
  };
}

/** What an encoder and a decoder behind it did. */
interface Run {
  rawBytes: number;
  wireBytes: number;
  encoder: NativeTotals;
  /** Undefined where there is nothing to decode. */
  decoder: NativeTotals | undefined;
}

/** CPU seconds, so that what else the machine does counts for little: the slowest of the stages is the speed of all. */
function speedOf({ rawBytes, encoder, decoder }: Run, threads: number): Speed {
  const slowest = ({ sourceCpuSeconds, codecCpuSeconds, sinkCpuSeconds }: NativeTotals): number =>
    rawBytes / Math.max(sourceCpuSeconds, codecCpuSeconds / threads, sinkCpuSeconds, 1e-9);
  return { encode: slowest(encoder), decode: decoder && slowest(decoder) };
}

/** The stream through an encoder, and back through a decoder, which checks it. */
async function carry(spec: string, settings: EncoderSettings, options: InputOptions): Promise<Run> {
  const stream = await openStream(spec, options);
  try {
    const { encoder, decoder } = start(stream.fd, settings, options);
    const totals = await throughput(encoder, decoder);
    return { rawBytes: totals.encoder.bytesIn, wireBytes: totals.encoder.bytesOut, ...totals };
  } finally {
    stream.close();
  }
}

function start(
  input: number,
  settings: EncoderSettings,
  { memoryLimit, signal }: InputOptions,
): { encoder: Encoder; decoder: Decoder | undefined } {
  const nowhere = openSync('/dev/null', 'w');
  const [read, write] = native.pipe();
  try {
    if (settings.stock) {
      return { encoder: new Encoder({ ...settings, memoryLimit, signal, input, output: nowhere }), decoder: undefined };
    }
    const decoder = new Decoder({ memoryLimit, signal, input: read, output: nowhere });
    decoder.done.catch(() => undefined); // `throughput` hears of it
    return { encoder: new Encoder({ ...settings, memoryLimit, signal, input, output: write }), decoder };
  } finally {
    // Both have their own duplicates; without an encoder the decoder sees its input end.
    for (const fd of [nowhere, read, write]) closeSync(fd);
  }
}

/** What both did until all was through, or as much as is looked at. */
async function throughput(encoder: Encoder, decoder: Decoder | undefined): Promise<Pick<Run, 'encoder' | 'decoder'>> {
  const totals = (): Pick<Run, 'encoder' | 'decoder'> => ({
    encoder: encoder.snapshot().totals,
    decoder: decoder?.snapshot().totals,
  });
  let enough: ReturnType<typeof totals> | undefined;
  const timer = setInterval(() => {
    if (enough || encoder.snapshot().totals.bytesIn < CHAIN_BYTES) return;
    enough = totals();
    encoder.stop();
    decoder?.stop();
  }, LOOK_MS);
  const ends = await Promise.allSettled([encoder.done, decoder?.done]);
  clearInterval(timer);
  if (enough) return enough;
  const failures = ends.flatMap((end) => (end.status === 'rejected' ? [PagewireError.from(end.reason)] : []));
  // Not the one that only saw the other go.
  const cause = failures.find(({ code }) => code !== 'OUTPUT_CLOSED') ?? failures[0];
  if (cause) throw cause;
  return totals();
}

/** What each way to carry a stream would make of it on this machine, and how long that would take over links. */
import { closeSync, openSync } from 'node:fs';
import { type Codec, codecNumber } from '../codecs.js';
import { PagewireError } from '../errors.js';
import { LINKS, secondsOver } from '../measuring/links.js';
import { native, type NativeInspection, type NativeTotals } from '../native.js';
import { Decoder } from '../pipeline/decoder.js';
import { Encoder } from '../pipeline/encoder.js';
import { SAVE_WINDOW } from '../pipeline/save.js';
import { decoderBytes, type EncoderSettings, framesInFlight, windowBytes } from '../pipeline/settings.js';
import { defaultThreads } from '../pipeline/workers.js';
import { BASE_BYTES, defaultMemoryLimit } from '../policy/memory.js';
import { canReopen, type InputOptions, openStream } from '../measuring/input.js';
import { shares } from './memory.js';
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

/** What needs the stream in its order, so that all of it goes through the encoder. */
const CHAINS: readonly { name: string; delta: boolean; settings: EncoderSettings }[] = [
  { name: 'delta alone', delta: true, settings: { stock: true } },
  { name: 'delta + lz4', delta: true, settings: { codec: 'lz4', level: 1 } },
  { name: 'delta + zstd 1', delta: true, settings: { codec: 'zstd', level: 1 } },
  { name: 'match + zstd 1', delta: false, settings: { delta: false, codec: 'zstd', level: 1, match: SAVE_WINDOW } },
];

/** What only reads and writes: what a codec's row leaves out. */
const PASSING: EncoderSettings = { delta: false, codec: 'none' };

/** Bytes of the stream in a frame, in the encoders above that have a window. */
const FRAME = 2 ** 20;

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

/** Bytes per second that what reads and what writes at either end would let through. */
interface Ends {
  encoder: { source: number; sink: number };
  decoder: { source: number; sink: number };
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
  const limit = options.memoryLimit ?? defaultMemoryLimit();
  const isFile = canReopen(file, container.fileBytes);

  /** Undefined where there is too little memory for it. */
  async function measured(name: string, settings: EncoderSettings): Promise<Run | undefined> {
    const limits = limitsOf(limit, sampleBytes, container.pagewire, settings, threads);
    try {
      return await carry(file, { ...settings, threads }, limits, options);
    } catch (error) {
      const { code } = PagewireError.from(error);
      if (code !== 'OUT_OF_MEMORY' && code !== 'CACHE_TOO_LARGE') throw error;
      notes.push(`${name} was not measured: the memory limit leaves too little for it.`);
      return undefined;
    }
  }

  const passing = isFile ? await measured('What reads and writes beside a codec', PASSING) : undefined;
  for (const [name, codec, level] of CODECS) {
    const its = await sample.measure(codecNumber(codec), level, LIMIT_MS);
    if (options.signal?.aborted) throw new PagewireError('STOPPED', 'stopped');
    const { rawBytes, packedBytes } = its;
    const ends = passing && endsOf(passing);
    const speed = (count: number): Speed => {
      const rate = (seconds: number): number => (count * rawBytes) / Math.max(seconds, 1e-9);
      const alone = { encode: rate(its.packSeconds), decode: rate(its.unpackSeconds) };
      return ends ? between(ends, alone, rawBytes / Math.max(packedBytes, 1)) : alone;
    };
    variants.push(
      variant(name, 'sample', stream.bytes, { rawBytes, wireBytes: packedBytes }, speed(1), speed(threads)),
    );
  }
  const isResent = (pages?.resent?.moreThanOnce ?? 1) > 0;
  if (!isResent) notes.push('No page was sent twice: delta would find nothing to do.');
  if (!isFile) {
    notes.push('Delta and match need a second look, which only a file allows: they were not measured.');
    notes.push('Nor was what reads and writes beside a codec, which is slower than the fastest of them.');
  }
  for (const { name, delta, settings } of isFile ? CHAINS.filter((chain) => isResent || !chain.delta) : []) {
    const run = await measured(name, settings);
    if (run === undefined) continue;
    variants.push(variant(name, 'stream', stream.bytes, run, speedOf(run, 1), speedOf(run, threads)));
    if (delta && run.rawBytes < stream.bytes) notes.push(`${name}: ${PART}`);
    if (run.decoder === undefined)
      notes.push(`${name} is not among the fastest: QEMU decodes it, nobody knows how fast.`);
  }
  return { threads, sample: { bytes: sampleBytes, oneIn }, variants, best: bestOf(variants), notes };
}

/** The fastest over each link; of what is decoded at a speed that is not known, nothing can be said. */
function bestOf(variants: readonly Variant[]): Forecast['best'] {
  const known = variants.filter(({ decodeBytesPerSecond }) => decodeBytesPerSecond !== null);
  return LINKS.map(({ name, bytesPerSecond }, at) => {
    const seconds = (each: Variant): number => each.links[at]?.seconds ?? Infinity;
    const winner = known.reduce((a, b) => (seconds(b) < seconds(a) ? b : a));
    return { link: name, bytesPerSecond, variant: winner.name };
  });
}

/**
 * What a codec comes to between what reads and what writes, which work beside it: the encoder reads the stream and writes
 * frames, the decoder reads those and writes the stream.
 */
export function between({ encoder, decoder }: Ends, { encode, decode }: Speed, ratio: number): Speed {
  return {
    encode: Math.min(encode, encoder.source, encoder.sink * ratio),
    decode: decode && Math.min(decode, decoder.source * ratio, decoder.sink),
  };
}

/** What reads and writes, of a run in which nothing was packed. */
function endsOf({ rawBytes, encoder, decoder }: Run): Ends {
  const rates = (totals: NativeTotals | undefined): Ends['encoder'] => ({
    source: rawBytes / Math.max(totals?.sourceCpuSeconds ?? 0, 1e-9),
    sink: rawBytes / Math.max(totals?.sinkCpuSeconds ?? 0, 1e-9),
  });
  return { encoder: rates(encoder), decoder: rates(decoder) };
}

/** The memory limits of all that a stream goes through: together they keep one. */
interface Limits {
  /** Of the decoder that the stream comes out of, if it does. */
  source: number;
  encoder: number;
  decoder: number;
}

function limitsOf(
  limit: number,
  sampleBytes: number,
  isPagewire: boolean,
  { stock = false, match = 0 }: EncoderSettings,
  threads: number,
): Limits {
  const decoder = decoderBytes(threads);
  const window = match > 0 ? windowBytes(match, framesInFlight(threads) * FRAME) : 0;
  const held = BASE_BYTES + sampleBytes;
  const { source, rest } = shares(limit, { held, decoder, isPagewire, window: stock ? undefined : window });
  return { source, encoder: BASE_BYTES + Math.max(rest, 0), decoder: decoder + window };
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
async function carry(spec: string, settings: EncoderSettings, limits: Limits, options: InputOptions): Promise<Run> {
  const stream = await openStream(spec, { ...options, memoryLimit: limits.source });
  try {
    const { encoder, decoder } = start(stream.fd, settings, limits, options);
    const totals = await throughput(encoder, decoder);
    // What the stream comes out of may have ended before its end; of a longer one no more was read.
    if (totals.encoder.bytesIn < CHAIN_BYTES) await stream.done;
    return { rawBytes: totals.encoder.bytesIn, wireBytes: totals.encoder.bytesOut, ...totals };
  } finally {
    stream.close();
  }
}

function start(
  input: number,
  settings: EncoderSettings,
  limits: Limits,
  { signal }: InputOptions,
): { encoder: Encoder; decoder: Decoder | undefined } {
  const nowhere = openSync('/dev/null', 'w');
  const [read, write] = native.pipe();
  try {
    const all = { ...settings, memoryLimit: limits.encoder, signal, input };
    if (settings.stock) return { encoder: new Encoder({ ...all, output: nowhere }), decoder: undefined };
    const decoder = new Decoder({ memoryLimit: limits.decoder, signal, input: read, output: nowhere });
    decoder.done.catch(() => undefined); // `throughput` hears of it
    return { encoder: new Encoder({ ...all, output: write }), decoder };
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

import { resolve } from 'node:path';
import { type Codec, CODECS, codecNumber } from '../codecs.js';
import { PagewireError } from '../errors.js';
import { bytes } from '../telemetry/amounts.js';
import { native, type NativeDeltaOptions, type NativeEncodeOptions, type NativeMatchOptions } from '../native.js';
import { BASE_BYTES, defaultMemoryLimit, THREAD_BYTES, WORKER_BYTES } from '../policy/memory.js';
import { defaultThreads, MOST_THREADS } from './workers.js';

/** How large the page cache is to be: in bytes, or in percent of what the guest's whole RAM takes. */
export type CacheSize = { readonly bytes: number } | { readonly percent: number };

/** What an encoder may be told; all of it may be left out. */
export interface EncoderSettings {
  /** Delta for a QEMU stream (default); without it every byte comes out as it went in. */
  delta?: boolean | undefined;
  /** Default: zstd. */
  codec?: Codec | undefined;
  /** 0 is the codec's own default level; the default is 1, the fast one. */
  level?: number | undefined;
  /** Worker threads that compress; default: one for each processor, up to 8. */
  threads?: number | undefined;
  /** Default: 100 % of the guest's RAM, as far as the memory limit allows. */
  cacheSize?: CacheSize | undefined;
  /**
   * How far back in the stream content is looked for that comes again, in bytes, from 1 MiB to 64 GiB; default: not at all.
   * Encoder and decoder each take so much memory. From level 9 on it is looked for harder.
   */
  match?: number | undefined;
  /** The output is a file, and gets an index: pages can be read at random, and it can be the base of others. */
  index?: boolean | undefined;
  /**
   * An incremental save, with an index: what this file has is referred to, not written again. A restore needs it. Takes 40
   * bytes of memory for each of the guest's pages.
   */
  base?: string | undefined;
  /** Where the base's own bases are, if not where they were and not beside it. */
  bases?: readonly string[] | undefined;
  /** Bytes of memory for all of it; default: half of what the host or the cgroup has free. */
  memoryLimit?: number | undefined;
  /** No frames: the output is a QEMU stream that any QEMU loads without pagewire. */
  stock?: boolean | undefined;
  /** Bytes of the stream in a frame, at the most; default: 1 MiB, without a codec 256 KiB. */
  frameSize?: number | undefined;
}

/** A frame of 1 MiB makes a round trip to a worker (25 to 70 µs) cheap, and a codec's ratio good. */
const PACKED_FRAME_SIZE = 1 << 20;

/** With no codec, a frame is small enough to stay in a core's cache on its way from read to write. */
const STORED_FRAME_SIZE = 256 << 10;

/** The format's bounds for a frame (docs/format.md), in bytes. */
export const FRAME_SIZES = { least: 4 << 10, most: 4 << 20 };

/** Windows of match, in bytes: a frame, and what the format allows (docs/format.md). */
export const MATCH_SIZES = { least: 2 ** 20, most: 2 ** 36 };

/** From this level on somebody wants it small, whatever the codec. */
const DEEP_MATCH_LEVEL = 9;

/** The level that is used unless told otherwise: the fast one of every codec. */
export const DEFAULT_LEVEL = 1;

const DEFAULT_CODEC: Codec = 'zstd';

/** Over this, a strong compressor makes less of the page itself than of its difference (measured on captured streams). */
const MAX_DELTA_BEFORE_CODEC = 1024;

/** With no codec behind it, any encoding pays that is smaller than the page. */
const ANY_DELTA = 0xffff_ffff;

/** A frame up to this size is packed by the thread that has it: that takes no longer than a round trip to a worker. */
export const INLINE_BYTES = native.straightBytes();

/**
 * Frames on their way at once: one for each worker, one for source and sink each, and two that wait. More would only
 * stand between the guest and its destination.
 */
export function framesInFlight(threads: number): number {
  return threads + 4;
}

/** An encoder's settings with nothing left open. */
export interface CheckedSettings {
  codec: Codec;
  level: number;
  threads: number;
  native: NativeEncodeOptions;
  /** Bytes for all of it; Infinity where nothing grows with the guest and nobody set a limit. */
  memoryLimit: number;
  /** What all but the page cache takes with another codec, in bytes. */
  fixedMemory: (codec: Codec, level: number) => number;
}

/**
 * Fills in the defaults; throws a BAD_OPTION that says what is wrong. With `replayBytes` the encoder is a session's, which
 * holds so much beside it, and whose workers have JavaScript engines of their own.
 */
export function checkEncoder(settings: EncoderSettings, replayBytes?: number): CheckedSettings {
  const { stock = false, delta = true } = settings;
  if (stock && !delta) throw badOption('stock without delta would only copy: leave one of the two out');
  for (const name of ['codec', 'level'] as const) {
    if (stock && settings[name] !== undefined) {
      throw badOption(`stock output is a QEMU stream, which no codec packs: leave out stock or the ${name}`);
    }
  }
  const codec = stock ? 'none' : (settings.codec ?? DEFAULT_CODEC);
  if (!CODECS.includes(codec)) throw badOption(`codec ${codec}: one of ${CODECS.join(', ')}`);
  const level = settings.level ?? (codec === 'none' ? 0 : DEFAULT_LEVEL);
  checkLevel(codec, level);
  const threads = checkThreads(settings.threads);
  const frameSize = checkFrameSize(settings.frameSize, codec);
  if (!delta && settings.cacheSize !== undefined) throw badOption('a cache size (--cache-size) is for delta');
  const match = checkMatch(settings, level);
  const matchMemory = match ? native.matchBytes(match.window, match.deep, framesInFlight(threads) * frameSize) : 0;
  const hasBase = settings.base !== undefined;
  const baseMemory = hasBase ? native.baseBytes() : 0;
  const index = indexOptions(settings);
  const indexMemory = index.index ? native.indexBytes(frameSize, framesInFlight(threads), threads + 1, hasBase) : 0;
  const threadBytes = replayBytes === undefined ? THREAD_BYTES : WORKER_BYTES;
  const fixedMemory = (codec: Codec, level: number): number =>
    fixedMemoryOf(codec, level, threads, frameSize, threadBytes) +
    matchMemory +
    baseMemory +
    indexMemory +
    (replayBytes ?? 0);
  const fixed = fixedMemory(codec, level);
  const memoryLimit = checkMemoryLimit(settings, fixed, delta);
  return {
    codec,
    level,
    threads,
    native: {
      frameSize,
      frames: !stock,
      inFlight: framesInFlight(threads),
      packers: threads + 1,
      ...(match && { matching: match }),
      ...index,
      ...(delta && { delta: deltaOptions(settings, codec, fixed, memoryLimit) }),
    },
    memoryLimit,
    fixedMemory,
  };
}

function indexOptions({
  index = false,
  base,
  bases = [],
  stock = false,
}: EncoderSettings): Pick<NativeEncodeOptions, 'index'> {
  if (!index && base === undefined) return {};
  if (stock) throw badOption('stock output is a QEMU stream, which has no index: leave out stock, or index and base');
  const named = bases.map((path) => resolve(path));
  return { index: { hashes: true, bases: named, ...(base !== undefined && { base: resolve(base) }) } };
}

function checkMatch(settings: EncoderSettings, level: number): NativeMatchOptions | undefined {
  // What refers to a base refers to a window too, at least to the smallest.
  const { match = settings.base === undefined ? 0 : MATCH_SIZES.least, stock = false } = settings;
  if (match === 0) {
    if (settings.base !== undefined) throw badOption('a base needs references: leave out match 0 or the base');
    return undefined;
  }
  if (stock) throw badOption('stock output is a QEMU stream, which has no references: leave out stock or match');
  if (!Number.isInteger(match) || match < MATCH_SIZES.least || match > MATCH_SIZES.most) {
    throw badOption(`match ${match}: from ${MATCH_SIZES.least} to ${MATCH_SIZES.most} bytes, or 0 for none`);
  }
  return { window: match, deep: level >= DEEP_MATCH_LEVEL };
}

/** A limit that somebody set is one: what cannot work within it is refused. By default there may be no room for a cache. */
function checkMemoryLimit({ memoryLimit }: EncoderSettings, fixed: number, delta: boolean): number {
  if (memoryLimit === undefined) return delta ? defaultMemoryLimit() : Infinity;
  checkAmount('memory limit', memoryLimit);
  if (memoryLimit < fixed) {
    throw new PagewireError(
      'OUT_OF_MEMORY',
      `${delta ? 'without a page cache' : 'this'} needs up to ${bytes(fixed)} of memory, over the limit of ` +
        `${bytes(memoryLimit)} (--memory-limit): take fewer threads, a lower level, a smaller match, or a higher limit`,
    );
  }
  return memoryLimit;
}

function deltaOptions(
  settings: EncoderSettings,
  codec: Codec,
  fixedMemory: number,
  memoryLimit: number,
): NativeDeltaOptions {
  const cache = settings.cacheSize ?? { percent: 100 };
  checkAmount('cache size', 'bytes' in cache ? cache.bytes : cache.percent);
  return {
    maxDelta: codec === 'none' ? ANY_DELTA : MAX_DELTA_BEFORE_CODEC,
    // More than all of the guest's pages is never wanted.
    ...('bytes' in cache ? { cacheBytes: cache.bytes } : { cachePercent: Math.min(cache.percent, 100) }),
    memoryLimit,
    fixedMemory,
  };
}

export function checkAmount(name: string, amount: number): void {
  if (!Number.isInteger(amount) || amount < 0) throw badOption(`${name} ${amount}: a whole number, not negative`);
}

/**
 * What Node, frames and threads take, in bytes. Where nothing is packed a session has no workers, and a flow's own threads
 * have next to nothing to do.
 */
function fixedMemoryOf(codec: Codec, level: number, threads: number, frameSize: number, threadBytes: number): number {
  const arena = native.arenaBytes(frameSize, framesInFlight(threads), threads + 1);
  const thread = threadBytes + native.packerBytes(codecNumber(codec), level, frameSize);
  return BASE_BYTES + arena + (codec === 'none' ? 0 : threads * thread);
}

/** What a window takes at the most, at either end, beside frames of so many bytes in all on their way. */
export function windowBytes(match: number, inFlightBytes: number): number {
  return native.matchBytes(match, false, inFlightBytes);
}

/** What a decoder takes at the most beside its window, in bytes. Its frames may be as large as the format allows. */
export function decoderBytes(threads: number): number {
  const arena = native.arenaBytes(FRAME_SIZES.most, framesInFlight(threads), threads + 1);
  return BASE_BYTES + arena + threads * THREAD_BYTES;
}

/** What a decoder's window may take, in bytes. */
export function windowLimit(threads: number, memoryLimit = defaultMemoryLimit()): number {
  checkAmount('memory limit', memoryLimit);
  return Math.max(memoryLimit - decoderBytes(threads), 0);
}

/** How large frames are, in bytes. */
export function checkFrameSize(frameSize: number | undefined, codec: Codec = DEFAULT_CODEC): number {
  const size = frameSize ?? (codec === 'none' ? STORED_FRAME_SIZE : PACKED_FRAME_SIZE);
  if (!Number.isInteger(size) || size < FRAME_SIZES.least || size > FRAME_SIZES.most) {
    throw badOption(`frame size ${size}: from ${FRAME_SIZES.least} to ${FRAME_SIZES.most} bytes`);
  }
  return size;
}

export function checkThreads(threads = defaultThreads()): number {
  if (!Number.isInteger(threads) || threads < 1 || threads > MOST_THREADS) {
    throw badOption(`${threads} threads: from 1 to ${MOST_THREADS}`);
  }
  return threads;
}

export function checkLevel(codec: Codec, level: number): void {
  const [lowest, highest] = native.codecLevels(codecNumber(codec));
  if (!Number.isInteger(level) || level < lowest || level > highest) {
    throw badOption(`level ${level} of ${codec}: from ${lowest} to ${highest}`);
  }
}

function badOption(message: string): PagewireError {
  return new PagewireError('BAD_OPTION', message);
}

/** The report that `--stats` writes. docs/stats.md describes every field. */
import type { Guest, NativeDelta, NativeTotals, PageCounts, Pass } from '../native.js';
import type { DecoderSnapshot } from '../pipeline/decoder.js';
import type { EncoderSnapshot } from '../pipeline/encoder.js';
import type { PagewireError } from '../errors.js';

/** Grows when a field is removed or gets another meaning; new fields alone do not change it. */
export const STATS_VERSION = 1;

/** How the program ended. */
export type Outcome =
  | { state: 'complete' }
  | { state: 'truncated'; within: string | null }
  | { state: 'failed'; code: string; message: string; frame: number | null; offset: number | null };

interface Common {
  version: number;
  command: 'encode' | 'decode';
  outcome: Outcome;
  elapsedSeconds: number;
  /** Bytes read and written. */
  input: { bytes: number };
  output: { bytes: number };
  /** Encode: input over output; decode: output over input; null where the smaller is nothing. */
  ratio: number | null;
  /** Frames written or read, and the bytes in them before and after packing. */
  frames: { count: number; rawBytes: number; matchedBytes: number; packedBytes: number };
  /** Of this process: all of it, then by stage. */
  cpuSeconds: { total: number; source: number; codec: number; sink: number };
  /** The most memory that the process had resident. */
  peakMemoryBytes: number;
}

export interface EncodeStats extends Common {
  command: 'encode';
  codec: string;
  level: number;
  /** What the input is, as far as delta looked; null with --no-delta. */
  stream: { qemu: boolean | null; note: string | null; verbatimFrom: number | null } | null;
  guest: Guest | null;
  /** Null with --no-delta, or where no page of a QEMU stream was seen; then there are no passes either. */
  pages: (PageCounts & { deltaBytes: number }) | null;
  passes: Pass[];
  passesCut: boolean;
  /** The first pass over the guest; null until it has ended. */
  bulkPass: { endSeconds: number; bytes: number; bytesPerSecond: number } | null;
  cache: (NativeDelta['cache'] & { hitRate: number | null }) | null;
}

export interface DecodeStats extends Common {
  command: 'decode';
}

export function outcomeOf(end: { truncated: boolean; within: string | undefined }): Outcome {
  return end.truncated ? { state: 'truncated', within: end.within ?? null } : { state: 'complete' };
}

export function failed({ code, message, frame, offset }: PagewireError): Outcome {
  return { state: 'failed', code, message, frame: frame ?? null, offset: offset ?? null };
}

export function encodeStats(s: EncoderSnapshot, outcome: Outcome, elapsedSeconds: number): EncodeStats {
  const { totals, delta } = s;
  const guest = delta?.qemu === true ? delta : undefined;
  return {
    ...common('encode', totals, totals.bytesIn, totals.bytesOut, outcome, elapsedSeconds),
    command: 'encode',
    codec: s.codec,
    level: s.level,
    stream: delta ? stream(delta) : null,
    guest: s.guest ?? null,
    pages: guest ? { ...guest.pages, deltaBytes: guest.deltaBytes } : null,
    passes: guest?.passes ?? [],
    passesCut: guest?.passesCut ?? false,
    bulkPass: guest ? bulkPass(guest) : null,
    cache: delta ? { ...delta.cache, hitRate: share(delta.cache.hits, delta.cache.misses) } : null,
  };
}

export function decodeStats({ totals }: DecoderSnapshot, outcome: Outcome, elapsedSeconds: number): DecodeStats {
  return {
    ...common('decode', totals, totals.bytesOut, totals.bytesIn, outcome, elapsedSeconds),
    command: 'decode',
  };
}

function common(
  command: Common['command'],
  totals: NativeTotals,
  large: number,
  small: number,
  outcome: Outcome,
  elapsedSeconds: number,
): Common {
  const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage();
  return {
    version: STATS_VERSION,
    command,
    outcome,
    elapsedSeconds,
    input: { bytes: totals.bytesIn },
    output: { bytes: totals.bytesOut },
    ratio: small > 0 ? large / small : null,
    frames: {
      count: totals.frames,
      rawBytes: totals.rawBytes,
      matchedBytes: totals.matchedBytes,
      packedBytes: totals.packedBytes,
    },
    cpuSeconds: {
      total: (userCPUTime + systemCPUTime) / 1e6,
      source: totals.sourceCpuSeconds,
      codec: totals.codecCpuSeconds,
      sink: totals.sinkCpuSeconds,
    },
    peakMemoryBytes: maxRSS * 1024,
  };
}

function stream(delta: NativeDelta): NonNullable<EncodeStats['stream']> {
  const note =
    delta.qemu === false
      ? 'not a QEMU stream: carried byte for byte'
      : delta.verbatim
        ? `carried byte for byte from byte ${delta.verbatim.offset} on: ${delta.verbatim.reason}`
        : null;
  return { qemu: delta.qemu, note, verbatimFrom: delta.verbatim?.offset ?? null };
}

function bulkPass({ passes }: NativeDelta): EncodeStats['bulkPass'] {
  const [first, second] = passes;
  if (!first || !second) return null;
  const seconds = second.startSeconds - first.startSeconds;
  return {
    endSeconds: second.startSeconds,
    bytes: first.bytesIn,
    bytesPerSecond: seconds > 0 ? first.bytesIn / seconds : 0,
  };
}

function share(part: number, rest: number): number | null {
  return part + rest > 0 ? part / (part + rest) : null;
}

/**
 * The native core, typed. JavaScript sees handles, slot numbers and counters; no byte of a page.
 * The declarations stand for native/node/src, which says more about each.
 */
import { createRequire } from 'node:module';

/** The first argument of a flow's listener. */
export const events = {
  /** `(slot, work)`: a piece of the stream; `work` bytes are to be packed or unpacked, 0: only to be checked. */
  data: 0,
  /** `(slot)`: a frame that goes to the sink as it is. */
  control: 1,
  /** The stream has named the guest's RAM. */
  guest: 2,
  /** No more frames come; see `sourceResult`. */
  sourceEnded: 3,
  /** All is written, or nothing more will be; see `sinkResult`. */
  sinkEnded: 4,
} as const;

export type Listener = (event: number, slot: number, work: number) => void;

export interface NativeEncodeOptions {
  frameSize: number;
  frames: boolean;
  delta?: NativeDeltaOptions;
  inFlight: number;
  packers: number;
}

export interface NativeDeltaOptions {
  maxDelta: number;
  cacheBytes?: number;
  cachePercent?: number;
  memoryLimit: number;
  fixedMemory: number;
}

export interface NativeTotals {
  bytesIn: number;
  bytesOut: number;
  frames: number;
  rawBytes: number;
  packedBytes: number;
  inFlight: number;
  sourceCpuSeconds: number;
  codecCpuSeconds: number;
  sinkCpuSeconds: number;
}

/** The guest's RAM, and what the page cache may take; all sizes in bytes. */
export interface Guest {
  machine: string;
  ramBytes: number;
  blocks: number;
  pageSize: number;
  /** What a cache for every page would take. */
  cacheForAll: number;
  cacheWanted: number;
  cacheGranted: number;
  /** What everything else takes. */
  fixedMemory: number;
  memoryLimit: number;
}

/** How one half of a flow ended; `code` and `message` only where it failed. */
export interface NativeResult {
  code?: string;
  message?: string;
  frame?: number;
  offset?: number;
  truncated: boolean;
  within?: string;
}

export interface NativeFlow {
  readonly handle: number;
  write(slot: number): void;
  discard(slot: number): void;
  finish(): void;
  stop(): void;
  close(): void;
  setDelta(on: boolean): void;
  setCacheBytes(bytes: number): void;
  totals(): NativeTotals;
  delta(): NativeDelta;
  guest(): Guest | null;
  sourceResult(): NativeResult | null;
  sinkResult(): NativeResult | null;
}

/** Pages by what became of them. */
export interface PageCounts {
  /** Sent whole. */
  raw: number;
  /** Sent as a difference to what the destination has. */
  delta: number;
  /** Not sent: the destination has them already. */
  skipped: number;
  /** Sent as one byte that fills the page. */
  fill: number;
  /** XBZRLE records that QEMU made itself, passed on. */
  xbzrle: number;
  /** zlib records that QEMU made itself, passed on. */
  compressed: number;
}

/** One pass over the guest: it ends where the order of block and address goes back. */
export interface Pass {
  /** When it began, in seconds since the stream did. */
  startSeconds: number;
  bytesIn: number;
  bytesOut: number;
  pages: PageCounts;
}

export interface NativeDelta {
  /** Whether the stream is QEMU's; null while that is open. */
  qemu: boolean | null;
  /** Why the rest is, or was, copied as it came; null while it is parsed. */
  verbatim: { reason: string; offset: number } | null;
  pages: PageCounts;
  /** Bytes of the differences that were sent. */
  deltaBytes: number;
  /** The last one stands for all that followed where `passesCut` is set. */
  passes: Pass[];
  passesCut: boolean;
  cache: { bytes: number; budget: number; pages: number; hits: number; misses: number; evictions: number };
}

/** What the addon exports. */
export interface Native {
  NativeFlow: {
    encode(input: number, output: number, options: NativeEncodeOptions, listener: Listener): NativeFlow;
    decode(input: number, output: number, inFlight: number, unpackers: number, listener: Listener): NativeFlow;
  };
  pack(handle: number, slot: number, codec: number, level: number): { slot?: number; failure?: NativeResult };
  unpack(handle: number, slot: number): { slot?: number; failure?: NativeResult };
  packerBytes(codec: number, level: number, frameSize: number): number;
  codecLevels(codec: number): [lowest: number, highest: number];
  arenaBytes(frameSize: number, inFlight: number, packers: number): number;
  pipe(): [read: number, write: number];
  simd(): { tier: string; note?: string };
}

const require = createRequire(import.meta.url);

/** The addon; built by `npm install`. */
export const native = require('../build/Release/pagewire.node') as Native;

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
  /** What came over a session waits for a socket of QEMU's; see `setOutput`. */
  outputWanted: 5,
  /** Migrations in libvirt's conversation have begun or ended; see `tunnel`. */
  tunnel: 6,
} as const;

/** What a wire tells its listener. */
export const wireEvents = {
  /** The link is lost (`status().lostReason`); another may be attached. */
  lost: 0,
  /** `status()` has something new: something was confirmed, ended, or came into doubt. */
  changed: 1,
  /** Nothing can go on (`status().failure`). */
  failed: 2,
} as const;

export type Listener = (event: number, slot: number, work: number) => void;

export interface NativeEncodeOptions {
  frameSize: number;
  frames: boolean;
  delta?: NativeDeltaOptions;
  /** The input is the conversation of two libvirt daemons. */
  libvirt?: boolean;
  matching?: NativeMatchOptions;
  /** The output is a file, with an index; `base`: pages may be taken from that one. */
  index?: NativeIndexOptions;
  inFlight: number;
  packers: number;
  /** The flow's own threads, which pack as `direct` says; without them the listener sees to that. */
  threads?: number;
  /** Default: what does not come by the listener goes as it is. */
  direct?: { codec: number; level: number };
}

export interface NativeDeltaOptions {
  maxDelta: number;
  cacheBytes?: number;
  cachePercent?: number;
  memoryLimit: number;
  fixedMemory: number;
}

export interface NativeMatchOptions {
  /** How far back in the stream references may lead, in bytes. */
  window: number;
  /** More candidates and shorter references, at half the speed. */
  deep: boolean;
}

export interface NativeIndexOptions {
  /** Pages get hashes, so that the file can be a base. */
  hashes: boolean;
  base?: string;
  /** Where the base's own bases may be. */
  bases: string[];
}

export interface NativeDecodeOptions {
  inFlight: number;
  unpackers: number;
  /** The flow's own threads, which unpack. */
  threads: number;
  /** Bytes of memory that what references lead back to may take. */
  windowLimit: number;
  /** Files that the stream's base may be. */
  bases: string[];
  /** A folder where it may be besides. */
  beside?: string;
  /** The file that the input is, from its first byte on: it is held against its index. */
  file?: string;
}

/** Of what the peer of a session sends. */
export interface NativeWireDecodeOptions {
  /** The output is a libvirt daemon, which gets only what this lets through. */
  allow?: NativeAllow;
  /** Bytes of a frame at the most. */
  frameSize: number;
  inFlight: number;
  unpackers: number;
  /** Bytes of memory that what references lead back to may take. */
  windowLimit: number;
}

export interface NativeTotals {
  bytesIn: number;
  bytesOut: number;
  frames: number;
  rawBytes: number;
  packedBytes: number;
  /** Bytes of the stream that references stand for (encoders). */
  matchedBytes: number;
  inFlight: number;
  /** How long it will take to write what is in flight, in milliseconds; 0 until the sink's rate is known. */
  queueMs: number;
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

/** What a libvirt daemon at the destination gets to see: the procedures of a migration, and more. */
export interface NativeAllow {
  /** Every procedure of every program. */
  all: boolean;
  procedures: number[];
}

/** The migrations in a conversation of two libvirt daemons. */
export interface NativeTunnel {
  /** The one that was prepared last, where its name could be read. */
  guest?: string;
  /** Only at the source. */
  begun: number;
  complete: number;
  givenUp: number;
  /** Only at the destination: packets that were not let through. */
  refused: number;
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
  /** Gives what comes over a session its output; the descriptor is duplicated and stays the caller's. */
  setOutput(fd: number): void;
  /** What frames are packed with from now on that do not come by the listener. */
  setDirect(codec: number, level: number): void;
  /** They go as they are, as they do at first. */
  setDirectStored(): void;
  setDelta(on: boolean): void;
  setCacheBytes(bytes: number): void;
  /**
   * Whether the wire is about to run dry (no packed frame is left, and the link took those before at once), and what holds the
   * stream up: the link, or the other end with its QEMU.
   */
  wire(): { isDry: boolean; isFull: boolean; isPeerBusy: boolean };
  totals(): NativeTotals;
  delta(): NativeDelta;
  guest(): Guest | null;
  tunnel(): NativeTunnel;
  sourceResult(): NativeResult | null;
  sinkResult(): NativeResult | null;
  /** Whether a stream that was decoded had an index that nothing was held against. */
  indexLeft(): boolean;
  /** What was wrong with the first frame that the flow's own threads could not pack or unpack; to be asked once the sink has ended. */
  damage(): NativeResult | null;
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

/** Where a connection goes, or where connections are taken. An IPv6 address stands without brackets. */
export type NativeAddress = { kind: 'unix'; path: string } | { kind: 'tcp'; host: string; port: number };

/**
 * Who we are, and whom we take for a peer: one whose key is among `pins`, or whose certificate comes from one of the
 * `authorities` and bears one of the `names`. Without `names`, authorities count only if there are no pins: then the
 * connecting end asks for the host it dials, the accepting end takes every certificate of the authorities.
 */
export interface NativeTls {
  /** PEM: ours, and those between it and the authority. */
  certificate: string;
  /** PEM. */
  key: string;
  /** PEM. */
  authorities?: string;
  /** PEM: certificates that the authorities took back. */
  revocations?: string;
  /** `SHA256:…` of public keys. */
  pins: string[];
  /** Exact, or `*.example`; `*` is any. */
  names: string[];
  /** The name that we ask for, instead of the host that is dialled. */
  serverName?: string;
}

export interface NativePeer {
  /** An endpoint, for people: `tls:192.0.2.1:40000`. */
  address: string;
  /** `SHA256:…` of the key that it proved to have; only over TLS. */
  fingerprint?: string;
  /** Names that an authority of ours vouches for. */
  names: string[];
}

/** A connection that stands: authenticated, not yet a session's. */
export interface NativeLink {
  peer(): NativePeer;
  /** A whole session frame; one `send` at a time. */
  send(type: number, payload: Uint8Array, timeoutMs: number): Promise<void>;
  /** The next whole session frame; one `receive` at a time. */
  receive(timeoutMs: number): Promise<{ type: number; payload: Buffer }>;
  /** The routing preamble, where `connectLink` and `NativeListener` do not see to it: over `pipeLink`. */
  sendPreamble(preamble: Uint8Array, timeoutMs: number): Promise<void>;
  receivePreamble(timeoutMs: number): Promise<Buffer>;
  close(): void;
}

export interface NativeListenOptions {
  /** Of a unix socket, from its first moment; default 0600. */
  mode?: number;
  uid?: number;
  gid?: number;
  /** Whether connections begin with a routing preamble, and are given out only after it. */
  preamble: boolean;
  /** Connections that may owe their preamble at one time; a quarter of them from one address. The oldest makes room. */
  maxPending: number;
  /** How long a connection may owe its preamble. */
  timeoutMs: number;
}

export interface NativeListener {
  /** With the port that the system chose, if it did. */
  address(): NativeAddress;
  /** Takes no more connections; removes a unix socket's name. */
  close(): void;
}

/** `fd` belongs to whom it is given to; `network` is what counts as one address with others: of IPv6 a /64. */
export type Accepted = (fd: number, preamble: Buffer | null, peer: string, network: string | null) => void;
/** A connection that was closed without being given out. */
export type Refused = (peer: string, reason: string) => void;

export interface NativeReceiver {
  close(): void;
}

export interface NativeKey {
  /** PEM, PKCS#8. */
  key: string;
  /** PEM, signed by itself. */
  certificate: string;
  /** `SHA256:…` */
  fingerprint: string;
}

export interface NativeWireOptions {
  /** The connection's number in its session: 0 is QEMU's main connection. */
  channel: number;
  source: boolean;
  /** The most bytes that are kept because the peer has not acknowledged them. */
  replayBytes: number;
  silenceMs: number;
  heartbeatMs: number;
  /** What is carried is the conversation of two libvirt daemons. */
  libvirt?: boolean;
}

/**
 * Whether postcopy's package takes the guest away. `leaving`: the package has begun, and not come whole from QEMU.
 * `inTransit`: it has, sent or not, and QEMU will not resume the guest: it must get there.
 */
export const departures = { none: 0, leaving: 1, inTransit: 2 } as const;

/** How a wire stands. */
export interface WireStatus {
  linked: boolean;
  /** Why the last link was lost. */
  lostReason?: string;
  /** Why nothing can go on. */
  failure?: string;
  /** Frames of our direction. */
  sent: number;
  /** Those of them that the peer has written to its QEMU. */
  acked: number;
  /** Frames of the peer's direction that have come whole. */
  received: number;
  /** Those of them that our QEMU does not have yet. */
  undelivered: number;
  unackedBytes: number;
  /** The last round trip. */
  rttMs?: number;
  /** Bytes that wait before the link, in our buffers and the kernel's, and how long the link takes for them. */
  queueBytes: number;
  queueMs: number;
  /** What the link takes while it is kept busy; 0 until that was seen. */
  bytesPerSecond: number;
  /** Our direction has ended, and all of it is written to the peer's QEMU. */
  confirmed: boolean;
  /** The peer's direction has ended, and all of it is written to our QEMU. */
  ended: boolean;
  /** Of the source, once both are so: how it is known that the destination's QEMU has all of it, and not the guest. */
  notTaken?: string;
  peerBye: boolean;
  /** Why the peer gave up. */
  peerAbort?: string;
  /**
   * In libvirt's tunnel: the destination's daemon has closed its connection before the migration was settled; of the source: when
   * ours still waited for it.
   */
  daemonGone: boolean;
  /** In libvirt's tunnel: a migration has had its last answer, and no other has begun. */
  settled: boolean;
  /** The destination's guest may run, and the source's QEMU does not know it; or the guest is on its way between the two. */
  doubt: boolean;
  /** Of the source: the guest has left in postcopy's package, and needs the source for its pages. */
  postcopy: boolean;
  /** Bytes of the return path. */
  returnBytes: number;
  wireBytesOut: number;
  wireBytesIn: number;
  /** Since anything came. */
  silentMs: number;
}

/** A limit on what the wires of a session write, together. */
export interface NativeBandwidth {
  /** 0: no limit. */
  set(bytesPerSecond: number): void;
}

/** One end of one connection of a migration, over all its links. */
export interface NativeWire {
  /** Goes on over a link after its handshake; `peerReceived` frames of our direction are with the peer. */
  attach(link: NativeLink, peerReceived: number): void;
  /** Frames of the peer's direction that are here whole. */
  received(): number;
  /** Gives the link up, as if it had broken. */
  dropLink(reason: string): void;
  /** Carries the return path by QEMU's socket; the descriptor is duplicated and stays the caller's. */
  startReturn(fd: number): void;
  /** Whether the source's QEMU has closed this socket of its without the answer that it waits for. */
  hasHungUp(fd: number): boolean;
  /** One of {@link departures}: whether postcopy's package takes the guest away, as the source's QEMU sees it. */
  departure(): number;
  /** Gives no further frame to a link, and tells whether those that were given may let the destination's guest run. */
  stopSending(): boolean;
  bye(): void;
  /** Tells the peer, if that can be done at once; a source gives no further frame to a link. Returns whether it was told. */
  abort(reason: string): boolean;
  /** Tells the source's libvirt daemon why what it waits for has failed; `false` where it waits for nothing, or is none. */
  failCalls(reason: string): boolean;
  /** Ends all that waits, at once; a flow over it must be closed too. */
  close(): void;
  status(): WireStatus;
}

/** Whether both guests may run, where no session follows that. */
export interface NativeDoubt {
  /** QEMU must not see the end of its connection now. */
  mustHold(): boolean;
  /** The guest has left in postcopy's package, and needs the source for its pages. */
  isPostcopy(): boolean;
  /** How it is known that the migration has failed at the destination, though all of it went over. */
  failure(): string | null;
  /** QEMU has closed this socket without the answer that it waits for. */
  hasHungUp(fd: number): boolean;
}

/** Copies one direction between two descriptors until its end, and hands the end on as a half-close. */
export interface NativeCopy {
  bytes(): number;
  close(): void;
}

/** What a file is. */
export interface ArchiveInfo {
  fileBytes: number;
  /** Where the last stream's START stands; not 0 behind another stream, or behind another program's header. */
  start: number;
  /** The format's minor version. */
  minor: number;
  /** The most bytes of the original stream in a frame. */
  frameSize: number;
  /** How far back references lead, in bytes: what a restore holds in memory besides its frames. 0: there are none. */
  window: number;
  frames: number;
  /** Bytes of the original stream. */
  rawBytes: number;
  /** XXH3-128 of the original stream, as `xxhsum -H2` prints it. */
  contentHash: string;
  /** The QEMU stream had ended in the middle. */
  truncated: boolean;
  /** The file that it refers to: where that was, and what it is known by. */
  base?: { path: string; identity: string };
  /** Undefined where the file has none. */
  index?: ArchiveIndex;
}

/** What a file's index tells. */
export interface ArchiveIndex {
  /** The machine type; empty if the stream does not tell it. */
  machine: string;
  /** Bytes; 0 where the stream named no RAM. */
  pageSize: number;
  /** The guest's RAM. */
  blocks: { name: string; bytes: number }[];
  /** Where the configuration stands in the original stream. */
  configuration: [start: number, end: number];
  /** Where the devices' states begin in the original stream. */
  deviceState?: number;
  /** Bytes of the original stream whose meaning is known. */
  understood: number;
  /** Why no more of it, where it did not end as streams do. */
  reason?: string;
  /** Whether it can be a base. */
  hashes: boolean;
  /** Frames by codec, in the order of CODECS. */
  codecs: number[];
  /** Frames with references. */
  matched: number;
  level: number;
  /** Page records: whole pages, pages of one byte all over, and pages in a form of QEMU's own. */
  pagesWhole: number;
  pagesFill: number;
  pagesPacked: number;
}

/** What was found to be right. */
export interface VerifiedFile {
  streams: number;
  frames: number;
  /** Bytes of the original streams. */
  rawBytes: number;
  /** Page records that the indexes tell of. */
  pages: number;
  /** Streams without an index. */
  withoutIndex: number;
  /** Streams whose QEMU stream had ended in the middle. */
  truncatedInputs: number;
}

/** What is whole of a file. */
export interface SalvagedFile {
  /** All of it, with the right hash. */
  whole: boolean;
  /** Bytes of the original stream; undefined where the end mark is lost. */
  rawBytes?: number;
  /** Stretches of the original stream that are there, and the files that they were written to. */
  pieces: { offset: number; length: number; path?: string }[];
  /** What was wrong, where; the first hundred. */
  faults: string[];
}

/** What stands in a stream. */
export interface StreamFacts {
  /** Whether it is a QEMU stream that names the guest's RAM. */
  isQemu: boolean;
  /** The machine type; empty if the stream does not tell it. */
  machine: string;
  ramBytes: number;
  /** Bytes; 0 where the stream named no RAM. */
  pageSize: number;
  /** Page records of every kind. */
  records: number;
  /** Records of whole pages. */
  whole: number;
  /** Of those, pages that had come before. */
  again: number;
  /** Different pages that came with content, not as one byte all over. */
  distinct: number;
  /** From where on, and why, a QEMU stream is not understood before its device states; undefined where all is well. */
  fault?: { offset: number; reason: string };
}

/** Two versions of pages, side by side: both are as long. */
export interface NativePairs {
  old: Buffer;
  new: Buffer;
}

/** A block codec on one thread. Lengths that do not belong together, and what does not unpack, are thrown. */
export interface NativeBlockCodec {
  /** Packs the blocks of `raw` into `out`, which is as long, one behind the other; the sum of `lengths`. */
  pack(raw: Uint8Array, out: Uint8Array, lengths: Uint32Array): number;
  /** Unpacks into `out`, which is as long as what was packed. */
  unpack(packed: Uint8Array, lengths: Uint32Array, out: Uint8Array): void;
}

/** Deltas of pages on one thread, likewise. */
export interface NativeDeltaCodec {
  /** Makes the deltas of the pages in `fresh` against those in `old` into `out`; all three are as long. */
  encode(old: Uint8Array, fresh: Uint8Array, out: Uint8Array, lengths: Uint32Array): number;
  /** Makes the new pages in `out`, which is as long as `old`. */
  decode(deltas: Uint8Array, lengths: Uint32Array, old: Uint8Array, out: Uint8Array): void;
}

/** XBZRLE and what could stand in its place. */
export type NativeRival = 'raw' | 'xbzrle' | 'page+lz4' | 'page+zstd' | 'xor+lz4' | 'xor+zstd' | 'zstd-prefix';

/** Page records by kind, and the bytes of all of them. */
export interface PageTally {
  /** Whole pages. */
  raw: number;
  /** Pages of zeros. */
  zero: number;
  /** Pages of one other byte. */
  fill: number;
  /** Differences that QEMU made. */
  xbzrle: number;
  /** Pages that QEMU compressed. */
  compressed: number;
  bytes: number;
}

/** A section of the guest's RAM, or `count` of them where there are very many. */
export interface RamSection {
  kind: 'start' | 'part' | 'end';
  id: number;
  offset: number;
  /** With its footer. */
  bytes: number;
  /** Page records. */
  pages: number;
  count: number;
}

/** What was seen of the guest's pages. */
export interface GuestPages {
  pageSize: number;
  blocks: { name: string; bytes: number; tally: PageTally }[];
  total: PageTally;
  /** Each ends where the order of block and address goes back; at most 256, the last one for all that follow. */
  passes: { offset: number; tally: PageTally }[];
  passesMerged: boolean;
  /** Undefined where the guest is too large to count (256 GiB of 4 KiB pages). `most` is 255 for that and more. */
  resent?: { sent: number; moreThanOnce: number; records: number; most: number };
  /** Differences of whole pages that were sent again, by size: up to each of `bounds`. */
  deltas: { bounds: number[]; counts: number[]; tooLarge: number; bytes: number; withoutBase: number };
  /** Whole pages whose content another page had before; exact where `oneIn` is 1. */
  contents: { lookedAt: number; equal: number; oneIn: number };
}

/** What is in a stream, up to where it is understood. */
export interface StreamReport {
  bytes: number;
  understood: number;
  /** What follows: nothing, in the middle of the stream; what is behind the end mark; device states; what is not understood. */
  ended: 'open' | 'end' | 'devices' | 'unknown';
  /** Why what follows is not understood. */
  reason?: string;
  /** What the stream stands in where it ends. */
  within: string;
  /** Why it could not be read to its end. */
  readError?: string;
  machine: string;
  /** In hexadecimal digits. */
  uuid?: string;
  capabilities: number;
  /** 0: there is no configuration. */
  configurationEnd: number;
  sections: RamSection[];
  /** The first 1024; the first 16 bytes of what each carries, in hexadecimal digits. */
  commands: { code: number; offset: number; payload: string }[];
  commandCount: number;
  /** Whether sections end with footers. */
  footers: boolean;
  /** multifd or RDMA: pages travel over other channels. */
  pagesElsewhere: boolean;
  /** Undefined where the stream ends before its list of RAM blocks does. */
  guest?: GuestPages;
}

/** What a codec made of a sample, on one thread. */
export interface Measured {
  frames: number;
  rawBytes: number;
  packedBytes: number;
  packSeconds: number;
  unpackSeconds: number;
}

/** A stream that was looked at, and a sample of it. */
export interface NativeInspection {
  report(): StreamReport;
  /** What stands behind the RAM, from `understood` on; null where it is more than 16 MiB. */
  deviceState(): Buffer | null;
  /** Bytes of the sample, and of how many frames of 1 MiB one is in it. */
  sample(): [bytes: number, oneIn: number];
  /** Packs and unpacks the sample, or as much of it as the CPU time allows. */
  measure(codec: number, level: number, limitMs: number): Promise<Measured>;
}

/** How large a stream is. */
export interface Extent {
  bytes: number;
  /** Of its guest's RAM; 0 where the stream names none. */
  ramBytes: number;
  /** Whether that is more than was asked about, or its guest more than 16 times as large. */
  isBeyond: boolean;
}

/** An input, read on threads of the core's own; one read at a time. */
export interface NativeReader {
  /** The next bytes; fewer at the input's end. */
  read(length: number): Promise<Buffer>;
  /**
   * Reads a stream to its end; `head` was read of it before. The last versions of pages, for differences, take up to
   * `cacheBytes`.
   */
  inspect(head: Uint8Array, cacheBytes: number): Promise<NativeInspection>;
  /** Reads a stream as far as it must to know its extent: to its end where its length is not `known`, which is null then. */
  extent(head: Uint8Array, known: number | null, limit: number): Promise<Extent>;
  /** Writes a stream to a file; one that is beyond the limit as that of a smaller guest, with about so many bytes. */
  thin(head: Uint8Array, extent: Extent, limit: number, to: string): Promise<void>;
  /** Whoever reads, now or later, is told STOPPED. */
  stop(): void;
}

/** What the addon exports. */
export interface Native {
  NativeFlow: {
    /** `doubt` follows a QEMU stream that goes out. */
    encode(
      input: number,
      output: number,
      options: NativeEncodeOptions,
      listener: Listener,
      doubt?: NativeDoubt,
    ): NativeFlow;
    encodeToWire(input: number, wire: NativeWire, options: NativeEncodeOptions, listener: Listener): NativeFlow;
    decode(input: number, output: number, options: NativeDecodeOptions, listener: Listener): NativeFlow;
    decodeFromWire(wire: NativeWire, options: NativeWireDecodeOptions, listener: Listener): NativeFlow;
  };
  NativeWire: {
    create(options: NativeWireOptions, bandwidth: NativeBandwidth, listener: (event: number) => void): NativeWire;
  };
  NativeBandwidth: new () => NativeBandwidth;
  NativeDoubt: new () => NativeDoubt;
  NativeCopy: {
    /**
     * The descriptors are duplicated and stay the caller's; `ended` gets code and reason where it failed, else null;
     * `returning` follows it, where it is the return path.
     */
    start(
      from: number,
      to: number,
      ended: (code: string | null, reason: string | null) => void,
      returning?: NativeDoubt,
    ): NativeCopy;
  };
  pack(handle: number, slot: number, codec: number, level: number): { slot?: number; failure?: NativeResult };
  /** Leaves a frame as it is, for no reference to lead to. */
  store(handle: number, slot: number): { slot?: number; failure?: NativeResult };
  unpack(handle: number, slot: number): { slot?: number; failure?: NativeResult };
  packerBytes(codec: number, level: number, frameSize: number): number;
  codecLevels(codec: number): [lowest: number, highest: number];
  /** Up to so many raw bytes a frame is packed and unpacked by the thread that has it. */
  straightBytes(): number;
  arenaBytes(frameSize: number, inFlight: number, packers: number): number;
  /** What is kept of a base and of its bases while they are read, in bytes. */
  baseBytes(): number;
  /** What making an index takes at the most, beside what is kept of a base, in bytes. */
  indexBytes(frameSize: number, inFlight: number, packers: number, hasBase: boolean): number;
  /** What match takes in an encoder, with frames of so many bytes in all on their way. */
  matchBytes(window: number, deep: boolean, inFlightBytes: number): number;
  pipe(): [read: number, write: number];
  /** The same file, open for direct I/O where `fd` stands; null where that is refused. The caller's. */
  openDirect(fd: number): number | null;
  /** Whether direct I/O was not refused meanwhile. */
  isDirect(fd: number): boolean;
  /** Puts `to` where `from` stands in the same file. */
  copyPosition(from: number, to: number): void;
  /** Takes what is cached of a file, and is on the disk, out of the page cache. */
  uncache(fd: number): void;
  /** Gives the file `to` the times of `from`, to the nanosecond. */
  copyTimes(from: number, to: number): void;
  /** Moves back in a file, so that what was read of it is read again; the descriptor stays the caller's. */
  rewind(fd: number, bytes: number): void;
  /** Tells the reader of a socket that no more comes; one that has gone need not be told. */
  halfClose(fd: number): void;
  simd(): { tier: string; note?: string };

  // Files: native/node/src/archive.rs.
  archiveInfo(path: string): Promise<ArchiveInfo>;
  archiveVerify(path: string, bases: string[]): Promise<VerifiedFile>;
  archivePage(path: string, block: string, address: number, bases: string[]): Promise<Buffer>;
  archiveSalvage(path: string, bases: string[], output: string | null): Promise<SalvagedFile>;

  // What `pagewire bench` measures with: native/node/src/bench.rs. Here bytes of a stream do go to JavaScript.
  NativeBlockCodec: new (codec: number, level: number, blockSize: number) => NativeBlockCodec;
  NativeDeltaCodec: new (rival: NativeRival, level: number, pageSize: number) => NativeDeltaCodec;
  streamFacts(path: string): Promise<StreamFacts>;
  /** Pages that had come before, with what they were: at most `limit` bytes of either, of `again` pages. */
  streamPairs(path: string, again: number, limit: number): Promise<NativePairs>;
  /** What a destination has after the stream; the same for what delta makes of it. */
  streamRamDigest(path: string): Promise<string>;
  /** native/node/src/measuring.rs. The descriptor is duplicated and stays the caller's. */
  NativeReader: { open(fd: number): NativeReader };

  // Connections: native/node/src/net.rs. Promises are kept on threads of their own; they are rejected with an error whose
  // `code` is one of ERROR_CODES and whose message names endpoint, operation, reason and remedy.

  /** Connects, sends the preamble, and shakes hands where `tls` is given. */
  connectLink(
    address: NativeAddress,
    preamble: Uint8Array,
    tls: NativeTls | null,
    timeoutMs: number,
  ): Promise<NativeLink>;
  /** Takes over a connection whose preamble has been read. */
  acceptLink(fd: number, tls: NativeTls | null, timeoutMs: number): Promise<NativeLink>;
  /** A plain link over one socket, given twice, or two pipes. The descriptors are duplicated and stay the caller's. */
  pipeLink(readFd: number, writeFd: number, peer: string): NativeLink;
  /** Answers the calls that a libvirt daemon has made over a connection that comes to nothing; whether there were any. */
  refuseCalls(fd: number, reason: string): boolean;
  /** A connection to a QEMU, or to a libvirt daemon: its descriptor, the caller's. */
  connectSocket(address: NativeAddress, libvirt: boolean, timeoutMs: number): Promise<number>;
  NativeListener: {
    /** Where `address` is a descriptor, it is duplicated and stays the caller's. */
    listen(
      address: NativeAddress | { fd: number },
      options: NativeListenOptions,
      accepted: Accepted,
      refused?: Refused,
    ): NativeListener;
  };
  /** Sends a descriptor to another process, with a message of 1 to 65,536 bytes; the descriptor stays the caller's. */
  sendDescriptor(controlFd: number, fd: number, message: Uint8Array): void;
  /** Gives out what comes by `sendDescriptor`; `(-1, empty)` once the other end is closed. */
  NativeReceiver: new (controlFd: number, received: (fd: number, message: Buffer) => void) => NativeReceiver;
  /** Two ends of a local connection that keeps messages apart, for `sendDescriptor`; the caller's. */
  socketPair(): [number, number];
  /** Two ends of a local byte stream, for what `exec:` starts; the caller's. */
  streamPair(): [number, number];
  keygen(name: string): NativeKey;
  /** `SHA256:…` of the public key of the first certificate. */
  fingerprintOf(certificatePem: string): string;
  /** Tells the service manager that listens at `path`, as `NOTIFY_SOCKET` has it. */
  notify(path: string, state: string): void;
  /** The other end of a connected socket, for people. */
  peerOfSocket(fd: number): string;
  isListening(fd: number): boolean;
  /** Where a socket is: of one that listens, where it takes connections. */
  addressOfSocket(fd: number): NativeAddress;
  /** From now on every internet connection that this process makes carries this mark (SO_MARK); 0: none. */
  setMark(mark: number): void;
  /** Where a connection was going before the packet filter redirected it to us; null where it came by itself. */
  originalDestination(fd: number): NativeAddress | null;
}

/** The addon; built by `npm install`. */
export const native = createRequire(import.meta.url)('../build/Release/pagewire.node') as Native;

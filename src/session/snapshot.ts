/** How a session stands: plain data, so that it can go to the listener, to metrics, to a file and to a terminal. */
import type {
  Guest,
  NativeCopy,
  NativeDelta,
  NativeFlow,
  NativeTotals,
  NativeTunnel,
  PageCounts,
  WireStatus,
} from '../native.js';

export interface SessionSnapshot {
  role: 'source' | 'destination';
  name: string;
  state: 'waiting' | 'connecting' | 'running' | 'reconnecting' | 'in doubt' | 'ending' | 'ended' | 'failed';
  /** Since the session began. */
  seconds: number;
  /** The peer's endpoint. */
  peer: string | null;
  codec: string | null;
  guest: Guest | null;
  channels: number;
  /** Channels that have a link now. */
  linked: number;
  linkLosses: number;
  doubt: boolean;
  /** Bytes of QEMU's stream at this end; at the source before delta, at the destination as QEMU gets them. */
  streamBytes: number;
  /** Bytes on the wire, both ways. */
  wire: { out: number; in: number; bytesPerSecond: number; roundTripMs: number };
  /** What waits before the wire, and how long it will. */
  queue: { bytes: number; ms: number };
  /** Kept until the peer has acknowledged it. */
  unackedBytes: number;
  returnBytes: number;
  pages: (PageCounts & { deltaBytes: number }) | null;
  passes: number;
  cache: NativeDelta['cache'] | null;
  cpuSeconds: { source: number; codec: number; sink: number };
  /** The migrations in libvirt's tunnel, where that is what is carried. */
  tunnel: (Omit<NativeTunnel, 'guest'> & { guest: string | null }) | null;
}

/** Where libvirt's tunnel is carried, and nothing has come through it. */
export const NO_MIGRATION: NonNullable<SessionSnapshot['tunnel']> = {
  guest: null,
  ...{ begun: 0, complete: 0, givenUp: 0, refused: 0 },
};

type Carried = Omit<
  SessionSnapshot,
  'role' | 'name' | 'state' | 'seconds' | 'peer' | 'codec' | 'guest' | 'streamBytes'
>;

export interface ChannelCounters {
  status: WireStatus;
  totals: NativeTotals;
  delta: NativeDelta | undefined;
  tunnel: NativeTunnel | undefined;
  losses: number;
}

/** What a session's channels have done together; `libvirt`: the one that there is carries its tunnel. */
export function carried(channels: readonly ChannelCounters[], libvirt = false): Carried {
  const sum = (of: (channel: ChannelCounters) => number): number =>
    channels.reduce((total, channel) => total + of(channel), 0);
  const most = (of: (channel: ChannelCounters) => number): number => Math.max(0, ...channels.map(of));
  // Only QEMU's main connection goes through delta.
  const delta = channels[0]?.delta;
  const isQemu = delta?.qemu === true;
  const tunnel = channels[0]?.tunnel;
  return {
    channels: channels.length,
    linked: channels.filter(({ status }) => status.linked).length,
    linkLosses: sum(({ losses }) => losses),
    doubt: channels.some(({ status }) => status.doubt),
    wire: {
      out: sum(({ status }) => status.wireBytesOut),
      in: sum(({ status }) => status.wireBytesIn),
      bytesPerSecond: sum(({ status }) => status.bytesPerSecond),
      roundTripMs: most(({ status }) => status.rttMs ?? 0),
    },
    queue: { bytes: sum(({ status }) => status.queueBytes), ms: most(({ status }) => status.queueMs) },
    unackedBytes: sum(({ status }) => status.unackedBytes),
    returnBytes: sum(({ status }) => status.returnBytes),
    pages: isQemu ? { ...delta.pages, deltaBytes: delta.deltaBytes } : null,
    passes: isQemu ? delta.passes.length : 0,
    cache: isQemu ? delta.cache : null,
    cpuSeconds: {
      source: sum(({ totals }) => totals.sourceCpuSeconds),
      codec: sum(({ totals }) => totals.codecCpuSeconds),
      sink: sum(({ totals }) => totals.sinkCpuSeconds),
    },
    tunnel: libvirt ? { ...NO_MIGRATION, ...tunnel, guest: tunnel?.guest ?? null } : null,
  };
}

export function streamBytes(channels: readonly ChannelCounters[], which: 'bytesIn' | 'bytesOut'): number {
  return channels.reduce((total, { totals }) => total + totals[which], 0);
}

/** What a migration without a session has done: no wire, no links that come back. */
export function carriedByStock(
  relays: readonly { flow: NativeFlow | undefined; copies: readonly NativeCopy[] }[],
): Carried & Pick<SessionSnapshot, 'streamBytes' | 'guest'> {
  const main = relays[0]?.flow;
  const totals = main?.totals();
  const delta = main?.delta();
  // Of a further connection, the second one is QEMU's stream.
  const further = relays.slice(1).reduce((total, { copies }) => total + (copies[1]?.bytes() ?? 0), 0);
  const back = relays.reduce((total, { copies }) => total + (copies[0]?.bytes() ?? 0), 0);
  const isQemu = delta?.qemu === true;
  return {
    ...{ channels: relays.length, linked: relays.length, linkLosses: 0, doubt: false },
    guest: main?.guest() ?? null,
    streamBytes: (totals?.bytesIn ?? 0) + further,
    wire: { out: (totals?.bytesOut ?? 0) + further, in: back, bytesPerSecond: 0, roundTripMs: 0 },
    ...{ queue: { bytes: 0, ms: totals?.queueMs ?? 0 }, unackedBytes: 0, returnBytes: back },
    pages: isQemu ? { ...delta.pages, deltaBytes: delta.deltaBytes } : null,
    passes: isQemu ? delta.passes.length : 0,
    cache: isQemu ? delta.cache : null,
    cpuSeconds: {
      source: totals?.sourceCpuSeconds ?? 0,
      codec: totals?.codecCpuSeconds ?? 0,
      sink: totals?.sinkCpuSeconds ?? 0,
    },
    tunnel: null,
  };
}

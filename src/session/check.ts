/** `pagewire check`: what a peer is, and what the link to it carries, before a migration. */
import { closeSync, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { PagewireError } from '../errors.js';
import { native, type NativeLink } from '../native.js';
import { Workers } from '../pipeline/workers.js';
import { Channel, type ChannelEvents } from './channel.js';
import type { Dialled, Dialler } from './dial.js';
import { type CheckWelcome, PROTOCOL, readCheckWelcome } from './hello.js';
import { type Agreement, agree, type End, refusal } from './negotiate.js';
import { Packer } from './packer.js';
import { attemptMs, isFinal } from './reconnect.js';

/** How long noise is sent, in milliseconds: long enough for TCP to find the link's rate. */
const NOISE_MS = 1000;

/** Heartbeats while it is sent, in milliseconds: one of them measures the round trip before the queue grows. */
const HEARTBEAT_MS = 100;

/** The most that a peer which measures may take, in milliseconds. */
const CHECK_MS = 30_000;

export interface CheckReport {
  readonly welcome: CheckWelcome;
  readonly agreement: Agreement;
  /** Why a session would be refused; undefined where it would not. */
  readonly refused: string | undefined;
  readonly address: string;
  readonly fingerprint: string | undefined;
  readonly names: readonly string[];
  /** From the begin of the connection to WELCOME. */
  readonly handshakeMs: number;
  readonly roundTripMs: number | undefined;
  readonly bytesPerSecond: number;
}

export async function check(dialler: Dialler, end: End): Promise<CheckReport> {
  const began = performance.now();
  const dialled = await dial(dialler, end);
  const handshakeMs = performance.now() - began;
  const { link } = dialled;
  const welcome = readCheckWelcome(dialled.welcome);
  const { address, fingerprint, names } = link.peer();
  const agreement = agree(welcome, end);
  const refused = refusal({ ...welcome, require: [] }, end)?.message;
  return {
    ...{ welcome, agreement, refused, address, fingerprint, names, handshakeMs },
    ...(await measure(link, agreement)),
  };
}

async function dial(dialler: Dialler, { program, capabilities, parameters }: End): Promise<Dialled> {
  const hello = { kind: 'check' as const, protocol: PROTOCOL, program, capabilities, parameters };
  for (let turn = 0; ; turn++) {
    try {
      return await dialler.open(hello, turn, attemptMs(Infinity));
    } catch (error) {
      if (isFinal(PagewireError.from(error)) || turn + 1 >= dialler.size) throw error;
    }
  }
}

/** Sends noise as a stream is sent, and looks what arrived. */
async function measure(
  link: NativeLink,
  { frameSize, silenceMs }: Agreement,
): Promise<Pick<CheckReport, 'roundTripMs' | 'bytesPerSecond'>> {
  const workers = new Workers(1);
  // In QEMU's place: what the peer says would be written there.
  const noise = openSync('/dev/urandom', 'r+');
  let lost: string | undefined;
  const events = { ...silent, lost: (_: Channel, reason: string) => (lost ??= reason), guest: () => undefined };
  const options = { channel: 0, replayBytes: 64 << 20, silenceMs, heartbeatMs: HEARTBEAT_MS };
  const sizes = { frameSize: Math.min(frameSize, 256 << 10), frames: true, inFlight: 4, packers: 2 };
  const packer = new Packer({ codec: 'none', level: 0 }, workers, 1);
  const channel = Channel.source(noise, options, new native.NativeBandwidth(), sizes, packer, events);
  try {
    const began = performance.now();
    channel.attach(link, 0);
    await sleep(NOISE_MS);
    const { acked, sent, wireBytesOut, rttMs } = channel.status;
    const seconds = (performance.now() - began) / 1000;
    if (lost !== undefined) {
      throw new PagewireError('LINK_LOST', `the link to ${link.peer().address} broke while it was measured: ${lost}`);
    }
    const arrived = sent > 0 ? (wireBytesOut * acked) / sent : 0;
    channel.bye();
    return { roundTripMs: rttMs, bytesPerSecond: arrived / seconds };
  } finally {
    await channel.close();
    await workers.close();
  }
}

/** The peer's end: takes the noise and drops it. */
export async function serveCheck(link: NativeLink, { frameSize, silenceMs }: Agreement): Promise<void> {
  const workers = new Workers(1);
  let over!: () => void;
  const done = new Promise<void>((resolve) => (over = resolve));
  const options = { channel: 0, replayBytes: 1 << 20, silenceMs, heartbeatMs: HEARTBEAT_MS };
  const events: ChannelEvents = {
    ...silent,
    lost: over,
    changed: () => {
      if (channel.status.peerBye) over();
    },
  };
  const channel: Channel = Channel.destination(options, undefined, 1, workers, events, { match: 0, frameSize });
  try {
    channel.attach(link, 0);
    const nowhere = openSync('/dev/null', 'w');
    channel.flow.setOutput(nowhere);
    closeSync(nowhere);
    await Promise.race([done, sleep(CHECK_MS, undefined, { ref: false })]);
  } finally {
    await channel.close();
    await workers.close();
  }
}

const nothing = (): void => undefined;
const silent: ChannelEvents = { lost: nothing, changed: nothing, read: nothing, tunnel: nothing, flowed: nothing };

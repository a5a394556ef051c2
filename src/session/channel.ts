/**
 * One connection of QEMU's on its way through the session: its wire, which outlives the links that carry it, and the
 * flow, lane and threads between the two.
 */
import { closeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { PagewireError } from '../errors.js';
import {
  departures,
  events,
  type Listener,
  native,
  type NativeAllow,
  type NativeBandwidth,
  type NativeDelta,
  type NativeEncodeOptions,
  type NativeFlow,
  type NativeLink,
  type NativeTotals,
  type NativeTunnel,
  type NativeWire,
  type NativeWireDecodeOptions,
  type NativeWireOptions,
  wireEvents,
  type WireStatus,
} from '../native.js';
import { Lane, type StreamEnd, type Work } from '../pipeline/lane.js';
import { slotOf } from '../pipeline/slot.js';
import { framesInFlight, INLINE_BYTES, windowBytes } from '../pipeline/settings.js';
import type { Workers } from '../pipeline/workers.js';
import type { Packer } from './packer.js';

/** What a channel tells its session. */
export interface ChannelEvents {
  /** The link is lost; another one may be attached. */
  lost(channel: Channel, reason: string): void;
  /** The wire's status has something new. */
  changed(channel: Channel): void;
  /**
   * QEMU has ended its stream; frames before that may still be on their way. `cutOff` where that was in the middle, which
   * is a cancelled migration.
   */
  read(channel: Channel, cutOff: StreamEnd | undefined): void;
  /** libvirt's conversation, where it is one, has news: see {@link Channel.tunnel}. */
  tunnel(channel: Channel): void;
  /** QEMU's stream has ended at this end, well or not. */
  flowed(channel: Channel, end: StreamEnd | PagewireError): void;
}

/**
 * How long the frame that is being written may take when no more are wanted, in milliseconds: it is better whole than the link
 * broken, over which the peer can still be told why.
 */
const LAST_FRAME_MS = 300;

/** How long a peer may take to let go of a link, once it was told that we give up, and how often to look, in milliseconds. */
const ABORT_MS = 700;
const ABORT_LOOK_MS = 10;

/** How long a libvirt daemon gets to take in why its calls have failed, in milliseconds: `LAST_WORD` of the core. */
export const LAST_WORD_MS = 500;

/** Frames on their way in a channel beside QEMU's main one, which carries little or is one of many. */
export const FURTHER_IN_FLIGHT = 4;

/** Frames that are packed or unpacked in such a channel at once, beside those. */
export function furtherPackers(threads: number): number {
  return Math.min(threads + 1, FURTHER_IN_FLIGHT);
}

type WireOptions = Omit<NativeWireOptions, 'source'>;

interface Counters {
  status: WireStatus;
  totals: NativeTotals;
  delta: NativeDelta | undefined;
  tunnel: NativeTunnel | undefined;
}

/** What a peer knows of the end: `told` is what a link took, whose peer did not let go of it. */
export type Heard = 'heard' | 'told' | 'not told';

export class Channel {
  readonly number: number;
  readonly flow: NativeFlow;
  /** Links that were lost. */
  losses = 0;
  /** The stream has been read to its end: at the source, QEMU has closed its side. */
  isRead = false;
  /** Destination: resolves when QEMU's socket is wanted: its first bytes, or the end, have come. */
  readonly outputWanted: Promise<void>;
  readonly #wire: NativeWire;
  readonly #delta: boolean;
  /** What is carried is libvirt's conversation. */
  readonly #libvirt: boolean;
  /** After which a link is lost. */
  readonly #silenceMs: number;
  readonly #ended: Promise<void>;
  /** From then on the peer may go. */
  #saidBye = false;
  /** QEMU's socket. */
  #qemu: number | undefined;
  #packer: Packer | undefined;
  /** The last look at the counters, once it is closed. */
  #last: Counters | undefined;

  private constructor(
    options: NativeWireOptions,
    bandwidth: NativeBandwidth,
    delta: boolean,
    tell: ChannelEvents,
    start: (wire: NativeWire, listener: Listener) => NativeFlow,
    work: Work,
  ) {
    this.number = options.channel;
    this.#delta = delta;
    this.#libvirt = options.libvirt === true;
    this.#silenceMs = options.silenceMs;
    this.#wire = native.NativeWire.create(options, bandwidth, (event) => {
      if (this.#last) return;
      if (event === wireEvents.lost) {
        if (!this.#saidBye) this.losses++;
        tell.lost(this, this.status.lostReason ?? 'the connection broke');
      } else tell.changed(this);
    });
    const lane = new Lane(() => this.flow, work);
    let wanted!: () => void;
    this.outputWanted = new Promise((resolve) => (wanted = resolve));
    try {
      this.flow = start(this.#wire, (event, slot, bytes) => {
        if (event === events.outputWanted) wanted();
        else if (event === events.tunnel) {
          if (!this.#last) tell.tunnel(this);
        } else lane.listen(event, slot, bytes);
        if (event === events.sourceEnded && lane.inputEnded) {
          this.isRead = true;
          if (!this.#last) tell.read(this, lane.cutOff);
        }
      });
    } catch (error) {
      this.#wire.close();
      throw PagewireError.from(error);
    }
    const flowed = (end: StreamEnd | PagewireError): void => {
      if (!this.#last) tell.flowed(this, end);
    };
    this.#ended = lane.ended.then(flowed, (error: unknown) => {
      flowed(PagewireError.from(error));
    });
  }

  /** The source's end; `fd`, QEMU's socket, is the channel's from now on. */
  static source(
    fd: number,
    options: WireOptions,
    bandwidth: NativeBandwidth,
    encode: NativeEncodeOptions,
    packer: Packer,
    tell: ChannelEvents & { guest(channel: Channel): void },
  ): Channel {
    const channel: Channel = new Channel(
      { ...options, source: true },
      bandwidth,
      encode.delta !== undefined,
      tell,
      (wire, listener) =>
        native.NativeFlow.encodeToWire(fd, wire, encode, (event, slot, bytes) => {
          if (event === events.guest) tell.guest(channel);
          else listener(event, slot, bytes);
        }),
      (slot, bytes) => packer.pack(channel.flow, slot, bytes),
    );
    try {
      channel.#wire.startReturn(fd);
    } catch (error) {
      // The socket stays the caller's.
      void channel.close();
      throw error;
    }
    channel.#qemu = fd;
    channel.#packer = packer;
    packer.add(channel.flow);
    return channel;
  }

  /** The destination's end; its QEMU comes by {@link connect}. */
  static destination(
    options: WireOptions,
    allow: NativeAllow | undefined,
    threads: number,
    workers: Workers,
    tell: ChannelEvents,
    { match, frameSize }: { match: number; frameSize: number },
  ): Channel {
    const isMain = options.channel === 0;
    const inFlight = isMain ? framesInFlight(threads) : FURTHER_IN_FLIGHT;
    const decode: NativeWireDecodeOptions = {
      ...(allow !== undefined && { allow }),
      frameSize,
      inFlight,
      unpackers: isMain ? threads + 1 : furtherPackers(threads),
      windowLimit: match > 0 ? windowBytes(match, inFlight * frameSize) : 0,
    };
    const channel: Channel = new Channel(
      { ...options, source: false, libvirt: allow !== undefined },
      new native.NativeBandwidth(),
      false,
      tell,
      (wire, listener) => native.NativeFlow.decodeFromWire(wire, decode, listener),
      (slot, bytes) => {
        const task = { handle: channel.flow.handle, slot };
        return bytes > INLINE_BYTES ? workers.unpack(task) : slotOf(native.unpack(task.handle, slot));
      },
    );
    return channel;
  }

  /** Gives the destination's end its QEMU; `fd` is the channel's from now on. */
  connect(fd: number): void {
    if (this.#last) {
      closeSync(fd);
      return;
    }
    this.#qemu = fd;
    // The wire first: from the moment the sink has its output it may hold the daemon's socket, and wait for its reader.
    this.#wire.startReturn(fd);
    this.flow.setOutput(fd);
  }

  /** Frames of the peer's direction that are here whole. */
  get received(): number {
    return this.#wire.received();
  }

  /** Goes on over a link that has been welcomed, from the frame behind those that the peer has. */
  attach(link: NativeLink, peerReceived: number): void {
    this.#wire.attach(link, peerReceived);
  }

  /** Source: one of `departures`. Nobody is on the way for a QEMU that has closed its side. */
  get departure(): number {
    return this.#last || this.isRead ? departures.none : this.#wire.departure();
  }

  /** Gives no further frame to a link; tells whether those that were given may let the destination's guest run. */
  stopSending(): boolean {
    return this.#last?.status.doubt ?? this.#wire.stopSending();
  }

  /**
   * Source: QEMU has closed its socket without the answer that it waits for, which may be long before the end of what it
   * wrote is read: there is no room for that while there is no link.
   */
  get hasHungUp(): boolean {
    return this.#last === undefined && this.#qemu !== undefined && this.#wire.hasHungUp(this.#qemu);
  }

  /** Destination: whether it has its QEMU. */
  get hasQemu(): boolean {
    return this.#qemu !== undefined;
  }

  dropLink(reason: string): void {
    if (!this.#last) this.#wire.dropLink(reason);
  }

  /** Tells the peer that all is done. */
  bye(): void {
    this.#saidBye = true;
    if (!this.#last) this.#wire.bye();
  }

  /** The migrations in libvirt's conversation, where it is one. */
  get tunnel(): NativeTunnel | undefined {
    if (this.#last) return this.#last.tunnel;
    return this.#libvirt ? this.flow.tunnel() : undefined;
  }

  get status(): WireStatus {
    return this.#last?.status ?? this.#wire.status();
  }

  counters(): Counters {
    if (this.#last) return this.#last;
    const delta = this.#delta ? this.flow.delta() : undefined;
    return { status: this.status, totals: this.flow.totals(), delta, tunnel: this.tunnel };
  }

  /** Ends all of it and closes QEMU's socket. The peer is told why, if it can be told and `reason` is one. */
  async close(reason?: string): Promise<Heard> {
    if (this.#last) return 'heard';
    this.#last = this.counters();
    const hears = reason !== undefined && this.#libvirt && this.#wire.failCalls(`pagewire: ${reason}`);
    this.flow.stop();
    this.#packer?.delete(this.flow);
    const heard = reason === undefined ? 'heard' : await this.#abort(reason);
    // libvirt takes in what it was told before it sees the end.
    if (hears) await sleep(LAST_WORD_MS);
    this.#wire.close();
    await this.#ended;
    this.flow.close();
    if (this.#qemu !== undefined) closeSync(this.#qemu);
    return heard;
  }

  /**
   * The end of a frame that is under way may have to be waited for; one that the link does not take in time is cut off, with the
   * link, which lets go of whoever writes it. A peer that has heard it lets go of the link itself.
   */
  async #abort(reason: string): Promise<Heard> {
    let isTold = false;
    let until = performance.now() + LAST_FRAME_MS;
    for (;;) {
      const { linked, silentMs, peerAbort, failure } = this.#wire.status();
      // A peer that gave up itself does not listen.
      if (peerAbort !== undefined) return 'heard';
      if (!linked) return !isTold ? 'not told' : silentMs < this.#silenceMs ? 'heard' : 'told';
      if (!isTold && this.#wire.abort(reason)) {
        isTold = true;
        until = performance.now() + ABORT_MS;
      }
      // Where nobody reads any more, nobody would see it go.
      if (isTold && failure !== undefined) return 'heard';
      if (failure !== undefined || performance.now() > until) break;
      await sleep(ABORT_LOOK_MS);
    }
    if (isTold) return 'told';
    this.#wire.dropLink('given up');
    return 'not told';
  }
}

/**
 * One connection of QEMU's on its way through the session: its wire, which outlives the links that carry it, and the
 * flow, lane and threads between the two.
 */
import { closeSync } from 'node:fs';
import { type Codec, codecNumber } from '../codecs.js';
import { PagewireError } from '../errors.js';
import {
  events,
  type Listener,
  native,
  type NativeDelta,
  type NativeEncodeOptions,
  type NativeFlow,
  type NativeLink,
  type NativeTotals,
  type NativeWire,
  type NativeWireOptions,
  wireEvents,
  type WireStatus,
} from '../native.js';
import { Lane, type StreamEnd, type Work } from '../pipeline/lane.js';
import { slotOf } from '../pipeline/outcome.js';
import { framesInFlight, INLINE_BYTES } from '../pipeline/settings.js';
import type { Workers } from '../pipeline/workers.js';

/** What a channel tells its session. */
export interface ChannelEvents {
  /** The link is lost; another one may be attached. */
  lost(channel: Channel, reason: string): void;
  /** The wire's status has something new. */
  changed(channel: Channel): void;
  /** QEMU's stream has ended at this end, well or not. */
  flowed(channel: Channel, end: StreamEnd | PagewireError): void;
}

/** What frames are packed with; all channels of a session share one. */
export interface Packing {
  codec: Codec;
  level: number;
}

type WireOptions = Omit<NativeWireOptions, 'source'>;

interface Counters {
  status: WireStatus;
  totals: NativeTotals;
  delta: NativeDelta | undefined;
}

export class Channel {
  readonly number: number;
  readonly flow: NativeFlow;
  /** Links that were lost. */
  losses = 0;
  /** Destination: resolves when QEMU's socket is wanted: its first bytes, or the end, have come. */
  readonly outputWanted: Promise<void>;
  readonly #wire: NativeWire;
  readonly #delta: boolean;
  readonly #ended: Promise<void>;
  /** QEMU's socket. */
  #qemu: number | undefined;
  /** The last look at the counters, once it is closed. */
  #last: Counters | undefined;

  private constructor(
    options: NativeWireOptions,
    delta: boolean,
    tell: ChannelEvents,
    start: (wire: NativeWire, listener: Listener) => NativeFlow,
    work: Work,
  ) {
    this.number = options.channel;
    this.#delta = delta;
    this.#wire = native.NativeWire.create(options, (event) => {
      if (this.#last) return;
      if (event === wireEvents.lost) {
        this.losses++;
        tell.lost(this, this.status.lostReason ?? 'the connection broke');
      } else tell.changed(this);
    });
    const lane = new Lane(() => this.flow, work);
    let wanted!: () => void;
    this.outputWanted = new Promise((resolve) => (wanted = resolve));
    try {
      this.flow = start(this.#wire, (event, slot, bytes) => {
        if (event === events.outputWanted) wanted();
        else lane.listen(event, slot, bytes);
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
    encode: NativeEncodeOptions,
    packing: Packing,
    workers: Workers,
    tell: ChannelEvents & { guest(channel: Channel): void },
  ): Channel {
    const channel: Channel = new Channel(
      { ...options, source: true },
      encode.delta !== undefined,
      tell,
      (wire, listener) =>
        native.NativeFlow.encodeToWire(fd, wire, encode, (event, slot, bytes) => {
          if (event === events.guest) tell.guest(channel);
          else listener(event, slot, bytes);
        }),
      (slot, bytes) => {
        const task = { handle: channel.flow.handle, slot, codec: codecNumber(packing.codec), level: packing.level };
        if (packing.codec !== 'none' && bytes > INLINE_BYTES) return workers.pack(task);
        return slotOf(native.pack(task.handle, slot, task.codec, task.level));
      },
    );
    channel.#qemu = fd;
    channel.flow.setDirect(codecNumber(packing.codec), packing.level);
    channel.#wire.startReturn(fd);
    return channel;
  }

  /** The destination's end; its QEMU comes by {@link connect}. */
  static destination(options: WireOptions, threads: number, workers: Workers, tell: ChannelEvents): Channel {
    const channel: Channel = new Channel(
      { ...options, source: false },
      false,
      tell,
      (wire, listener) => native.NativeFlow.decodeFromWire(wire, framesInFlight(threads), threads + 1, listener),
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
    this.flow.setOutput(fd);
    this.#wire.startReturn(fd);
  }

  /** Frames of the peer's direction that are here whole. */
  get received(): number {
    return this.#wire.received();
  }

  /** Goes on over a link that has been welcomed, from the frame behind those that the peer has. */
  attach(link: NativeLink, peerReceived: number): void {
    this.#wire.attach(link, peerReceived);
  }

  dropLink(reason: string): void {
    if (!this.#last) this.#wire.dropLink(reason);
  }

  setMaxBandwidth(bytesPerSecond: number): void {
    if (!this.#last) this.#wire.setMaxBandwidth(bytesPerSecond);
  }

  /** Tells the peer that all is done. */
  bye(): void {
    if (!this.#last) this.#wire.bye();
  }

  /** Tells the peer, if it can be told, that nothing more comes, and why. */
  abort(reason: string): void {
    if (!this.#last) this.#wire.abort(reason);
  }

  get status(): WireStatus {
    return this.#last?.status ?? this.#wire.status();
  }

  counters(): Counters {
    if (this.#last) return this.#last;
    const delta = this.#delta ? this.flow.delta() : undefined;
    return { status: this.status, totals: this.flow.totals(), delta };
  }

  /** Ends all of it and closes QEMU's socket. */
  async close(): Promise<void> {
    if (this.#last) return;
    this.#last = this.counters();
    this.flow.stop();
    this.#wire.close();
    await this.#ended;
    this.flow.close();
    if (this.#qemu !== undefined) closeSync(this.#qemu);
  }
}

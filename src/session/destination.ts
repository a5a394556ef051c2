/**
 * The destination's half of a session: channels in, each opened onward to QEMU in the order in which the source's QEMU
 * made them.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { duration } from '../control/quantities.js';
import { PagewireError } from '../errors.js';
import type { NativeAllow, NativeLink, NativePeer, WireStatus } from '../native.js';
import type { StreamEnd } from '../pipeline/lane.js';
import { Workers } from '../pipeline/workers.js';
import type { Log } from '../telemetry/log.js';
import { openSocket } from '../transport/connect.js';
import { type Endpoint, endpointText } from '../transport/endpoint.js';
import { Channel } from './channel.js';
import type { JoinHello, Refuse } from './hello.js';
import type { Agreement } from './negotiate.js';
import {
  afterLoss,
  afterStop,
  DOUBT_NOTE_MS,
  type InDoubt,
  isCarried,
  isInDoubt,
  isSettled,
  judge,
  patienceMs,
  type SessionEnd,
  settledText,
} from './outcome.js';
import { identity, isSameToken } from './peers.js';
import { carried, type SessionSnapshot, streamBytes } from './snapshot.js';

export interface DestinationOptions {
  readonly name: string;
  readonly token: string;
  /** Who opened the session: only the same may join it. */
  readonly peer: NativePeer;
  /** Where QEMU listens. */
  readonly connect: Endpoint;
  readonly agreement: Agreement;
  /** Connections of QEMU's beside the main one that there is memory for. */
  readonly room: number;
  readonly threads: number;
  /** Bytes of the return path that are kept until the source has acknowledged them. */
  readonly replayBytes: number;
  readonly reconnectMs: number;
  readonly inDoubt: InDoubt;
  /** What listens there is a libvirt daemon, and gets no more than this. */
  readonly allow?: NativeAllow | undefined;
  readonly log: Log;
}

/** How long QEMU may take to listen, in milliseconds: a management tool may start it at this moment. */
const QEMU_MS = 5000;
const QEMU_RETRY_MS = 50;

/** QEMU looks at a connection's first bytes where all stands still meanwhile, so it gets one when there are some: but
 * the connection for postcopy's urgent pages has none until QEMU has it. */
const SILENT_CHANNEL_MS = 50;

/** How long what QEMU said last may take to the source once QEMU has gone before its time, in milliseconds. */
const ANSWER_MS = 10_000;

/** How long QEMU may take for what came before the source gave up, and how often to look, in milliseconds. */
const DELIVERY_MS = 1000;
const DELIVERY_LOOK_MS = 10;

/** How long the source may take to end a session whose daemon here has gone, until that is told, in milliseconds. */
const DESERTED_MS = 2000;

/** How far a channel may come before one that stands before it. */
const AHEAD = 64;

/** How long a link takes to be let go of when another one comes for it. */
const DROP_MS = 5000;

const LOST_FOR_GOOD = 'the link is lost for good: the source did not come back in time';

export class DestinationSession {
  /** Settled once all is over and QEMU's sockets are closed. */
  readonly done: Promise<SessionEnd>;
  /** Called when another guest comes through libvirt's tunnel. */
  onTunnel: (() => void) | undefined;

  readonly #options: DestinationOptions;
  readonly #log: Log;
  readonly #workers: Workers;
  /** By their numbers; they may come out of their order. */
  readonly #channels = new Map<number, Channel>();
  /** Numbers of those that are there or may come. */
  readonly #admitted = new Set([0]);
  readonly #over = new AbortController();
  readonly #began = performance.now();
  #settle!: { resolve: (end: SessionEnd) => void; reject: (error: PagewireError) => void };
  #state: SessionSnapshot['state'] = 'running';
  #inDoubt: InDoubt;
  #reconnectMs: number;
  /** Channels without a link: since when, and until when. */
  readonly #lost = new Map<Channel, { since: number; patience: NodeJS.Timeout }>();
  /** Links that are being let go of for others. */
  readonly #dropped = new Map<Channel, () => void>();
  /** Waits for the channel with a number. */
  readonly #expected = new Map<number, () => void>();
  /** Why it is held in doubt. */
  #held: PagewireError | undefined;
  /** Where each channel's link comes from. */
  readonly #from = new Map<Channel, string>();
  #stopRequests = 0;
  /** Why the source has given up, where no link of a channel carried that. */
  #gaveUp: string | undefined;
  /** The guest that libvirt prepared for last, and whether something was refused. */
  #guest: string | undefined;
  #hasRefused = false;
  /** The daemon here has gone, and that is or will be told. */
  #tellsDeserted = false;
  /** Why it will fail, once what QEMU said is with the source. */
  #failing: PagewireError | undefined;

  constructor(options: DestinationOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#inDoubt = options.inDoubt;
    this.#reconnectMs = options.reconnectMs;
    this.#workers = new Workers(options.threads);
    this.done = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    void this.#openOnward();
  }

  get name(): string {
    return this.#options.name;
  }

  /** Whether the session could still be needed: a newer one of the same guest takes the place of one that is cut off. */
  get isLinked(): boolean {
    return this.#present.some(({ status }) => status.linked);
  }

  /** The link that opened the session. */
  open(link: NativeLink): void {
    const channel = this.#add(0);
    this.#from.set(channel, link.peer().address);
    channel.attach(link, 0);
  }

  /** Whether a peer may join; undefined if so. */
  refuses(hello: JoinHello, peer: NativePeer): Refuse | undefined {
    const { token, peer: mine, name, room } = this.#options;
    if (!isSameToken(hello.token, token) || identity(peer) !== identity(mine) || this.#isOver) {
      return { code: 'UNKNOWN_SESSION', message: `no such session of guest ${name}` };
    }
    if (hello.channel > this.#channels.size + AHEAD) {
      return { code: 'BAD_HELLO', message: `channel ${hello.channel} has none before it` };
    }
    this.#admitted.add(hello.channel);
    if (this.#admitted.size - 1 > room) {
      this.#admitted.delete(hello.channel);
      const message = `there is memory for ${room} further connections of QEMU (--memory-limit at the destination)`;
      return { code: 'OUT_OF_MEMORY', message };
    }
    return undefined;
  }

  /** Makes the channel ready for a new link; resolves with what has come over the ones before. */
  async ready({ channel: number }: JoinHello): Promise<number> {
    const channel = this.#channels.get(number);
    if (!channel) return 0;
    if (channel.status.linked) {
      // The source knows of a loss that we have not seen yet.
      const dropped = new Promise<void>((resolve) => this.#dropped.set(channel, resolve));
      channel.dropLink('the source has made another link');
      await Promise.race([dropped, sleep(DROP_MS, undefined, { signal: this.#over.signal })]);
      this.#dropped.delete(channel);
    }
    return channel.received;
  }

  /** A link that has been welcomed. */
  join(link: NativeLink, { channel: number, received }: JoinHello): void {
    if (this.#isOver) {
      link.close();
      return;
    }
    const channel = this.#channels.get(number) ?? this.#add(number);
    try {
      this.#from.set(channel, link.peer().address);
      channel.attach(link, received);
    } catch (error) {
      link.close();
      this.#fail(PagewireError.from(error));
      return;
    }
    if (this.#lost.has(channel)) {
      clearTimeout(this.#lost.get(channel)?.patience);
      this.#lost.delete(channel);
      this.#log.info(`the link from ${link.peer().address} is back (channel ${number})`);
    }
    if (this.#lost.size === 0) {
      this.#held = undefined;
      if (this.#state !== 'ending') this.#state = 'running';
    }
  }

  /** The source has given up, which came by a connection of its own. */
  sourceGaveUp(why: string): void {
    this.#gaveUp = why;
    if (this.#isLingering) this.#finish();
    else this.#look();
  }

  /** Somebody wants it to end. */
  stop(why = 'stopped'): void {
    this.#stopRequests++;
    if (this.#isLingering) {
      this.#finish();
    } else if (afterStop({ doubt: this.#isInDoubt, requests: this.#stopRequests }) === 'fail') {
      this.#fail(new PagewireError('STOPPED', why));
    } else {
      this.#log.warn(
        'the guest may run here by now, and the source does not know it yet: the session goes on. ' +
          'A second signal closes it; make sure first that the guest runs at one end only',
      );
    }
  }

  /** A newer session of the same guest has come. */
  supersede(): void {
    const why = 'a new session of this guest takes the place of this one, which had no link';
    if (this.#isLingering) this.#finish();
    else this.#fail(new PagewireError('STOPPED', why));
  }

  /** Something in pagewire itself broke. */
  fault(error: unknown): void {
    if (this.#isLingering) this.#finish();
    else this.#giveUp(PagewireError.from(error));
  }

  setInDoubt(policy: InDoubt): void {
    this.#inDoubt = policy;
    if (policy === 'fail' && this.#held) this.#giveUp(this.#held);
  }

  /** How long to wait for a lost link; counts for those that are lost now, too. */
  setReconnect(ms: number): void {
    this.#reconnectMs = ms;
    for (const [channel, { since }] of this.#lost) this.#wait(channel, since);
  }

  snapshot(): SessionSnapshot {
    const counters = this.#present.map((channel) => ({ ...channel.counters(), losses: channel.losses }));
    return {
      role: 'destination',
      name: this.#options.name,
      state: this.#state,
      seconds: (performance.now() - this.#began) / 1000,
      peer: this.#options.peer.address,
      codec: null,
      guest: null,
      streamBytes: streamBytes(counters, 'bytesOut'),
      ...carried(counters, this.#options.allow !== undefined),
    };
  }

  #add(number: number): Channel {
    const { agreement, allow, threads, replayBytes } = this.#options;
    const { silenceMs, heartbeatMs, frameSize } = agreement;
    // References are for QEMU's main connection.
    const match = number === 0 ? agreement.match : 0;
    const channel = Channel.destination(
      { channel: number, replayBytes, silenceMs, heartbeatMs },
      allow,
      threads,
      this.#workers,
      this.#events,
      { match, frameSize },
    );
    this.#channels.set(number, channel);
    this.#expected.get(number)?.();
    return channel;
  }

  readonly #events = {
    lost: (channel: Channel, reason: string): void => {
      if (this.#isOver) return;
      const dropped = this.#dropped.get(channel);
      if (dropped) {
        // The one that comes for it may get lost too.
        this.#wait(channel, performance.now() + DROP_MS);
        dropped();
        return;
      }
      if (this.#isCarried) {
        // The source may not know it yet: that was said over the link that is lost.
        this.#state = 'ending';
        this.#wait(channel, performance.now());
        return;
      }
      this.#state = 'reconnecting';
      this.#log.warn(
        `the link from ${this.#from.get(channel) ?? 'the source'} is lost (channel ${channel.number}): ${reason}; ` +
          `waiting for it for ${duration(this.#patienceMs)}`,
      );
      this.#wait(channel, performance.now());
    },
    changed: (): void => {
      this.#look();
    },
    tunnel: (channel: Channel): void => {
      const { guest, refused = 0 } = channel.tunnel ?? {};
      if (refused > 0 && !this.#hasRefused) this.#log.warn('libvirt was asked for more than migrations need: refused');
      this.#hasRefused = refused > 0;
      if (guest === this.#guest) return;
      this.#guest = guest;
      this.onTunnel?.();
      if (guest !== undefined) this.#log.info(`guest ${guest}: libvirt prepares for it`);
    },
    read: (): void => undefined,
    flowed: (channel: Channel, end: StreamEnd | PagewireError): void => {
      if (this.#isOver) return;
      if (!(end instanceof PagewireError)) {
        this.#look();
      } else if (end.code === 'OUTPUT_CLOSED' || end.code === 'WRITE_FAILED') {
        this.#lastWords(channel, end);
      } else if (end.code !== 'STOPPED') {
        // What the peer said of it explains more.
        this.#look();
        this.#fail(end);
      }
    },
  };

  /** How long a lost link is waited for. */
  get #patienceMs(): number {
    return patienceMs(this.#reconnectMs, this.#isCarried || this.#isSettled);
  }

  /** Waits for the link of a channel that has been without one for some time. */
  #wait(channel: Channel, since: number): void {
    clearTimeout(this.#lost.get(channel)?.patience);
    const patience = setTimeout(
      () => {
        if (this.#isLingering) this.#finish();
        else this.#giveUp(new PagewireError('LINK_LOST', LOST_FOR_GOOD));
      },
      since + this.#patienceMs - performance.now(),
    );
    this.#lost.set(channel, { since, patience });
  }

  get #present(): Channel[] {
    return [...this.#channels.values()];
  }

  get #isOver(): boolean {
    return this.#over.signal.aborted;
  }

  get #isCarried(): boolean {
    return isCarried(this.#present.map(({ status }) => status));
  }

  /** All is done, and only the source may not know it. */
  get #isLingering(): boolean {
    return this.#isCarried && this.#lost.size > 0;
  }

  get #isInDoubt(): boolean {
    return isInDoubt(this.#present.map(({ status }) => status));
  }

  get #isSettled(): boolean {
    return isSettled(this.#present.map(({ status }) => status));
  }

  /** What listens there, for people. */
  get #far(): string {
    return this.#options.allow ? 'the libvirt daemon' : 'QEMU';
  }

  /** QEMU has gone before its time. What it said last may decide which guest runs: first that, then the end. */
  #lastWords(channel: Channel, cause: PagewireError): void {
    if (this.#failing) return;
    const where = endpointText(this.#options.connect);
    const failing = new PagewireError(
      'OUTPUT_CLOSED',
      `${this.#far} at the destination closed ${where} (channel ${channel.number}) before the end of the stream: ${cause.message}`,
      { cause },
    );
    this.#failing = failing;
    const timer = setInterval(() => {
      if (![...this.#lost.keys()].some(({ hasQemu }) => hasQemu)) this.#fail(failing);
    }, ANSWER_MS);
    this.#over.signal.addEventListener('abort', () => {
      clearInterval(timer);
    });
    this.#look();
  }

  /** It cannot go on: the session fails, unless it must be held. */
  #giveUp(why: PagewireError): void {
    // Without a daemon nothing is left to hold.
    const gone = this.#deserted(this.#present.map(({ status }) => status));
    if (gone ?? afterLoss({ doubt: this.#isInDoubt, policy: this.#inDoubt }) === 'fail') {
      this.#fail(gone ?? why);
    } else if (!this.#held) {
      this.#held = why;
      this.#hold(why);
    }
  }

  /** Says loudly, again and again, what a person has to decide. */
  #hold(why: PagewireError): void {
    if (this.#held !== why || this.#isOver) return;
    if (!this.#isInDoubt) {
      this.#held = undefined;
      if (this.#lost.size === 0) this.#state = 'running';
      return;
    }
    this.#state = 'in doubt';
    this.#log.error(
      `IN DOUBT: ${why.code === 'LINK_LOST' ? 'the source is gone' : why.message}, and the guest may run here without ` +
        `the source knowing: ${this.#far} is left as it is, and the source waited for. If the guest runs at the source, ` +
        'end it here; if it runs here, the log at the source says what to do there',
    );
    const again = (): void => {
      this.#hold(why);
    };
    void sleep(DOUBT_NOTE_MS, undefined, { signal: this.#over.signal }).then(again, () => undefined);
  }

  #look(): void {
    if (this.#isOver) return;
    const gaveUp = this.#gaveUp !== undefined && { peerAbort: this.#gaveUp };
    const statuses = this.#present.map(({ status }) => ({ ...status, ...gaveUp }));
    const verdict = judge('destination', statuses, false);
    if (verdict.is === 'over') {
      for (const channel of this.#present) channel.bye();
      this.#finish();
    } else if (verdict.is === 'cancelled') {
      this.#finish(true);
    } else if (verdict.is === 'given up') {
      const why = new PagewireError('PEER_FAILED', `the source gave up: ${verdict.why}`);
      void this.#failDelivered(this.#deserted(statuses) ?? why);
    } else if (verdict.is === 'broken') {
      this.#fail(new PagewireError('SESSION_FAILED', verdict.why));
    } else if (this.#failing && this.#present.every(({ hasQemu, status }) => !hasQemu || status.confirmed)) {
      this.#fail(this.#failing);
    } else if (this.#deserted(statuses)) {
      this.#noteDeserted();
    }
  }

  /** Mostly the source ends the session for it at once. */
  #noteDeserted(): void {
    if (this.#tellsDeserted) return;
    this.#tellsDeserted = true;
    void sleep(DESERTED_MS, undefined, { signal: this.#over.signal }).then(
      () => {
        const gone = this.#deserted(this.#present.map(({ status }) => status));
        if (gone) this.#log.warn(`${gone.message}; the source, whose libvirt daemon waits for it, is waited for`);
      },
      () => undefined,
    );
  }

  /** What came before goes to QEMU first, if it takes that soon: it may be the end of its stream. */
  async #failDelivered(why: PagewireError): Promise<void> {
    const until = performance.now() + DELIVERY_MS;
    while (!this.#isOver && performance.now() < until && this.#present.some(({ status }) => status.undelivered > 0)) {
      await sleep(DELIVERY_LOOK_MS);
    }
    this.#fail(why);
  }

  /** The daemon here has gone before the end. */
  #deserted(statuses: readonly WireStatus[]): PagewireError | undefined {
    if (isCarried(statuses) || !statuses.some(({ daemonGone }) => daemonGone)) return undefined;
    const where = endpointText(this.#options.connect);
    const guest = this.#guest === undefined ? '' : ` of guest ${this.#guest}`;
    return new PagewireError('OUTPUT_CLOSED', `${this.#far} closed ${where} before the end of the migration${guest}`);
  }

  /** QEMU gets its connections one after the other; it tells them apart by their order only. */
  async #openOnward(): Promise<void> {
    const { signal } = this.#over;
    const { allow } = this.#options;
    try {
      for (let number = 0; ; number++) {
        const channel = await this.#channel(number);
        // A daemon that waits for the first bytes is not deaf meanwhile, as QEMU is: it is connected to at once.
        if (allow === undefined) {
          const silence = number > 0 ? [sleep(SILENT_CHANNEL_MS, undefined, { signal })] : [];
          await Promise.race([channel.outputWanted, ...silence]);
        }
        const fd = await this.#connect(number);
        channel.connect(fd);
        this.#log.info(`connected to ${endpointText(this.#options.connect)} (channel ${number})`);
      }
    } catch (error) {
      if (!signal.aborted) this.#fail(PagewireError.from(error));
    }
  }

  async #channel(number: number): Promise<Channel> {
    for (;;) {
      const channel = this.#channels.get(number);
      if (channel) return channel;
      await new Promise<void>((resolve) => this.#expected.set(number, resolve));
      this.#expected.delete(number);
    }
  }

  async #connect(number: number): Promise<number> {
    const { connect } = this.#options;
    const { signal } = this.#over;
    const until = performance.now() + QEMU_MS;
    for (;;) {
      try {
        return await openSocket(connect, QEMU_MS, this.#options.allow !== undefined);
      } catch (error) {
        if (performance.now() > until || signal.aborted) {
          const { message } = PagewireError.from(error);
          throw new PagewireError('CONNECT_FAILED', `${this.#far} is not there for channel ${number}: ${message}`, {
            cause: error,
          });
        }
        await sleep(QEMU_RETRY_MS, undefined, { signal });
      }
    }
  }

  #finish(cancelled = false, reason?: string): void {
    this.#end('ended', reason, () => {
      this.#settle.resolve({ cancelled, within: undefined });
    });
  }

  #fail(error: PagewireError): void {
    if (this.#isSettled) {
      this.#log.warn(settledText(error));
      this.#finish(false, error.message);
      return;
    }
    this.#end('failed', error.message, () => {
      this.#settle.reject(error);
    });
  }

  #end(state: SessionSnapshot['state'], reason: string | undefined, settle: () => void): void {
    if (this.#isOver) return;
    this.#over.abort();
    this.#state = 'ending';
    for (const { patience } of this.#lost.values()) clearTimeout(patience);
    void Promise.all(this.#present.map((channel) => channel.close(reason)))
      .then(() => this.#workers.close())
      .then(() => {
        this.#state = state;
        settle();
      });
  }
}

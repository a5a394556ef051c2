/**
 * The source's half of a session: QEMU's connections in, each over a link of its own to the destination.
 *
 *     QEMU connects ─▶ OPEN, HELLO / WELCOME ─▶ channel 0;  each further connection ─▶ JOIN ─▶ channel n
 *     a link is lost ─▶ JOIN with what has come, and go on; in vain: fail, or in doubt hold
 *     both halves of all channels have ended and are confirmed ─▶ BYE, BYE ─▶ done
 */
import { randomBytes } from 'node:crypto';
import { closeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Codec, CODECS } from '../codecs.js';
import { duration } from '../control/quantities.js';
import { plain } from '../control/standard-streams.js';
import { PagewireError } from '../errors.js';
import { departures, type Guest, native, type NativeTunnel } from '../native.js';
import type { StreamEnd } from '../pipeline/lane.js';
import { type CheckedSettings, checkEncoder } from '../pipeline/settings.js';
import { Workers } from '../pipeline/workers.js';
import { bytes } from '../telemetry/amounts.js';
import type { Log } from '../telemetry/log.js';
import { endpointText } from '../transport/endpoint.js';
import { broken } from './broken.js';
import { Channel, FURTHER_IN_FLIGHT, furtherPackers, type Heard, LAST_WORD_MS } from './channel.js';
import { Packer } from './packer.js';
import { type Dialled, Refusal } from './dial.js';
import { type JoinHello, MOST_CHANNELS, MOST_REASON, PROTOCOL, readJoinWelcome } from './hello.js';
import type { Agreement } from './negotiate.js';
import { type OpeningOptions, openSession } from './opening.js';
import {
  afterLoss,
  afterStop,
  CANCELLED,
  DOUBT_NOTE_MS,
  type Held,
  type InDoubt,
  inDoubtText,
  isInDoubt,
  isSettled,
  judge,
  patienceMs,
  type SessionEnd,
  settledText,
  stopInDoubtText,
} from './outcome.js';
import { isUnknown, reconnect } from './reconnect.js';
import { carried, type SessionSnapshot, streamBytes } from './snapshot.js';

export interface SourceOptions extends OpeningOptions {
  /** Where QEMU, or libvirt, connects: for people. */
  readonly near: string;
  readonly reconnectMs: number;
  readonly inDoubt: InDoubt;
  /** Bytes a second; 0: no limit. */
  readonly maxBandwidth: number;
  /** The connection is a libvirt daemon's, and the only one. */
  readonly libvirt?: boolean | undefined;
  /** Its own from now on, and maybe started already. */
  readonly workers?: Workers | undefined;
}

/** How long a peer that was told that all is done may take to say so too, in milliseconds. */
const BYE_MS = 10_000;

/** How often a session that is held in doubt tries to end that, in milliseconds. */
const DOUBT_RETRY_MS = 1000;

/** How long postcopy's package may take to come whole from QEMU, and how often to look, in milliseconds. */
const LEAVING_MS = 5000;
const LEAVING_LOOK_MS = 50;

/** How often to look whether QEMU has hung up, in milliseconds. */
const CANCEL_LOOK_MS = 250;

/** As the flow says it once it has read all that came before. */
const HUNG_UP = 'libvirt closed its connection in the middle of a migration';

/** How long QEMU's further connections may take to be carried to their end once it has cancelled, in milliseconds. */
const CANCEL_MS = 400;

/** How long a destination that the links do not reach is looked for, to tell it that all is over, in milliseconds. */
const LEAVE_MS = 2000;

/** How long two daemons may take to part that have nothing more to do with each other, once the session is to end, in milliseconds. */
const PARTING_MS = 1000;

/** Bytes that are kept for a channel beside QEMU's main one until the peer has acknowledged them. */
const FURTHER_REPLAY = 8 << 20;

export class SourceSession {
  /** Settled once all is over and QEMU's sockets are closed. */
  readonly done: Promise<SessionEnd>;
  /** Called when a migration in libvirt's tunnel has begun or ended. */
  onTunnel: (() => void) | undefined;

  readonly #options: SourceOptions;
  readonly #log: Log;
  readonly #token = randomBytes(32).toString('hex');
  readonly #workers: Workers;
  readonly #channels: Channel[] = [];
  /** QEMU's connections that came before the destination had answered. */
  readonly #waiting: number[] = [];
  /** Channels without a link. */
  readonly #lost = new Set<Channel>();
  /** Ends whatever is waited for. */
  readonly #over = new AbortController();
  /** When QEMU came. */
  #began: number | undefined;
  #endedAt: number | undefined;
  #packer: Packer;
  #settle!: { resolve: (end: SessionEnd) => void; reject: (error: PagewireError) => void };
  #settings: CheckedSettings;
  #agreement: Agreement | undefined;
  #peer: string | null = null;
  #guest: Guest | undefined;
  #tunnel: NativeTunnel | undefined;
  #state: SessionSnapshot['state'] = 'waiting';
  #inDoubt: InDoubt;
  #reconnectMs: number;
  readonly #bandwidth = new native.NativeBandwidth();
  /** Bytes that channels beside main take. */
  #furtherBytes = 0;
  /** Why it cannot go on: only a doubt keeps the session then. */
  #hopeless: PagewireError | undefined;
  /** The same, until what to do about it is known. */
  #deciding: PagewireError | undefined;
  /** Says that it is held, again and again. */
  #note: NodeJS.Timeout | undefined;
  /** Where QEMU has cancelled. */
  #cutOff: StreamEnd | undefined;
  #stopRequests = 0;
  /** Nothing more of the stream is given to links: only an answer of the destination can end it well. */
  #isStopped = false;
  #saidBye = false;

  constructor(options: SourceOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#inDoubt = options.inDoubt;
    this.#reconnectMs = options.reconnectMs;
    this.#bandwidth.set(options.maxBandwidth);
    this.#settings = checkEncoder(options.encoder, options.replayBytes);
    this.#workers = options.workers ?? new Workers(this.#settings.threads);
    this.#packer = this.#newPacker();
    this.done = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
  }

  /** A connection of QEMU's, the session's from now on. The first one begins the session. */
  accept(fd: number): void {
    if (this.#isOver) {
      closeSync(fd);
    } else if (this.#agreement) {
      this.#add(fd);
    } else {
      this.#waiting.push(fd);
      if (this.#waiting.length === 1) void this.#open();
    }
  }

  /** Somebody wants it to end: the migration fails cleanly, unless both guests might run then. */
  stop(): void {
    this.#stopRequests++;
    const settled = this.#isSettled;
    const why = new PagewireError(
      'STOPPED',
      `stopped${settled ? '' : ': the migration fails and the guest stays here'}`,
    );
    if (settled && this.#stopRequests === 1) {
      // libvirt ends a program that it has started as soon as it has closed the connection: that is about to be carried.
      this.#after(PARTING_MS, () => {
        this.#giveUp(why);
      });
    } else if (afterStop({ doubt: this.#mustArrive, requests: this.#stopRequests }) === 'fail') {
      if (this.#stopRequests > 1) this.#fail(why);
      else this.#giveUp(why);
    } else {
      this.#log.warn(stopInDoubtText(this.#held));
    }
  }

  /** Something in pagewire itself broke. */
  fault(error: unknown): void {
    if (!this.#isOver) this.#giveUp(PagewireError.from(error));
  }

  setInDoubt(policy: InDoubt): void {
    this.#inDoubt = policy;
    if (policy === 'fail' && this.#hopeless) this.#fail(this.#hopeless);
  }

  /** How long to look for a lost link. */
  setReconnect(ms: number): void {
    this.#reconnectMs = ms;
  }

  /** Bytes a second, for all of QEMU's connections together; 0: no limit. */
  setMaxBandwidth(bytesPerSecond: number): void {
    this.#bandwidth.set(bytesPerSecond);
  }

  snapshot(): SessionSnapshot {
    const counters = this.#channels.map((channel) => ({ ...channel.counters(), losses: channel.losses }));
    return {
      role: 'source',
      name: this.#options.name,
      state: this.#state,
      seconds: this.#began === undefined ? 0 : ((this.#endedAt ?? performance.now()) - this.#began) / 1000,
      peer: this.#peer,
      codec: this.#packer.packing.codec,
      guest: this.#guest ?? null,
      streamBytes: streamBytes(counters, 'bytesIn'),
      ...carried(counters, this.#options.libvirt),
    };
  }

  get #isOver(): boolean {
    return this.#over.signal.aborted;
  }

  get #isInDoubt(): boolean {
    return isInDoubt(this.#channels.map(({ status }) => status));
  }

  /** Both guests may run if it ends now, or none would. */
  get #mustArrive(): boolean {
    return this.#isInDoubt || this.#channels[0]?.departure === departures.inTransit;
  }

  get #isSettled(): boolean {
    return isSettled(this.#channels.map(({ status }) => status));
  }

  get #held(): Held {
    const { libvirt = false } = this.#options;
    return { libvirt, postcopy: this.#channels.some(({ status }) => status.postcopy) };
  }

  /** After it, what it says stays true until the destination answers: no frame goes out that could change it. */
  #stopSending(): boolean {
    this.#isStopped = true;
    return this.#channels.map((channel) => channel.stopSending()).includes(true);
  }

  async #open(): Promise<void> {
    this.#state = 'connecting';
    this.#began = performance.now();
    try {
      const { dialled, agreement, settings } = await openSession({
        ...this.#options,
        ...{ token: this.#token, settings: this.#settings, signal: this.#over.signal },
      });
      this.#agreement = agreement;
      this.#settings = settings;
      this.#packer = this.#newPacker(agreement.codecs, agreement.match > 0);
      this.#peer = endpointText(dialled.endpoint);
      this.#state = 'running';
      const [first, ...further] = this.#waiting.splice(0);
      if (first !== undefined) this.#add(first, dialled);
      for (const fd of further) this.#add(fd);
    } catch (error) {
      this.#fail(PagewireError.from(error));
    }
  }

  #newPacker(codecs: readonly Codec[] = CODECS, matches = false): Packer {
    const { codec, level, threads } = this.#settings;
    return new Packer({ codec, level }, this.#workers, threads, codecs, matches);
  }

  /** A further channel, or the first one, whose link is there already. */
  #add(fd: number, first?: Dialled): void {
    const { native: main, threads } = this.#settings;
    const { frameSize, frames } = main;
    const { libvirt = false } = this.#options;
    const { silenceMs, heartbeatMs } = this.#agreement!;
    const number = this.#channels.length;
    // Its doubt alone is no reason: postcopy-preempt's connection may be seen only after the package was confirmed.
    const its = this.#channels[0];
    const hasHungUp = its?.isRead === true || its?.hasHungUp === true;
    const mayRunThere = this.#hopeless !== undefined || (this.#isInDoubt && hasHungUp);
    if (number > 0 && (mayRunThere || number >= MOST_CHANNELS)) {
      const why = number < MOST_CHANNELS ? 'the guest may be running at the destination' : 'it has too many';
      this.#log.warn(`a further connection of QEMU is not taken: ${why}`);
      closeSync(fd);
      return;
    }
    const replayBytes = number === 0 ? this.#options.replayBytes : FURTHER_REPLAY;
    const packers = furtherPackers(threads);
    const further = { frameSize, frames, packers, inFlight: FURTHER_IN_FLIGHT };
    let channel: Channel;
    try {
      if (number > 0) this.#charge(native.arenaBytes(frameSize, FURTHER_IN_FLIGHT, packers) + FURTHER_REPLAY);
      channel = Channel.source(
        fd,
        { channel: number, replayBytes, silenceMs, heartbeatMs, libvirt },
        this.#bandwidth,
        number === 0 ? { ...main, libvirt } : further,
        this.#packer,
        this.#events,
      );
    } catch (error) {
      first?.link.close();
      closeSync(fd);
      this.#giveUp(PagewireError.from(error));
      return;
    }
    this.#channels.push(channel);
    if (first) {
      channel.attach(first.link, 0);
      this.#watch(channel);
    } else {
      this.#log.info(`QEMU has made connection ${number + 1}: channel ${number}`);
      void this.#connect(channel);
    }
  }

  /** Memory for a further channel comes out of the page cache. */
  #charge(more: number): void {
    this.#furtherBytes += more;
    const room = this.#cacheRoom();
    if (room < 0) {
      throw new PagewireError(
        'OUT_OF_MEMORY',
        `connection ${this.#channels.length + 1} of QEMU needs ${bytes(more)}, which the memory limit of ` +
          `${bytes(this.#settings.memoryLimit)} has no room for: give a higher --memory-limit or fewer --threads`,
      );
    }
    if (this.#guest && this.#guest.cacheGranted > room) this.#channels[0]?.flow.setCacheBytes(room);
  }

  /** What the memory limit leaves to the page cache. */
  #cacheRoom(): number {
    const { memoryLimit, fixedMemory } = this.#settings;
    return memoryLimit - fixedMemory(this.#packer.asked.codec, this.#packer.asked.level) - this.#furtherBytes;
  }

  readonly #events = {
    guest: (channel: Channel): void => {
      const guest = channel.flow.guest();
      if (!guest) return;
      this.#guest = guest;
      if (guest.cacheGranted > this.#cacheRoom()) channel.flow.setCacheBytes(Math.max(this.#cacheRoom(), 0));
      this.#log.info(
        `guest ${guest.machine || 'of unknown machine type'}, ${bytes(guest.ramBytes)} of RAM: needs up to ` +
          `${bytes(guest.cacheGranted + guest.fixedMemory)} of memory (page cache ${bytes(guest.cacheGranted)}), ` +
          `limit ${bytes(guest.memoryLimit)}`,
      );
    },
    lost: (channel: Channel, reason: string): void => {
      if (this.#isOver) return;
      if (this.#saidBye) {
        // The destination has gone, as it may by now; or it waits for us, and is to know.
        if (!channel.status.peerBye) void this.#connect(channel);
        return;
      }
      this.#log.warn(`the link to ${this.#peer ?? 'the destination'} is lost (channel ${channel.number}): ${reason}`);
      void this.#connect(channel);
    },
    changed: (): void => {
      this.#look();
    },
    tunnel: (channel: Channel): void => {
      this.#tell(channel.tunnel);
    },
    read: (channel: Channel, cutOff: StreamEnd | undefined): void => {
      if (channel.number > 0 || this.#isOver) return;
      if (cutOff) this.#cancelled(cutOff);
      // It was held for QEMU's sake, which has been told by somebody how it is.
      else if (this.#hopeless) this.#fail(this.#hopeless);
      else this.#look();
    },
    flowed: ({ number }: Channel, end: StreamEnd | PagewireError): void => {
      if (this.#isOver) return;
      if (!(end instanceof PagewireError) || end.code === 'STOPPED') return;
      // What the peer said of it explains more than that it could not be sent.
      this.#look();
      if (!this.#hopeless) this.#giveUp(this.#near(number, end));
    },
  };

  /** An error of what comes from our side, told with where that is. */
  #near(channel: number, error: PagewireError): PagewireError {
    const { near, libvirt = false } = this.#options;
    if (libvirt && error.code === 'PROTOCOL_ERROR') {
      const message = `what came from libvirt's side at ${near} cannot be read: ${error.message}`;
      return new PagewireError('READ_FAILED', message, { cause: error });
    }
    if (libvirt && error.code === 'READ_FAILED') {
      const message =
        `libvirt's connection at ${near} broke: ${error.message} (where nothing came for 30 s before, the daemon at the ` +
        'destination does not answer)';
      return new PagewireError(error.code, message, { offset: error.offset, cause: error });
    }
    const from = `${libvirt ? "libvirt's" : "QEMU's"} connection (channel ${channel}) at ${near}`;
    return broken(error, { from, to: 'the link' });
  }

  /**
   * No guest can be made of what went over, but QEMU's multifd at the destination waits on its main connection for what
   * each of the others said before, and for ever if they end without it: they are carried to their end if that is soon.
   */
  #cancelled(cutOff: StreamEnd): void {
    this.#cutOff = cutOff;
    this.#after(CANCEL_MS, () => {
      this.#finish(cutOff);
    });
    this.#look();
  }

  /** A cancelled migration ends at once, even where there is no room to read all that QEMU wrote before. */
  #watch(main: Channel): void {
    this.#after(CANCEL_LOOK_MS, () => {
      if (this.#cutOff) return;
      if (!main.hasHungUp) this.#watch(main);
      // There is nothing left to hold.
      else if (this.#options.libvirt) this.#fail(this.#near(main.number, new PagewireError('READ_FAILED', HUNG_UP)));
      else this.#finish({ truncated: true, within: undefined });
    });
  }

  /** Tells of migrations in libvirt's tunnel that have begun or ended. */
  #tell(tunnel: NativeTunnel | undefined): void {
    if (!tunnel || this.#isOver) return;
    const { begun, complete, givenUp } = tunnel;
    const before = this.#tunnel;
    this.#tunnel = tunnel;
    this.onTunnel?.();
    const guest = `guest ${tunnel.guest ?? before?.guest ?? 'of unknown name'}`;
    if (begun > (before?.begun ?? 0)) this.#log.info(`${guest}: libvirt sends its stream`);
    if (complete > (before?.complete ?? 0)) this.#log.info(`${guest}: its stream is complete`);
    if (givenUp > (before?.givenUp ?? 0)) this.#log.warn(`${guest}: its stream was given up (libvirt's log says why)`);
  }

  /** How long a lost link is looked for. */
  get #patienceMs(): number {
    return patienceMs(this.#reconnectMs, this.#isSettled);
  }

  /** Takes a lost link back, or makes the first one of a further channel. */
  async #connect(channel: Channel): Promise<void> {
    const { signal } = this.#over;
    const isBack = channel.losses > 0;
    const since = performance.now();
    this.#lost.add(channel);
    if (isBack && !this.#saidBye) this.#state = 'reconnecting';
    for (;;) {
      try {
        const dialled = await reconnect({
          dialler: this.#options.dialler,
          hello: () => this.#join(channel.number, channel.received),
          deadline: () => since + this.#patienceMs,
          failed: (error, attempt) => {
            if (attempt > 0 || this.#hopeless) this.#log.debug(error.message);
            else this.#log.warn(`${error.message}; trying again for ${duration(this.#patienceMs)}`);
          },
          signal,
        });
        channel.attach(dialled.link, readJoinWelcome(dialled.welcome).received);
        if (this.#saidBye) channel.bye();
        this.#linked(channel, isBack ? `the link to ${endpointText(dialled.endpoint)} is back` : undefined, since);
        return;
      } catch (error) {
        if (this.#isOver) return;
        const cause = PagewireError.from(error);
        const isRefused = cause instanceof Refusal && !isUnknown(cause);
        const message = `the link is lost for good: ${cause.message}`;
        this.#giveUp(isRefused ? cause : new PagewireError('LINK_LOST', message, { cause }));
        // One that has forgotten the session will hardly remember it.
        const retry = isUnknown(cause) ? DOUBT_NOTE_MS : DOUBT_RETRY_MS;
        await sleep(retry, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  #linked(channel: Channel, note: string | undefined, since: number): void {
    this.#lost.delete(channel);
    if (note !== undefined) {
      this.#log.info(`${note} (channel ${channel.number}) after ${duration(performance.now() - since)}`);
    }
    if (this.#lost.size > 0) return;
    if (this.#hopeless && (this.#isStopped || this.#hopeless.code !== 'LINK_LOST')) return;
    this.#hopeless = this.#deciding = undefined;
    if (this.#state !== 'ending') this.#state = 'running';
  }

  /** It cannot go on: the session fails, unless it must be held. */
  #giveUp(why: PagewireError): void {
    if (this.#saidBye) {
      this.#finish();
      return;
    }
    if (this.#deciding) return;
    const isFirst = this.#hopeless === undefined;
    this.#deciding = why;
    // A link that is lost as well, and may come back, is not why it cannot go on.
    if (!this.#hopeless || this.#hopeless.code === 'LINK_LOST') this.#hopeless = why;
    this.#decide(why, isFirst, performance.now() + LEAVING_MS);
  }

  /** A package that has begun is read to its end first, which tells whether QEMU would resume its guest. */
  #decide(why: PagewireError, isFirst: boolean, until: number): void {
    // Or the link came back meanwhile.
    if (this.#isOver || this.#deciding !== why) return;
    if (this.#channels[0]?.departure === departures.leaving && performance.now() < until) {
      this.#after(LEAVING_LOOK_MS, () => {
        this.#decide(why, isFirst, until);
      });
      return;
    }
    this.#deciding = undefined;
    // If QEMU has closed its side, there is nothing left to hold. What is in doubt already, or on its way, may still go on.
    const doubt = this.#channels[0]?.isRead !== true && (this.#mustArrive || this.#stopSending());
    if (afterLoss({ doubt, policy: this.#inDoubt }) === 'fail') this.#fail(why);
    else if (isFirst) this.#hold();
  }

  /** Says loudly, again and again, what a person has to decide. */
  #hold(): void {
    if (this.#isOver || !this.#hopeless) return;
    this.#state = 'in doubt';
    this.#log.error(inDoubtText(this.#hopeless, this.#held));
    clearTimeout(this.#note);
    this.#note = setTimeout(() => {
      this.#hold();
    }, DOUBT_NOTE_MS);
  }

  #look(): void {
    if (this.#isOver) return;
    if (this.#cutOff) {
      if (this.#channels.slice(1).every(({ status }) => status.confirmed)) this.#finish(this.#cutOff);
      return;
    }
    const verdict = judge(
      'source',
      this.#channels.map(({ status }) => status),
      this.#saidBye,
    );
    // Whether QEMU has ended its stream in the middle may be known later than what the one there makes of it.
    const isRead = this.#channels[0]?.isRead === true;
    switch (verdict.is) {
      case 'carried':
        if (isRead) this.#sayBye();
        break;
      case 'not taken':
        if (isRead) this.#fail(new PagewireError('MIGRATION_FAILED', verdict.why));
        break;
      case 'over':
        this.#finish();
        break;
      case 'given up':
        this.#giveUp(new PagewireError('PEER_FAILED', `the destination gave up: ${verdict.why}`));
        break;
      case 'broken':
        this.#giveUp(new PagewireError('SESSION_FAILED', verdict.why));
        break;
      case 'deserted':
        this.#giveUp(
          new PagewireError(
            'OUTPUT_CLOSED',
            `the libvirt daemon behind ${this.#peer ?? 'the destination'} closed its connection before the end`,
          ),
        );
        break;
      case 'going on':
        // QEMU has the answer that it was held for, and ends by itself, or not at all.
        if (this.#hopeless && this.#lost.size === 0 && !this.#isInDoubt) this.#after(BYE_MS, this.#failIfHopeless);
        break;
      case 'cancelled':
    }
  }

  readonly #failIfHopeless = (): void => {
    if (this.#hopeless && !this.#isInDoubt && !this.#saidBye) this.#fail(this.#hopeless);
  };

  /** All is with the destination's QEMU, and all that it said is with ours. */
  #sayBye(): void {
    this.#saidBye = true;
    this.#state = 'ending';
    for (const channel of this.#channels) channel.bye();
    this.#after(BYE_MS, () => {
      this.#finish();
    });
  }

  /** Does something later, unless the session is over by then. */
  #after(ms: number, action: () => void): void {
    void sleep(ms, undefined, { signal: this.#over.signal }).then(action, () => undefined);
  }

  /** `cutOff`: QEMU has cancelled. */
  #finish(cutOff?: StreamEnd): void {
    void this.#end('ended', cutOff && CANCELLED, () => {
      this.#settle.resolve({ cancelled: cutOff !== undefined, within: cutOff?.within });
    });
  }

  #fail(error: PagewireError): void {
    if (this.#isSettled) {
      const there =
        this.#lost.size > 0 ? '; where the destination says IN DOUBT, it has not heard of that: end it there' : '';
      this.#log.warn(settledText(error) + there);
      void this.#end('ended', error.message, () => {
        this.#settle.resolve({ cancelled: false, within: undefined });
      });
      return;
    }
    void this.#end('failed', error.message, () => {
      this.#settle.reject(error);
    });
  }

  /**
   * Of which channels' ends the destination may hear by a connection of its own. It overtakes what links still carry: not what
   * the guest may need there, and behind a word that a link took may stand all that a QEMU without a return path has.
   */
  get #mayLeave(): readonly Heard[] {
    const [main] = this.#channels;
    if (!this.#agreement || this.#options.dialler.isOnce || main?.status.peerAbort !== undefined) return [];
    // It was looked for long enough.
    if (this.#hopeless?.code === 'LINK_LOST' && (!main || this.#lost.has(main))) return [];
    if (!main || this.#lost.has(main)) return ['told', 'not told'];
    if (this.#mustArrive) return [];
    if (this.#cutOff || this.#options.libvirt) return ['told', 'not told'];
    return main.isRead ? [] : ['not told'];
  }

  /** Tells a destination why, which would otherwise wait for a link that never comes. */
  async #leave(reason: string): Promise<void> {
    const { dialler } = this.#options;
    const hello = { ...this.#join(0, 0), gaveUp: plain(reason).replaceAll('\n', ' ').slice(0, MOST_REASON) };
    const failures: PagewireError[] = [];
    for (let turn = 0; turn < dialler.size; turn++) {
      try {
        const { link } = await dialler.join(hello, turn, LEAVE_MS);
        link.close();
        return;
      } catch (error) {
        failures.push(PagewireError.from(error));
      }
    }
    // Other addresses may lead to other destinations.
    const [failure] = failures;
    if (!failure || isUnknown(failure)) return;
    this.#log.warn(`${failure.message}: the destination is not told, and waits for its link`);
  }

  #join(channel: number, received: number): JoinHello {
    const { program } = this.#options.end;
    return { kind: 'join', protocol: PROTOCOL, program, token: this.#token, channel, received };
  }

  /** Only the first to end it says how; the peer is told the reason where there is one. */
  async #end(state: SessionSnapshot['state'], reason: string | undefined, settle: () => void): Promise<void> {
    if (this.#isOver) return;
    this.#over.abort();
    clearTimeout(this.#note);
    this.#endedAt = performance.now();
    this.#state = 'ending';
    const mayLeave = this.#mayLeave;
    const heard = await Promise.all(this.#channels.map((channel) => channel.close(reason)));
    if (reason !== undefined && mayLeave.length > 0 && heard.every((of) => mayLeave.includes(of)))
      await this.#leave(reason);
    const waiting = this.#waiting.splice(0);
    if (reason !== undefined && this.#options.libvirt === true) {
      const hears = waiting.filter((fd) => native.refuseCalls(fd, `pagewire: ${reason}`));
      if (hears.length > 0) await sleep(LAST_WORD_MS);
    }
    for (const fd of waiting) closeSync(fd);
    await this.#workers.close();
    this.#state = state;
    settle();
  }
}

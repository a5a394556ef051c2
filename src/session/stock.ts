/**
 * A migration to a QEMU without pagewire beside it: what goes over the link is a QEMU stream, made smaller by delta. No
 * session: each connection of QEMU's is one to the other QEMU, and a link that breaks is the end.
 */
import { closeSync } from 'node:fs';
import { isErrorCode, PagewireError } from '../errors.js';
import { events, type Listener, native, type NativeCopy, type NativeDoubt, type NativeFlow } from '../native.js';
import { Lane, type StreamEnd } from '../pipeline/lane.js';
import { type CheckedSettings, checkEncoder, type EncoderSettings } from '../pipeline/settings.js';
import type { Log } from '../telemetry/log.js';
import { openSocket } from '../transport/connect.js';
import { type Endpoint, endpointText } from '../transport/endpoint.js';
import { broken } from './broken.js';
import {
  afterLoss,
  afterStop,
  DOUBT_NOTE_MS,
  type InDoubt,
  type Held,
  inDoubtText,
  stopInDoubtText,
  type SessionEnd,
} from './outcome.js';
import { carriedByStock, type SessionSnapshot } from './snapshot.js';

export interface StockOptions {
  readonly name: string;
  /** Where QEMU connects: for people. */
  readonly near: string;
  readonly connect: readonly Endpoint[];
  readonly encoder: EncoderSettings;
  readonly inDoubt: InDoubt;
  readonly log: Log;
}

/** How long one address may take, in milliseconds. */
const CONNECT_MS = 10_000;

/** How long the other QEMU's last words may take once it has closed, in milliseconds. */
const LAST_WORDS_MS = 1000;

/** How often to look whether a QEMU that is held has gone, in milliseconds. */
const GONE_LOOK_MS = 1000;

/** One connection: QEMU's stream through delta or as it is, and what comes back. */
interface Relay {
  readonly qemu: number;
  readonly far: number;
  readonly flow: NativeFlow | undefined;
  /** Sends no more of the flow. */
  readonly closeFlow: () => void;
  readonly copies: NativeCopy[];
  /** Both directions. */
  readonly done: Promise<StreamEnd | undefined>;
}

export class StockSession {
  readonly done: Promise<SessionEnd>;
  readonly #options: StockOptions;
  readonly #settings: CheckedSettings;
  readonly #relays: Relay[] = [];
  #began: number | undefined;
  /** The last look at the counters, once it is over. */
  #last: SessionSnapshot | undefined;
  #settle!: { resolve: (end: SessionEnd) => void; reject: (error: PagewireError) => void };
  /** Connections in the order of QEMU's. */
  #queue: Promise<void> = Promise.resolve();
  #coming = 0;
  #peer: string | null = null;
  #end: StreamEnd | undefined;
  #isOver = false;
  readonly #doubt = new native.NativeDoubt();
  #inDoubt: InDoubt;
  #stopRequests = 0;
  /** Why it cannot go on: only a doubt keeps QEMU's socket open then. */
  #hopeless: PagewireError | undefined;
  /** While QEMU is held. */
  #timers: NodeJS.Timeout[] = [];

  constructor(options: StockOptions) {
    this.#options = options;
    this.#inDoubt = options.inDoubt;
    this.#settings = checkEncoder({ ...options.encoder, stock: true });
    this.done = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
  }

  accept(fd: number): void {
    this.#began ??= performance.now();
    this.#coming++;
    this.#queue = this.#queue.then(() => this.#relay(fd));
  }

  /** Somebody wants it to end: the migration fails cleanly, unless both guests might run then. */
  stop(): void {
    this.#stopRequests++;
    if (afterStop({ doubt: this.#doubt.mustHold(), requests: this.#stopRequests }) === 'warn') {
      this.#options.log.warn(stopInDoubtText(this.#held));
      return;
    }
    const why = new PagewireError('STOPPED', 'stopped: the migration fails and the guest stays here');
    if (this.#stopRequests > 1) this.#fail(why);
    else this.#giveUp(why);
  }

  /** Something in pagewire itself broke. */
  fault(error: unknown): void {
    this.#giveUp(PagewireError.from(error));
  }

  setInDoubt(policy: InDoubt): void {
    this.#inDoubt = policy;
    if (policy === 'fail' && this.#hopeless) this.#fail(this.#hopeless);
  }

  /** It cannot go on: QEMU is to see that, unless both guests might run then. No link of this kind comes back. */
  #giveUp(why: PagewireError): void {
    if (this.#isOver || this.#hopeless) return;
    this.#hopeless = why;
    // What is in doubt already may still come to its end; else nothing goes out any more that could bring it there.
    if (!this.#doubt.mustHold()) this.#stopSending();
    if (afterLoss({ doubt: this.#doubt.mustHold(), policy: this.#inDoubt }) === 'fail') this.#fail(why);
    else this.#hold(why);
  }

  get #held(): Held {
    return { libvirt: false, postcopy: this.#doubt.isPostcopy() };
  }

  #stopSending(): void {
    this.#last = this.snapshot();
    for (const { closeFlow } of this.#relays) closeFlow();
  }

  /** Says loudly, again and again, what a person has to decide; until QEMU itself has gone. */
  #hold(why: PagewireError): void {
    const note = (): void => {
      this.#options.log.error(inDoubtText(why, this.#held));
    };
    const look = (): void => {
      const [main] = this.#relays;
      if (!this.#isOver && main && this.#doubt.hasHungUp(main.qemu)) this.#fail(why);
    };
    note();
    this.#timers = [setInterval(note, DOUBT_NOTE_MS), setInterval(look, GONE_LOOK_MS)];
  }

  snapshot(): SessionSnapshot {
    if (this.#last) return this.#last;
    const now = performance.now();
    return {
      ...{
        role: 'source',
        name: this.#options.name,
        state: this.#hopeless ? 'in doubt' : this.#coming > 0 ? 'running' : 'waiting',
        peer: this.#peer,
      },
      ...{ seconds: (now - (this.#began ?? now)) / 1000, codec: 'none' },
      ...carriedByStock(this.#relays),
    };
  }

  async #relay(qemu: number): Promise<void> {
    let far: number;
    try {
      if (this.#isOver) throw new PagewireError('STOPPED', 'stopped');
      far = await this.#connect();
    } catch (error) {
      closeSync(qemu);
      this.#fail(PagewireError.from(error));
      return;
    }
    const number = this.#relays.length;
    const isMain = number === 0;
    const near = `QEMU's connection (channel ${number}) at ${this.#options.near}`;
    const beyond = `the connection to ${this.#peer ?? 'the destination'} (channel ${number})`;
    const back = copy(far, qemu, isMain ? this.#doubt : undefined);
    const there = isMain ? encode(qemu, far, this.#settings, this.#doubt) : copy(qemu, far);
    const copies = [back.copy, ...('copy' in there ? [there.copy] : [])];
    const { flow, closeFlow } = 'flow' in there ? there : { flow: undefined, closeFlow: () => undefined };
    const told = (from: string, to: string) => (error: unknown) => {
      throw broken(PagewireError.from(error), { from, to });
    };
    const both = [there.done.catch(told(near, beyond)), back.done.catch(told(beyond, near))] as const;
    const done = Promise.all(both).then(([end]) => end);
    this.#relays.push({ qemu, far, flow, closeFlow, copies, done });
    done.then(
      (end) => {
        this.#coming--;
        this.#end ??= end;
        if (this.#coming === 0) this.#finish();
      },
      (error: unknown) => {
        // What the other QEMU said before it closed goes to ours first.
        const giveUp = (): void => {
          clearTimeout(timer);
          this.#giveUp(PagewireError.from(error));
        };
        const timer = setTimeout(giveUp, LAST_WORDS_MS);
        back.done.then(giveUp, giveUp);
      },
    );
  }

  async #connect(): Promise<number> {
    for (const [index, endpoint] of this.#options.connect.entries()) {
      try {
        const fd = await openSocket(endpoint, CONNECT_MS);
        this.#peer = endpointText(endpoint);
        this.#options.log.info(`connected to ${this.#peer}: a QEMU stream, no session`);
        return fd;
      } catch (error) {
        if (index + 1 === this.#options.connect.length) throw error;
        this.#options.log.warn(`${PagewireError.from(error).message}; trying the next address`);
      }
    }
    throw new PagewireError('CONNECT_FAILED', 'no address to connect to');
  }

  #finish(): void {
    const isCancelled = this.#end?.truncated === true;
    const failure = isCancelled ? null : this.#doubt.failure();
    if (failure !== null) {
      this.#fail(new PagewireError('MIGRATION_FAILED', failure));
      return;
    }
    this.#close('ended');
    this.#settle.resolve({ cancelled: isCancelled, within: this.#end?.within });
  }

  #fail(error: PagewireError): void {
    if (this.#isOver) return;
    this.#close('failed');
    this.#settle.reject(error);
  }

  #close(state: 'ended' | 'failed'): void {
    this.#isOver = true;
    for (const timer of this.#timers) clearInterval(timer);
    this.#last = { ...this.snapshot(), state };
    for (const { closeFlow, copies, qemu, far } of this.#relays) {
      closeFlow();
      for (const each of copies) each.close();
      closeSync(qemu);
      closeSync(far);
    }
  }
}

function copy(from: number, to: number, returning?: NativeDoubt): { copy: NativeCopy; done: Promise<undefined> } {
  let ended!: (code: string | null, reason: string | null) => void;
  const done = new Promise<undefined>((resolve, reject) => {
    ended = (code, reason) => {
      if (code === null || reason === null) resolve(undefined);
      else reject(new PagewireError(isErrorCode(code) ? code : 'INTERNAL', reason));
    };
  });
  return { copy: native.NativeCopy.start(from, to, ended, returning), done };
}

function encode(
  qemu: number,
  far: number,
  settings: CheckedSettings,
  doubt: NativeDoubt,
): { flow: NativeFlow; closeFlow: () => void; done: Promise<StreamEnd> } {
  const lane: Lane = new Lane(() => flow);
  let isClosed = false;
  const listen: Listener = (event, slot, bytes) => {
    // What its threads have said before they ended may come after its close, and nothing can be asked of it then.
    if (!isClosed && event !== events.guest) lane.listen(event, slot, bytes);
  };
  const flow = native.NativeFlow.encode(qemu, far, settings.native, listen, doubt);
  return {
    flow,
    closeFlow: () => {
      isClosed = true;
      flow.close();
    },
    done: lane.ended.then((end) => {
      native.halfClose(far);
      return end;
    }),
  };
}

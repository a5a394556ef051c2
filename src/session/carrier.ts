/** Processes that have one session each: how a listener starts them, and gives them what is theirs. */
import { type ChildProcess, fork } from 'node:child_process';
import { closeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { native } from '../native.js';
import type { Log } from '../telemetry/log.js';

/** The descriptor by which a session's process gets its connections. */
export const CONTROL_FD = 4;

/** How long after the last session has begun, or the last process came back, spares are brought to one, in milliseconds. */
const SPARE_MS = 10_000;

/**
 * V8 collects garbage once more when a process has had little to do for eight seconds, on all processors for some
 * milliseconds: that would come in the middle of a migration.
 */
const NO_IDLE_GC = '--no-memory-reducer';

/** What a process runs. */
export interface Program {
  /** A module of ours, as seen from here. */
  readonly module: string;
  readonly words?: readonly string[];
  /** Apart from our group of processes: a signal that goes to all of it is passed on, and counts once. */
  readonly detached?: boolean;
}

export interface CarrierEvents<Heard> {
  hear(message: Heard): void;
  failed(error: Error): void;
  /** It has ended, and all that it said was heard. */
  gone(code: number | null, signal: NodeJS.Signals | null): void;
}

/** A process that has, or will have, one session. */
export class Carrier<Told extends object, Heard> {
  /** Resolves when it has ended. */
  readonly gone: Promise<void>;
  readonly #child: ChildProcess;
  /** Our end of the socket by which it gets its connections. */
  readonly #control: number;

  constructor({ module, words = [], detached = false }: Program, events: CarrierEvents<Heard>) {
    const [control, theirs] = native.socketPair();
    this.#control = control;
    try {
      this.#child = fork(fileURLToPath(new URL(module, import.meta.url)), words, {
        // The last one is its CONTROL_FD.
        stdio: ['ignore', 'ignore', 'inherit', 'ipc', theirs],
        serialization: 'json',
        // Functions are compiled while it waits, not in the session: a quarter less until a connection's first answer. And
        // garbage is collected then: rehearsal.ts.
        execArgv: [...process.execArgv, '--no-lazy', '--expose-gc', NO_IDLE_GC],
        detached,
      });
    } catch (error) {
      closeSync(control);
      throw error;
    } finally {
      closeSync(theirs);
    }
    this.#child.on('message', (message: Heard) => {
      events.hear(message);
    });
    this.#child.on('error', (error) => {
      events.failed(error);
    });
    this.gone = new Promise((resolve) => {
      // One that could not be started comes to its close too, but has no exit.
      this.#child.once('close', (code, signal) => {
        closeSync(this.#control);
        events.gone(code, signal);
        resolve();
      });
    });
  }

  tell(message: Told): void {
    // One that has ended meanwhile needs to know nothing.
    if (this.#child.connected) this.#child.send(message, () => undefined);
  }

  /**
   * Gives it a connection, which stays the caller's too; they come to it in the order in which they are given.
   *
   * @throws PagewireError if it cannot be given.
   */
  hand(fd: number, message: object): void {
    native.sendDescriptor(this.#control, fd, Buffer.from(JSON.stringify(message)));
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }
}

/** Why a session failed that could not say so: its process has ended. */
export function processGone(code: number | null, signal: NodeJS.Signals | null, libvirt: boolean): string {
  return `the session's process ${how(code, signal)}: ${libvirt ? 'libvirt fails its migration (where that was ending: see where the guest runs)' : 'its QEMU fails the migration'}`;
}

/** Tells of one that has ended without a session, unless it was asked to, or could not be started, of which is told. */
export function tellSpareGone(log: Log, code: number | null, signal: NodeJS.Signals | null): void {
  if (signal !== null || (code ?? 0) > 0) log.warn(`a process that waited for a session ${how(code, signal)}`);
}

function how(code: number | null, signal: NodeJS.Signals | null): string {
  if (signal === null) return `has ended with exit code ${code ?? 1}`;
  return `was ended by ${signal}${signal === 'SIGKILL' ? ' (by hand, or by the kernel for want of memory: journalctl -k)' : ''}`;
}

/**
 * The one that waits for the next session, so that no migration waits for a process to start. At the destination there are
 * more of them for a while where many came to nothing: whoever comes again and again must not make us start a process each time.
 */
export class Spare<C> {
  readonly #start: () => C;
  readonly #end: (carrier: C) => void;
  readonly #waiting: C[] = [];
  readonly #inUse = new Set<C>();
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(start: () => C, end: (carrier: C) => void) {
    this.#start = start;
    this.#end = end;
    this.#refill();
  }

  /** One for a session that begins. @throws PagewireError if it has to be started, and cannot be. */
  take(): C {
    const carrier = this.#waiting.pop() ?? this.#start();
    this.#inUse.add(carrier);
    return carrier;
  }

  /** This one has no session after all. */
  back(carrier: C): void {
    this.#inUse.delete(carrier);
    if (this.#isClosed) {
      this.#end(carrier);
      return;
    }
    this.#waiting.push(carrier);
    this.later();
  }

  /** Starts one in a while: it must not take the processors from the session that has just begun. */
  later(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (this.#isClosed) return;
      for (const carrier of this.#waiting.splice(1)) this.#end(carrier);
      if (this.#waiting.length === 0) this.#refill();
    }, SPARE_MS).unref();
  }

  #refill(): void {
    try {
      this.#waiting.push(this.#start());
    } catch {
      // The system has nothing left for a process. It may have when one is needed, or that is told then.
    }
  }

  /** How many wait. */
  get size(): number {
    return this.#waiting.length;
  }

  /** How many were taken, and have neither ended nor come back. */
  get inUse(): number {
    return this.#inUse.size;
  }

  /**
   * This one has ended. Where it was the last in use, the next session may follow soon, as when a host is emptied guest by
   * guest, and there is none from which to take the processors. One that waited gets a successor in a while: what ended it may
   * end that, too.
   */
  lost(carrier: C): void {
    const index = this.#waiting.indexOf(carrier);
    if (index >= 0) this.#waiting.splice(index, 1);
    const wasInUse = this.#inUse.delete(carrier);
    if (this.#isClosed || this.#waiting.length > 0) return;
    if (!wasInUse) this.later();
    else if (this.#inUse.size === 0) this.#refill();
  }

  /** No more are started. */
  close(): void {
    this.#isClosed = true;
  }
}

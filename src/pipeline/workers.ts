import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Piscina } from 'piscina';
import { slotOf, type Outcome } from './slot.js';

/** What a worker is asked to do; see worker.cts. */
export interface PackTask {
  handle: number;
  slot: number;
  codec: number;
  level: number;
}

export interface UnpackTask {
  handle: number;
  slot: number;
}

/** Threads that one pipeline may have. */
export const MOST_THREADS = 256;

/** As many as there are processors to run on, up to 8: a migration shares its host with guests. */
export function defaultThreads(): number {
  return Math.min(availableParallelism(), 8);
}

/**
 * The worker threads of a session, started when the first frame comes that is worth it, or by `warm`. Each loads the native
 * core again, which is the same in every thread of a process, so a handle and a slot number are all it needs.
 */
export class Workers {
  readonly #threads: number;
  #pool: Promise<Piscina> | undefined;
  #closed = false;

  constructor(threads = defaultThreads()) {
    this.#threads = threads;
  }

  /** Starts the first thread, which takes some 100 ms, before there is a frame for it. */
  warm(): void {
    if (this.#closed) return;
    this.#pool ??= this.#start();
    this.#pool.catch(() => undefined); // whoever needs it hears of it
  }

  pack(task: PackTask): Promise<number> {
    return this.#run('pack', task);
  }

  unpack(task: UnpackTask): Promise<number> {
    return this.#run('unpack', task);
  }

  async #run(name: 'pack' | 'unpack', task: PackTask | UnpackTask): Promise<number> {
    this.#pool ??= this.#start();
    const pool = await this.#pool;
    return slotOf((await pool.run(task, { name })) as Outcome);
  }

  async #start(): Promise<Piscina> {
    const { Piscina } = await import('piscina');
    return new Piscina({
      filename: fileURLToPath(new URL('./worker.cjs', import.meta.url)),
      // A thread is started when a frame waits for one, and stays.
      minThreads: 1,
      maxThreads: this.#threads,
      idleTimeout: Infinity,
      // Tasks wait in the pool no longer than it takes a slot to come free: the arena bounds them.
      maxQueue: Infinity,
      recordTiming: false,
    });
  }

  /** Ends the threads. To be called when no task is under way any more. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const pool = await this.#pool?.catch(() => undefined); // whoever needed one that did not start has heard of it
    await pool?.destroy();
  }
}

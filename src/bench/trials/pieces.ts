import { setImmediate as breathe } from 'node:timers/promises';
import { PagewireError } from '../../errors.js';
import { evenly } from '../statistics.js';
import type { PresentVariant } from '../variant.js';
import type { Batch } from './batch.js';
import type { Timing, Trial, Turn } from './trial.js';

/** What goes to the codec in one call: enough that the call itself does not count. */
const GROUP = 1 << 20;
/** However slow a variant is, it is timed on so many groups. */
const LEAST_GROUPS = 2;
/** How much longer than a run the warm-up may take, either way: it gives the ratio. */
const WARM_UP = 40;

/** Memory for what is encoded and for what comes back; one trial after the other uses it. */
export interface Room {
  packed: Buffer;
  back: Buffer;
}

export function roomFor(bytes: number): Room {
  // Touched now, so that no run pays for the pages.
  return { packed: Buffer.alloc(bytes, 1), back: Buffer.alloc(bytes, 1) };
}

/** A variant over pieces, on one thread: over as many as its speed allows, evenly; the first time that is nearly always all. */
export class PieceTrial implements Trial {
  readonly variant: PresentVariant;
  readonly #batch: Batch;
  readonly #room: Room;
  readonly #encodes: boolean;
  readonly #group: number;
  readonly #order: number[];
  readonly #signal: AbortSignal;
  #count: number;

  constructor(variant: PresentVariant, batch: Batch, room: Room, signal: AbortSignal) {
    this.variant = variant;
    this.#batch = batch;
    this.#room = room;
    this.#signal = signal;
    this.#encodes = !('unpacksOnly' in variant && variant.unpacksOnly === true);
    // Whole pieces.
    this.#group = Math.ceil(GROUP / batch.piece) * batch.piece;
    this.#order = evenly(Math.ceil(batch.raw.length / this.#group));
    this.#count = this.#order.length;
  }

  async warm(seconds: number): Promise<Turn> {
    const turn = await this.turn(seconds * WARM_UP);
    this.#count = Math.ceil(turn.rawBytes / this.#group);
    const perGroup = Math.max(turn.encode?.seconds ?? 0, turn.decode?.seconds ?? 0) / this.#count;
    this.#count = Math.min(Math.max(Math.ceil(seconds / perGroup), LEAST_GROUPS), this.#count);
    return turn;
  }

  /** `seconds`: after which nothing more is begun, either way. */
  async turn(seconds = Infinity): Promise<Turn> {
    const { raw, piece } = this.#batch;
    const { packed, back } = this.#room;
    const lengths = new Map<number, Uint32Array>();
    const sizes = new Map<number, number>();
    const bounds = (group: number): [from: number, to: number] => {
      const from = group * this.#group;
      return [from, Math.min(from + this.#group, raw.length)];
    };

    const encode = new Watch(this.#signal);
    const encoded = await encode.each(this.#order.slice(0, this.#count), seconds, (group) => {
      const [from, to] = bounds(group);
      const made = new Uint32Array(Math.ceil((to - from) / piece));
      lengths.set(group, made);
      return () => sizes.set(group, this.#batch.encode(from, to, packed.subarray(from, to), made));
    });

    const decode = new Watch(this.#signal);
    const decoded = await decode.each(encoded, seconds, (group) => {
      const [from, to] = bounds(group);
      const source = packed.subarray(from, from + (sizes.get(group) ?? 0));
      const made = lengths.get(group)!;
      return () => {
        this.#batch.decode(from, to, source, made, back.subarray(from, to));
      };
    });
    for (const group of decoded) {
      const [from, to] = bounds(group);
      if (back.compare(raw, from, to, from, to) !== 0) {
        throw new PagewireError('INTERNAL', 'what was decoded is not what was encoded');
      }
      // What the next variant does not write must not be taken for its work.
      back.fill(1, from, to);
    }
    return {
      rawBytes: decoded.reduce((sum, group) => sum + bounds(group)[1] - bounds(group)[0], 0),
      packedBytes: decoded.reduce((sum, group) => sum + (sizes.get(group) ?? 0), 0),
      encode: this.#encodes ? encode.timing : undefined,
      decode: decode.timing,
    };
  }
}

/** How long JavaScript may work without hearing of signals, in seconds. */
const BREATH = 0.05;

/** Adds up the time of calls, and lets signals be heard in between. */
class Watch {
  readonly #signal: AbortSignal;
  #cpu = 0;
  #since = 0;
  seconds = 0;

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  get timing(): Timing {
    return { seconds: this.seconds, cpuSeconds: this.#cpu };
  }

  /** Prepares and times the work on one group after the other until the time is up, and on some in any case: on which. */
  async each(groups: readonly number[], seconds: number, prepare: (group: number) => () => unknown): Promise<number[]> {
    const done: number[] = [];
    for (const group of groups) {
      if (done.length >= LEAST_GROUPS && this.seconds > seconds) break;
      this.#time(prepare(group));
      done.push(group);
      await this.#rest();
    }
    return done;
  }

  #time(work: () => unknown): void {
    const cpu = process.cpuUsage();
    const began = performance.now();
    work();
    const seconds = (performance.now() - began) / 1000;
    const { user, system } = process.cpuUsage(cpu);
    this.seconds += seconds;
    this.#since += seconds;
    this.#cpu += (user + system) / 1e6;
  }

  async #rest(): Promise<void> {
    if (this.#since < BREATH) return;
    this.#since = 0;
    await breathe();
    if (this.#signal.aborted) throw new PagewireError('STOPPED', 'stopped');
  }
}

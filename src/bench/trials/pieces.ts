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

/** Memory for what is encoded and for what comes back; one trial after the other uses it. */
export interface Room {
  packed: Buffer;
  back: Buffer;
}

export function roomFor(bytes: number): Room {
  // Touched now, so that no run pays for the pages.
  return { packed: Buffer.alloc(bytes, 1), back: Buffer.alloc(bytes, 1) };
}

/** A variant over pieces, on one thread: the first time over all of them, then over as many as its speed allows, evenly. */
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
    const turn = await this.turn();
    const perGroup = Math.max(turn.encode?.seconds ?? 0, turn.decode?.seconds ?? 0) / this.#count;
    this.#count = Math.min(Math.max(Math.ceil(seconds / perGroup), LEAST_GROUPS), this.#count);
    return turn;
  }

  async turn(): Promise<Turn> {
    const { raw, piece } = this.#batch;
    const { packed, back } = this.#room;
    const lengths = new Map<number, Uint32Array>();
    const sizes = new Map<number, number>();
    const bounds = (group: number): [from: number, to: number] => {
      const from = group * this.#group;
      return [from, Math.min(from + this.#group, raw.length)];
    };

    const encode = new Watch(this.#signal);
    for (const group of this.#order.slice(0, this.#count)) {
      const [from, to] = bounds(group);
      const made = new Uint32Array(Math.ceil((to - from) / piece));
      lengths.set(group, made);
      const size = encode.time(() => this.#batch.encode(from, to, packed.subarray(from, to), made));
      sizes.set(group, size);
      await encode.rest();
    }

    const decode = new Watch(this.#signal);
    for (const [group, made] of lengths) {
      const [from, to] = bounds(group);
      const source = packed.subarray(from, from + (sizes.get(group) ?? 0));
      decode.time(() => {
        this.#batch.decode(from, to, source, made, back.subarray(from, to));
      });
      await decode.rest();
    }
    for (const group of lengths.keys()) {
      const [from, to] = bounds(group);
      if (back.compare(raw, from, to, from, to) !== 0) {
        throw new PagewireError('INTERNAL', 'what was decoded is not what was encoded');
      }
      // What the next variant does not write must not be taken for its work.
      back.fill(1, from, to);
    }
    return {
      rawBytes: [...lengths.keys()].reduce((sum, group) => sum + bounds(group)[1] - bounds(group)[0], 0),
      packedBytes: [...sizes.values()].reduce((sum, size) => sum + size, 0),
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

  time<T>(work: () => T): T {
    const cpu = process.cpuUsage();
    const began = performance.now();
    const result = work();
    const seconds = (performance.now() - began) / 1000;
    const { user, system } = process.cpuUsage(cpu);
    this.seconds += seconds;
    this.#since += seconds;
    this.#cpu += (user + system) / 1e6;
    return result;
  }

  async rest(): Promise<void> {
    if (this.#since < BREATH) return;
    this.#since = 0;
    await breathe();
    if (this.#signal.aborted) throw new PagewireError('STOPPED', 'stopped');
  }
}

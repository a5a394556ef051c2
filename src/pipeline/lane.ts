import { events, type NativeFlow, type NativeResult } from '../native.js';
import { PagewireError } from '../errors.js';
import { failureOf } from './slot.js';

/** Packs or unpacks a slot: at once, or on a worker. Gives the slot that holds the result. */
export type Work = (slot: number, bytes: number) => number | Promise<number>;

/** How a stream ended, where nothing failed. */
export interface StreamEnd {
  /** The original stream was cut off inside what was parsed. */
  readonly truncated: boolean;
  /** Where in the QEMU stream it was cut off, as far as this end knows. */
  readonly within: string | undefined;
}

/**
 * Takes a flow's frames to the work and, in their order, to its sink; where the flow has threads of its own for them, it only
 * sees to the end.
 *
 * After a failure the frames before it still go out, and none behind it: the output ends short of the damage.
 */
export class Lane {
  /** Settled once both threads of the flow have ended. */
  readonly ended: Promise<StreamEnd>;

  readonly #flow: () => NativeFlow;
  readonly #work: Work;
  readonly #done = new Map<number, number>(); // sequence → slot, until its turn comes
  #taken = 0;
  #written = 0;
  #failedAt = Infinity;
  #failure: PagewireError | undefined;
  #sourceEnd: NativeResult | undefined;
  #sinkEnd: NativeResult | undefined;
  #finished = false;
  #settle!: { resolve: (end: StreamEnd) => void; reject: (error: PagewireError) => void };

  /** `flow` is called only after the first event, so the lane can be made before its flow. Without `work` frames go as they are. */
  constructor(flow: () => NativeFlow, work: Work = (slot) => slot) {
    this.#flow = flow;
    this.#work = work;
    this.ended = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
  }

  /** A flow's listener. */
  readonly listen = (event: number, slot: number, bytes: number): void => {
    switch (event) {
      case events.data:
        this.#take(slot, bytes);
        break;
      case events.control:
        this.#put(this.#taken++, slot);
        break;
      case events.sourceEnded:
        this.#sourceEnd = this.#flow().sourceResult() ?? { truncated: false };
        this.#note(this.#sourceEnd);
        this.#writeInOrder();
        break;
      case events.sinkEnded:
        this.#sinkEnd = this.#flow().sinkResult() ?? { truncated: false };
        this.#noteDamage(this.#sinkEnd);
        this.#note(this.#sinkEnd);
        // Nobody takes what the source may still read.
        if (!this.#sourceEnd) this.#flow().stop();
        break;
    }
    if (this.#sourceEnd && this.#sinkEnd) this.#end(this.#sourceEnd, this.#sinkEnd);
  };

  /** Where the original stream was cut off, as soon as its source has seen that: frames may still be on their way. */
  get cutOff(): StreamEnd | undefined {
    return this.#sourceEnd?.truncated === true ? { truncated: true, within: this.#sourceEnd.within } : undefined;
  }

  /** Whether the input has come to its end, or broke: not where it is only read no further, for a failure of ours. */
  get inputEnded(): boolean {
    return this.#sourceEnd !== undefined && [undefined, 'READ_FAILED'].includes(this.#sourceEnd.code);
  }

  /** Ends the flow as soon as its threads can notice. */
  stop(): void {
    this.#flow().stop();
  }

  #take(slot: number, bytes: number): void {
    const sequence = this.#taken++;
    if (sequence > this.#failedAt) {
      this.#flow().discard(slot);
      return;
    }
    try {
      const result = this.#work(slot, bytes);
      if (typeof result === 'number') this.#put(sequence, result);
      else {
        result.then(
          (packed) => {
            this.#put(sequence, packed);
          },
          (error: unknown) => {
            this.#fail(sequence, error);
          },
        );
      }
    } catch (error) {
      this.#fail(sequence, error);
    }
  }

  #put(sequence: number, slot: number): void {
    this.#done.set(sequence, slot);
    this.#writeInOrder();
  }

  #fail(sequence: number, error: unknown): void {
    if (sequence < this.#failedAt) {
      this.#failedAt = sequence;
      const failure = PagewireError.from(error);
      // Damage in an earlier frame outweighs what the source noted of a later one, but not that nothing could be
      // written any more; being stopped is no failure of its own.
      if (failure.code !== 'STOPPED' && this.#sinkEnd?.code === undefined) this.#failure = failure;
    }
    this.#writeInOrder();
  }

  #writeInOrder(): void {
    const flow = this.#flow();
    for (let slot; this.#written < this.#failedAt && (slot = this.#done.get(this.#written)) !== undefined;) {
      this.#done.delete(this.#written++);
      try {
        flow.write(slot);
      } catch (error) {
        // A flow that was stopped takes no slots.
        this.#fail(this.#written, error);
      }
    }
    if (this.#written === this.#failedAt) {
      for (const slot of this.#done.values()) flow.discard(slot);
      this.#done.clear();
      this.#finish();
    } else if (this.#sourceEnd && this.#written === this.#taken) this.#finish();
  }

  #finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#flow().finish();
  }

  /** Keeps the first failure: what comes after it follows from it. */
  #note(result: NativeResult): void {
    if (result.code === undefined || result.code === 'STOPPED') return;
    this.#failure ??= failureOf(result);
  }

  /** Damage in an earlier frame outweighs what the source noted of a later one, but not that nothing could be written any more. */
  #noteDamage(sink: NativeResult): void {
    const damage = this.#flow().damage();
    if (damage && damage.code !== 'STOPPED' && sink.code === undefined) this.#failure = failureOf(damage);
  }

  #end(source: NativeResult, sink: NativeResult): void {
    if (this.#failure) this.#settle.reject(this.#failure);
    else if (source.code !== undefined || sink.code !== undefined || this.#failedAt < Infinity) {
      this.#settle.reject(new PagewireError('STOPPED', 'stopped before the end of the stream'));
    } else this.#settle.resolve({ truncated: source.truncated || sink.truncated, within: source.within });
  }
}

import { type Codec, codecNumber, CODECS } from '../codecs.js';
import { type NativeFlow, native } from '../native.js';
import { slotOf } from '../pipeline/slot.js';
import { INLINE_BYTES } from '../pipeline/settings.js';
import type { Workers } from '../pipeline/workers.js';
import { ladder, next, type Packing, type Stand, start } from '../policy/codec.js';

/** Packs the frames of a session's channels, as it was asked to as long as the workers keep up with the wire. */
export class Packer {
  readonly asked: Packing;
  readonly #steps: readonly Packing[];
  readonly #workers: Workers;
  readonly #threads: number;
  readonly #flows = new Set<NativeFlow>();
  #stand: Stand;
  /** Frames that are with the workers. */
  #atWork = 0;

  /** `codecs` are those that the other end can unpack; `matches`: frames are looked through for what comes again. */
  constructor(asked: Packing, workers: Workers, threads: number, codecs: readonly Codec[] = CODECS, matches = false) {
    this.asked = asked;
    this.#steps = ladder(asked, matches).filter(({ codec }) => codecs.includes(codec));
    this.#workers = workers;
    this.#threads = threads;
    this.#stand = start(this.#steps.length);
    if (asked.codec !== 'none' || matches) workers.warm();
  }

  /** What frames are packed with at this moment. */
  get packing(): Packing {
    return this.#steps[this.#stand.step] ?? this.asked;
  }

  /** On the last step a frame goes as it is, not even looked through. */
  get #isStored(): boolean {
    return this.#stand.step === this.#steps.length - 1 && this.packing.codec === 'none';
  }

  /** A flow's frames will come here; those that do not, as they are small or go as they are, are packed as others are. */
  add(flow: NativeFlow): void {
    this.#flows.add(flow);
    this.#setDirect(flow);
  }

  /** None will any more. */
  delete(flow: NativeFlow): void {
    this.#flows.delete(flow);
  }

  #setDirect(flow: NativeFlow): void {
    const { codec, level } = this.packing;
    if (this.#isStored) flow.setDirectStored();
    else flow.setDirect(codecNumber(codec), level);
  }

  pack(flow: NativeFlow, slot: number, bytes: number): number | Promise<number> {
    const { isDry: wireDry, isFull: linkFull, isPeerBusy: peerBusy } = flow.wire();
    const load = { workersBusy: this.#atWork >= this.#threads, wireDry, linkFull, peerBusy };
    const before = this.#stand.step;
    this.#stand = next(this.#stand, load, this.#steps.length);
    const { codec, level } = this.packing;
    if (this.#stand.step !== before) for (const each of this.#flows) this.#setDirect(each);
    if (this.#isStored) return slotOf(native.store(flow.handle, slot));
    const task = { handle: flow.handle, slot, codec: codecNumber(codec), level };
    if (bytes <= INLINE_BYTES) return slotOf(native.pack(task.handle, slot, task.codec, level));
    this.#atWork++;
    return this.#workers.pack(task).finally(() => this.#atWork--);
  }
}

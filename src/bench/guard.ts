import type { Sample } from './sample.js';

/** Variants in JavaScript are given the sample itself: what one of them writes there must not be measured by the others. */
export class Guard {
  readonly #copies: [given: Buffer, copy: Buffer][];

  constructor({ blocks, pairs }: Sample) {
    this.#copies = [blocks, pairs.old, pairs.new].map((given) => [given, Buffer.from(given)]);
  }

  /** Makes the sample what it was; whether it was anything else. */
  restore(): boolean {
    const changed = this.#copies.filter(([given, copy]) => !given.equals(copy));
    for (const [given, copy] of changed) copy.copy(given);
    return changed.length > 0;
  }
}

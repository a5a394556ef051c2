/** A small seeded generator of random numbers (xoshiro128**, by Blackman and Vigna): the same on every machine. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(seed: number) {
    // splitmix32 spreads the seed over the state.
    let state = seed | 0;
    const spread = (): number => {
      state = (state + 0x9e3779b9) | 0;
      let z = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      return z ^ (z >>> 15);
    };
    this.#a = spread();
    this.#b = spread();
    this.#c = spread();
    this.#d = spread() | 1;
  }

  /** 32 random bits, as an unsigned integer. */
  next(): number {
    const x = Math.imul(this.#b, 5);
    const result = Math.imul((x << 7) | (x >>> 25), 9);
    const t = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= t;
    this.#d = (this.#d << 11) | (this.#d >>> 21);
    return result >>> 0;
  }

  /** A random integer from 0 to `bound` - 1, for bounds up to 2^32. */
  below(bound: number): number {
    return Math.floor((this.next() / 0x1_0000_0000) * bound);
  }

  /** One of `choices`, each as likely as its weight. */
  pick<T>(choices: readonly (readonly [choice: T, weight: number])[]): T {
    let left = this.below(choices.reduce((sum, [, weight]) => sum + weight, 0));
    for (const [choice, weight] of choices) {
      left -= weight;
      if (left < 0) return choice;
    }
    throw new RangeError('no choice has a weight');
  }

  /** Puts random bytes into `words`. */
  fill(words: Uint32Array): void {
    for (let i = 0; i < words.length; i++) words[i] = this.next();
  }
}

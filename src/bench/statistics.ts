/** What several runs have in common: the one in the middle, and how far they lie apart. */
export interface Spread {
  median: number;
  least: number;
  most: number;
}

/** Of at least one value. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? NaN;
  const median = sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? NaN) + upper) / 2;
  return { median, least: sorted[0] ?? NaN, most: sorted.at(-1) ?? NaN };
}

/** The order that takes pieces 0 to `count` - 1 so that any first part of it lies evenly over all of them. */
export function evenly(count: number): number[] {
  const bits = Math.max(Math.ceil(Math.log2(Math.max(count, 1))), 1);
  const reversed = (n: number): number => {
    let result = 0;
    for (let bit = 0; bit < bits; bit++) result |= ((n >> bit) & 1) << (bits - 1 - bit);
    return result;
  };
  return Array.from({ length: 2 ** bits }, (_, n) => reversed(n)).filter((n) => n < count);
}

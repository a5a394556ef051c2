/** A way from values to places along an axis. */
export interface Scale {
  readonly place: (value: number) => number;
  ticks: number[];
}

/** No more marks than that stand beside each other on a phone. */
const MOST_TICKS = 6;

/** From 0 to at least `most`, in even steps of 1, 2 or 5 and zeros. */
export function linear(most: number, from: number, to: number): Scale {
  const rough = Math.max(most, 1e-9) / (MOST_TICKS - 1);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * ([1, 2, 5, 10].find((factor) => factor * unit >= rough) ?? 10);
  const count = Math.max(Math.ceil(most / step - 1e-9), 1);
  const ticks = Array.from({ length: count + 1 }, (_, n) => n * step);
  const end = count * step;
  return { ticks, place: (value) => from + ((to - from) * value) / end };
}

/** A logarithmic axis that holds all `values`, which are more than 0, with some room at both ends. */
export function logarithmic(values: readonly number[], from: number, to: number): Scale {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(Math.log10(most / least) * 0.06, 0.04);
  const [low, high] = [Math.log10(least) - room, Math.log10(most) + room];
  const within = (factors: readonly number[]): number[] =>
    Array.from({ length: Math.floor(high) - Math.floor(low) + 1 }, (_, n) => Math.floor(low) + n)
      .flatMap((exponent) => factors.map((factor) => factor * 10 ** exponent))
      .filter((tick) => Math.log10(tick) >= low && Math.log10(tick) <= high);
  const every = (step: number): number[] => within([1]).filter((tick) => Math.round(Math.log10(tick)) % step === 0);
  const choices = [
    ...[[1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9], [1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1]].map(within),
    ...[2, 3, 4].map(every),
  ];
  const ticks = choices.find((choice) => choice.length <= MOST_TICKS) ?? [];
  return { ticks, place: (value) => from + ((to - from) * (Math.log10(value) - low)) / (high - low) };
}

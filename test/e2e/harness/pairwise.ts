// A choice of cases in which every two values of different dimensions that can meet do meet.

/** The values of each dimension. */
export type Dimensions = Readonly<Record<string, readonly string[]>>;
export type Case<D extends Dimensions> = { readonly [K in keyof D]: D[K][number] };

/** Every case that `allowed` lets pass, in the order of the dimensions' values. */
export function allCases<D extends Dimensions>(
  dimensions: D,
  allowed: (one: Case<D>) => boolean = () => true,
): Case<D>[] {
  let cases: Record<string, string>[] = [{}];
  for (const [name, values] of Object.entries(dimensions)) {
    cases = cases.flatMap((one) => values.map((value) => ({ ...one, [name]: value })));
  }
  return (cases as Case<D>[]).filter(allowed);
}

/** Every pair of values in a case, each as one string. */
function pairsOf(one: Readonly<Record<string, string>>): string[] {
  const values = Object.entries(one).map(([name, value]) => `${name}=${value}`);
  return values.flatMap((a, index) => values.slice(index + 1).map((b) => `${a} ${b}`));
}

/**
 * Chooses cases out of all until every pair is covered: each time the one that covers most pairs that none before it
 * did; of equals the first. With `groupBy`, one case at least for every combination of those dimensions, so that they
 * are covered in full and the others in pairs.
 */
export function chooseCases<D extends Dimensions>(
  all: readonly Case<D>[],
  groupBy: readonly (keyof D & string)[] = [],
): Case<D>[] {
  const candidates = all.map((one) => ({ one, pairs: pairsOf(one) }));
  const open = new Set(candidates.flatMap(({ pairs }) => pairs));
  const chosen: Case<D>[] = [];
  const gain = (pairs: readonly string[]): number => pairs.reduce((sum, pair) => sum + (open.has(pair) ? 1 : 0), 0);
  const take = (from: readonly (typeof candidates)[number][]): void => {
    let best = from[0];
    let most = -1;
    for (const candidate of from) {
      const gained = gain(candidate.pairs);
      if (gained > most) [best, most] = [candidate, gained];
    }
    if (best === undefined) return;
    chosen.push(best.one);
    for (const pair of best.pairs) open.delete(pair);
    // once all pairs are met, go on meeting them again: the values of the other dimensions stay spread evenly
    if (open.size === 0 && groupBy.length > 0)
      for (const { pairs } of candidates) for (const pair of pairs) open.add(pair);
  };
  if (groupBy.length === 0) {
    while (open.size > 0) take(candidates);
    return chosen;
  }
  const groups = new Map<string, typeof candidates>();
  for (const candidate of candidates) {
    const key = groupBy.map((name) => candidate.one[name]).join(' ');
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [candidate]);
    else group.push(candidate);
  }
  for (const group of groups.values()) take(group);
  return chosen;
}

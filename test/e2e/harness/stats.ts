// What the tests look at in encode's --stats (docs/stats.md).
import { isObject } from '#src/demo/qmp.js';

/** How many pages went as `kind`; none where the filter looked at no pages. */
export function pagesOfKind(stats: unknown, kind: string): number {
  const pages = isObject(stats) ? stats['pages'] : undefined;
  if (pages === null) return 0;
  const count = isObject(pages) ? pages[kind] : undefined;
  if (typeof count !== 'number') throw new Error(`the stats hold no pages.${kind}: ${JSON.stringify(stats)}`);
  return count;
}

/** How many bytes at the stream's end the filter carried as they were: the device state in it, if all is as it should. */
export function bytesLeftAlone(stats: unknown): number {
  if (!isObject(stats) || !isObject(stats['stream']) || !isObject(stats['input'])) {
    throw new Error(`the stats hold no stream and input: ${JSON.stringify(stats)}`);
  }
  const [from, bytes] = [stats['stream']['verbatimFrom'], stats['input']['bytes']];
  return typeof from === 'number' && typeof bytes === 'number' ? bytes - from : 0;
}

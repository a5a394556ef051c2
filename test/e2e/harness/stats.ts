// What the tests look at in encode's --stats (docs/stats.md).
import { isObject } from './qmp.js';

/** How many pages went as `kind`. */
export function pagesOfKind(stats: unknown, kind: string): number {
  const pages = isObject(stats) ? stats['pages'] : undefined;
  const count = isObject(pages) ? pages[kind] : undefined;
  if (typeof count !== 'number') throw new Error(`the stats hold no pages.${kind}: ${JSON.stringify(stats)}`);
  return count;
}

import { PAGE_SIZE, PAGE_WORDS, ROWS_PER_PAGE, type Content } from './content.js';
import type { Random } from './random.js';

/** What the guest does to a page that it dirties. */
export type Change = 'sparse' | 'counters' | 'half' | 'full' | 'clear' | 'move' | 'same';

/**
 * How the guest dirties its memory:
 * - `idle`: now and then a page, 32 bytes in it
 * - `sparse`: 32 random bytes in a page
 * - `counters`: 64 counters in a page count on
 * - `half`: half of a page is written anew
 * - `full`: the whole page, with bytes that do not compress
 * - `mixed`: all of these, and pages that are cleared, moved to another place, or written with what they held
 */
export const WORKLOADS = ['idle', 'sparse', 'counters', 'half', 'full', 'mixed'] as const;
export type Workload = (typeof WORKLOADS)[number];

const CHANGES: Record<Workload, readonly (readonly [Change, number])[]> = {
  idle: [['sparse', 1]],
  sparse: [['sparse', 1]],
  counters: [['counters', 1]],
  half: [['half', 1]],
  full: [['full', 1]],
  mixed: [
    ['sparse', 55],
    ['counters', 20],
    ['half', 8],
    ['full', 5],
    ['clear', 3],
    ['move', 3],
    ['same', 6],
  ],
};

/** One of the changes that the workload makes. */
export function pickChange(workload: Workload, random: Random): Change {
  return random.pick(CHANGES[workload]);
}

/** Makes the change to the page at `index` of `memory`, a block's words. */
export function changePage(change: Change, memory: Uint32Array, index: number, random: Random, content: Content): void {
  const page = memory.subarray(index * PAGE_WORDS, (index + 1) * PAGE_WORDS);
  switch (change) {
    case 'sparse':
      for (let i = 0; i < 4; i++) {
        const at = random.below(PAGE_WORDS / 2) * 2;
        page[at] = random.next();
        page[at + 1] = random.next();
      }
      return;
    case 'counters': {
      const first = random.below(7) * 128;
      for (let at = first; at < first + 128; at += 2) page[at] = page[at]! + (random.next() & 0xff);
      return;
    }
    case 'half': {
      const half = random.below(2) * (PAGE_WORDS / 2);
      content.rows(page.subarray(half), random.below(10_000_000), ROWS_PER_PAGE / 2);
      return;
    }
    case 'full':
      content.incompressible(page);
      return;
    case 'clear':
      page.fill(0);
      return;
    case 'move': {
      const from = random.below((memory.byteLength / PAGE_SIZE) | 0) * PAGE_WORDS;
      page.set(memory.subarray(from, from + PAGE_WORDS));
      return;
    }
    case 'same':
      return;
  }
}

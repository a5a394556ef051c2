// What the test process itself holds, to see whether a pipeline gives back all that it took.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { decoded, encoded } from './carried.js';
import { text } from './content.js';

export interface Held {
  descriptors: number;
  threads: number;
}

function held(): Held {
  return { descriptors: readdirSync('/proc/self/fd').length, threads: readdirSync('/proc/self/task').length };
}

function same(a: Held, b: Held): boolean {
  return a.descriptors === b.descriptors && a.threads === b.threads;
}

/**
 * Runs `body` and waits until the process holds no more descriptors and threads than before. Threads and sockets go a
 * moment after the promise that says so, hence the wait; it ends in a failure only where they stay for good.
 */
export async function leavesNothing(body: () => Promise<void>): Promise<void> {
  // What is made once and stays: Node's own threads, the pool's module.
  const warm = text(200_000);
  await decoded(await encoded(warm));
  let before = held();
  for (let last: Held | undefined; last === undefined || !same(last, before);) {
    await sleep(100);
    last = before;
    before = held();
  }
  await body();
  const isBack = ({ descriptors, threads }: Held): boolean =>
    descriptors <= before.descriptors && threads <= before.threads;
  let after = held();
  for (let tries = 0; tries < 100 && !isBack(after); tries++) {
    await sleep(100);
    after = held();
  }
  assert.ok(isBack(after), `held before: ${JSON.stringify(before)}, after: ${JSON.stringify(after)}`);
}

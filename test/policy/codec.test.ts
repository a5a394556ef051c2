import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ladder, type Load, next, type Stand, START } from '#src/policy/codec.js';

const late: Load = { workersBusy: true, wireDry: true };
const easy: Load = { workersBusy: true, wireDry: false };
const idle: Load = { workersBusy: false, wireDry: true };

function after(stand: Stand, load: Load, frames: number, steps = 3): Stand {
  for (let n = 0; n < frames; n++) stand = next(stand, load, steps);
  return stand;
}

void test('the ladder goes from what was asked for to what costs nothing', () => {
  const names = (codec: 'zstd' | 'lz4' | 'zlib' | 'none', level: number): string[] =>
    ladder({ codec, level }).map((step) => `${step.codec} ${step.level}`);
  assert.deepEqual(names('zstd', 1), ['zstd 1', 'lz4 1', 'none 0']);
  assert.deepEqual(names('zstd', 9), ['zstd 9', 'zstd 1', 'lz4 1', 'none 0']);
  assert.deepEqual(names('zlib', 6), ['zlib 6', 'zstd 1', 'lz4 1', 'none 0']);
  assert.deepEqual(names('lz4', 1), ['lz4 1', 'none 0']);
  assert.deepEqual(names('none', 0), ['none 0']);
});

void test('workers that hold the wire up get lighter work, step by step, and no lighter than none', () => {
  assert.equal(after(START, late, 1).step, 0, 'one late frame is chance');
  assert.equal(after(START, late, 2).step, 1);
  assert.equal(after(START, late, 4).step, 2);
  assert.equal(after(START, late, 100).step, 2);
});

void test('a slow wire and a slow guest change nothing', () => {
  assert.equal(after(START, easy, 1000).step, 0);
  assert.equal(after(START, idle, 1000).step, 0);
});

void test('when there is room it goes back up, and less often each time that it was too much', () => {
  let stand = after(START, late, 4);
  assert.equal(after(stand, easy, 31).step, 2);
  stand = after(stand, easy, 32);
  assert.equal(stand.step, 1);
  stand = after(stand, late, 2);
  assert.equal(stand.step, 2, 'it was too much');
  assert.equal(after(stand, easy, 32).step, 2, 'so it waits for longer');
  assert.equal(after(stand, easy, 64).step, 1);
  assert.equal(after(stand, easy, 128).step, 0);
});

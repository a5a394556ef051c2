import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ladder, type Load, next, type Stand, start } from '#src/policy/codec.js';

const late: Load = { workersBusy: true, wireDry: true, linkFull: false, peerBusy: false };
const full: Load = { workersBusy: true, wireDry: false, linkFull: true, peerBusy: false };
const idle: Load = { workersBusy: false, wireDry: true, linkFull: false, peerBusy: false };
const behind: Load = { workersBusy: false, wireDry: true, linkFull: false, peerBusy: true };
const STEPS = 3;

function after(stand: Stand, load: Load, frames: number): Stand {
  for (let n = 0; n < frames; n++) stand = next(stand, load, STEPS);
  return stand;
}

/** As it was asked to: the link is slow, and the workers keep up. */
const asked = after(start(STEPS), full, 100);

void test('the ladder goes from what was asked for to what costs nothing', () => {
  const names = (codec: 'zstd' | 'lz4' | 'zlib' | 'none', level: number): string[] =>
    ladder({ codec, level }).map((step) => `${step.codec} ${step.level}`);
  assert.deepEqual(names('zstd', 1), ['zstd 1', 'lz4 1', 'none 0']);
  assert.deepEqual(names('zstd', 9), ['zstd 9', 'zstd 1', 'lz4 1', 'none 0']);
  assert.deepEqual(names('zlib', 6), ['zlib 6', 'zstd 1', 'lz4 1', 'none 0']);
  assert.deepEqual(names('lz4', 1), ['lz4 1', 'none 0']);
  assert.deepEqual(names('none', 0), ['none 0']);
  // Looking for what comes again is work too, and can be left be.
  assert.equal(ladder({ codec: 'none', level: 0 }, true).length, 2);
  assert.equal(ladder({ codec: 'zstd', level: 1 }, true).length, 3);
});

void test('it begins with nothing, and a slow link has what was asked for within a few frames', () => {
  assert.equal(start(STEPS).step, 2);
  assert.equal(after(start(STEPS), full, 4).step, 0);
  assert.equal(after(start(STEPS), idle, 1000).step, 2, 'a link that takes all at once needs no packing');
});

void test('workers that hold the wire up get lighter work, step by step, and no lighter than none', () => {
  assert.equal(after(asked, late, 9).step, 0, 'a few late frames are chance');
  assert.equal(after(asked, late, 10).step, 1);
  assert.equal(after(asked, late, 10 + 15).step, 1, 'frames on their way say nothing of the step');
  assert.equal(after(asked, late, 10 + 16).step, 2);
  assert.equal(after(asked, late, 100).step, 2);
});

void test('so does another end that does not keep up', () => {
  assert.equal(after(asked, behind, 9).step, 0);
  assert.equal(after(asked, behind, 10).step, 1);
  assert.equal(after(asked, behind, 100).step, 2);
});

void test('a slow guest changes nothing', () => {
  assert.equal(after(asked, idle, 1000).step, 0);
});

void test('when there is room it goes back up, and less often each time that it was too much', () => {
  let stand = after(after(start(STEPS), full, 2), late, 2);
  assert.equal(stand.step, 2, 'it was too much, which two frames tell');
  assert.equal(after(stand, full, 3).step, 2, 'so it waits for longer');
  stand = after(stand, full, 4);
  assert.equal(stand.step, 1);
  stand = after(stand, late, 2);
  assert.equal(after(stand, full, 7).step, 2);
  assert.equal(after(stand, full, 8).step, 1);
});

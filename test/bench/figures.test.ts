// The arithmetic between a run and what is told of it.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { isChange } from '#src/bench/compare.js';
import { effectiveMBps } from '#src/bench/measure.js';
import { paretoFront } from '#src/bench/report/plots.js';
import { linear, logarithmic } from '#src/bench/report/scale.js';
import { evenly, spreadOf } from '#src/bench/statistics.js';

const runs = (...values: number[]): ReturnType<typeof spreadOf> => spreadOf(values);

describe('figures', () => {
  it('are the median of the runs, with the least and the most', () => {
    assert.deepEqual(runs(3, 1, 2), { median: 2, least: 1, most: 3 });
    assert.deepEqual(runs(4, 1, 2, 3), { median: 2.5, least: 1, most: 4 });
    assert.deepEqual(runs(7), { median: 7, least: 7, most: 7 });
  });

  it('have changed where the runs lie apart by more than their noise and by more than a share', () => {
    assert.equal(isChange(runs(100, 101, 102), runs(110, 111, 112), 0.02), true);
    assert.equal(isChange(runs(110, 111, 112), runs(100, 101, 102), 0.02), true);
    // Apart, but by no more than the runs themselves.
    assert.equal(isChange(runs(100, 105, 110), runs(111, 116, 121), 0.02), false);
    assert.equal(isChange(runs(100, 105, 110), runs(109, 116, 121), 0.02), false);
    // Apart, but too little to be called a change.
    assert.equal(isChange(runs(100, 100, 100), runs(101, 101, 101), 0.02), false);
    assert.equal(isChange(runs(100), runs(100), 0), false);
  });

  it('are what the slowest of encoder, link and decoder lets through', () => {
    // 1 Gbit/s is 125 MB/s.
    assert.equal(effectiveMBps(125e6, 4, 1000, 2000), 500);
    assert.equal(effectiveMBps(125e6, 4, 300, 2000), 300);
    assert.equal(effectiveMBps(125e6, 4, 1000, 200), 200);
    assert.equal(effectiveMBps(125e6, 4, undefined, 2000), 500);
    assert.equal(effectiveMBps(125e6, 1), 125);
  });

  it('stand on the front where no other is better in both', () => {
    const items = [
      { speed: 10, ratio: 1 },
      { speed: 5, ratio: 2 },
      { speed: 5, ratio: 1.5 },
      { speed: 4, ratio: 2 },
      { speed: 1, ratio: 3 },
    ];
    const front = paretoFront(
      items,
      ({ speed }) => speed,
      ({ ratio }) => ratio,
    );
    assert.deepEqual(front, [items[0], items[1], items[4]]);
  });
});

describe('pieces are taken evenly:', () => {
  it('each once, and any first part of them from everywhere', () => {
    for (const count of [0, 1, 2, 5, 64, 100]) {
      const order = evenly(count);
      assert.deepEqual(
        [...order].sort((a, b) => a - b),
        Array.from({ length: count }, (_, n) => n),
      );
    }
    for (let part = 4; part <= 64; part *= 2) {
      const quarters = new Set(
        evenly(64)
          .slice(0, part)
          .map((n) => n >> 4),
      );
      assert.equal(quarters.size, 4);
    }
  });
});

describe('axes', () => {
  it('hold all values, and have two to six ticks', () => {
    for (const values of [
      [1, 1],
      [1, 2],
      [1, 3],
      [0.9, 11],
      [1, 5000],
      [0.02, 12_000],
      [95, 99],
    ]) {
      const { place, ticks } = logarithmic(values, 0, 100);
      for (const value of values) assert.ok(place(value) > 0 && place(value) < 100, `${value}`);
      assert.ok(ticks.length >= 1 && ticks.length <= 6, `${values.join()}: ${ticks.join()}`);
    }
    for (const most of [0.003, 1, 7, 100, 4096]) {
      const { place, ticks } = linear(most, 0, 100);
      assert.ok(place(most) <= 100.001 && ticks.length >= 2 && ticks.length <= 7, `${most}: ${ticks.join()}`);
    }
  });
});

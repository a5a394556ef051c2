import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { duration, parseDuration, parseRate } from '#src/control/quantities.js';

describe('a time', () => {
  const cases: [text: string, ms: number | undefined][] = [
    ['500ms', 500],
    ['5s', 5000],
    ['1.5 s', 1500],
    ['5min', 300_000],
    ['2h', 7_200_000],
    ['5', undefined],
    ['5m', undefined],
    ['-5s', undefined],
    ['s', undefined],
  ];
  for (const [text, ms] of cases) {
    it(`'${text}'`, () => {
      assert.equal(parseDuration(text), ms);
    });
  }
  it('for people', () => {
    assert.deepEqual([3.4, 999, 5000, 12_345, 300_000].map(duration), ['3 ms', '999 ms', '5 s', '12.3 s', '5 min']);
  });
});

describe('a rate', () => {
  const cases: [text: string, bytes: number | undefined][] = [
    ['200Mbit', 25_000_000],
    ['200mbit/s', 25_000_000],
    ['1Gbit', 125_000_000],
    ['1.5kbit', 188],
    ['25MiB', 25 * 2 ** 20],
    ['25M', 25 * 2 ** 20],
    ['25MiB/s', 25 * 2 ** 20],
    ['0', 0],
    ['fast', undefined],
    ['-1Mbit', undefined],
  ];
  for (const [text, bytes] of cases) {
    it(`'${text}'`, () => {
      assert.equal(parseRate(text), bytes);
    });
  }
});

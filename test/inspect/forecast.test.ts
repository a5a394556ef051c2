// What a forecast reckons with: one memory limit for all that works at a time, and what stands beside a codec.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { between } from '#src/inspect/forecast.js';
import { shares } from '#src/inspect/memory.js';
import { BASE_BYTES } from '#src/policy/memory.js';

const MiB = 2 ** 20;

describe('the forecast', () => {
  it('keeps one memory limit with all that works at a time', () => {
    const decoder = BASE_BYTES + 80 * MiB;
    const held = BASE_BYTES + 64 * MiB;
    for (const limit of [300 * MiB, 1000 * MiB + 1, 8192 * MiB]) {
      for (const isPagewire of [false, true]) {
        for (const window of [undefined, 0, 150 * MiB]) {
          const { source, rest } = shares(limit, { held, decoder, isPagewire, window });
          const behind = window === undefined ? 0 : decoder - BASE_BYTES + window;
          const before = isPagewire ? source - BASE_BYTES : 0;
          // To the byte; and where there is too little, it says by how much.
          assert.equal(held + before + rest + behind, limit);
          if (isPagewire && rest >= 0) assert.ok(Math.abs(source - decoder - rest) <= 1);
        }
      }
    }
  });

  it('takes a codec for no faster than what reads and writes beside it', () => {
    const ends = { encoder: { source: 5000, sink: 4000 }, decoder: { source: 3000, sink: 6000 } };
    assert.deepEqual(between(ends, { encode: 14_000, decode: 14_000 }, 1), { encode: 4000, decode: 3000 });
    // Frames of half the size are read and written twice as fast, the stream is not.
    assert.deepEqual(between(ends, { encode: 14_000, decode: 14_000 }, 2), { encode: 5000, decode: 6000 });
    assert.deepEqual(between(ends, { encode: 600, decode: 1500 }, 2), { encode: 600, decode: 1500 });
    assert.equal(between(ends, { encode: 600, decode: undefined }, 2).decode, undefined);
  });
});

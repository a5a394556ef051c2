// How long it takes over a link: what is slowest decides.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LINKS, secondsOver } from '#src/measuring/links.js';

describe('links', () => {
  it('are as fast as their names say', () => {
    for (const { name, bytesPerSecond } of LINKS) assert.equal(name, `${(bytesPerSecond * 8) / 1e9} Gbit/s`);
    assert.deepEqual(
      LINKS.map(({ bytesPerSecond }) => bytesPerSecond),
      [25e6, 125e6, 1250e6, 3125e6],
    );
  });

  it('take as long as the slowest of encoder, link and decoder', () => {
    const work = { rawBytes: 1000, wireBytes: 100, encodeBytesPerSecond: 500, decodeBytesPerSecond: 250 };
    assert.equal(secondsOver(10, work), 10);
    assert.equal(secondsOver(1e9, work), 4);
    assert.equal(secondsOver(1e9, { ...work, decodeBytesPerSecond: Infinity }), 2);
  });
});

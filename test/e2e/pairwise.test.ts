import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { allCases, chooseCases } from './harness/pairwise.js';

const dimensions = {
  version: ['7.2', '10.0', '11.1'],
  transport: ['exec', 'fd', 'unix'],
  workload: ['idle', 'sparse', 'half', 'full'],
  stock: ['yes', 'no'],
  codec: ['zstd', 'lz4'],
} as const;

function meet(cases: readonly Readonly<Record<string, string>>[]): Set<string> {
  const met = new Set<string>();
  for (const one of cases) {
    for (const [a, x] of Object.entries(one))
      for (const [b, y] of Object.entries(one)) if (a < b) met.add(`${a}${x} ${b}${y}`);
  }
  return met;
}

void describe('the choice of cases', () => {
  const all = allCases(dimensions, ({ stock, codec }) => stock === 'no' || codec === 'zstd');

  void it('has every pair that can meet, in few cases, and is the same each time', () => {
    const chosen = chooseCases(all);
    assert.deepEqual(meet(chosen), meet(all));
    assert.ok(chosen.length <= 18, `${chosen.length} cases`);
    assert.deepEqual(chooseCases(all), chosen);
    assert.ok(!chosen.some(({ stock, codec }) => stock === 'yes' && codec === 'lz4'));
  });

  void it('covers the dimensions of a group in full', () => {
    const chosen = chooseCases(all, ['version', 'transport', 'workload']);
    assert.equal(chosen.length, 3 * 3 * 4);
    assert.equal(new Set(chosen.map((one) => `${one.version} ${one.transport} ${one.workload}`)).size, 3 * 3 * 4);
    assert.deepEqual(meet(chosen), meet(all));
  });
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { compare, describeComparison } from '#src/bench/compare.js';
import { isMeasured } from '#src/bench/report/schema.js';
import type { BenchReport } from '#src/index.js';
import { measured } from './measured.js';

/** The same report with another encoding speed of one variant. */
function faster(report: BenchReport, name: string, factor: number): BenchReport {
  const variants = report.variants.map((variant) => {
    if (variant.name !== name || !isMeasured(variant) || !variant.encodeSpread) return variant;
    const other = variant.encodeSpread.median * factor;
    return { ...variant, encodeSpread: { median: other, least: other, most: other } };
  });
  return { ...report, variants };
}

describe('--compare', () => {
  it('finds nothing in the same report, and what changed beyond the noise in another', async (t) => {
    const report = await measured(t, { filter: ['stored', 'zstd 5', 'xbzrle'], runs: 3 });
    const same = compare(report, report);
    assert.deepEqual({ changes: same.changes, caveats: same.caveats }, { changes: [], caveats: [] });
    assert.equal(same.compared, 3 * 3, 'ratio, encode and decode of three');

    const after = faster(report, 'xbzrle', 50);
    const { changes } = compare(report, after);
    assert.deepEqual(
      changes.map(({ name, what }) => [name, what]),
      [['xbzrle', 'encode']],
    );
    assert.ok(Math.abs(changes[0]!.after / changes[0]!.before - 50) < 1e-6);
    assert.match(
      describeComparison(compare(report, after), 'old.json'),
      /^Compared with old\.json: 1 of \d+ figures changed beyond the noise\.\n {2}\+4900\.0% {2}xbzrle, encode: \d+ → \d+ MB\/s \(guest\.qemu\)\n$/,
    );
  });

  it('says where the two are not of the same machine or bytes', async (t) => {
    const report = await measured(t, { filter: ['stored'], runs: 3 });
    const streams = report.streams.map((stream) => ({ ...stream, sampleDigest: '0' }));
    const other = { ...report, machine: { ...report.machine, processor: 'abacus' }, streams };
    assert.deepEqual(compare(other, report).caveats, [
      `processor: abacus before, ${report.machine.processor} now`,
      'guest.qemu: not the same bytes as before',
    ]);
    assert.deepEqual(compare({ ...report, streams: [] }, report).caveats, ['guest.qemu: was not measured before']);
  });

  it('says where the two were not measured in the same way', async (t) => {
    const report = await measured(t, { filter: ['stored'], runs: 3 });
    const [stream] = report.streams;
    const streams = [{ ...stream!, blockBytes: 1, deltaBytes: 2 }];
    const other = { ...report, method: { runs: 5, seconds: 9 }, streams };
    assert.deepEqual(compare(other, report).caveats, [
      'runs: 5 before, 3 now',
      `seconds: 9 before, ${report.method.seconds} now`,
      `guest.qemu, blockBytes: 1 before, ${stream!.blockBytes} now`,
      `guest.qemu, deltaBytes: 2 before, ${stream!.deltaBytes} now`,
    ]);
  });

  it('calls no speed changed after fewer than three runs, nor ratios of different parts of a sample', async (t) => {
    const report = await measured(t, { filter: ['xbzrle'], runs: 2 });
    const after = faster(report, 'xbzrle', 50);
    assert.deepEqual(compare(report, after), {
      changes: [],
      compared: 1,
      caveats: ['fewer than 3 runs: speeds are not compared'],
    });
    const variants = report.variants.map((variant) => ({ ...variant, rawBytes: 1 }));
    assert.equal(compare(report, { ...report, variants }).compared, 0);
  });
});

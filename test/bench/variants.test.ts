// Every variant that pagewire brings gives back what it took, and one that does not is found out.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { BlockVariant, DeltaVariant } from '#src/index.js';
import { Registry } from '#src/bench/registry.js';
import { plots } from '#src/bench/report/plots.js';
import { checkReport } from '#src/bench/report/schema.js';
import { LINKS } from '#src/measuring/links.js';
import { noise, text } from '../pipeline/content.js';
import { folder } from '../cli/command.js';
import { measured } from './measured.js';
import { bench } from '#src/index.js';
import { writeFileSync } from 'node:fs';

describe('every variant', () => {
  it('is measured on the stream of a guest, and its result is what went in', async (t) => {
    const report = await measured(t);
    const all = (await Registry.builtIn()).variants();
    assert.deepEqual(
      report.variants.map(({ name, status, reason }) => ({ name, status, reason })),
      all.map(({ name }) => ({ name, status: 'measured', reason: undefined })),
    );
    // lz4-napi and zlib-sync are there where these tests are.
    for (const part of [
      'lz4',
      'zstd',
      'zlib',
      'stored',
      'lz4-napi',
      'zlib-sync',
      'node:zlib',
      'xbzrle',
      'xor + ',
      'prefix',
    ]) {
      assert.ok(
        all.some(({ name }) => name.includes(part)),
        part,
      );
    }
    assert.deepEqual(checkReport(JSON.parse(JSON.stringify(report)), 'itself'), report);
    for (const variant of report.variants) {
      assert.ok((variant.packedBytes ?? 0) > 0 && (variant.rawBytes ?? 0) > 0, variant.name);
      assert.equal(variant.links?.length, LINKS.length, variant.name);
      assert.ok((variant.ratio ?? 0) >= 0.98, `${variant.name}: ${variant.ratio}`);
    }
    const ratio = (name: string): number => report.variants.find((variant) => variant.name === name)?.ratio ?? NaN;
    assert.equal(ratio('stored'), 1);
    assert.equal(ratio('raw page'), 1);
    assert.ok(ratio('zstd 1') > 1.5);
    for (const name of ['xbzrle', 'xor + zstd 1', 'zstd 1, old page as prefix'])
      assert.ok(ratio(name) > ratio('page, zstd 1'));
    assert.ok(ratio('delta + zstd 1') > ratio('pack zstd 1'));
    const hits = report.variants.flatMap(({ name, hitRate }) => (name.includes('cache') ? (hitRate ?? NaN) : []));
    assert.deepEqual(
      hits,
      [...hits].sort((a, b) => a - b),
    );
    assert.ok(hits[0]! < hits.at(-1)!);
  });

  it('is measured on bytes that are no stream, as far as it has something to do there', async (t) => {
    const path = folder(t)('noise');
    writeFileSync(path, noise(3_000_001));
    const filter = ['lz4 1', 'zstd 3', 'xbzrle', 'zlib 1', 'cache 10'];
    const report = await bench({ streams: [path], filter, runs: 1, seconds: 0.01 });
    for (const { name, kind, status, reason } of report.variants) {
      const isForPages = kind === 'delta' || name.includes('cache');
      assert.equal(status, isForPages ? 'not applicable' : 'measured', `${name}: ${reason ?? ''}`);
    }
  });
});

describe('several streams', () => {
  it('are measured each by itself, under names of their own', async (t) => {
    const path = folder(t);
    writeFileSync(path('one'), text(600_000));
    writeFileSync(path('other'), noise(600_000));
    const streams = [path('one'), path('other'), path('one'), path('one')];
    const report = await bench({ streams, filter: ['zstd 3'], runs: 1, seconds: 0.01 });
    const names = ['one', 'other', path('one'), `${path('one')} (4)`];
    assert.deepEqual(
      report.streams.map(({ name }) => name),
      names,
    );
    const ratios = names.map((name) => report.variants.find(({ stream }) => stream === name)?.ratio ?? NaN);
    assert.ok(ratios[0]! > 2 && ratios[1] === 1 && ratios[2] === ratios[0], ratios.join());
    assert.equal(new Set(plots(report).map(({ file }) => file)).size, plots(report).length);
  });
});

describe('a variant that is wrong is told as failed, and the others go on:', () => {
  const block = (name: string, changes: Partial<BlockVariant>): BlockVariant => ({
    ...{
      kind: 'block',
      name,
      pack: (bytes) => bytes.subarray(1),
      unpack: (packed, bytes) => Buffer.alloc(bytes, packed),
    },
    ...changes,
  });
  const delta: DeltaVariant = {
    kind: 'delta',
    name: 'keeps the old page',
    encode: () => Buffer.alloc(1),
    decode: (old) => old,
  };
  const wrong: [variant: BlockVariant | DeltaVariant, reason: RegExp][] = [
    [block('comes back changed', {}), /what was decoded is not what was encoded/],
    [delta, /what was decoded is not what was encoded/],
    [block('comes back short', { unpack: (packed) => packed.subarray(1) }), /a piece of \d+ bytes came back as \d+/],
    [
      block('throws', {
        pack: () => {
          throw new Error('no idea');
        },
      }),
      /^no idea$/,
    ],
  ];
  it(wrong.map(([{ name }]) => name).join(', '), async (t) => {
    const filter = [...wrong.map(([{ name }]) => name), 'stored'];
    const { variants } = await measured(t, { variants: wrong.map(([variant]) => variant), filter });
    for (const [{ name }, reason] of wrong) {
      const found = variants.find((variant) => variant.name === name);
      assert.equal(found?.status, 'failed', name);
      assert.match(found.reason ?? '', reason);
    }
    assert.equal(variants.find(({ name }) => name === 'stored')?.status, 'measured');
  });
});

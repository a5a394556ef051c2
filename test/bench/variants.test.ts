// Every variant that pagewire brings gives back what it took, and one that does not is found out.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { BlockVariant, ChainVariant, DeltaVariant } from '#src/index.js';
import { Registry } from '#src/bench/registry.js';
import { plots } from '#src/bench/report/plots.js';
import { table } from '#src/bench/report/table.js';
import { checkReport, type VariantReport } from '#src/bench/report/schema.js';
import { LINKS } from '#src/measuring/links.js';
import { noise, text } from '../pipeline/content.js';
import { folder } from '../cli/command.js';
import { measured, smallStream } from './measured.js';
import { bench, type BenchReport } from '#src/index.js';
import { checkEncoder } from '#src/pipeline/settings.js';
import { SimulatedGuest } from '#src/simulator/guest.js';
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

describe('a slow variant', () => {
  it('gives the ratio of what it gets through in its time, which is told', async (t) => {
    const slow: BlockVariant = {
      kind: 'block',
      name: 'slow',
      pack: (block) => {
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
        return block;
      },
      unpack: (packed) => packed,
    };
    const report = await measured(t, { variants: [slow], filter: ['slow', 'stored'], runs: 1, seconds: 0.0001 });
    const { blockBytes } = report.streams[0]!;
    const rawBytes = (wanted: string): number => report.variants.find(({ name }) => name === wanted)?.rawBytes ?? NaN;
    assert.equal(rawBytes('stored'), blockBytes);
    assert.ok(rawBytes('slow') < blockBytes, `${rawBytes('slow')} of ${blockBytes}`);
    assert.match(table(report), /^Slow, so the ratio is of a part: slow \(.* MiB of .* MiB\)$/m);
  });
});

describe('a stream that is damaged in its middle', () => {
  it('is measured, and told', async (t) => {
    const path = folder(t)('damaged');
    writeFileSync(path, smallStream().fill(0xff, 1 << 20, (1 << 20) + 50_000));
    const damaged = await bench({ streams: [path], filter: ['stored'], runs: 1, seconds: 0.01 });
    assert.match(damaged.streams[0]?.notUnderstood ?? '', /^byte 10\d{5} of what is measured on: ./);
    assert.match(table(damaged), /; not understood from\sbyte/);
    const whole = await measured(t, { filter: ['stored'], runs: 1 });
    assert.equal(whole.streams[0]?.notUnderstood, undefined);
  });
});

describe('--quick', () => {
  it('takes blocks from all over a stream', async (t) => {
    const path = folder(t)('noise');
    writeFileSync(path, Buffer.concat(Array<Buffer>(20).fill(noise(1 << 20))));
    const report = await bench({ streams: [path], filter: ['stored'], quick: true });
    assert.equal(report.streams[0]?.blockBytes, 16 << 20);
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
    [
      block('gives promises', { pack: (() => Promise.reject(new Error('late'))) as unknown as BlockVariant['pack'] }),
      /^it gave a promise: a Uint8Array is needed, at once$/,
    ],
    [
      block('unpacks to an array', {
        unpack: ((_: Buffer, n: number) => Array<number>(n)) as unknown as BlockVariant['unpack'],
      }),
      /^it gave object: a Uint8Array is needed, at once$/,
    ],
    [block('clears its blocks', { pack: (bytes) => bytes.fill(0).subarray(1) }), /^it changed its input$/],
    [
      {
        kind: 'delta',
        name: 'clears old pages',
        encode: () => Buffer.alloc(1),
        decode: (old) => old.fill(0),
      },
      /^it changed its input$/,
    ],
  ];
  it(wrong.map(([{ name }]) => name).join(', '), async (t) => {
    const filter = [...wrong.map(([{ name }]) => name), 'stored', 'zstd 5', 'xbzrle'];
    const alone = await measured(t, { filter: ['zstd 5', 'xbzrle'], runs: 1 });
    const { variants } = await measured(t, { variants: wrong.map(([variant]) => variant), filter });
    for (const [{ name }, reason] of wrong) {
      const found = variants.find((variant) => variant.name === name);
      assert.equal(found?.status, 'failed', name);
      assert.match(found.reason ?? '', reason);
    }
    assert.equal(variants.find(({ name }) => name === 'stored')?.status, 'measured');
    // What a variant did to its input is not there for the others.
    for (const wanted of ['zstd 5', 'xbzrle']) {
      const ratio = (list: typeof variants): number | undefined => list.find(({ name }) => name === wanted)?.ratio;
      assert.equal(ratio(variants), ratio(alone.variants), wanted);
    }
  });
});

describe('a chain', () => {
  const find = ({ variants }: BenchReport, wanted: string): VariantReport =>
    variants.find(({ name }) => name === wanted) ?? assert.fail(wanted);

  it('fails alone where its second codec does not fit into its memory', async (t) => {
    const path = folder(t)('guest.qemu');
    writeFileSync(path, Buffer.concat([...new SimulatedGuest({ ramBytes: 16 << 20, passes: 8 }).stream()]));
    const grows: ChainVariant = {
      kind: 'chain',
      name: 'grows',
      // Room for the cache, and for no more.
      settings: { codec: 'none', memoryLimit: checkEncoder({ codec: 'none' }).fixedMemory('none', 0) + (40 << 20) },
      afterBulk: { codec: 'zstd', level: 19 },
    };
    const filter = ['grows', 'pass through'];
    const report = await bench({ streams: [path], variants: [grows], filter, runs: 2, seconds: 0.01 });
    const { status, reason = '' } = find(report, 'grows');
    assert.equal(status, 'failed');
    assert.match(reason, /^zstd with level 19 needs .* of memory, which does not fit/);
    assert.equal(find(report, 'pass through').status, 'measured');
  });

  it('is not applicable to a guest whose pages no cache could number', async (t) => {
    const guest = new SimulatedGuest({ ramBytes: 4 << 20, passes: 6, dirtyPagesPerPass: 1024, seed: 2 });
    const stream = Buffer.concat([...guest.stream()]);
    const ram = stream.indexOf('\x06pc.ram') + 7;
    const more = 2n ** 46n - stream.readBigUInt64BE(ram);
    for (const at of [ram, ram - 15]) stream.writeBigUInt64BE(stream.readBigUInt64BE(at) + more, at);
    const path = folder(t)('huge.qemu');
    writeFileSync(path, stream);
    const report = await bench({ streams: [path], filter: ['cache 10%', 'pack lz4 1'], runs: 1, seconds: 0.01 });
    assert.equal(find(report, 'delta + zstd 1, cache 10%').status, 'not applicable');
    assert.equal(find(report, 'pack lz4 1').status, 'measured');
  });

  it('tells the memory that it reckons with', async (t) => {
    const report = await measured(t, { filter: ['lz4 1', '16K', '4096K'], runs: 1 });
    const memory = (name: string): number => find(report, name).memoryBytes ?? NaN;
    assert.ok(memory('delta + lz4 1') > memory('pack lz4 1'));
    assert.ok(memory('pack zstd 1, 4096K frames') > memory('pack zstd 1, 16K frames'));
  });
});

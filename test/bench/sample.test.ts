// What a stream is packed in makes no difference to what is measured on, and what cannot be looked into is refused.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { bench, type BenchReport } from '#src/index.js';
import { SimulatedGuest } from '#src/simulator/guest.js';
import { folder, pagewire } from '../cli/command.js';
import { image } from '../measuring/image.js';
import { smallStream } from './measured.js';

const stream = smallStream();

function measuredOn(path: string, sampleBytes?: number): Promise<BenchReport> {
  return bench({ streams: [path], filter: ['stored', 'raw page', 'delta + lz4'], runs: 1, seconds: 0.01, sampleBytes });
}

describe('a sample', () => {
  for (const [what, sampleBytes] of [
    ['whole', undefined],
    ['thinned', 2 << 20],
  ] as const) {
    it(`is the same out of a file of pagewire and an image of libvirt: ${what}`, async (t) => {
      const at = folder(t);
      const { stdout: frames } = await pagewire(t, ['-qc', '-'], { input: stream });
      writeFileSync(at('plain'), stream);
      const expected = (await measuredOn(at('plain'), sampleBytes)).streams[0]!;
      assert.ok(expected.pagesAgain > 0);
      assert.equal(expected.sampleBytes < stream.length, sampleBytes !== undefined);
      for (const [name, content] of [
        ['guest.pw', frames],
        ['raw.save', image(0, stream)],
        ['lzop.save', image(4, frames)],
      ] as const) {
        writeFileSync(at(name), content);
        const { streams, variants } = await measuredOn(at(name), sampleBytes);
        assert.deepEqual(streams, [{ ...expected, name }]);
        for (const { name, status, reason } of variants) assert.equal(status, 'measured', `${name}: ${reason ?? ''}`);
      }
    });
  }

  it('is taken of a chain of files whose bases are beside them', async (t) => {
    const at = folder(t);
    const guest = new SimulatedGuest({ ramBytes: 4 << 20, passes: 2, seed: 2 });
    const later = Buffer.concat([...guest.stream()]);
    for (const [name, input, ...options] of [
      ['base.pw', stream],
      ['inc.pw', later, '--base', at('base.pw')],
    ] as const) {
      const { code, stderr } = await pagewire(t, ['-q', ...options, '-o', at(name), '-'], { input });
      assert.equal(code, 0, stderr);
    }
    writeFileSync(at('plain'), later);
    const [one, other] = [await measuredOn(at('inc.pw')), await measuredOn(at('plain'))];
    assert.equal(one.streams[0]?.sampleDigest, other.streams[0]?.sampleDigest);
  });

  it('is not taken of what another program packed, nor of what is damaged', async (t) => {
    const at = folder(t);
    const gzip = gzipSync(stream.subarray(0, 10_000));
    const { stdout: frames } = await pagewire(t, ['-qc', '-'], { input: stream });
    for (const [name, content, error] of [
      [
        'a',
        gzip,
        { code: 'BAD_OPTION', message: /a was packed with gzip: unpack it first \(gzip -dc .*a > STREAM\)$/ },
      ],
      [
        'b',
        image(1, gzip),
        { code: 'BAD_OPTION', message: /b was packed with gzip: .*tail -c \+5093 .*b \| gzip -dc > / },
      ],
      [
        'c',
        image(0, Buffer.from('something else')),
        { code: 'BAD_OPTION', message: /c, behind the header of libvirt/ },
      ],
      ['d', image(6, stream), { code: 'BAD_OPTION', message: /d is of libvirt's format sparse/ }],
      ['e', frames.subarray(0, -100), { message: /e: .*cut off/ }],
    ] as const) {
      writeFileSync(at(name), content);
      await assert.rejects(measuredOn(at(name)), error);
    }
  });

  it('is not taken once it is to stop', async (t) => {
    const at = folder(t);
    writeFileSync(at('plain'), stream);
    const ended = bench({ streams: [at('plain')], filter: ['stored'], signal: AbortSignal.abort() });
    await assert.rejects(ended, { code: 'STOPPED' });
  });
});

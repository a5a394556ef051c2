import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { EncoderSettings } from '#src/index.js';
import { Random } from '#src/simulator/random.js';
import { decoded, encoded, tryDecode, tryEncode } from './carried.js';
import { noise, simulated, text } from './content.js';
import { FrameKind, readFrames, readStream } from './frames.js';
import { restored } from './references.js';

const MiB = 1 << 20;

/** Pages of which two of three come again, each behind eight bytes that do not: much like a guest's. */
function pages(count: number, seed = 1): Buffer {
  const random = new Random(seed);
  const content = Array.from({ length: Math.ceil(count / 3) }, (_, i) =>
    i % 2 === 0 ? noise(4096, i + 1) : text(4096, i + 1),
  );
  return Buffer.concat(
    Array.from({ length: count }, (_, i) => {
      const page = content[i] ?? content[random.below(content.length)];
      assert.ok(page);
      return Buffer.concat([noise(8, 1000 + i), page]);
    }),
  );
}

describe('match', () => {
  const original = pages(1500);

  for (const settings of [
    { codec: 'zstd' },
    { codec: 'none' },
    { codec: 'zstd', level: 9 },
  ] satisfies EncoderSettings[]) {
    it(`writes what docs/format.md says: ${JSON.stringify(settings)}`, async () => {
      const frames = await encoded(original, {
        ...settings,
        delta: false,
        match: 8 * MiB,
        frameSize: 200_000,
        threads: 2,
      });
      const read = restored(readStream(frames, original), 8 * MiB);
      assert.ok(read.original.equals(original), 'byte for byte');
      assert.ok(read.references > 500, `${read.references} references`);
    });
  }

  it('keeps to a window that is smaller than the stream', async () => {
    const frames = await encoded(original, { codec: 'none', delta: false, match: MiB, frameSize: 50_000 });
    const read = restored(readStream(frames, original), MiB);
    assert.ok(read.original.equals(original) && read.references > 0);
  });

  it('gives back every byte, and makes fewer', async () => {
    const settings = { delta: false, match: 8 * MiB, threads: 2 };
    const { bytes, error, snapshot } = await tryEncode(original, settings);
    assert.equal(error, undefined);
    const plain = await encoded(original, { delta: false });
    assert.ok(bytes.length < plain.length * 0.6, `${bytes.length} of ${plain.length} bytes`);
    assert.ok(snapshot.totals.matchedBytes > original.length / 3);
    for (const threads of [1, 2, 5])
      assert.ok((await decoded(bytes, { threads })).equals(original), `${threads} threads`);
  });

  it('works behind delta', async () => {
    const { stream } = simulated({ ramBytes: 4 * MiB });
    const [matched, plain] = [
      await decoded(await encoded(stream, { match: 2 * MiB, threads: 1 })),
      await decoded(await encoded(stream, { threads: 1 })),
    ];
    assert.ok(matched.equals(plain), 'the same after delta');
  });

  it('is told by START, and by nothing where it is off', async () => {
    const windows = [];
    for (const match of [undefined, 0, 3 * MiB]) {
      const [start] = readFrames(await encoded(text(100), { delta: false, match }));
      assert.equal(start?.kind, FrameKind.START);
      windows.push([start.payload[1], Number(start.payload.readBigUInt64LE(8))]);
    }
    assert.deepEqual(windows, [
      [0, 0],
      [0, 0],
      [1, 3 * MiB],
    ]);
  });

  it('is refused by a decoder without memory for it', async () => {
    const frames = await encoded(original, { delta: false, match: 512 * MiB });
    const { bytes, error } = await tryDecode(frames, { threads: 1, memoryLimit: 300 * MiB });
    assert.equal(error?.code, 'OUT_OF_MEMORY');
    assert.match(error.message, /lead up to 536870912 bytes back.*--memory-limit/);
    assert.equal(bytes.length, 0);
    assert.ok((await decoded(frames, { threads: 1, memoryLimit: 1024 * MiB })).equals(original));
  });

  it('is counted in what an encoder needs', async () => {
    const settings = { delta: false, match: 256 * MiB, threads: 1, memoryLimit: 200 * MiB };
    await assert.rejects(tryEncode(text(100), settings), { code: 'OUT_OF_MEMORY', message: /smaller match/ });
  });

  for (const match of [1, MiB - 1, 1.5 * MiB + 0.5, 2 ** 36 + 1, -1, NaN]) {
    it(`of ${match} bytes is refused`, async () => {
      await assert.rejects(tryEncode(text(100), { match }), { code: 'BAD_OPTION' });
    });
  }

  it('is nothing for a QEMU stream as output', async () => {
    await assert.rejects(tryEncode(text(100), { match: MiB, stock: true }), { code: 'BAD_OPTION' });
  });
});

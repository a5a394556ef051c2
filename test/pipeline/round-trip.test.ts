import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { CODECS, createDecoder, createEncoder, type EncoderSettings } from '#src/index.js';
import { codecNumber } from '#src/codecs.js';
import { native } from '#src/native.js';
import { SimulatedDestination } from '#src/simulator/destination.js';
import { decoded, encoded, tryDecode, tryEncode } from './carried.js';
import { mixed, noise, simulated, text } from './content.js';
import { CodecNumber, FrameKind, readFrames, readStream } from './frames.js';

async function comesBack(content: Buffer, settings: EncoderSettings, threads = settings.threads): Promise<void> {
  const frames = await encoded(content, settings);
  readStream(frames, content);
  assert.ok((await decoded(frames, { threads })).equals(content));
}

function load(stream: Uint8Array): SimulatedDestination {
  const destination = new SimulatedDestination();
  destination.push(stream);
  destination.end();
  return destination;
}

describe('a stream comes back as it was', () => {
  for (const codec of CODECS) {
    const [lowest, highest] = native.codecLevels(codecNumber(codec));
    for (const level of new Set([lowest, -1, 0, 1, 3, highest])) {
      if (level < lowest || level > highest) continue;
      it(`${codec} at level ${level}`, async () => {
        await comesBack(mixed(700_000), { codec, level, frameSize: 256 << 10, threads: 1 });
      });
    }
  }

  for (const size of [0, 1, 2, 47, 48, 4095, 4096, 4097, 16 << 10, (16 << 10) + 1, 65_536]) {
    it(`${size} bytes, with every codec`, async () => {
      for (const codec of CODECS) {
        await comesBack(text(size), { codec, threads: 1 });
        await comesBack(noise(size), { codec, delta: false, threads: 1 });
      }
    });
  }

  for (const frameSize of [4096, 4097, 65_535, 1 << 20, 4 << 20]) {
    it(`in frames of ${frameSize} bytes, whether it fills the last one or not`, async () => {
      for (const size of [frameSize - 1, frameSize, frameSize + 1, 3 * frameSize, 3 * frameSize + 5]) {
        for (const codec of ['none', 'zstd'] as const)
          await comesBack(mixed(size), { codec, frameSize, delta: false, threads: 1 });
      }
    });
  }

  for (const threads of [1, 2, 5]) {
    it(`over ${threads} threads, also where the other end has another number`, async () => {
      const content = mixed(3_000_000);
      for (const others of [1, 4]) await comesBack(content, { threads, frameSize: 64 << 10 }, others);
    });
  }

  it('that no codec makes smaller: it grows by the frames alone', async () => {
    const content = noise(1_000_000);
    for (const codec of CODECS) {
      const frames = await encoded(content, { codec, frameSize: 100_000 });
      const data = readStream(frames, content);
      assert.deepEqual(new Set(data.map((frame) => frame.codec)), new Set([CodecNumber.none]));
      assert.equal(frames.length, content.length + (data.length + 2) * 48 + 16 + 48);
    }
  });

  it('in the order of its frames where some take much longer than others', async () => {
    const pieces = Array.from({ length: 60 }, (_, i) =>
      [text(64 << 10, i), noise(64 << 10, i), Buffer.alloc(64 << 10, i)].at(i % 3),
    );
    const content = Buffer.concat(pieces.filter((piece) => piece !== undefined));
    await comesBack(content, { codec: 'zstd', level: 19, threads: 4, frameSize: 64 << 10, delta: false });
    await comesBack(content, { codec: 'zlib', level: 12, threads: 3, frameSize: 32 << 10, delta: false });
  });

  it('between files, as descriptors that stay the caller’s', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'pagewire-'));
    try {
      const content = mixed(2_500_000);
      const path = (name: string): string => join(folder, name);
      writeFileSync(path('stream'), content);
      const carry = async (
        from: string,
        to: string,
        how: typeof createEncoder | typeof createDecoder,
      ): Promise<void> => {
        const [input, output] = [openSync(path(from), 'r'), openSync(path(to), 'w')];
        assert.deepEqual(await how({ input, output }).done, { truncated: false, within: undefined });
        closeSync(input);
        closeSync(output);
      };
      await carry('stream', 'frames', createEncoder);
      await carry('frames', 'again', createDecoder);
      readStream(readFileSync(path('frames')), content);
      assert.ok(readFileSync(path('again')).equals(content));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe("a guest's migration stream", () => {
  for (const codec of CODECS) {
    it(`with delta gives the same guest, in far fewer bytes: ${codec}`, async () => {
      const { guest, stream } = simulated();
      const { bytes, snapshot } = await tryEncode(stream, { codec });
      const destination = load(await decoded(bytes));
      assert.deepEqual(destination.digests(), guest.digests());
      assert.equal(destination.deviceDigest(), load(stream).deviceDigest());
      const pages = snapshot.delta?.pages;
      assert.ok(pages !== undefined && pages.delta > 0 && pages.raw > 0 && pages.fill > 0);
      assert.equal(pages.raw, destination.loaded.pages);
      assert.equal(pages.delta, destination.loaded.deltaPages);
      assert.equal(pages.fill, destination.loaded.fillPages);
      assert.equal(pages.raw + pages.delta + pages.skipped, guest.sent.pages);
      assert.equal(snapshot.delta?.deltaBytes, destination.loaded.deltaBytes);
      assert.equal(snapshot.delta.passes.length, guest.sent.passes);
      assert.equal(snapshot.totals.bytesIn, stream.length);
      assert.equal(snapshot.totals.bytesOut, bytes.length);
      assert.equal(snapshot.totals.frames, readFrames(bytes).length);
      assert.equal(snapshot.guest?.machine, guest.machine);
    });

    it(`without delta comes back byte for byte: ${codec}`, async () => {
      const { stream } = simulated();
      await comesBack(stream, { codec, delta: false });
    });
  }

  it('as stock output is a QEMU stream itself, and smaller', async () => {
    const { guest, stream } = simulated();
    const { bytes } = await tryEncode(stream, { stock: true });
    assert.deepEqual(load(bytes).digests(), guest.digests());
    assert.ok(bytes.length < stream.length / 1.2, `${bytes.length} of ${stream.length} bytes`);
  });

  it('is right with any cache, however small', async () => {
    const { guest, stream } = simulated();
    for (const cacheSize of [{ percent: 0 }, { percent: 1 }, { percent: 30 }, { bytes: 0 }, { bytes: 1_000_000 }]) {
      const { bytes, snapshot } = await tryEncode(stream, { cacheSize });
      assert.deepEqual(load(await decoded(bytes)).digests(), guest.digests(), JSON.stringify(cacheSize));
      const cache = snapshot.delta?.cache;
      assert.ok(cache !== undefined && cache.bytes <= cache.budget, JSON.stringify(cache));
      assert.equal(cache.budget, snapshot.guest?.cacheGranted);
    }
  });

  it('that ends in the middle is delivered, and both ends know it', async () => {
    const { stream } = simulated({ ramBytes: 1 << 20, passes: 0 });
    for (const length of [9, 100, 1000, 300_000, 300_001]) {
      const cut = stream.subarray(0, length);
      const { bytes, end } = await tryEncode(cut);
      assert.equal(end?.truncated, true, `after ${length} bytes`);
      assert.ok(end.within !== undefined && end.within.length > 0);
      assert.equal(readFrames(bytes).at(-1)?.kind, FrameKind.END);
      const arrived = await tryDecode(bytes);
      assert.deepEqual(arrived.end, { truncated: true, within: undefined });
      assert.ok(arrived.bytes.equals(cut), `after ${length} bytes`);
    }
  });

  it('that is none is carried byte for byte, and the snapshot says so', async () => {
    const content = mixed(500_000);
    const { bytes, end, snapshot } = await tryEncode(content);
    assert.equal(end?.truncated, false);
    assert.deepEqual(snapshot.delta?.verbatim, { reason: 'not a QEMU stream', offset: 0 });
    assert.equal(snapshot.delta.qemu, false);
    assert.ok((await decoded(bytes)).equals(content));
  });
});

it('several encoders and decoders work at once in one process', async () => {
  await Promise.all(
    Array.from({ length: 8 }, async (_, i) => {
      const codec = CODECS[i % CODECS.length];
      if (i % 2 === 0) {
        await comesBack(mixed(1_500_000 + i, i), { codec, threads: 1 + (i % 3), frameSize: (64 + i) << 10 });
      } else {
        const { guest, stream } = simulated({ seed: i, ramBytes: 1 << 20 });
        assert.deepEqual(load(await decoded(await encoded(stream, { codec }))).digests(), guest.digests());
      }
    }),
  );
});

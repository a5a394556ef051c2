// Other implementations read what our codecs write, and we read what they write.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { deflateSync, inflateSync } from 'node:zlib';
import { decompress as fzstd } from 'fzstd';
import lz4 from 'lz4-napi';
import zlibSync from 'zlib-sync';
import { type Codec, CODECS } from '#src/index.js';
import { codecNumber } from '#src/codecs.js';
import { native } from '#src/native.js';
import { decoded, encoded } from './carried.js';
import { mixed, simulated, text } from './content.js';
import { CodecNumber, type Frame, FrameKind, type Piece, readStream, writeStream } from './frames.js';

/** lz4-napi puts the length before an LZ4 block, in four bytes. */
function lz4Block(payload: Buffer, rawLength: number): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(rawLength);
  return lz4.uncompressSync(Buffer.concat([length, payload]));
}

function zlibSyncInflate(payload: Buffer): Buffer {
  const inflate = new zlibSync.Inflate({ chunkSize: 1 << 20 });
  inflate.push(payload, zlibSync.Z_FINISH);
  assert.equal(inflate.err, zlibSync.Z_STREAM_END, inflate.msg ?? 'zlib-sync');
  assert.ok(Buffer.isBuffer(inflate.result));
  return inflate.result;
}

const READERS: Record<Codec, Record<string, (payload: Buffer, rawLength: number) => Uint8Array>> = {
  none: { 'the payload as it is': (payload) => payload },
  lz4: { 'lz4-napi': lz4Block },
  zlib: { 'node:zlib': (payload) => inflateSync(payload), 'zlib-sync': zlibSyncInflate },
  zstd: { fzstd: (payload) => fzstd(payload) },
};

/** What the frames hold, read by another implementation. */
function content(frames: Frame[], read: (payload: Buffer, rawLength: number) => Uint8Array): Buffer {
  return Buffer.concat(
    frames.map(({ codec, payload, rawLength }) => {
      const raw = codec === CodecNumber.none ? payload : read(payload, rawLength);
      assert.equal(raw.length, rawLength);
      return raw;
    }),
  );
}

describe('what we write is read by', () => {
  for (const codec of CODECS) {
    const [lowest, highest] = native.codecLevels(codecNumber(codec));
    for (const [name, read] of Object.entries(READERS[codec])) {
      it(`${name}: ${codec} at all its levels`, async () => {
        const original = mixed(500_000);
        for (const level of new Set([lowest, -7, -1, 0, 1, 2, 3, 6, 9, 10, highest])) {
          if (level < lowest || level > highest) continue;
          const frames = readStream(
            await encoded(original, { codec, level, frameSize: 200_000, delta: false, threads: 1 }),
            original,
          );
          if (codec !== 'none') assert.ok(frames.some((frame) => frame.codec === codecNumber(codec)));
          assert.ok(content(frames, read).equals(original), `level ${level}`);
        }
      });
    }
  }

  it("fzstd, node:zlib and lz4-napi: a guest's stream", async () => {
    const { stream } = simulated({ ramBytes: 1 << 20 });
    for (const codec of CODECS) {
      const [read] = Object.values(READERS[codec]);
      const frames = readStream(await encoded(stream, { codec, delta: false, threads: 1 }), stream);
      assert.ok(content(frames, read!).equals(stream), codec);
    }
  });
});

/** The pieces of a stream, each packed by another implementation. */
function packed(original: Buffer, size: number, codec: Codec, pack: (raw: Buffer) => Buffer): Piece[] {
  const pieces: Piece[] = [];
  for (let at = 0; at < original.length; at += size) {
    const raw = original.subarray(at, at + size);
    const payload = pack(raw);
    const smaller = payload.length < raw.length;
    pieces.push({
      kind: FrameKind.DATA,
      codec: smaller ? codecNumber(codec) : CodecNumber.none,
      payload: smaller ? payload : raw,
      rawLength: raw.length,
    });
  }
  return pieces;
}

describe('we read what is written by', () => {
  const original = text(300_000);
  const writers: [name: string, codec: Codec, pack: (raw: Buffer) => Buffer][] = [
    ['no codec at all', 'none', (raw) => raw],
    ['lz4-napi', 'lz4', (raw) => lz4.compressSync(raw).subarray(4)],
    ...[1, 6, 9].map((level): [string, Codec, (raw: Buffer) => Buffer] => [
      `node:zlib at level ${level}`,
      'zlib',
      (raw) => deflateSync(raw, { level }),
    ]),
  ];
  for (const [name, codec, pack] of writers) {
    it(name, async () => {
      for (const size of [1000, 50_000, 300_000]) {
        const frames = writeStream(original, packed(original, size, codec, pack));
        assert.ok((await decoded(frames, { threads: 1 })).equals(original), `frames of ${size} bytes`);
      }
    });
  }

  it('the zstd program', (t) => {
    const zstd = (raw: Buffer, level: string): Buffer | undefined => {
      const { status, stdout } = spawnSync('zstd', [level, '-c', '-q'], { input: raw, maxBuffer: 1 << 26 });
      return status === 0 ? stdout : undefined;
    };
    if (zstd(text(10), '-1') === undefined) {
      assert.ok(!process.env['CI'], 'zstd is not installed');
      console.log('PAGEWIRE-NOT-RUN frames by the zstd program: please install zstd');
      t.skip('zstd is not installed');
      return;
    }
    return Promise.all(
      ['-1', '-19', '--fast=5'].map(async (level) => {
        const pieces = packed(original, 100_000, 'zstd', (raw) => zstd(raw, level) ?? raw);
        assert.ok(pieces.every((piece) => piece.codec === CodecNumber.zstd));
        assert.ok((await decoded(writeStream(original, pieces))).equals(original), level);
      }),
    ).then(() => undefined);
  });
});

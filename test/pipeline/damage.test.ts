// Bad input to a decoder: an error that says where, and never a wrong byte.
import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { describe, it } from 'node:test';
import { deflateSync } from 'node:zlib';
import { CODECS, createEncoder, type ErrorCode } from '#src/index.js';
import { Collector, decoded, encoded, tryDecode } from './carried.js';
import { noise, text } from './content.js';
import {
  CodecNumber,
  endPayload,
  frame,
  type FrameFields,
  FrameKind,
  type Piece,
  readFrames,
  startPayload,
  writeStream,
} from './frames.js';

const CONTENT = text(300);
const STORED: Piece = { kind: FrameKind.DATA, payload: CONTENT };

/** Three frames of data in a few hundred bytes. */
async function small(codec: (typeof CODECS)[number]): Promise<{ content: Buffer; frames: Buffer }> {
  const content = Buffer.concat([text(160), text(160, 2)]);
  const [one, two] = [content.subarray(0, 160), content.subarray(160)];
  const pack = { none: 0, lz4: 1, zlib: 2, zstd: 3 }[codec];
  if (codec === 'zlib') {
    const pieces = [one, two].map((raw) => ({
      ...{ kind: FrameKind.DATA, codec: pack, rawLength: raw.length, payload: deflateSync(raw) },
    }));
    return { content, frames: writeStream(content, pieces) };
  }
  return { content, frames: await encoded(content, { codec }) };
}

/** Refused with this code, in this frame, and what came out is the beginning of what there was. */
async function refused(
  frames: Uint8Array,
  code: ErrorCode | readonly ErrorCode[],
  message: RegExp,
  content: Uint8Array = CONTENT,
): Promise<Buffer> {
  const { bytes, error } = await tryDecode(frames, { threads: 1 });
  assert.ok(error !== undefined, 'it was taken');
  assert.ok([code].flat().includes(error.code), `${error.code}: ${error.message}`);
  assert.match(error.message, message);
  assert.ok(error.frame !== undefined && error.offset !== undefined, error.message);
  assert.ok(error.message.startsWith(`frame ${error.frame} at byte ${error.offset}: `), error.message);
  assert.ok(Buffer.from(content).subarray(0, bytes.length).equals(bytes), 'a wrong byte came out');
  return bytes;
}

describe('frames that are', () => {
  for (const codec of CODECS) {
    it(`cut off at any byte are refused: ${codec}`, async () => {
      const { content, frames } = await small(codec);
      const starts = readFrames(frames).map(({ at }) => at);
      for (let length = 0; length < frames.length; length++) {
        const { bytes, error } = await tryDecode(frames.subarray(0, length), { threads: 1 });
        assert.equal(error?.code, 'FRAMES_TRUNCATED', `${length} bytes`);
        const number = starts.findLastIndex((at) => at <= length);
        assert.equal(error.frame, number, `${length} bytes: ${error.message}`);
        assert.equal(error.offset, starts[number]);
        assert.match(error.message, new RegExp(`^frame ${number} at byte ${starts[number] ?? -1}: `));
        assert.match(error.message, length === 0 ? /the input is empty/ : /cut off/);
        // Every frame that is whole has come out.
        const whole = readFrames(
          frames.subarray(0, starts[number]).length > 0 ? frames.subarray(0, starts[number]) : frames,
        );
        const raw = number === 0 ? 0 : whole.reduce((sum, f) => sum + (f.kind === FrameKind.DATA ? f.rawLength : 0), 0);
        assert.ok(bytes.equals(content.subarray(0, raw)), `${length} bytes`);
      }
    });

    it(`wrong in any single bit are refused: ${codec}`, async () => {
      const { content, frames } = await small(codec);
      for (let bit = 0; bit < frames.length * 8; bit++) {
        const damaged = Buffer.from(frames);
        damaged[bit >> 3]! ^= 1 << (bit & 7);
        const { bytes, error } = await tryDecode(damaged, { threads: 1 });
        assert.equal(error?.code, 'FRAMES_DAMAGED', `bit ${bit}: ${error?.message ?? 'it was taken'}`);
        assert.match(error.message, /^frame \d+ at byte \d+: /);
        assert.ok(bytes.equals(content.subarray(0, bytes.length)), `bit ${bit}: a wrong byte came out`);
      }
    });
  }

  it('damaged in the middle of a long stream are refused there, and all before them comes out', async () => {
    const content = noise(3_000_000);
    const frames = await encoded(content, { frameSize: 64 << 10, codec: 'lz4' });
    const all = readFrames(frames);
    for (const number of [1, 20, all.length - 2]) {
      const { at, offset } = all[number]!;
      const damaged = Buffer.from(frames);
      damaged[at + 1000]! ^= 4;
      const { bytes, error } = await tryDecode(damaged, { threads: 3 });
      assert.deepEqual([error?.code, error?.frame, error?.offset], ['FRAMES_DAMAGED', number, at]);
      assert.ok(bytes.equals(content.subarray(0, offset)), `${bytes.length} bytes came out, not ${offset}`);
    }
  });
});

describe('a stream', () => {
  const stream = (...pieces: Piece[]): Buffer => writeStream(CONTENT, pieces);

  it('with frames of unknown skippable types is decoded without them', async () => {
    for (const kind of [0x80, 0x81, 0xff]) {
      const extra: Piece = { kind, payload: noise(100, kind) };
      assert.ok((await decoded(stream(extra, STORED, extra, extra))).equals(CONTENT));
      assert.ok((await decoded(stream(extra, { ...extra, payload: noise(65_536) }, STORED))).equals(CONTENT));
    }
  });

  it('with frames of unknown types that may not be skipped is refused', async () => {
    for (const kind of [0, 6, 0x7f]) {
      await refused(stream({ kind, payload: noise(10) }, STORED), 'FRAMES_UNSUPPORTED', /frame type 0x.*newer/);
      const bytes = await refused(stream(STORED, { kind }), 'FRAMES_UNSUPPORTED', /frame type 0x.*newer/);
      assert.ok(bytes.equals(CONTENT));
    }
  });

  it('of another major version is refused, and one of a later minor version is not', async () => {
    for (const major of [0, 2, 255]) {
      const frames = writeStream(CONTENT, [STORED], startPayload({ major, minor: 3 }));
      await refused(frames, 'FRAMES_UNSUPPORTED', new RegExp(`version is ${major}\\.3`));
    }
    const noBase = Buffer.alloc(26);
    const later = Buffer.concat([startPayload({ minor: 9 }), noBase, noise(20)]);
    assert.ok((await decoded(writeStream(CONTENT, [STORED], later))).equals(CONTENT));
  });

  it('with a codec of a later version is refused', async () => {
    for (const codec of [4, 255]) {
      const piece: Piece = { kind: FrameKind.DATA, codec, payload: noise(100), rawLength: 300 };
      await refused(stream(piece), 'FRAMES_UNSUPPORTED', /codec \d+ is not known.*newer/);
    }
  });

  it('with a payload that its codec cannot unpack, or not to the length that is said, is refused', async () => {
    const zlib = deflateSync(CONTENT);
    const pieces: [payload: Buffer, rawLength: number, codec: number][] = [
      [noise(100), 300, CodecNumber.lz4],
      [noise(100), 300, CodecNumber.zlib],
      [noise(100), 300, CodecNumber.zstd],
      [zlib, CONTENT.length - 1, CodecNumber.zlib],
      [zlib, CONTENT.length + 1, CodecNumber.zlib],
      [zlib.subarray(0, -1), CONTENT.length, CodecNumber.zlib],
      [Buffer.alloc(0), 300, CodecNumber.zstd],
    ];
    for (const [payload, rawLength, codec] of pieces) {
      const bytes = await refused(
        stream({ kind: FrameKind.DATA, codec, payload, rawLength }),
        'FRAMES_DAMAGED',
        /^frame 1 at byte 64: the payload cannot be unpacked with (lz4|zlib|zstd): /,
      );
      assert.equal(bytes.length, 0);
    }
  });

  it('with lengths, flags or reserved fields that may not be is refused before memory is taken', async () => {
    const fields: [wrong: Omit<Partial<FrameFields>, 'kind'>, message: RegExp][] = [
      [{ rawLength: 0xffff_ffff, packedLength: 0xffff_ffff }, /raw length is 4294967295/],
      [{ rawLength: (4 << 20) + 1 }, /raw length is 4194305/],
      [{ rawLength: (1 << 20) + 1, codec: CodecNumber.zstd }, /raw length is 1048577.*at most 1048576/],
      [{ packedLength: 0xffff_ffff, codec: CodecNumber.zstd }, /packed length is 4294967295/],
      [{ packedLength: 301, codec: CodecNumber.zstd }, /packed length is 301/],
      [{ rawLength: 400 }, /packed length of a stored frame is 300/],
      [{ flags: 1 }, /flags field is 1/],
      [{ reserved: 0x100 }, /reserved field is 256/],
      [{ channel: 1 }, /channel 0, found one of channel 1/],
    ];
    const before = process.memoryUsage.rss();
    for (const [wrong, message] of fields) {
      const bytes = await refused(stream({ ...STORED, ...wrong }), 'FRAMES_DAMAGED', message);
      assert.equal(bytes.length, 0);
    }
    const tooLong = [
      [FrameKind.ABORT, 65_537],
      [0x80, (4 << 20) + 1],
    ] as const;
    for (const [kind, length] of tooLong) {
      const frames = stream({ kind, rawLength: length, packedLength: length });
      await refused(frames, 'FRAMES_DAMAGED', new RegExp(`raw length is ${length}`));
    }
    for (const frameSize of [0, 4095, (4 << 20) + 1, 0xffff_ffff]) {
      const frames = writeStream(CONTENT, [STORED], startPayload({ frameSize }));
      await refused(frames, 'FRAMES_DAMAGED', /frame size/);
    }
    assert.ok(process.memoryUsage.rss() - before < 64 << 20);
  });

  it('whose frames are missing, doubled or in another order is refused', async () => {
    const content = noise(4096 * 4);
    const frames = await encoded(content, { frameSize: 4096, codec: 'none' });
    const all = readFrames(frames);
    const cut = all.map(({ at }, i) => frames.subarray(at, all[i + 1]?.at));
    const order = (...numbers: number[]): Buffer =>
      Buffer.concat(numbers.map((number) => cut[number] ?? Buffer.alloc(0)));
    assert.ok((await decoded(order(0, 1, 2, 3, 4, 5))).equals(content));
    const wrong = [
      ...[
        [1, 2, 3, 4, 5],
        [0, 2, 3, 4, 5],
        [0, 1, 2, 4, 3, 5],
        [0, 1, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 5],
      ],
      ...[[0, 0, 1, 2, 3, 4, 5], [5], [0, 5]],
    ];
    for (const numbers of wrong) {
      await refused(order(...numbers), 'FRAMES_DAMAGED', /: expected .*, found /, content);
    }
  });

  it('whose end mark tells other totals or another content is refused', async () => {
    const start = frame({ kind: FrameKind.START, payload: startPayload() });
    const data = frame({ ...STORED, sequence: 1 });
    const end = (payload: Buffer): Buffer =>
      Buffer.concat([start, data, frame({ kind: FrameKind.END, payload, sequence: 2, offset: CONTENT.length })]);
    assert.ok((await decoded(end(endPayload(CONTENT, 2)))).equals(CONTENT));
    const others: [payload: Buffer, message: RegExp][] = [
      [endPayload(CONTENT, 3), /end mark says 3 for the number of frames/],
      [endPayload(CONTENT.subarray(1), 2), /end mark says 299 for the bytes/],
      [endPayload(noise(300), 2), /for the content hash/],
      [endPayload(CONTENT, 2, 2), /ending is 2/],
      [endPayload(CONTENT, 2).subarray(0, 47), /END payload's length is 47/],
    ];
    for (const [payload, message] of others) await refused(end(payload), 'FRAMES_DAMAGED', message);
  });

  it('followed by another is decoded to both, by anything else is refused', async () => {
    const second = text(5000, 7);
    const two = Buffer.concat([stream(STORED), await encoded(second), await encoded(Buffer.alloc(0)), stream(STORED)]);
    assert.ok((await decoded(two)).equals(Buffer.concat([CONTENT, second, CONTENT])));

    const both = Buffer.concat([CONTENT, CONTENT]);
    for (const garbage of [Buffer.alloc(1), Buffer.alloc(100), text(1000)]) {
      const bytes = await refused(
        Buffer.concat([stream(STORED), garbage]),
        ['FRAMES_DAMAGED', 'FRAMES_TRUNCATED'],
        /^frame 3 at byte/,
        both,
      );
      assert.ok(bytes.equals(CONTENT));
    }
    const bytes = await refused(
      Buffer.concat([stream(STORED), frame({ ...STORED, sequence: 3, offset: 300 })]),
      'FRAMES_DAMAGED',
      /expected the end of the input, or the START of another stream, found DATA/,
      both,
    );
    assert.ok(bytes.equals(CONTENT));
  });

  it('that is a text file, or noise, is told to be none of ours', async () => {
    for (const file of [text(5000), noise(5000), Buffer.from('QEVM\0\0\0\x03'), Buffer.from('once')]) {
      await refused(file, 'FRAMES_DAMAGED', /^frame 0 at byte 0: expected a frame .*not a pagewire stream/);
    }
    await refused(Buffer.alloc(0), 'FRAMES_TRUNCATED', /the input is empty/);
  });

  it('that its sender gave up says so, with the reason', async () => {
    const folder = openSync(tmpdir(), 'r');
    const output = new Collector();
    const encoder = createEncoder({ input: folder, output });
    await assert.rejects(encoder.done, { code: 'READ_FAILED', message: /cannot read the input at byte 0/ });
    closeSync(folder);
    assert.equal(readFrames(output.bytes).at(-1)?.kind, FrameKind.ABORT);
    await refused(output.bytes, 'SENDER_STOPPED', /the sender stopped before the end of its input: cannot read/);

    const bytes = await refused(
      Buffer.concat([
        frame({ kind: FrameKind.START, payload: startPayload() }),
        frame({ ...STORED, sequence: 1 }),
        frame({
          kind: FrameKind.ABORT,
          payload: Buffer.from('a \x1b[31mred\x1b[0m reason\n'),
          sequence: 2,
          offset: 300,
        }),
      ]),
      'SENDER_STOPPED',
      /a \\u\{1b\}\[31mred.*reason\\n$/,
    );
    assert.ok(bytes.equals(CONTENT));
  });
});

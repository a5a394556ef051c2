// A reader and a writer of frames, written from docs/format.md alone and with other hash functions than ours, so that it
// can judge what the native core writes and make what the native core must read.
import assert from 'node:assert/strict';
import { createXXHash3, createXXHash128 } from 'hash-wasm';

export const HEADER_BYTES = 48;
const MAGIC = 0x46_57_50_f3; // f3 50 57 46

export const FrameKind = { START: 1, DATA: 2, END: 3, ABORT: 4, MATCHED: 5 } as const;
/** Types from here on may be skipped by a reader that does not know them. */
const SKIPPABLE = 0x80;
export const CodecNumber = { none: 0, lz4: 1, zlib: 2, zstd: 3 } as const;

export interface Frame {
  kind: number;
  codec: number;
  level: number;
  sequence: number;
  /** Where its first raw byte stands in the original stream. */
  offset: number;
  rawLength: number;
  payload: Buffer;
  /** Where its header begins in the file. */
  at: number;
}

const xxh3 = await createXXHash3();
const xxh128 = await createXXHash128();

/** XXH3-64 as a number for writeBigUInt64LE. */
function hash64(bytes: Uint8Array): bigint {
  return BigInt(`0x${xxh3.init().update(bytes).digest('hex')}`);
}

/** XXH3-128 as the 16 bytes that END holds: the lower half first, each little-endian. */
function hash128(bytes: Uint8Array): Buffer {
  return Buffer.from(xxh128.init().update(bytes).digest('hex'), 'hex').reverse();
}

/** All frames of one stream, with every checksum and every field that has one meaning held against docs/format.md. */
export function readFrames(file: Buffer): Frame[] {
  const frames: Frame[] = [];
  let offset = 0;
  for (let at = 0; at < file.length;) {
    const header = file.subarray(at, at + HEADER_BYTES);
    assert.equal(header.length, HEADER_BYTES, `a whole header at ${at}`);
    assert.equal(header.readUInt32LE(0), MAGIC, `the magic at ${at}`);
    assert.equal(header.readBigUInt64LE(40), hash64(header.subarray(0, 40)), `the header's checksum at ${at}`);
    assert.equal(header[5], 0, 'flags');
    assert.equal(header.readUInt16LE(8), 0, 'channel');
    assert.equal(header.readUInt16LE(10), 0, 'reserved');
    const frame: Frame = {
      kind: header.readUInt8(4),
      codec: header.readUInt8(6),
      level: header.readInt8(7),
      sequence: header.readUInt32LE(12),
      offset: Number(header.readBigUInt64LE(16)),
      rawLength: header.readUInt32LE(24),
      payload: file.subarray(at + HEADER_BYTES, at + HEADER_BYTES + header.readUInt32LE(28)),
      at,
    };
    assert.equal(frame.payload.length, header.readUInt32LE(28), `a whole payload at ${at}`);
    assert.equal(header.readBigUInt64LE(32), hash64(frame.payload), `the payload's checksum at ${at}`);
    assert.equal(frame.sequence, frames.length, 'sequence');
    assert.equal(frame.offset, offset, 'offset');
    if (frame.kind === FrameKind.MATCHED) {
      offset += frame.rawLength;
      assert.ok(frame.payload.length <= frame.rawLength, 'references take no more than what they stand for');
    } else if (frame.kind === FrameKind.DATA) {
      offset += frame.rawLength;
      if (frame.codec === CodecNumber.none) assert.equal(frame.payload.length, frame.rawLength);
      else assert.ok(frame.payload.length < frame.rawLength, 'a packed frame is smaller than what is in it');
    } else {
      assert.equal(frame.codec, CodecNumber.none);
      assert.equal(frame.payload.length, frame.rawLength);
    }
    frames.push(frame);
    at += HEADER_BYTES + frame.payload.length;
  }
  assert.equal(frames[0]?.kind, FrameKind.START, 'the first frame is START');
  return frames;
}

/** The DATA and MATCHED frames between START and END, which are held against `content`; others are skipped. */
export function readStream(file: Buffer, content: Uint8Array): Frame[] {
  const frames = readFrames(file);
  const end = frames.pop();
  const start = frames.shift();
  assert.ok(start !== undefined && end !== undefined);
  assert.equal(start.payload[0], 1, 'major version');
  const frameSize = start.payload.readUInt32LE(4);
  const data = frames.filter(({ kind }) => kind < SKIPPABLE);
  for (const { kind, rawLength } of data) {
    assert.ok(
      kind === FrameKind.DATA || (kind === FrameKind.MATCHED && start.payload[1] === 1),
      `a frame of type ${kind}`,
    );
    assert.ok(rawLength > 0 && rawLength <= frameSize, `${rawLength} bytes in a frame of at most ${frameSize}`);
  }
  assert.equal(end.kind, FrameKind.END);
  assert.equal(Number(end.payload.readBigUInt64LE(0)), content.length, 'the total of bytes');
  assert.equal(Number(end.payload.readBigUInt64LE(8)), frames.length + 1, 'the total of frames');
  assert.deepEqual(end.payload.subarray(16, 32), hash128(content), "the content's hash");
  return data;
}

/** What stands in a header; all of it can be said, right or wrong. The checksums come out right. */
export interface FrameFields {
  kind: number;
  payload?: Uint8Array;
  codec?: number;
  level?: number;
  flags?: number;
  channel?: number;
  reserved?: number;
  sequence?: number;
  offset?: number;
  rawLength?: number;
  packedLength?: number;
}

export function frame(fields: FrameFields): Buffer {
  const payload = fields.payload ?? Buffer.alloc(0);
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt8(fields.kind, 4);
  header.writeUInt8(fields.flags ?? 0, 5);
  header.writeUInt8(fields.codec ?? 0, 6);
  header.writeInt8(fields.level ?? 0, 7);
  header.writeUInt16LE(fields.channel ?? 0, 8);
  header.writeUInt16LE(fields.reserved ?? 0, 10);
  header.writeUInt32LE(fields.sequence ?? 0, 12);
  header.writeBigUInt64LE(BigInt(fields.offset ?? 0), 16);
  header.writeUInt32LE(fields.rawLength ?? payload.length, 24);
  header.writeUInt32LE(fields.packedLength ?? payload.length, 28);
  header.writeBigUInt64LE(hash64(payload), 32);
  header.writeBigUInt64LE(hash64(header.subarray(0, 40)), 40);
  return Buffer.concat([header, payload]);
}

export function startPayload({ major = 1, minor = 0, frameSize = 1 << 20 } = {}): Buffer {
  const payload = Buffer.alloc(16);
  payload[0] = major;
  payload[1] = minor;
  payload.writeUInt32LE(frameSize, 4);
  return payload;
}

export function endPayload(content: Uint8Array, frames: number, ending = 0): Buffer {
  const payload = Buffer.alloc(48);
  payload.writeBigUInt64LE(BigInt(content.length), 0);
  payload.writeBigUInt64LE(BigInt(frames), 8);
  hash128(content).copy(payload, 16);
  payload[32] = ending;
  return payload;
}

/** A piece of a stream as a test packs it, or any other frame between START and END. */
export type Piece = Omit<FrameFields, 'sequence' | 'offset'>;

/** START, the pieces in their order, END: what an encoder would write of `content`. */
export function writeStream(content: Uint8Array, pieces: Piece[], start: Buffer = startPayload()): Buffer {
  const frames = [frame({ kind: FrameKind.START, payload: start })];
  let offset = 0;
  for (const piece of pieces) {
    frames.push(frame({ ...piece, sequence: frames.length, offset }));
    if (piece.kind === FrameKind.DATA) offset += piece.rawLength ?? piece.payload?.length ?? 0;
  }
  const payload = endPayload(content, frames.length);
  frames.push(frame({ kind: FrameKind.END, payload, sequence: frames.length, offset }));
  return Buffer.concat(frames);
}

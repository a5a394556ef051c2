// A reader of frames with references, written from docs/format.md alone, to judge what the native core writes.
import assert from 'node:assert/strict';
import { decompress } from 'fzstd';
import { CodecNumber, type Frame, FrameKind } from './frames.js';

const GRANULE = 32;
const SHORTEST = 32;

function unpacked(codec: number, packed: Uint8Array): Buffer {
  if (codec === CodecNumber.none) return Buffer.from(packed);
  assert.equal(codec, CodecNumber.zstd, 'tests of references use zstd');
  return Buffer.from(decompress(packed));
}

/** Numbers of 7 bits a byte, from `at` on. */
function numbers(list: Buffer): bigint[] {
  const found: bigint[] = [];
  for (let at = 0; at < list.length;) {
    let number = 0n;
    for (let shift = 0n, more = true; more; shift += 7n, at++) {
      const byte = list[at];
      assert.ok(byte !== undefined && shift < 64n, 'a number that ends');
      number |= BigInt(byte & 0x7f) << shift;
      more = byte >= 0x80;
    }
    found.push(number);
  }
  return found;
}

/** What frames give back, every rule of docs/format.md, "References", held against them. */
export function restored(frames: Frame[], window: number): { original: Buffer; references: number } {
  const last = frames.at(-1);
  const original = Buffer.alloc(last === undefined ? 0 : last.offset + last.rawLength);
  const literal = new Uint8Array(Math.ceil(original.length / GRANULE)); // by granule
  let references = 0;

  const put = (bytes: Buffer, at: number): void => {
    bytes.copy(original, at);
    const end = Math.floor((at + bytes.length) / GRANULE);
    for (let granule = Math.ceil(at / GRANULE); granule < end; granule++) literal[granule] = 1;
  };
  for (const { kind, codec, offset, rawLength, payload } of frames) {
    if (kind === FrameKind.DATA) {
      put(unpacked(codec, payload), offset);
      continue;
    }
    assert.equal(kind, FrameKind.MATCHED);
    const length = payload.readUInt32LE(0);
    assert.ok(length < rawLength, 'the body is shorter than the frame');
    const body = unpacked(codec, payload.subarray(4));
    assert.equal(body.length, length, "the body's length");
    const listEnd = 4 + body.readUInt32LE(0);
    const list = numbers(body.subarray(4, listEnd));
    assert.equal(list.length % 3, 0, 'three numbers a reference');
    let [at, from, before] = [offset, listEnd, 0n];
    const copies: [to: number, from: number, length: number][] = [];
    for (let i = 0; i < list.length; i += 3) {
      const [literals = 0n, less = 0n, where = 0n] = list.slice(i, i + 3);
      put(body.subarray(from, from + Number(literals)), at);
      from += Number(literals);
      at += Number(literals);
      const place: bigint = where === 0n ? before : where;
      before = place;
      assert.equal(place & 3n, 1n, 'the window');
      const [distance, count] = [Number(place >> 2n), Number(less) + SHORTEST];
      assert.ok(distance >= count && distance <= at, `a reference ${distance} back at ${at}`);
      assert.ok(at - distance >= offset - window, `within the window of ${window}`);
      copies.push([at, at - distance, count]);
      at += count;
      references++;
    }
    put(body.subarray(from), at);
    assert.equal(at + body.length - from, offset + rawLength, 'all of the frame');
    for (const [to, target, count] of copies) {
      const granules = literal.subarray(Math.floor(target / GRANULE), Math.ceil((target + count) / GRANULE));
      assert.ok(!granules.includes(0), `only literals from ${target} on`);
      original.copy(original, to, target, target + count);
    }
  }
  return { original, references };
}

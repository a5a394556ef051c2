import { PagewireError } from '../../errors.js';
import { native, type NativePairs } from '../../native.js';
import { codecNumber } from '../../codecs.js';
import {
  BLOCK_SIZE,
  type BlockVariant,
  type DeltaVariant,
  type NativeBlockVariant,
  type NativeDeltaVariant,
} from '../variant.js';

/** Pieces of one size that lie one behind the other; a result as long as its piece is the piece itself. */
export interface Batch {
  /** Bytes of a piece. */
  readonly piece: number;
  /** What is encoded, and what must come back. */
  readonly raw: Buffer;
  /** Encodes the pieces from byte `from` to `to`, into `out`, which is as long; the sum of `lengths`. */
  encode(from: number, to: number, out: Buffer, lengths: Uint32Array): number;
  /** Decodes them again. */
  decode(from: number, to: number, packed: Buffer, lengths: Uint32Array, out: Buffer): void;
}

export function blockBatch(variant: BlockVariant | NativeBlockVariant, raw: Buffer): Batch {
  const piece = variant.blockSize ?? BLOCK_SIZE;
  if ('codec' in variant) {
    const codec = new native.NativeBlockCodec(codecNumber(variant.codec), variant.level, piece);
    return {
      piece,
      raw,
      encode: (from, to, out, lengths) => codec.pack(raw.subarray(from, to), out, lengths),
      decode: (_from, _to, packed, lengths, out) => {
        codec.unpack(packed, lengths, out);
      },
    };
  }
  return eachPiece(
    piece,
    raw,
    (block) => variant.pack(block),
    (packed, _at, bytes) => variant.unpack(packed, bytes),
  );
}

/** For pages of `page` bytes. */
export function deltaBatch(variant: DeltaVariant | NativeDeltaVariant, pairs: NativePairs, page: number): Batch {
  if ('rival' in variant) {
    const codec = new native.NativeDeltaCodec(variant.rival, variant.level, page);
    return {
      piece: page,
      raw: pairs.new,
      encode: (from, to, out, lengths) =>
        codec.encode(pairs.old.subarray(from, to), pairs.new.subarray(from, to), out, lengths),
      decode: (from, to, deltas, lengths, out) => {
        codec.decode(deltas, lengths, pairs.old.subarray(from, to), out);
      },
    };
  }
  const old = (at: number): Buffer => pairs.old.subarray(at, at + page);
  return eachPiece(
    page,
    pairs.new,
    (fresh, at) => variant.encode(old(at), fresh),
    (delta, at) => variant.decode(old(at), delta),
  );
}

/** What a variant gives: nobody's compiler may have seen it. */
function bytesOf(made: unknown): Uint8Array {
  if (made instanceof Uint8Array) return made;
  // What becomes of it later is nobody's business any more.
  if (made instanceof Promise) made.catch(() => undefined);
  const what = made instanceof Promise ? 'a promise' : made === null ? 'null' : typeof made;
  throw new PagewireError('INTERNAL', `it gave ${what}: a Uint8Array is needed, at once`);
}

/** What JavaScript does piece by piece. Each result is copied once, out of whatever memory it came in. */
function eachPiece(
  piece: number,
  raw: Buffer,
  encode: (piece: Buffer, at: number) => Uint8Array,
  decode: (packed: Buffer, at: number, bytes: number) => Uint8Array,
): Batch {
  return {
    piece,
    raw,
    encode(from, to, out, lengths) {
      let used = 0;
      for (let at = from, index = 0; at < to; at += piece, index++) {
        const source = raw.subarray(at, Math.min(at + piece, to));
        const made = bytesOf(encode(source, at));
        const result = made.length < source.length ? made : source;
        out.set(result, used);
        lengths[index] = result.length;
        used += result.length;
      }
      return used;
    },
    decode(from, to, packed, lengths, out) {
      let used = 0;
      for (let at = from, index = 0; at < to; at += piece, index++) {
        const bytes = Math.min(piece, to - at);
        const length = lengths[index]!;
        const source = packed.subarray(used, used + length);
        const made = length === bytes ? source : bytesOf(decode(source, at, bytes));
        if (made.length !== bytes) {
          throw new PagewireError('INTERNAL', `a piece of ${bytes} bytes came back as ${made.length}`);
        }
        out.set(made, at - from);
        used += length;
      }
    },
  };
}

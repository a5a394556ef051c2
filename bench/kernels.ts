/**
 * What is called from JavaScript, beside its peers: `npm run bench:kernels`, which then runs the Rust side's.
 *
 * Blocks of a guest's pages are packed and unpacked, and deltas made and applied, through the binding; beside them
 * lz4-napi and node:zlib at their like levels. What each case made is decoded and compared before it is measured.
 */
import assert from 'node:assert/strict';
import { cpus } from 'node:os';
import { deflateSync, inflateSync } from 'node:zlib';
import Benchmark from 'benchmark';
import lz4 from 'lz4-napi';
import { codecNumber } from '#src/codecs.js';
import { native } from '#src/native.js';

const PAGE = 4096;
const BLOCK = 1 << 20;

/** Rows of a few digits and letters, the same in each run: a splitmix of 32 bits. */
function rows(bytes: number): Buffer {
  let state = 7;
  const random = (): number => {
    state = (state + 0x9e3779b9) | 0;
    const z = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    return (z ^ (z >>> 15)) >>> 0;
  };
  const made = Buffer.alloc(bytes, ' ');
  for (let at = 0; at < bytes; at += 64) {
    made.write(String(random()).padStart(10, '0'), at);
    made.writeUInt32LE(random(), at + 16);
    made.writeUInt32LE(random(), at + 20);
    made.write('user', at + 40);
  }
  return made;
}

const raw = rows(BLOCK);
/** The same pages after a counter in each has gone on. */
const later = Buffer.from(raw);
for (let at = 0; at < BLOCK; at += PAGE) later.writeUInt32LE((later.readUInt32LE(at + 520) + 1) >>> 0, at + 520);

const cases: [name: string, run: () => void][] = [];

for (const name of ['lz4', 'zlib', 'zstd'] as const) {
  const codec = new native.NativeBlockCodec(codecNumber(name), 1, BLOCK);
  const [packed, lengths, back] = [Buffer.alloc(BLOCK), new Uint32Array(1), Buffer.alloc(BLOCK)];
  const size = codec.pack(raw, packed, lengths);
  const made = Buffer.from(packed.subarray(0, size));
  codec.unpack(made, lengths, back);
  assert(back.equals(raw), `${name}: other bytes`);
  cases.push([`pack, ${name} 1`, () => codec.pack(raw, packed, lengths)]);
  cases.push([
    `unpack, ${name} 1`,
    () => {
      codec.unpack(made, lengths, back);
    },
  ]);
}

for (const [name, pack, unpack] of [
  ['lz4-napi', (bytes: Buffer) => lz4.compressSync(bytes), (bytes: Buffer) => lz4.uncompressSync(bytes)],
  ['node:zlib 1', (bytes: Buffer) => deflateSync(bytes, { level: 1 }), (bytes: Buffer) => inflateSync(bytes)],
] as const) {
  const made = pack(raw);
  assert(unpack(made).equals(raw), `${name}: other bytes`);
  cases.push([`pack, ${name}`, () => pack(raw)]);
  cases.push([`unpack, ${name}`, () => unpack(made)]);
}

for (const rival of ['xbzrle', 'xor+lz4'] as const) {
  const codec = new native.NativeDeltaCodec(rival, 1, PAGE);
  const [deltas, lengths, back] = [Buffer.alloc(BLOCK), new Uint32Array(BLOCK / PAGE), Buffer.alloc(BLOCK)];
  const size = codec.encode(raw, later, deltas, lengths);
  const made = Buffer.from(deltas.subarray(0, size));
  codec.decode(made, lengths, raw, back);
  assert(back.equals(later), `${rival}: other bytes`);
  cases.push([`delta, ${rival}`, () => codec.encode(raw, later, deltas, lengths)]);
  cases.push([
    `apply, ${rival}`,
    () => {
      codec.decode(made, lengths, raw, back);
    },
  ]);
}

console.log(
  `${cpus()[0]?.model ?? '?'}, Node ${process.version}: MB/s of raw bytes, 1 MiB a call, through the binding`,
);
const suite = new Benchmark.Suite();
for (const [name, run] of cases) suite.add(name, run);
suite.on('cycle', ({ target }: { target: Benchmark }) => {
  const { stats, name, hz } = target;
  console.log(`${name?.padEnd(20)}${((hz * BLOCK) / 1e6).toFixed(0).padStart(8)}   ± ${stats.rme.toFixed(1)} %`);
});
suite.run();

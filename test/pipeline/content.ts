// What the tests send: the same bytes on every run.
import { Random } from '#src/simulator/random.js';
import { SimulatedGuest, type SimulatedGuestOptions } from '#src/simulator/guest.js';

/** Bytes that no codec makes smaller. */
export function noise(length: number, seed = 1): Buffer {
  const words = new Uint32Array(Math.ceil(length / 4));
  new Random(seed).fill(words);
  return Buffer.from(words.buffer, 0, length);
}

/** Rows of text, about a quarter of their size with any codec. */
export function text(length: number, seed = 1): Buffer {
  const random = new Random(seed);
  const rows: string[] = [];
  for (let bytes = 0; bytes < length;) {
    const row = `row=${random.below(1e6)} account=${random.below(1e4)} state=${random.below(2) === 0 ? 'OPEN' : 'PAID'}\n`;
    rows.push(row);
    bytes += row.length;
  }
  return Buffer.from(rows.join('')).subarray(0, length);
}

/** Text, noise and zeros in pieces of uneven size. */
export function mixed(length: number, seed = 1): Buffer {
  const random = new Random(seed);
  const pieces: Buffer[] = [];
  for (let bytes = 0; bytes < length;) {
    const size = 1 + random.below(100_000);
    const make = random.pick([
      [text, 1],
      [noise, 1],
      [(n: number) => Buffer.alloc(n), 1],
    ]);
    pieces.push(make(size, seed + bytes));
    bytes += size;
  }
  return Buffer.concat(pieces).subarray(0, length);
}

/** A guest's migration stream and the guest as it was at its end. */
export function simulated(options: SimulatedGuestOptions = {}): { guest: SimulatedGuest; stream: Buffer } {
  const guest = new SimulatedGuest({ ramBytes: 2 << 20, passes: 3, ...options });
  return { guest, stream: Buffer.concat([...guest.stream()]) };
}

const be = (bytes: number, value: number): Buffer => {
  const buffer = Buffer.alloc(bytes);
  buffer.writeUIntBE(value, Math.max(0, bytes - 6), Math.min(bytes, 6));
  return buffer;
};
const name = (of: string): Buffer => Buffer.concat([be(1, of.length), Buffer.from(of)]);

/** The beginning of a QEMU stream, cut between its elements. `ramBytes` is only declared. */
export function qemuElements(ramBytes = 1 << 20, pages = 3): Buffer[] {
  const address = (page: number, flags: number): Buffer => be(8, page * 4096 + flags);
  return [
    Buffer.concat([Buffer.from('QEVM'), be(4, 3)]),
    Buffer.concat([be(1, 7), be(4, 11), Buffer.from('pc-q35-10.0')]),
    Buffer.concat([be(1, 1), be(4, 2), name('ram'), be(4, 0), be(4, 4)]),
    be(8, ramBytes + 0x04),
    Buffer.concat([name('pc.ram'), be(8, ramBytes)]),
    be(8, 0x10),
    Buffer.concat([be(1, 0x7e), be(4, 2)]),
    Buffer.concat([be(1, 2), be(4, 2)]),
    Buffer.concat([address(0, 0x08), name('pc.ram'), text(4096)]),
    ...Array.from({ length: pages }, (_, i) => Buffer.concat([address(i + 1, 0x28), noise(4096, i + 1)])),
    Buffer.concat([address(pages + 1, 0x22), be(1, 0)]),
    be(8, 0x10),
    Buffer.concat([be(1, 0x7e), be(4, 2)]),
  ];
}

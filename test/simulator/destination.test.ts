import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { LoadError, SimulatedDestination } from '#src/simulator/destination.js';

const be = (bytes: number, value: number): Buffer => {
  const buffer = Buffer.alloc(bytes);
  buffer.writeUIntBE(value, Math.max(0, bytes - 6), Math.min(bytes, 6));
  return buffer;
};
const name = (text: string): Buffer => Buffer.concat([be(1, text.length), Buffer.from(text)]);

const HEADER = Buffer.concat([Buffer.from('QEVM'), be(4, 3)]);
const MACHINE = Buffer.concat([be(1, 7), be(4, 11), Buffer.from('pc-q35-11.1')]);
const EOS = be(8, 0x10);
const FOOTER = Buffer.concat([be(1, 0x7e), be(4, 1)]);
const SETUP = Buffer.concat([
  Buffer.concat([be(1, 1), be(4, 1), name('ram'), be(4, 0), be(4, 4)]),
  Buffer.concat([be(8, 0x3000 | 0x04), name('a'), be(8, 0x2000), name('b'), be(8, 0x1000)]),
  EOS,
  FOOTER,
]);
const PART = Buffer.concat([be(1, 2), be(4, 1)]);
const DEVICES = Buffer.from([4, 0, 0, 0, 9, 1, 2, 3]);

const page = (fill: number): Buffer => Buffer.alloc(4096, fill);
const xbzrle = (flags: number, ...bytes: number[]): Buffer =>
  Buffer.concat([
    be(8, flags | 0x40),
    flags & 0x20 ? Buffer.alloc(0) : name('a'),
    be(1, 1),
    be(2, bytes.length),
    Buffer.from(bytes),
  ]);

function load(...parts: Buffer[]): SimulatedDestination {
  const destination = new SimulatedDestination();
  destination.push(Buffer.concat([HEADER, MACHINE, SETUP, ...parts]));
  return destination;
}

describe('a simulated destination', () => {
  it('loads raw pages, filled pages and deltas', () => {
    const destination = load(
      PART,
      Buffer.concat([be(8, 0x1000 | 0x08), name('a'), page(7)]),
      Buffer.concat([be(8, 0x0000 | 0x22), be(1, 5)]),
      xbzrle(0x1020, 2, 3, 100, 101, 102, 0x80, 0x01, 1, 103),
      Buffer.concat([be(8, 0x0000 | 0x08), name('b'), page(9)]),
      EOS,
      FOOTER,
      DEVICES,
    );
    destination.end();
    const expected = page(7);
    expected.set([100, 101, 102], 2);
    expected[5 + 128] = 103;
    assert.deepEqual(destination.block('a'), Buffer.concat([page(5), expected]));
    assert.deepEqual(destination.block('b'), page(9));
    assert.deepEqual(destination.loaded, {
      bytes: destination.loaded.bytes,
      pages: 2,
      fillPages: 1,
      deltaPages: 1,
      deltaBytes: 9,
    });
  });

  it('loads the same however the stream is cut', () => {
    const parts = [
      ...[HEADER, MACHINE, SETUP, PART],
      Buffer.concat([be(8, 0x1000 | 0x08), name('a'), page(7)]),
      xbzrle(0x1020, 2, 3, 100, 101, 102),
      ...[EOS, FOOTER, PART, EOS, FOOTER, DEVICES],
    ];
    const stream = Buffer.concat(parts);
    const whole = new SimulatedDestination();
    whole.push(stream);
    for (const size of [1, 2, 3, 7, 4096, 4097]) {
      const cut = new SimulatedDestination();
      const borrowed = Buffer.alloc(size);
      for (let at = 0; at < stream.length; at += size) {
        // The same buffer each time: the destination keeps nothing of it.
        cut.push(borrowed.subarray(0, stream.copy(borrowed, 0, at, at + size)));
        cut.push(Buffer.alloc(0));
      }
      cut.end();
      assert.deepEqual(cut.digests(), whole.digests(), `chunks of ${size} bytes`);
      assert.equal(cut.deviceDigest(), whole.deviceDigest());
    }
  });

  it('takes streams without footers', () => {
    const destination = new SimulatedDestination();
    const setup = SETUP.subarray(0, SETUP.length - FOOTER.length);
    destination.push(Buffer.concat([HEADER, setup, PART, EOS, PART, EOS, Buffer.from([0])]));
    destination.end();
    assert.equal(destination.isRamComplete, true);
  });

  const refused: [what: string, why: RegExp, parts: Buffer[]][] = [
    ['an unknown block', /unknown block "c"/, [PART, be(8, 0x08), name('c'), page(0)]],
    ['a page that continues nothing', /continues no block/, [PART, be(8, 0x28), page(0)]],
    ['a page past its block', /past its block/, [PART, be(8, 0x2000 | 0x08), name('a'), page(0)]],
    ['an unknown record', /unknown kind 0x400/, [PART, be(8, 0x400), name('a')]],
    ['a part of another section', /unknown section 3/, [be(1, 2), be(4, 3)]],
    ['the footer of another section', /footer/, [PART, EOS, be(1, 0x7e), be(4, 2)]],
    ['an unknown section', /unknown section 0x55/, [Buffer.from([0x55])]],
    ['a delta past the page', /does not fit/, [PART, xbzrle(0, 0xff, 0x1f, 2, 1, 1)]],
    ['a delta that ends in a run', /does not fit/, [PART, xbzrle(0, 1, 3, 1)]],
    ['a delta that ends in a length', /ends within a run/, [PART, xbzrle(0, 1, 0x80)]],
    ['a delta that ends after what is unchanged', /ends within a run/, [PART, xbzrle(0, 1)]],
    ['a delta with a length of three bytes', /bad length/, [PART, xbzrle(0, 0x80, 0x80, 1, 1, 1)]],
    ['a delta with an empty run inside', /empty run/, [PART, xbzrle(0, 0, 1, 1, 0, 1, 1)]],
    ['a delta larger than a page', /more than a page/, [PART, xbzrle(0, ...Array<number>(4097).fill(1))]],
  ];
  for (const [what, why, parts] of refused) {
    it(`refuses ${what}`, () => {
      assert.throws(
        () => load(...parts),
        (error) => error instanceof LoadError && why.test(error.message),
      );
    });
  }

  it('refuses what is not a QEMU stream, and a stream that ends early', () => {
    assert.throws(() => {
      new SimulatedDestination().push(Buffer.from('no stream of QEMU'));
    }, /not a QEMU migration stream \(at byte \d+\)/);
    assert.throws(() => {
      load(PART, EOS).end();
    }, /before the guest is whole/);
  });
});

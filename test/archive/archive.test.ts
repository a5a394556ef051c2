// Files through the library and the command line, against the simulator's guests, which know nothing of them.
import assert from 'node:assert/strict';
import { closeSync, openSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { createEncoder, PagewireError, readInfo, readPage, salvage, verifyFile } from '#src/index.js';
import type { SimulatedGuest } from '#src/simulator/guest.js';
import { folder, PAGEWIRE, pagewire } from '../cli/command.js';
import { mixed, simulated } from '../pipeline/content.js';
import { HEADER_BYTES, readFrames } from '../pipeline/frames.js';

const isA = (code: string) => (error: unknown) => error instanceof PagewireError && error.code === code;

/** Some pages of each of the guest's blocks, as they were at the end. */
async function expectPages(file: string, guest: SimulatedGuest): Promise<void> {
  for (const { name, bytes } of guest.blocks) {
    for (const address of new Set([0, Math.floor(bytes.length / 8192) * 4096, bytes.length - 4096])) {
      const page = await readPage(file, { block: name, address });
      assert.ok(page.equals(bytes.subarray(address, address + 4096)), `${name} at ${address}`);
    }
  }
}

describe('a saved guest', () => {
  it('is told of, proved right, and read page by page, also with pages that went over twice', async (t) => {
    const at = folder(t);
    const { guest, stream } = simulated();
    writeFileSync(at('guest'), stream);
    assert.equal((await pagewire(t, ['-q', at('guest')])).code, 0);
    const file = at('guest.pw');
    const info = await readInfo(file);
    assert.equal(info.rawBytes, stream.length);
    assert.equal(info.fileBytes, statSync(file).size);
    assert.equal(info.index?.machine, 'pc-q35-10.0');
    assert.deepEqual(
      info.index.blocks.map(({ name, bytes }) => [name, bytes]),
      guest.blocks.map(({ name, bytes }) => [name, bytes.length]),
    );
    assert.equal(info.index.pagesWhole, guest.sent.pages);
    assert.equal(info.index.pagesFill, guest.sent.zeroPages);
    assert.equal(stream[info.index.deviceState ?? 0], 4);
    const verified = await verifyFile(file);
    assert.equal(verified.pages, guest.sent.pages + guest.sent.zeroPages);
    await expectPages(file, guest);
    await assert.rejects(readPage(file, { block: 'pc.rom', address: 1 << 30 }), isA('NOT_IN_FILE'));

    const listed = await pagewire(t, ['-l', file]);
    assert.equal(listed.code, 0, listed.stderr);
    assert.match(listed.stdout.toString(), /guest {6}pc-q35-10\.0, 18\.8 MiB of RAM: pc\.ram, vga\.vram/);
    const page = await pagewire(t, ['page', file, 'pc.ram', '0x1000']);
    assert.ok(page.stdout.equals(guest.blocks[0]?.bytes.subarray(4096, 8192) ?? Buffer.alloc(0)), page.stderr);
    assert.equal((await pagewire(t, ['-t', file])).code, 0);
  });

  it('is refused where it is none', async (t) => {
    const at = folder(t);
    writeFileSync(at('text'), 'no frames, but longer than the end mark of a file would be: '.repeat(9));
    await assert.rejects(readInfo(at('text')), isA('FRAMES_DAMAGED'));
    await assert.rejects(readInfo(at('nothing')), isA('OPEN_FAILED'));
    await assert.rejects(readInfo(at('.')), isA('OPEN_FAILED'));
    const { code, stderr } = await pagewire(t, ['-l', at('nothing')]);
    assert.equal(code, 2);
    assert.match(stderr, /nothing: cannot open: No such file/);
  });
});

describe('-t', () => {
  it('finds an index that tells of another stream, though every frame is right, in one file and in several streams', async (t) => {
    const at = folder(t);
    const { stream } = simulated({ passes: 0 });
    const changed = Buffer.from(stream);
    mixed(32, 1).copy(changed, 200_000);
    const index = (file: Buffer): number => readFrames(file).find(({ kind }) => kind === 0x81)!.at;
    // From a file, which never pauses: all frames are full ones.
    const saved = async (content: Buffer): Promise<Buffer> => {
      writeFileSync(at('stream'), content);
      const [input, output] = [openSync(at('stream'), 'r'), openSync(at('saved'), 'w')];
      await createEncoder({ input, output, delta: false, codec: 'none', index: true }).done;
      for (const fd of [input, output]) closeSync(fd);
      return readFileSync(at('saved'));
    };
    const [right, other] = [await saved(stream), await saved(changed)];
    assert.equal(index(right), index(other));
    const end = -2 * HEADER_BYTES;
    const wrong = Buffer.concat([
      right.subarray(0, index(right)),
      other.subarray(index(other), other.length + end),
      right.subarray(end),
    ]);
    assert.equal((await pagewire(t, ['-t'], { input: wrong })).code, 0);
    for (const [streams, code] of [
      [[right], 0],
      [[wrong], 4],
      [[right, right], 0],
      [[wrong, right], 4],
    ] as const) {
      writeFileSync(at('file.pw'), Buffer.concat(streams));
      const tested = await pagewire(t, ['-t', at('file.pw')]);
      assert.equal(tested.code, code, tested.stderr);
      if (code > 0)
        assert.match(tested.stderr, /^pagewire: .*the index at byte \d+ is damaged: it tells of other pages/);
    }
  });
});

describe('an incremental save', () => {
  it('is small, needs its base, and is made one file by flatten', async (t) => {
    const at = folder(t);
    const { stream } = simulated({ passes: 0 });
    writeFileSync(at('monday'), stream);
    assert.equal((await pagewire(t, ['-q', at('monday')])).code, 0);
    // 32 bytes in every 20th page.
    const changed = Buffer.from(stream);
    const every = 20 * 4104;
    for (let from = 200_000; from < stream.length - every; from += every) mixed(32, from).copy(changed, from);
    writeFileSync(at('tuesday'), changed);
    const saved = await pagewire(t, ['-q', '--base', at('monday.pw'), at('tuesday')]);
    assert.equal(saved.code, 0, saved.stderr);
    const size = (name: string): number => statSync(at(name)).size;
    assert.ok(size('tuesday.pw') * 10 < size('monday.pw'), `${size('tuesday.pw')} of ${size('monday.pw')}`);
    assert.match((await readInfo(at('tuesday.pw'))).base?.path ?? '', /monday\.pw$/);

    const restored = await pagewire(t, ['-dc', at('tuesday.pw')]);
    assert.ok(restored.stdout.equals(changed), restored.stderr);
    await verifyFile(at('tuesday.pw'));
    const flat = await pagewire(t, ['flatten', '-q', at('tuesday.pw'), '-o', at('flat.pw')]);
    assert.equal(flat.code, 0, flat.stderr);
    assert.equal((await readInfo(at('flat.pw'))).base, undefined);

    const over = await pagewire(t, ['-q', '-f', '--base', at('tuesday.pw'), at('monday')]);
    assert.deepEqual([over.code, size('monday.pw') > 1e6], [2, true], over.stderr);
    assert.match(over.stderr, /monday\.pw is its own base/);

    // Without its base, and with another in its place.
    renameSync(at('monday.pw'), at('moved.pw'));
    const missing = await pagewire(t, ['-dc', at('tuesday.pw')]);
    assert.deepEqual([missing.code, missing.stdout.length], [2, 0]);
    assert.match(missing.stderr, /its base .*monday\.pw is not found .*--base/);
    const named = await pagewire(t, ['-dc', '--base', at('moved.pw'), at('tuesday.pw')]);
    assert.ok(named.stdout.equals(changed), named.stderr);
    const decoded = await pagewire(t, ['decode', '-i', at('tuesday.pw'), '--base', at('moved.pw')]);
    assert.ok(decoded.stdout.equals(changed), decoded.stderr);
    const least = await pagewire(t, ['-dc', '--memory-limit', '200M', '--base', at('moved.pw'), at('tuesday.pw')]);
    assert.deepEqual([least.code, least.stdout.length], [5, 0]);
    assert.match(
      least.stderr,
      /takes \d+ bytes of memory, 83886080 of them for its base; there may be \d+ \(give a larger --memory-limit\)/,
    );
    await verifyFile(at('tuesday.pw'), { bases: [at('moved.pw')] });
    const wrong = await pagewire(t, ['-t', '--base', at('flat.pw'), at('tuesday.pw')]);
    assert.equal(wrong.code, 2);
    assert.match(wrong.stderr, /is not its base: expected [0-9a-f]{32}/);
    assert.ok((await pagewire(t, ['-dc', at('flat.pw')])).stdout.equals(changed));
  });
});

describe('a damaged file', () => {
  it('gives what is whole of it, and says what is lost', async (t) => {
    const at = folder(t);
    const bytes = mixed(3_500_000);
    writeFileSync(at('stream'), bytes);
    assert.equal((await pagewire(t, ['-q', at('stream')])).code, 0);
    const file = readFileSync(at('stream.pw'));
    const cut = file.subarray(0, Math.floor(file.length * 0.6));
    writeFileSync(at('cut.pw'), cut);
    const { code, stdout } = await pagewire(t, ['--salvage', at('cut.pw'), '-o', at('whole')]);
    assert.equal(code, 4);
    const whole = readFileSync(at('whole'));
    assert.ok(whole.length > 1_000_000 && bytes.subarray(0, whole.length).equals(whole));
    assert.match(stdout.toString(), new RegExp(`bytes 0 to ${whole.length - 1} of the stream are whole`));

    // In the middle, where the index tells what follows.
    file.writeUInt8(file.readUInt8(700_000) ^ 1, 700_000);
    writeFileSync(at('middle.pw'), file);
    const salvaged = await salvage(at('middle.pw'), { output: at('pieces') });
    assert.equal(salvaged.whole, false);
    assert.ok(salvaged.faults.length > 0 && salvaged.pieces.length > 0);
    for (const { offset, length, path = '' } of salvaged.pieces) {
      assert.ok(readFileSync(path).equals(bytes.subarray(offset, offset + length)), path);
    }
    // What is there is not replaced.
    await assert.rejects(salvage(at('middle.pw'), { output: at('pieces') }), {
      code: 'OPEN_FAILED',
      message: `${at('pieces')}: exists already`,
    });
    const nowhere = at('none/pieces');
    await assert.rejects(salvage(at('middle.pw'), { output: nowhere }), {
      code: 'OPEN_FAILED',
      message: `${nowhere}: cannot open: No such file or directory (os error 2)`,
    });
    assert.equal((await salvage(at('stream.pw'))).whole, true);
    assert.deepEqual(
      readdirSync(at('')).filter((name) => name.endsWith('.part')),
      [],
    );
  });

  it('says which file what is whole of it could not be written to, and leaves none', async (t) => {
    const at = folder(t);
    writeFileSync(at('stream'), mixed(3_500_000));
    assert.equal((await pagewire(t, ['-q', at('stream')])).code, 0);
    // A limit of 512 KiB on files stands for a full disk: no user needs to be root for it.
    const args = ['--salvage', at('stream.pw'), '-o', at('whole')];
    const command = ['-c', 'ulimit -f 512; exec "$@"', '-', process.execPath, PAGEWIRE, ...args];
    const { code, stderr } = await pagewire(t, command, { program: 'bash' });
    assert.equal(code, 1);
    assert.match(stderr, /\/whole: cannot write: File too large/);
    assert.deepEqual(readdirSync(at('')).sort(), ['stream', 'stream.pw']);
    await assert.rejects(salvage(at('stream.pw'), { output: '/dev/full' }), { code: 'OPEN_FAILED' });
  });
});

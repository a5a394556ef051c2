// Direct I/O: what is saved and restored pushes nothing else out of the page cache.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash, randomFillSync } from 'node:crypto';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { mixed, noise } from '../pipeline/content.js';
import { pagewire, Running } from './command.js';

const MiB = 2 ** 20;
const TMPFS = 0x0102_1994;

/** How much a save of random bytes writes here; `npm run test:full` saves 1 GiB. */
const SAVED = process.env['PAGEWIRE_TEST_FULL'] === '1' ? 1024 * MiB : 256 * MiB;

/** A folder on a disk: what a tmpfs holds is in the page cache and nowhere else. */
const parent = [tmpdir(), fileURLToPath(new URL('../../', import.meta.url))].find(
  (path) => statfsSync(path).type !== TMPFS,
);
const isCi = /^(1|true)$/i.test(process.env['CI'] ?? '');
const lacks =
  parent === undefined
    ? 'please set TMPDIR to a folder on a disk'
    : spawnSync('fincore', ['--version']).status === 0
      ? undefined
      : 'please install fincore (util-linux)';
const skip = lacks === undefined || isCi ? false : `PAGEWIRE-NOT-RUN direct I/O: ${lacks}`;

function folder(t: TestContext): (name: string) => string {
  const path = mkdtempSync(join(parent ?? tmpdir(), 'pagewire-direct-'));
  t.after(() => {
    rmSync(path, { recursive: true, force: true });
  });
  return (name) => join(path, name);
}

/** Bytes of a file in the page cache. */
function cached(path: string): number {
  const { status, stdout } = spawnSync('fincore', ['--bytes', '--noheadings', '--output', 'RES', path]);
  assert.equal(status, 0);
  return Number(stdout.toString());
}

function hashOf(path: string): string {
  const [hash, piece, fd] = [createHash('sha256'), Buffer.alloc(8 * MiB), openSync(path, 'r')];
  for (let n = 1; n > 0;) {
    n = readSync(fd, piece, 0, piece.length, null);
    hash.update(piece.subarray(0, n));
  }
  closeSync(fd);
  return hash.digest('hex');
}

describe('--direct', { skip }, () => {
  it('leaves a file that is saved, tested and restored out of the page cache, and others in it', async (t) => {
    const path = folder(t);
    const run = async (args: string[]): Promise<void> => {
      const { code, stderr } = await pagewire(t, args, { cwd: path('') });
      assert.deepEqual([code, stderr], [0, ''], args.join(' '));
    };
    writeFileSync(path('other'), noise(32 * MiB));
    // Random, so that nothing gets smaller; and behind a header of 48 bytes in each MiB, so that nothing is aligned.
    const saver = new Running(t, ['--direct', '-o', 'saved.pw'], { cwd: path(''), stdio: ['pipe', 'ignore', 'pipe'] });
    const [sent, piece] = [createHash('sha256'), Buffer.alloc(8 * MiB)];
    for (let at = 0; at < SAVED; at += piece.length) {
      sent.update(randomFillSync(piece));
      await new Promise((resolve) => saver.child.stdin?.write(piece, resolve));
    }
    saver.child.stdin?.end();
    const { code, stderr } = await saver.ended;
    assert.deepEqual([code, stderr], [0, '']);
    assert.ok(statSync(path('saved.pw')).size > SAVED);
    assert.ok(cached(path('saved.pw')) <= MiB, `${cached(path('saved.pw'))} bytes of the file are cached`);
    await run(['--direct', '-t', 'saved.pw']);
    await run(['--direct', '-d', 'saved.pw']);
    assert.equal(statSync(path('saved')).size, SAVED);
    for (const name of ['saved', 'saved.pw']) {
      assert.ok(cached(path(name)) <= MiB, `${cached(path(name))} bytes of ${name} are cached`);
    }
    // Others on this machine want memory, too.
    assert.ok(cached(path('other')) > 28 * MiB, `${cached(path('other'))} bytes of the other file are cached`);
    assert.equal(hashOf(path('saved')), sent.digest('hex'));
  });

  it('begins in the middle of a file, and leaves descriptors where it ended', async (t) => {
    const path = folder(t);
    const content = mixed(5_000_000);
    writeFileSync(path('in'), Buffer.concat([Buffer.from('skipped'), content]));
    const carry = async (args: string[], from: string, to: string, skip: number): Promise<void> => {
      const [input, output] = [openSync(path(from), 'r'), openSync(path(to), 'w')];
      readSync(input, Buffer.alloc(skip), 0, skip, null);
      writeSync(output, 'head');
      const running = new Running(t, ['--direct', ...args], { stdio: [input, output, 'pipe'] });
      const { code, stderr } = await running.ended;
      assert.deepEqual([code, stderr], [0, '']);
      assert.equal(readSync(input, Buffer.alloc(10), 0, 10, null), 0, 'the input is at its end');
      // What a decoder would not read.
      if (args.includes('-d')) writeSync(output, 'tail');
      for (const fd of [input, output]) closeSync(fd);
    };
    await carry([], 'in', 'saved', 7);
    await carry(['-d'], 'saved', 'restored', 4);
    const expected = Buffer.concat([Buffer.from('head'), content, Buffer.from('tail')]);
    assert.ok(readFileSync(path('restored')).equals(expected));
  });

  it('is for encode and decode too', async (t) => {
    const path = folder(t);
    writeFileSync(path('in'), mixed(3_000_000));
    for (const args of [
      ['encode', '-i', path('in'), '-o', path('frames')],
      ['decode', '-i', path('frames'), '-o', path('out')],
    ]) {
      const { code, stderr } = await pagewire(t, [...args, '--direct']);
      assert.deepEqual([code, stderr], [0, '']);
    }
    assert.ok(readFileSync(path('out')).equals(mixed(3_000_000)));
    assert.ok(cached(path('frames')) <= MiB);
  });
});

describe('--direct where it cannot be had', () => {
  it('is told once and goes without', async (t) => {
    const saved = await pagewire(t, ['--direct', '-c', '/proc/version']);
    assert.equal(saved.code, 0);
    assert.equal(saved.stderr, 'pagewire: /proc/version goes by the page cache: direct I/O (--direct) was refused\n');
    const quiet = await pagewire(t, ['--direct', '-qc', '/proc/version']);
    assert.deepEqual([quiet.code, quiet.stderr], [0, '']);
    // A pipe is in no page cache.
    const restored = await pagewire(t, ['--direct', '-dc'], { input: saved.stdout });
    assert.deepEqual([restored.code, restored.stderr], [0, '']);
    assert.ok(restored.stdout.equals(readFileSync('/proc/version')));
  });
});

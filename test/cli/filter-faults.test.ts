// What goes wrong while a file is made: nothing is left under its name, and the reason is told.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { EXIT } from '#src/control/exit.js';
import { mixed, noise, text } from '../pipeline/content.js';
import { Pipe } from '../pipeline/pipe.js';
import { type Ended, folder, pagewire, Running } from './command.js';

/** A disk of 2 MiB, where one may be made. */
function smallDisk(t: TestContext): ((name: string) => string) | undefined {
  const path = mkdtempSync(join(tmpdir(), 'pagewire-disk-'));
  const isMounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', path]).status === 0;
  t.after(() => {
    if (isMounted) spawnSync('umount', [path]);
    rmdirSync(path);
  });
  return isMounted ? (name) => join(path, name) : undefined;
}

const isRoot = process.getuid?.() === 0;

describe('a full disk', { skip: isRoot ? false : 'only root can mount a small disk' }, () => {
  for (const more of [[], ['--direct', '-q'], ['--fsync']]) {
    it(`leaves nothing under the name: pagewire ${more.join(' ')}`, async (t) => {
      const [path, disk] = [folder(t), smallDisk(t)];
      if (!disk) {
        t.skip('mounting is not allowed here');
        return;
      }
      const run = (...args: string[]): Promise<Ended> => pagewire(t, [...more, ...args], { cwd: disk('') });
      writeFileSync(path('noise'), noise(4_000_000));
      const saved = await run('-o', 'noise.pw', path('noise'));
      assert.equal(saved.code, EXIT.failed);
      assert.match(saved.stderr, /^pagewire: cannot write noise\.pw at byte \d+: No space left on device\n$/);
      assert.deepEqual(readdirSync(disk('')), []);

      writeFileSync(path('text.pw'), (await pagewire(t, ['-c'], { input: text(4_000_000) })).stdout);
      const restored = await run('-d', '-o', 'text', path('text.pw'));
      assert.equal(restored.code, EXIT.failed);
      assert.match(restored.stderr, /^pagewire: cannot write text at byte \d+: No space left on device\n$/);
      assert.deepEqual(readdirSync(disk('')), []);

      writeFileSync(disk('small'), text(100_000));
      assert.equal((await run('--rm', 'small')).code, EXIT.ok);
      assert.deepEqual(readdirSync(disk('')), ['small.pw']);
    });
  }
});

describe('an input that cannot be read to its end', () => {
  it('makes no file, and keeps nobody from the next one', async (t) => {
    const path = folder(t);
    const { code, stderr } = await pagewire(t, ['-o', 'memory.pw', '/proc/self/mem'], { cwd: path('') });
    assert.equal(code, EXIT.failed);
    assert.equal(stderr, 'pagewire: cannot read /proc/self/mem at byte 0: Input/output error\n');
    assert.deepEqual(readdirSync(path('')), []);
    writeFileSync(path('file'), text(1000));
    const both = await pagewire(t, ['-c', '/proc/self/mem', path('file')]);
    assert.equal(both.code, EXIT.failed);
    const restored = await pagewire(t, ['-dc'], { input: both.stdout });
    assert.equal(restored.code, EXIT.frames);
    assert.match(restored.stderr, /the sender stopped/);
  });
});

describe('a writer that is killed', () => {
  for (const signal of ['SIGKILL', 'SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    it(`by ${signal} leaves nothing under the name`, async (t) => {
      const path = folder(t);
      const saved = (await pagewire(t, ['-c'], { input: mixed(6_000_000) })).stdout;
      for (const [args, input] of [
        [['-o', 'out'], noise(5_000_000)],
        [['-d', '-o', 'out'], saved.subarray(0, -100)],
      ] as const) {
        const running = new Running(t, args, { cwd: path('') });
        running.child.stdin?.write(input);
        while (readdirSync(path('')).length === 0) await sleep(10);
        running.child.kill(signal);
        const ended = await running.ended;
        const code = { SIGKILL: null, SIGTERM: 143, SIGINT: 130, SIGHUP: 129 }[signal];
        assert.equal(ended.code, code);
        const left = readdirSync(path(''));
        assert.ok(!left.includes('out'));
        if (signal !== 'SIGKILL') assert.deepEqual(left, []);
        for (const name of left) assert.equal(spawnSync('rm', [path(name)]).status, 0);
      }
    });
  }
});

describe('a reader that goes', () => {
  it('ends both ways with one line and exit code 1', async (t) => {
    const content = noise(8_000_000);
    const saved = (await pagewire(t, ['-c'], { input: content })).stdout;
    for (const [args, input] of [
      [['-c'], content],
      [['-dc'], saved],
    ] as const) {
      const output = new Pipe(t);
      const running = new Running(t, args, { stdio: ['pipe', output.writeEnd, 'pipe'] });
      output.close(output.writeEnd);
      running.child.stdin?.end(input);
      await output.reader().has(1);
      output.close();
      const { code, stderr } = await running.ended;
      assert.equal(code, EXIT.failed);
      assert.match(stderr, /^pagewire: standard output was closed by its reader after \d+ bytes \(.*\)\n$/);
    }
  });
});

describe('a file that is cut short', () => {
  it('is told wherever that is, and is restored to no file', async (t) => {
    const path = folder(t);
    const content = text(300);
    const saved = (await pagewire(t, ['-c'], { input: content })).stdout;
    for (let length = 0; length < saved.length; length++) {
      const name = `${length}.pw`;
      writeFileSync(path(name), saved.subarray(0, length));
    }
    const files = readdirSync(path(''));
    const { code, stderr } = await pagewire(t, ['-d', ...files], { cwd: path('') });
    assert.equal(code, EXIT.frames);
    assert.equal(stderr.trimEnd().split('\n').length, files.length);
    assert.deepEqual(readdirSync(path('')), files);
    assert.ok(readFileSync(path(files[0] ?? '')).length < saved.length);
  });
});

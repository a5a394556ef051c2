// The installed filter: what comes through it, and how it fails. libvirt depends on the latter (docs/libvirt.md).
import assert from 'node:assert/strict';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { gunzipSync, gzipSync } from 'node:zlib';
import { FOLDER, thisFilter } from '#src/libvirt/install.js';
import { mixed } from '../pipeline/content.js';
import { readStream } from '../pipeline/frames.js';
import { type Ended, Installed } from './installed.js';

const content = mixed(6_000_000);
const RESTORE = ['-dc', '--ignore-warn'];

/** Content as the installed filter packs it. */
async function packed(filter: Installed, input: Buffer = content): Promise<Buffer> {
  const { code, stdout, stderr } = await filter.run({ input });
  assert.deepEqual([code, stderr], [0, '']);
  return stdout;
}

/** A save failed as libvirt needs it: all of the input was read, then one line. */
function failedSave({ code, stderr, isDrained }: Ended, why: RegExp): void {
  assert.equal(code, 1, stderr);
  assert.ok(isDrained, 'it ended before its input did');
  assert.match(stderr, /^pagewire: cannot save: .+\n$/);
  assert.match(stderr, why);
}

function failedRestore({ code, stderr }: Ended, why: RegExp): void {
  assert.equal(code, 1, stderr);
  assert.match(stderr, /^pagewire: cannot restore: .+\n$/);
  assert.match(stderr, why);
}

const INVALID_BYTE = Buffer.from([0xff]);

void describe('the filter for libvirt', () => {
  it('packs what comes in, and gives it back, from a pipe and from the middle of a file', async (t) => {
    const filter = new Installed(t, 'lzop');
    const frames = await packed(filter);
    readStream(frames, content);
    const piped = await filter.run({ args: RESTORE, input: frames });
    assert.deepEqual([piped.code, piped.stderr], [0, '']);
    assert.ok(piped.stdout.equals(content));
    const path = filter.path('image');
    writeFileSync(path, Buffer.concat([Buffer.alloc(4321), frames]));
    const filed = await filter.run({ args: RESTORE, file: { path, at: 4321 } });
    assert.deepEqual([filed.code, filed.stderr], [0, '']);
    assert.ok(filed.stdout.equals(content));
  });

  it('takes further arguments, and gives all other calls to the real program', async (t) => {
    const filter = new Installed(t, 'gzip');
    const { code, stdout } = await filter.run({ args: ['-c', '-3'], input: content });
    assert.equal(code, 0);
    readStream(stdout, content);
    const version = await filter.run({ args: ['--version'] });
    assert.equal(version.code, 0);
    assert.match(version.stdout.toString(), /^gzip \d/);
    const level = await filter.run({ args: ['-1c'], input: content });
    assert.ok(gunzipSync(level.stdout).equals(content));
  });

  it('gives the real program what it wrote itself, whole, from a pipe and from a file', async (t) => {
    const filter = new Installed(t, 'gzip');
    const image = gzipSync(content);
    const piped = await filter.run({ args: RESTORE.slice(0, 1), input: image });
    assert.deepEqual([piped.code, piped.stderr], [0, '']);
    assert.ok(piped.stdout.equals(content));
    writeFileSync(filter.path('image'), Buffer.concat([Buffer.alloc(777), image]));
    const filed = await filter.run({ args: ['-dc'], file: { path: filter.path('image'), at: 777 } });
    assert.ok(filed.stdout.equals(content));
  });

  it('gives the real program its arguments, and every byte, whatever they are', async (t) => {
    const filter = new Installed(t, 'lzop');
    const PATH = filter.standIn('#!/bin/sh\necho "$*"\nexec cat\n');
    for (const input of ['\0\n%d\\x', '\0', '', '%s%s', '\xf3PW\0 ', '\xf3PW'].map((text) =>
      Buffer.from(text, 'latin1'),
    )) {
      const { code, stdout } = await filter.run({ args: RESTORE, input, env: { PATH } });
      assert.equal(code, 0);
      assert.deepEqual(stdout, Buffer.concat([Buffer.from('-dc --ignore-warn\n'), input]));
    }
  });

  it('does not take itself for the real program, by whatever way PATH leads there', async (t) => {
    const filter = new Installed(t, 'lzop');
    symlinkSync(filter.path(FOLDER), filter.path('alias'));
    mkdirSync(filter.path('copy/lzop'), { recursive: true }); // a folder is no program
    const tools = filter.path('tools');
    mkdirSync(tools);
    for (const tool of ['cat', 'dd', 'od', 'sh']) symlinkSync(join('/bin', tool), join(tools, tool));
    const PATH = [filter.path(FOLDER), filter.path('alias'), '', filter.path('copy'), '/*', tools].join(':');
    const { stdout, ...ended } = await filter.run({ args: RESTORE, input: gzipSync(content), env: { PATH } });
    failedRestore({ stdout, ...ended }, /no other lzop in PATH: install lzop/);
    assert.deepEqual(stdout, INVALID_BYTE);
    assert.equal((await filter.run({ args: ['-V'], env: { PATH } })).code, 127);
  });
});

/** Faults in the program that packs and unpacks, whatever it was about to do. */
const broken: [what: string, why: RegExp, make: (t: TestContext) => [Installed, NodeJS.ProcessEnv, string[]]][] = [
  [
    'Node is gone',
    /there is no \/nonexistent\/node: run pagewire install-libvirt-filter again/,
    (t) => [new Installed(t, 'lzop', { ...thisFilter(), node: '/nonexistent/node' }), {}, []],
  ],
  [
    'our program is gone',
    /there is no \/nonexistent\/filter\.cjs: run/,
    (t) => [new Installed(t, 'lzop', { ...thisFilter(), program: '/nonexistent/filter.cjs' }), {}, []],
  ],
  [
    'Node cannot start',
    /ended with 9: .*--no-such-option/,
    (t) => [new Installed(t, 'lzop'), { NODE_OPTIONS: '--no-such-option' }, []],
  ],
  [
    'there is no memory for Node',
    /(was ended by signal|ended with) \d+/,
    (t) => [new Installed(t, 'lzop'), {}, ['prlimit', '--as=100000000']],
  ],
  [
    'no native core can be loaded',
    /cannot be loaded/,
    (t) => {
      const filter = new Installed(t, 'lzop');
      const script = `process.dlopen = () => { throw new Error('it cannot be loaded:\\nnot at all'); };`;
      return [filter, filter.preload(script), []];
    },
  ],
  [
    'the memory of Node ends',
    /was ended by signal 6: .*(GCs|memory)/,
    (t) => {
      const filter = new Installed(t, 'lzop');
      const script = `for (const all = []; ; ) all.push(Array(10000).fill({}));`;
      return [filter, filter.preload(script, '--max-old-space-size=16'), []];
    },
  ],
];

void describe('a save that fails reads its input to the end, then says why', () => {
  for (const [what, why, make] of broken) {
    it(what, async (t) => {
      const [filter, env, prefix] = make(t);
      failedSave(await filter.run({ input: content, env, prefix }), why);
    });
  }

  it('the program is killed in the middle', async (t) => {
    const running = new Installed(t, 'lzop').start({});
    running.write(content);
    await running.gave(1000);
    await running.killProgram();
    running.write(content);
    failedSave(await running.end(), /was ended by signal 9/);
  });

  it('the disk is full', async (t) => {
    const filter = new Installed(t, 'lzop');
    failedSave(await filter.run({ input: content, output: '/dev/full' }), /No space left on device/);
  });

  it('who reads the output has gone', async (t) => {
    const filter = new Installed(t, 'lzop');
    failedSave(await filter.run({ input: content, output: 'closed' }), /the output was closed by its reader/);
  });

  it('not even a process can be made', async (t) => {
    const filter = new Installed(t, 'lzop');
    const { code, stderr, isDrained } = await filter.run({ input: content, prefix: withoutProcesses() });
    assert.notEqual(code, 0);
    assert.ok(isDrained);
    assert.match(stderr, /pagewire: cannot save: no process can be started/);
  });
});

/** A user who has as many processes as he may have; root may always have more. */
function withoutProcesses(): string[] {
  const limit = ['prlimit', '--nproc=1'];
  return process.getuid?.() === 0 ? ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', ...limit] : limit;
}

void describe('a restore that fails has written a byte, and fails whatever it has written', () => {
  for (const [what, why, make] of broken) {
    it(what, async (t) => {
      const [filter, env, prefix] = make(t);
      const image = await packed(new Installed(t, 'lzop'));
      const ended = await filter.run({ args: RESTORE, input: image, env, prefix });
      failedRestore(ended, why);
      assert.deepEqual(ended.stdout, INVALID_BYTE);
    });
  }

  it('the image is damaged before its first byte', async (t) => {
    const filter = new Installed(t, 'lzop');
    const image = await packed(filter);
    image[50]! ^= 1; // START's payload
    const ended = await filter.run({ args: RESTORE, input: image });
    failedRestore(ended, /frame 0 at byte 0: the payload's checksum/);
    assert.deepEqual(ended.stdout, INVALID_BYTE);
  });

  it('the image is damaged, or cut off, behind some of it', async (t) => {
    const filter = new Installed(t, 'lzop');
    const image = await packed(filter);
    const damaged = Buffer.from(image);
    damaged[damaged.length >> 1]! ^= 1;
    for (const bad of [damaged, image.subarray(0, image.length >> 1), image.subarray(0, -1)]) {
      const ended = await filter.run({ args: RESTORE, input: bad });
      failedRestore(ended, /damaged|cut off/);
      // What is out is right, and no byte was put behind it.
      assert.ok(ended.stdout.length > 0 && ended.stdout.length <= content.length);
      assert.ok(ended.stdout.equals(content.subarray(0, ended.stdout.length)));
    }
  });

  it('only the end mark is wrong: all is out, and it failed all the same', async (t) => {
    const filter = new Installed(t, 'lzop');
    const image = await packed(filter);
    image[image.length - 1]! ^= 1;
    const ended = await filter.run({ args: RESTORE, input: image });
    failedRestore(ended, /the frame is damaged/);
    assert.ok(ended.stdout.equals(content));
  });

  it('the program is killed in the middle', async (t) => {
    const filter = new Installed(t, 'lzop');
    writeFileSync(filter.path('image'), await packed(filter));
    const running = filter.start({ args: RESTORE, file: { path: filter.path('image'), at: 0 } });
    // Nobody reads: it waits before a full pipe.
    await running.killProgram();
    const ended = await running.end();
    failedRestore(ended, /was ended by signal 9/);
    assert.ok(ended.stdout.length > 0);
    assert.ok(ended.stdout.subarray(0, -1).equals(content.subarray(0, ended.stdout.length - 1)));
  });

  it('QEMU has gone', async (t) => {
    const filter = new Installed(t, 'lzop');
    const ended = await filter.run({ args: RESTORE, input: await packed(filter), output: 'closed' });
    failedRestore(ended, /the output was closed by its reader/);
  });

  it('the image is empty, or shorter than a magic', async (t) => {
    const filter = new Installed(t, 'gzip');
    for (const input of [Buffer.alloc(0), Buffer.from('\xf3P', 'latin1')]) {
      const ended = await filter.run({ args: ['-dc'], input });
      failedRestore(ended, /gzip ended with 1: gzip: stdin: (unexpected end of file|not in gzip format)/);
      assert.deepEqual(ended.stdout, INVALID_BYTE);
    }
  });

  it('not even a process can be made', async (t) => {
    const filter = new Installed(t, 'lzop');
    const ended = await filter.run({ args: RESTORE, input: content, prefix: withoutProcesses() });
    assert.notEqual(ended.code, 0);
    assert.deepEqual(ended.stdout, INVALID_BYTE);
    assert.match(ended.stderr, /pagewire: cannot restore: no process can be started/);
  });
});

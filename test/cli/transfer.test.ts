import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { EXIT } from '#src/control/exit.js';
import { SimulatedDestination } from '#src/simulator/destination.js';
import { mixed, noise, qemuElements, simulated, text } from '../pipeline/content.js';
import { FrameKind, readFrames, readStream } from '../pipeline/frames.js';
import { folder, pagewire, PAGEWIRE, Running, type Ended } from './command.js';

const quiet = ({ code, stderr }: Ended): { code: number | null; stderr: string } => ({ code, stderr });
const WELL = { code: 0, stderr: '' };

function mkfifo(path: string): string {
  assert.equal(spawnSync('mkfifo', [path]).status, 0);
  return path;
}

/** A small file that `encode` makes of text. */
async function framesOf(t: TestContext, content: Uint8Array, ...options: string[]): Promise<Buffer> {
  const { code, stdout, stderr } = await pagewire(t, ['encode', ...options], { input: content });
  assert.deepEqual([code, stderr], [0, '']);
  return stdout;
}

describe('encode and decode', () => {
  for (const codec of ['none', 'lz4', 'zlib', 'zstd']) {
    it(`from standard input to standard output: ${codec}`, async (t) => {
      const content = mixed(3_000_000);
      const frames = await framesOf(t, content, '--codec', codec, '--threads', '2');
      readStream(frames, content);
      const { code, stdout, stderr } = await pagewire(t, ['decode'], { input: frames });
      assert.deepEqual([code, stderr], [0, '']);
      assert.ok(stdout.equals(content));
    });
  }

  it('an empty input makes a valid empty stream; no bytes at all are none', async (t) => {
    const frames = await framesOf(t, Buffer.alloc(0));
    assert.deepEqual(
      readFrames(frames).map(({ kind }) => kind),
      [FrameKind.START, FrameKind.END],
    );
    const back = await pagewire(t, ['decode'], { input: frames });
    assert.deepEqual([back.code, back.stdout.length, back.stderr], [0, 0, '']);
    const nothing = await pagewire(t, ['decode']);
    assert.equal(nothing.code, EXIT.frames);
    assert.match(nothing.stderr, /^pagewire decode: standard input: frame 0 at byte 0: the input is empty.*\n$/);
  });

  it("a guest's stream, through files, and as stock output", async (t) => {
    const path = folder(t);
    const { guest, stream } = simulated();
    writeFileSync(path('stream'), stream);
    const run = (...args: string[]): Promise<Ended> => pagewire(t, args, { cwd: path('') });
    const encode = await run('encode', '-i', 'stream', '-o', 'frames');
    assert.equal(encode.code, 0);
    const ram = '18.8 MiB of RAM in 9 blocks';
    assert.match(encode.stderr, new RegExp(`^pagewire encode: guest pc-q35-10.0, ${ram}: needs up to .* of memory`));
    assert.deepEqual(quiet(await run('decode', '-i', 'frames', '-o', 'again')), WELL);
    assert.deepEqual(quiet(await run('encode', '--quiet', '--stock', '-i', 'stream', '-o', 'stock')), WELL);
    assert.deepEqual(quiet(await run('encode', '-q', '--no-delta', '-i', 'stream', '-o', 'exact')), WELL);
    for (const name of ['again', 'stock']) {
      const destination = new SimulatedDestination();
      destination.push(readFileSync(path(name)));
      destination.end();
      assert.deepEqual(destination.digests(), guest.digests(), name);
    }
    readStream(readFileSync(path('exact')), stream);
    assert.ok(statSync(path('frames')).size < statSync(path('exact')).size);
    assert.ok(statSync(path('stock')).size < stream.length);
  });

  it('a QEMU stream that ends in the middle: all is delivered, both say so, exit code 3', async (t) => {
    const path = folder(t);
    const cut = simulated({ passes: 0 }).stream.subarray(0, 200_000);
    const encode = await pagewire(t, ['encode', '-q', '-o', path('frames')], { input: cut });
    assert.equal(encode.code, EXIT.truncated);
    assert.match(
      encode.stderr,
      /^pagewire encode: standard input: the QEMU stream ended before its end \(within .+\): .*carried.*\n$/,
    );
    const decode = await pagewire(t, ['decode', '-q', '-i', path('frames'), '-o', path('again')]);
    assert.equal(decode.code, EXIT.truncated);
    assert.match(decode.stderr, /^pagewire decode: .*frames: the QEMU stream ended before its end: .*carried.*\n$/);
    assert.ok(readFileSync(path('again')).equals(cut));
  });

  it('concatenated files decode to their contents', async (t) => {
    const [one, two] = [text(50_000), noise(50_000)];
    const input = Buffer.concat([await framesOf(t, one), await framesOf(t, two, '--codec', 'lz4')]);
    const { code, stdout } = await pagewire(t, ['decode'], { input });
    assert.equal(code, 0);
    assert.ok(stdout.equals(Buffer.concat([one, two])));
  });
});

describe('what comes from', () => {
  it('fd:N goes to fd:M', async (t) => {
    const path = folder(t);
    writeFileSync(path('in'), text(100_000));
    const [input, output] = [openSync(path('in'), 'r'), openSync(path('out'), 'w')];
    const args = ['encode', '-i', 'fd:3', '-o', 'fd:4', '--stats', 'fd:5'];
    const running = new Running(t, args, { stdio: ['ignore', 'ignore', 'pipe', input, output, 'pipe'] });
    const stats: Buffer[] = [];
    (running.child.stdio as (Readable | null)[])[5]?.on('data', (chunk: Buffer) => stats.push(chunk));
    assert.deepEqual(quiet(await running.ended), WELL);
    closeSync(input);
    closeSync(output);
    readStream(readFileSync(path('out')), text(100_000));
    const report = JSON.parse(Buffer.concat(stats).toString()) as { output: { bytes: number } };
    assert.equal(report.output.bytes, statSync(path('out')).size);
  });

  it('a FIFO goes to a FIFO, whoever comes first', async (t) => {
    const path = folder(t);
    const content = text(300_000);
    for (const first of ['pagewire', 'the others']) {
      const [from, to] = [mkfifo(path(`${first}.in`)), mkfifo(path(`${first}.out`))];
      const start = (): Running => new Running(t, ['encode', '-i', from, '-o', to]);
      const others = (): [Running, Running] => {
        writeFileSync(path('content'), content);
        const writer = new Running(t, ['-c', 'cat "$1" > "$2"', '-', path('content'), from], { program: 'sh' });
        return [writer, new Running(t, [to], { program: 'cat' })];
      };
      let running: Running;
      let reader: Running;
      if (first === 'pagewire') {
        running = start();
        await sleep(300);
        [, reader] = others();
      } else {
        [, reader] = others();
        await sleep(300);
        running = start();
      }
      assert.deepEqual(quiet(await running.ended), WELL);
      readStream((await reader.ended).stdout, content);
      assert.ok(lstatSync(to).isFIFO());
    }
  });

  it('a unix socket, in and out', async (t) => {
    const path = folder(t);
    const content = text(200_000);
    const server = createServer({ allowHalfOpen: true }).listen(path('socket'));
    await once(server, 'listening');
    const near = createConnection({ path: path('socket'), allowHalfOpen: true });
    const [far] = (await once(server, 'connection')) as [typeof near];
    // Both directions of one socket: the stream goes in, the frames come out.
    const running = new Running(t, ['encode', '-i', 'fd:3', '-o', 'fd:3'], {
      stdio: ['ignore', 'ignore', 'pipe', near],
    });
    far.end(content);
    const frames: Buffer[] = [];
    far.on('data', (chunk: Buffer) => frames.push(chunk));
    assert.deepEqual(quiet(await running.ended), WELL);
    near.destroy();
    if (!far.readableEnded) await once(far, 'end');
    readStream(Buffer.concat(frames), content);
    far.destroy();
    server.close();
  });

  it('a file goes to /dev/null', async (t) => {
    const path = folder(t);
    writeFileSync(path('in'), noise(3_000_000));
    assert.deepEqual(quiet(await pagewire(t, ['encode', '-i', path('in'), '-o', '/dev/null'])), WELL);
    assert.ok(statSync('/dev/null').isCharacterDevice());
  });
});

describe('an output file', () => {
  it('appears when all is well, and keeps the mode of the one that it replaces', async (t) => {
    const path = folder(t);
    writeFileSync(path('old'), 'old');
    chmodSync(path('old'), 0o666);
    const before = statSync(path('old'));
    const running = new Running(t, ['encode', '-o', path('old')]);
    running.child.stdin?.write(text(500_000));
    while (readdirSync(path('')).length < 2) await sleep(10);
    assert.equal(readFileSync(path('old'), 'utf8'), 'old');
    running.child.stdin?.end();
    assert.deepEqual(quiet(await running.ended), WELL);
    readStream(readFileSync(path('old')), text(500_000));
    assert.equal(statSync(path('old')).mode, before.mode);
    assert.notEqual(statSync(path('old')).ino, before.ino);
    assert.deepEqual(readdirSync(path('')), ['old']);
  });

  it('behind a symbolic link is replaced, the link stays', async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), 'old');
    symlinkSync('file', path('link'));
    assert.deepEqual(quiet(await pagewire(t, ['encode', '-o', path('link')], { input: text(10) })), WELL);
    assert.ok(lstatSync(path('link')).isSymbolicLink());
    readStream(readFileSync(path('file')), text(10));
  });

  it('may be the input file', async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), text(100_000));
    assert.deepEqual(quiet(await pagewire(t, ['encode', '-i', path('file'), '-o', path('file')])), WELL);
    assert.deepEqual(quiet(await pagewire(t, ['decode', '-i', path('file'), '-o', path('file')])), WELL);
    assert.ok(readFileSync(path('file')).equals(text(100_000)));
  });

  it('does not appear where the input is damaged, and nothing is left beside it', async (t) => {
    const path = folder(t);
    const frames = await framesOf(t, text(100_000));
    frames[frames.length - 1]! ^= 1;
    const { code, stderr } = await pagewire(t, ['decode', '-o', path('out')], { input: frames });
    assert.equal(code, EXIT.frames);
    assert.match(stderr, /^pagewire decode: standard input: frame 2 at byte \d+: the payload's checksum is .*\n$/);
    assert.deepEqual(readdirSync(path('')), []);
  });

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    it(`does not appear after ${signal}, and nothing is left beside it`, async (t) => {
      const path = folder(t);
      const running = new Running(t, ['encode', '-o', path('out')]);
      running.child.stdin?.write(text(500_000));
      while (readdirSync(path('')).length === 0) await sleep(10);
      running.child.kill(signal);
      assert.equal((await running.ended).code, { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }[signal]);
      assert.deepEqual(readdirSync(path('')), []);
    });
  }

  it('does not appear after SIGKILL, and what is left is not in the way of the next run', async (t) => {
    const path = folder(t);
    const running = new Running(t, ['encode', '-o', path('out')]);
    running.child.stdin?.write(text(500_000));
    while (readdirSync(path('')).length === 0) await sleep(10);
    running.child.kill('SIGKILL');
    await running.ended;
    assert.match(readdirSync(path('')).join(), /^out\.[0-9a-f]+\.part$/);
    assert.deepEqual(quiet(await pagewire(t, ['encode', '-o', path('out')], { input: text(10) })), WELL);
    readStream(readFileSync(path('out')), text(10));
  });

  it('that a dangling symbolic link names is made, the link stays', async (t) => {
    const path = folder(t);
    symlinkSync('second', path('link'));
    symlinkSync('file', path('second'));
    assert.deepEqual(quiet(await pagewire(t, ['encode', '-o', path('link')], { input: text(10) })), WELL);
    assert.ok(lstatSync(path('link')).isSymbolicLink() && lstatSync(path('second')).isSymbolicLink());
    assert.ok(lstatSync(path('file')).isFile());
    readStream(readFileSync(path('file')), text(10));
  });

  for (const output of ['/dev/stdout', '/dev/fd/1', '/proc/self/fd/1']) {
    it(`that ${output} leads to keeps what stands in it`, async (t) => {
      const path = folder(t);
      writeFileSync(path('log'), 'before\n');
      const log = openSync(path('log'), 'a');
      const running = new Running(t, ['encode', '-o', output], { stdio: ['pipe', log, 'pipe'] });
      closeSync(log);
      running.child.stdin?.end(text(1000));
      assert.deepEqual(quiet(await running.ended), WELL);
      const written = readFileSync(path('log'));
      assert.equal(written.subarray(0, 7).toString(), 'before\n');
      readStream(written.subarray(7), text(1000));
      assert.deepEqual(readdirSync(path('')), ['log']);
    });
  }

  it('does not stay beside the name after a second signal', async (t) => {
    const path = folder(t);
    const running = new Running(t, ['encode', '-o', path('out')]);
    running.child.stdin?.write(text(500_000));
    while (readdirSync(path('')).length === 0) await sleep(10);
    running.child.kill('SIGTERM');
    running.child.kill('SIGINT');
    await running.ended;
    assert.deepEqual(readdirSync(path('')), []);
  });

  // Root may write into any folder, unless it gives that up.
  const isRoot = process.getuid?.() === 0;
  const giveUp = ['--bounding-set', '-dac_override', process.execPath, PAGEWIRE];
  const cannot = isRoot && spawnSync('setpriv', [...giveUp, '--version']).status !== 0;
  if (cannot) console.log('PAGEWIRE-NOT-RUN a folder that may not be written: please install setpriv (util-linux)');

  it('in a folder that may not be written is written in place', { skip: cannot }, async (t) => {
    const path = folder(t);
    mkdirSync(path('closed'));
    writeFileSync(path('closed/file'), 'a longer one that was there before'.repeat(100));
    chmodSync(path('closed'), 0o500);
    const run = (args: string[], input: Uint8Array): Promise<Ended> =>
      isRoot ? pagewire(t, [...giveUp, ...args], { program: 'setpriv', input }) : pagewire(t, args, { input });
    const file = path('closed/file');
    assert.equal((await run(['encode', '-o', file, '--level', '20'], text(10))).code, EXIT.usage);
    const both = await run(['encode', '-i', file, '-o', file], text(10));
    assert.equal(both.code, EXIT.usage);
    assert.match(both.stderr, /is the input and the output/);
    assert.equal(statSync(file).size, 3400);
    assert.deepEqual(quiet(await run(['encode', '-o', file], text(10))), WELL);
    readStream(readFileSync(file), text(10));
    assert.equal((await run(['decode', '-o', file], noise(100))).code, EXIT.frames);
    assert.equal(statSync(file).size, 0);
    chmodSync(path('closed'), 0o700);
  });

  it('that does not fit is told, and does not appear', async (t) => {
    const path = folder(t);
    writeFileSync(path('in'), noise(2_000_000));
    // A limit of 1 MiB on files stands for a full disk: no user needs to be root for it.
    const command = 'ulimit -f 1024; exec "$@"';
    const args = ['-c', command, '-', process.execPath, PAGEWIRE, 'encode', '-i', path('in'), '-o', path('out')];
    const { code, stderr } = await pagewire(t, args, { program: 'bash' });
    assert.equal(code, EXIT.failed);
    assert.match(stderr, /^pagewire encode: cannot write .*out at byte \d+: File too large\n$/);
    assert.deepEqual(readdirSync(path('')), ['in']);

    const full = await pagewire(t, ['encode', '-i', path('in'), '-o', '/dev/full']);
    assert.equal(full.code, EXIT.failed);
    assert.match(full.stderr, /^pagewire encode: cannot write \/dev\/full at byte 0: No space left on device\n$/);
  });
});

describe('bad input', () => {
  it('is refused with exit code 4, one line, and no wrong byte', async (t) => {
    const content = text(200);
    const frames = await framesOf(t, content);
    const inputs: [what: string, input: Buffer, message: RegExp][] = [
      ['text', text(1000), /frame 0 at byte 0: expected a frame.*not a pagewire stream/],
      ['cut in START', frames.subarray(0, 50), /frame 0 at byte 0: .* cut off/],
      ['cut before the data', frames.subarray(0, 64), /frame 1 at byte 64: .* cut off/],
      ['cut in the data', frames.subarray(0, 130), /frame 1 at byte 64: .* cut off/],
      ['cut before the end', frames.subarray(0, -96), /frame 2 at byte \d+: .* cut off/],
      ['cut in the end', frames.subarray(0, -1), /frame 2 at byte \d+: .* cut off/],
      ['garbage behind', Buffer.concat([frames, text(100)]), /frame 3 at byte \d+: expected a frame/],
      ['damaged', Buffer.concat([frames.subarray(0, 120), noise(10), frames.subarray(130)]), /frame 1 .*damaged/],
    ];
    for (const [what, input, message] of inputs) {
      const { code, stdout, stderr } = await pagewire(t, ['decode'], { input });
      assert.equal(code, EXIT.frames, what);
      assert.match(stderr, /^pagewire decode: standard input: .*\n$/, what);
      assert.match(stderr, message, what);
      assert.ok(stdout.equals(content.subarray(0, stdout.length)), what);
    }
  });

  it("an input that fails ends encode with exit code 1, and decode knows the sender's reason", async (t) => {
    // Nothing is mapped at its beginning.
    const encode = await pagewire(t, ['encode', '-i', '/proc/self/mem']);
    assert.equal(encode.code, EXIT.failed);
    assert.equal(encode.stderr, 'pagewire encode: cannot read /proc/self/mem at byte 0: Input/output error\n');
    const decode = await pagewire(t, ['decode'], { input: encode.stdout });
    assert.equal(decode.code, EXIT.frames);
    assert.match(
      decode.stderr,
      /^pagewire decode: standard input: frame 1 .*the sender stopped .*: cannot read the input/,
    );
  });
});

describe('memory', () => {
  const GiB = 2 ** 30;
  const guest = qemuElements(GiB);

  it('is told as soon as the stream has named the RAM, before a page comes', async (t) => {
    const running = new Running(t, ['encode', '--memory-limit', '4G', '-o', '/dev/null']);
    running.child.stdin?.write(Buffer.concat(guest.slice(0, 7)));
    const said = await running.says(/\n/);
    assert.match(
      said,
      /^pagewire encode: guest pc-q35-10\.0, 1\.00 GiB of RAM in 1 block: needs up to .*limit 4\.00 GiB\n$/,
    );
    running.child.stdin?.end();
    assert.equal((await running.ended).code, EXIT.truncated);
  });

  it('that a cache of a given size would need over the limit is refused with exit code 5', async (t) => {
    const args = ['encode', '--cache-size', '512M', '--memory-limit', '500M'];
    const { code, stdout, stderr } = await pagewire(t, args, { input: Buffer.concat(guest) });
    assert.equal(code, EXIT.memory);
    assert.match(stderr, /^pagewire encode: a cache of 512 MiB .* do not fit .* 500 MiB .*--cache-size.*$/m);
    const decode = await pagewire(t, ['decode'], { input: stdout });
    assert.equal(decode.code, EXIT.frames);
    assert.match(decode.stderr, /the sender stopped/);
  });

  it('that a cache in percent would need is cut to the limit, with a note', async (t) => {
    const path = folder(t);
    const args = [
      'encode',
      '--cache-size',
      '75%',
      '--memory-limit',
      '500M',
      '--stats',
      path('stats'),
      '-o',
      '/dev/null',
    ];
    const { code, stderr } = await pagewire(t, args, { input: Buffer.concat(guest) });
    assert.equal(code, EXIT.truncated);
    assert.match(stderr, /limit 500 MiB; the page cache wanted 77\d MiB, and pages that do not fit are sent whole\n/);
    const report = JSON.parse(readFileSync(path('stats'), 'utf8')) as { guest: Record<string, number> };
    const { cacheGranted, fixedMemory, memoryLimit } = report.guest;
    assert.equal(cacheGranted! + fixedMemory!, memoryLimit);
  });

  it('that is needed besides the cache, over the limit, is refused before anything is read', async (t) => {
    for (const more of [[], ['--no-delta'], ['--stock']]) {
      const path = folder(t);
      const args = ['encode', '--memory-limit', '30M', '-o', path('out'), ...more];
      const { code, stderr } = await pagewire(t, args, { input: text(10) });
      assert.equal(code, EXIT.memory);
      assert.match(
        stderr,
        /^pagewire encode: .*needs up to [\d.]+ MiB of memory, over the limit of 30.0 MiB .*fewer threads, a lower level.*\n$/,
      );
      assert.deepEqual(readdirSync(path('')), []);
    }
  });

  it('of a size that is larger than the guest needs is not refused', async (t) => {
    const args = ['encode', '--cache-size', '512M', '--memory-limit', '500M', '-o', '/dev/null'];
    const { code } = await pagewire(t, args, { input: Buffer.concat(qemuElements(16 << 20)) });
    assert.equal(code, EXIT.truncated);
  });
});

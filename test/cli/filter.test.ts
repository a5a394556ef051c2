// pagewire as gzip, lzop and zstd are used.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { describe, it, type TestContext } from 'node:test';
import { EXIT } from '#src/control/exit.js';
import { saveProfile, type SaveLevel } from '#src/pipeline/save.js';
import { checkEncoder } from '#src/pipeline/settings.js';
import { mixed, noise, simulated, text } from '../pipeline/content.js';
import { folder, pagewire, PAGEWIRE, Running, type Ended } from './command.js';

/** Runs in a folder, and expects that all is well and nothing is said. */
async function well(t: TestContext, args: string[], cwd: string, input?: Uint8Array): Promise<Buffer> {
  const { code, stdout, stderr } = await pagewire(t, args, { cwd, ...(input && { input }) });
  assert.deepEqual([code, stderr], [0, ''], args.join(' '));
  return stdout;
}

/** Codec and level of the first frame behind START, as its header has them. */
function packedWith(file: Buffer): [codec: number, level: number] {
  return [file.readUInt8(64 + 6), file.readInt8(64 + 7)];
}

describe('-dc gives back exactly what -c read', () => {
  const { stream } = simulated();
  const contents: [what: string, content: Buffer][] = [
    ['nothing', Buffer.alloc(0)],
    ['one byte', Buffer.from('x')],
    ['a guest', stream],
    ['a guest that was cut off', stream.subarray(0, 1_000_001)],
    ['a file of ours', Buffer.from('f3505746', 'hex')],
    ['text, noise and zeros', mixed(5_000_000)],
    ['zeros', Buffer.alloc(3_000_001)],
  ];
  for (const [what, content] of contents) {
    it(what, async (t) => {
      const saved = await well(t, ['-c'], '.', content);
      const restored = await well(t, ['-dc'], '.', saved);
      assert.ok(restored.equals(content));
    });
  }

  for (const level of ['--fast', '-1', '-5', '-9', '--best', '--ultra']) {
    it(`with ${level}`, async (t) => {
      const content = mixed(1_500_000);
      assert.ok((await well(t, ['-d'], '.', await well(t, [level], '.', content))).equals(content));
    });
  }

  it('of several files, one behind the other', async (t) => {
    const path = folder(t);
    writeFileSync(path('a'), text(100_000));
    writeFileSync(path('b'), noise(100_000));
    writeFileSync(path('saved'), await well(t, ['-c', 'a', 'b'], path('')));
    const expected = Buffer.concat([text(100_000), noise(100_000)]);
    assert.ok((await well(t, ['-dc', 'saved'], path(''))).equals(expected));
    assert.ok((await well(t, ['-cd', 'saved', 'saved'], path(''))).equals(Buffer.concat([expected, expected])));
  });
});

describe('levels', () => {
  const levels: SaveLevel[] = ['fast', 1, 2, 3, 4, 5, 6, 7, 8, 9, 'ultra'];

  it('are settings of the encoder, all of them without delta', () => {
    for (const level of levels) assert.equal(checkEncoder(saveProfile(level)).native.delta, undefined);
  });

  it('are chosen by the last of the options', async (t) => {
    const content = text(200_000);
    const packed = async (...args: string[]): Promise<number[]> => packedWith(await well(t, args, '.', content));
    const nine = await packed('-9');
    assert.deepEqual(await packed('-1', '--best'), nine);
    assert.deepEqual(await packed('-19'), nine);
    assert.deepEqual(await packed('-9c1'), await packed('-1'));
    assert.notDeepEqual(await packed('-1'), nine);
    assert.deepEqual(await packed(), await packed('-3'));
    assert.deepEqual(await packed('-9', '--fast'), [1, 1]);
  });
});

describe('a file', () => {
  it('becomes FILE.pw, which becomes FILE again; mode and times stay, and so does the input', async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), text(300_000));
    chmodSync(path('file'), 0o640);
    spawnSync('touch', ['-a', '-d', '2024-02-29 12:00:00.123456789 UTC', path('file')]);
    spawnSync('touch', ['-m', '-d', '2023-01-02 03:04:05.987654321 UTC', path('file')]);
    const before = statSync(path('file'), { bigint: true });
    const same = (name: string): void => {
      const { mode, mtimeNs } = statSync(path(name), { bigint: true });
      assert.deepEqual([mode, mtimeNs], [before.mode, before.mtimeNs], name);
    };
    await well(t, ['file'], path(''));
    assert.deepEqual(readdirSync(path('')), ['file', 'file.pw']);
    same('file.pw');
    await well(t, ['-kf', '-d', 'file.pw'], path(''));
    assert.ok(readFileSync(path('file')).equals(text(300_000)));
    same('file');
  });

  const notRoot = process.getuid?.() === 0 ? false : 'only root can give files away';
  it('keeps its owner, where root does it', { skip: notRoot }, async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), text(1000));
    chownSync(path('file'), 1234, 2345);
    await well(t, ['file'], path(''));
    const { uid, gid, mode } = statSync(path('file.pw'));
    assert.deepEqual([uid, gid, mode & 0o777], [1234, 2345, statSync(path('file')).mode & 0o777]);
  });

  it('that has been carried is removed with --rm, and not before', async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), text(100_000));
    await well(t, ['--rm', 'file'], path(''));
    assert.deepEqual(readdirSync(path('')), ['file.pw']);
    const damaged = readFileSync(path('file.pw'));
    damaged[damaged.length - 1]! ^= 1;
    writeFileSync(path('damaged.pw'), damaged);
    const { code } = await pagewire(t, ['-d', '--rm', 'damaged.pw'], { cwd: path('') });
    assert.equal(code, EXIT.frames);
    assert.deepEqual(readdirSync(path('')), ['damaged.pw', 'file.pw']);
    await well(t, ['-d', '--rm', 'file.pw'], path(''));
    assert.deepEqual(readdirSync(path('')), ['damaged.pw', 'file']);
  });

  it('that is there already is replaced with -f only', async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), text(1000));
    for (const args of [['file'], ['-o', 'file.pw', 'file'], ['-o', 'file.pw']]) {
      writeFileSync(path('file.pw'), 'old');
      const { code, stderr } = await pagewire(t, args, { cwd: path('') });
      assert.deepEqual([code, stderr], [EXIT.usage, 'pagewire: file.pw exists already (-f replaces it)\n']);
      assert.equal(readFileSync(path('file.pw'), 'utf8'), 'old');
      await well(t, ['-f', ...args], path(''));
      assert.notEqual(readFileSync(path('file.pw'), 'utf8'), 'old');
    }
  });

  it('goes where -o says, from standard input too', async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), text(1000));
    await well(t, ['-o', 'one', 'file'], path(''));
    await well(t, ['-o', 'two'], path(''), text(1000));
    await well(t, ['-o', 'three', '-'], path(''), text(1000));
    for (const name of ['one', 'two', 'three']) {
      await well(t, ['-d', '-o', 'again', '-f', name], path(''));
      assert.ok(readFileSync(path('again')).equals(text(1000)));
    }
    await well(t, ['-o', '/dev/null', 'file'], path(''));
    assert.ok(statSync('/dev/null').isCharacterDevice());
  });

  it('may have the name of a command', async (t) => {
    const path = folder(t);
    writeFileSync(path('encode'), text(1000));
    await well(t, ['-k', 'encode'], path(''));
    await well(t, ['./encode', '-f'], path(''));
    await well(t, ['--', 'encode'].concat('-f').reverse(), path(''));
    assert.deepEqual(readdirSync(path('')), ['encode', 'encode.pw']);
  });

  it('of zeros is a hole again', async (t) => {
    const path = folder(t);
    const content = Buffer.concat([text(5000), Buffer.alloc(20 << 20), text(5000), Buffer.alloc(10 << 20)]);
    writeFileSync(path('file.pw'), await well(t, ['-c'], '.', content));
    await well(t, ['-d', 'file.pw'], path(''));
    assert.ok(readFileSync(path('file')).equals(content));
    assert.ok(statSync(path('file')).blocks * 512 < 1 << 20);
    // Behind a redirection, too, and what follows there stands behind it.
    const shell = `("$0" "$1" -dc file.pw; printf end) > both; "$0" "$1" -dc file.pw >> both`;
    const { code } = await pagewire(t, ['-c', shell, process.execPath, PAGEWIRE], { program: 'sh', cwd: path('') });
    assert.equal(code, 0);
    assert.ok(readFileSync(path('both')).equals(Buffer.concat([content, Buffer.from('end'), content])));
  });
});

describe('several files', () => {
  it('are carried each by itself; the first failure gives the exit code', async (t) => {
    const path = folder(t);
    for (const name of ['a', 'b', 'c']) writeFileSync(path(name), text(50_000));
    const { code, stderr } = await pagewire(t, ['a', 'missing', 'b', 'c'], { cwd: path('') });
    assert.equal(code, EXIT.usage);
    assert.equal(stderr, 'pagewire: cannot open missing: no such file or folder\n');
    assert.deepEqual(readdirSync(path('')), ['a', 'a.pw', 'b', 'b.pw', 'c', 'c.pw']);
    writeFileSync(path('b.pw'), text(100));
    const restored = await pagewire(t, ['-df', 'a.pw', 'b.pw', 'c.pw'], { cwd: path('') });
    assert.equal(restored.code, EXIT.frames);
    assert.match(restored.stderr, /^pagewire: b\.pw: frame 0 at byte 0: .*\n$/);
  });

  it('more than a dozen leave no warning', async (t) => {
    const path = folder(t);
    const names = Array.from({ length: 15 }, (_, index) => `file${index}`);
    for (const name of names) writeFileSync(path(name), name);
    await well(t, names, path(''));
    assert.equal(readdirSync(path('')).length, 30);
  });
});

describe('-t', () => {
  it('reads all of it and writes nothing', async (t) => {
    const path = folder(t);
    const saved = await well(t, ['-c'], '.', mixed(3_000_000));
    writeFileSync(path('good.pw'), saved);
    saved[saved.length >> 1]! ^= 4;
    writeFileSync(path('bad.pw'), saved);
    writeFileSync(path('cut.pw'), saved.subarray(0, 60));
    await well(t, ['-t', 'good.pw'], path(''));
    assert.equal((await well(t, ['-t'], path(''), readFileSync(path('good.pw')))).length, 0);
    const { code, stderr } = await pagewire(t, ['-t', 'good.pw', 'bad.pw', 'cut.pw'], { cwd: path('') });
    assert.equal(code, EXIT.frames);
    assert.match(stderr, /^pagewire: bad\.pw: frame \d+ at byte \d+: .*\npagewire: cut\.pw: frame 0 .*cut off.*\n$/);
    assert.deepEqual(readdirSync(path('')), ['bad.pw', 'cut.pw', 'good.pw']);
  });
});

describe('-v', () => {
  it('tells of each file', async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), text(2_000_000));
    const line = (what: string): RegExp =>
      new RegExp(`^pagewire: ${what}: 1\\.91 MiB in \\d+ KiB \\([\\d.]+x\\), [\\d.]+ s, .*/s: `);
    assert.match((await pagewire(t, ['-9kv', 'file'], { cwd: path('') })).stderr, line('file'));
    assert.match((await pagewire(t, ['-tv', 'file.pw'], { cwd: path('') })).stderr, line('file\\.pw'));
  });
});

describe('links and special files', () => {
  it('become no files without being told where; a directory never does', async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), text(1000));
    symlinkSync('file', path('link'));
    mkdirSync(path('folder'));
    assert.equal(spawnSync('mkfifo', [path('fifo')]).status, 0);
    for (const [args, message] of [
      [['link'], /link is a symbolic link/],
      [['fifo'], /fifo is no file: give -c or -o OUT/],
      [['folder'], /cannot open folder: it is a folder/],
      [['-d', 'file'], /file does not end in \.pw: give -c or -o OUT/],
    ] as const) {
      const { code, stderr } = await pagewire(t, args, { cwd: path('') });
      assert.equal(code, EXIT.usage);
      assert.match(stderr, message);
    }
    assert.deepEqual(readdirSync(path('')), ['fifo', 'file', 'folder', 'link']);
    await well(t, ['-f', 'link'], path(''));
    assert.ok(existsSync(path('link.pw')));
    assert.ok((await well(t, ['-dc'], '.', await well(t, ['-c', 'link'], path('')))).equals(text(1000)));
    const running = new Running(t, ['-c', 'fifo'], { cwd: path('') });
    writeFileSync(path('fifo'), text(5000));
    const { code, stdout } = await running.ended;
    assert.equal(code, 0);
    assert.ok((await well(t, ['-dc'], '.', stdout)).equals(text(5000)));
  });

  it('a hard link is a file', async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), text(1000));
    linkSync(path('file'), path('other'));
    await well(t, ['--rm', 'other'], path(''));
    assert.deepEqual(readdirSync(path('')), ['file', 'other.pw']);
  });

  it('what ends in .pw already is left alone without -f', async (t) => {
    const path = folder(t);
    writeFileSync(path('file.pw'), text(1000));
    const { code, stderr } = await pagewire(t, ['file.pw'], { cwd: path('') });
    assert.deepEqual([code, stderr], [EXIT.usage, 'pagewire: file.pw ends in .pw already (-f goes on)\n']);
    await well(t, ['-f', 'file.pw'], path(''));
    assert.deepEqual(readdirSync(path('')), ['file.pw', 'file.pw.pw']);
  });
});

describe('what cannot be done as it was asked', () => {
  const wrong: [args: string, message: RegExp][] = [
    ['-o out a b', /-o is for one FILE/],
    ['--stats out a b', /--stats is for one FILE/],
    ['-c -o out a', /-o does not go with -c/],
    ['-t -o out a', /-o does not go with -t/],
    ['--rm -c a', /--rm is for files that become files/],
    ['--rm', /--rm is for files that become files/],
    ['-t --rm a', /--rm is for files that become files/],
    ['-T 300 a', /300 threads: from 1 to 256/],
    ['-dT 300 a', /300 threads: from 1 to 256/],
    ['-T many a', /a whole number is needed/],
    ['-x a', /unknown option '-x'/],
    ['--fsync -c a', /standard output is no file, and cannot be made durable/],
    ['compress', /cannot open compress: no such file or folder/],
  ];
  for (const [args, message] of wrong) {
    it(`pagewire ${args}`, async (t) => {
      const path = folder(t);
      writeFileSync(path('a'), 'a');
      writeFileSync(path('b'), 'b');
      const { code, stdout, stderr } = await pagewire(t, args.split(' '), { cwd: path('') });
      assert.match(stderr, message);
      assert.match(stderr, /^pagewire: .*\n$/);
      assert.deepEqual([code, stdout.length], [EXIT.usage, 0]);
      assert.deepEqual(readdirSync(path('')), ['a', 'b']);
    });
  }
});

describe('on a terminal', () => {
  const lacks = spawnSync('script', ['--version']).status !== 0;
  if (lacks) console.log('PAGEWIRE-NOT-RUN the filter on a terminal: please install script (util-linux)');

  it('frames are not written without -f, nor read', { skip: lacks }, async (t) => {
    const onTerminal = async (args: string): Promise<Ended> => {
      const command = `'${process.execPath}' '${PAGEWIRE}' ${args}`;
      const running = new Running(t, ['-qec', command, '/dev/null'], { program: 'script' });
      running.child.stdin?.end();
      return running.ended;
    };
    for (const args of ['< /dev/null', '-c < /dev/null', `-c '${PAGEWIRE}'`]) {
      const { code, stdout } = await onTerminal(args);
      assert.deepEqual(
        [code, stdout.toString()],
        [
          EXIT.usage,
          'pagewire: standard output is a terminal: give -o FILE, or a pipe behind it (pagewire --help tells more)\r\n',
        ],
      );
    }
    assert.match((await onTerminal('-d')).stdout.toString(), /^pagewire: standard input is a terminal/);
    const forced = await onTerminal('-cf < /dev/null');
    assert.equal(forced.code, 0);
    assert.ok(forced.stdout.includes('PWF'));
  });
});

describe('--fsync', () => {
  it('makes a file durable, and the name of it', async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), text(1000));
    utimesSync(path('file'), 1000, 2000);
    await well(t, ['--fsync', 'file'], path(''));
    assert.equal(statSync(path('file.pw')).mtimeMs, 2_000_000);
    const output = openSync(path('out'), 'w');
    const running = new Running(t, ['--fsync', '-c', 'file'], {
      cwd: path(''),
      stdio: ['ignore', output, 'pipe'],
    });
    assert.equal((await running.ended).code, 0);
    closeSync(output);
    assert.ok(readFileSync(path('out')).equals(readFileSync(path('file.pw'))));
  });

  const lacks = spawnSync('strace', ['-V']).status !== 0;
  if (lacks) console.log('PAGEWIRE-NOT-RUN what --fsync calls: please install strace');
  it('is what calls fsync, for encode and decode too', { skip: lacks }, async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), text(1000));
    const calls = async (...args: string[]): Promise<string> => {
      const strace = ['-f', '-e', 'trace=fsync,rename', '-o', path('calls'), process.execPath, PAGEWIRE, ...args];
      const { code, stderr } = await pagewire(t, strace, { program: 'strace', cwd: path('') });
      assert.deepEqual([code, stderr], [0, '']);
      const names = readFileSync(path('calls'), 'utf8').matchAll(/^\d+ +(?:<... )?(fsync|rename)\(/gm);
      return [...names].map(([, name]) => name).join(' ');
    };
    assert.equal(await calls('file'), 'rename');
    assert.equal(await calls('-f', '--fsync', 'file'), 'fsync rename fsync');
    assert.equal(await calls('encode', '-i', 'file', '-o', 'frames'), 'rename');
    assert.equal(await calls('decode', '--fsync', '-i', 'frames', '-o', 'again'), 'fsync rename fsync');
  });
});

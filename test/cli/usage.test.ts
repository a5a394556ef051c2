import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { EXIT, exitCode, SIGNALS } from '#src/control/exit.js';
import { ERROR_CODES } from '#src/index.js';
import { folder, pagewire, PAGEWIRE } from './command.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const docs = readFileSync(`${ROOT}docs/cli.md`, 'utf8');

describe('help', () => {
  for (const args of [['--help'], ['encode', '--help'], ['decode', '--help'], ['demo', '--help'], ['help', 'encode']]) {
    it(`pagewire ${args.join(' ')}`, async (t) => {
      const { code, stdout, stderr } = await pagewire(t, args);
      assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
      assert.match(stdout.toString(), /^Usage: pagewire/);
      assert.match(stdout.toString(), /Exit codes:/);
    });
  }

  it('names every option that docs/cli.md describes, and the other way round', async (t) => {
    for (const command of ['encode', 'decode', 'inspect', 'demo', '[FILE...]']) {
      const { stdout } = await pagewire(t, command === '[FILE...]' ? ['--help'] : [command, '--help']);
      const options = /Options:\n([\s\S]*?)\n\n/.exec(stdout.toString())?.[1] ?? '';
      const told = [...options.matchAll(/^ {2}(?:-\w, )?(-[\w-]+)/gm)].map(([, name]) => name);
      const section = docs.split('\n## ').find((part) => part.startsWith(`pagewire ${command}\n`)) ?? '';
      const documented = [...section.matchAll(/^\| `(?:-\w, )?(-[\w-]+)/gm)].map(([, name]) => name);
      assert.deepEqual(documented.sort(), told.sort(), command);
    }
  });

  it('of the filter tells of the commands as well', async (t) => {
    for (const args of [['--help'], ['-h'], ['help'], ['-d', '--help']]) {
      const { code, stdout } = await pagewire(t, args);
      assert.equal(code, EXIT.ok);
      assert.match(stdout.toString(), /^Usage: pagewire \[options\] \[FILE\.\.\.\]\n {7}pagewire COMMAND/);
      assert.match(stdout.toString(), /\nCommands:\n {2}encode .*\n/);
      assert.match(stdout.toString(), /\n {2}-c, --stdout .*\n/);
    }
  });

  it('does not mind a reader that goes', async (t) => {
    const { stderr, stdout } = await pagewire(
      t,
      ['-c', `"${process.execPath}" "${PAGEWIRE}" encode --help | head -n 1`],
      {
        program: 'sh',
      },
    );
    assert.deepEqual([stdout.toString(), stderr], ['Usage: pagewire encode [options]\n', '']);
  });
});

describe('the version', () => {
  const { version } = JSON.parse(readFileSync(`${ROOT}package.json`, 'utf8')) as { version: string };
  for (const args of [['--version'], ['-V'], ['encode', '--version'], ['--version', 'encode']]) {
    it(`pagewire ${args.join(' ')}`, async (t) => {
      const { code, stdout, stderr } = await pagewire(t, args);
      assert.deepEqual([code, stdout.toString(), stderr], [0, `${version}\n`, '']);
    });
  }
});

describe('exit codes', () => {
  const table = (text: string, row: RegExp): number[] => [...text.matchAll(row)].map(([, code]) => Number(code));

  it('are those that the help and docs/cli.md tell', async (t) => {
    const expected = Object.values(EXIT);
    const { stdout } = await pagewire(t, ['--help']);
    assert.deepEqual(table(stdout.toString(), /^ {2}(\d) {2}/gm), expected);
    assert.deepEqual(table(docs, /^\| (\d) \|/gm), expected);
    for (const number of Object.values(SIGNALS)) assert.match(docs, new RegExp(`\\| ${128 + number} \\|`));
  });

  it('stand in docs/cli.md for every error code', () => {
    for (const code of ERROR_CODES) {
      const row = new RegExp(`^\\| (\\d) \\|.*\`${code}\``, 'm').exec(docs);
      if (code !== 'STOPPED') assert.equal(Number(row?.[1]), exitCode(code), code);
    }
  });
});

/** A destination of libvirt's tunnel. */
const TUNNEL = 'proxy destination --libvirt --listen unix:s';

describe('what cannot be done as it was asked gets one line and exit code 2', () => {
  const wrong: [args: string, message: RegExp][] = [
    ['encode --codec gzip', /gzip.*none, lz4, zlib, zstd/],
    ['encode --codec', /argument missing/],
    ['encode --level 20', /level 20 of zstd: from -100 to 19/],
    ['encode --codec lz4 --level 13', /level 13 of lz4: from -100 to 12/],
    ['encode --codec zlib --level -1', /level -1 of zlib: from 0 to 12/],
    ['encode --level high', /a whole number is needed/],
    ['encode --level 1.5', /a whole number is needed/],
    ['encode --threads 0', /0 threads: from 1 to 256/],
    ['decode --threads 257', /257 threads: from 1 to 256/],
    ['encode --cache-size many', /a size such as 512M/],
    ['encode --cache-size -1', /a size such as 512M/],
    ['encode --cache-size 10X', /a size such as 512M/],
    ['encode --memory-limit 50%', /a size such as 512M/],
    ['encode --stock --no-delta', /leave one of the two out/],
    ['encode --stock --codec zstd', /stock output .* leave out stock or the codec/],
    ['encode --stock --level 3', /stock output .* leave out stock or the level/],
    ['encode --codec none --level 1', /level 1 of none: from 0 to 0/],
    ['encode --no-delta --cache-size 1G', /--cache-size\) is for delta/],
    ['proxy source --name a --listen unix:s --connect unix:d --silence 50ms', /--silence 50 ms: from 100 ms to 24 h/],
    ['proxy source --name a --listen unix:s --connect unix:d --silence 25h', /--silence 1500 min: from 100 ms to 24 h/],
    ['proxy destination --listen unix:s --connect unix:d --silence 50ms', /--silence 50 ms: from 100 ms to 24 h/],
    ['proxy destination --listen unix:s --connect unix:d --max-sessions 0', /--max-sessions 0: at least 1/],
    ['proxy destination --listen unix:s --connect fd:0', /--connect fd:0: a connection .* is for one guest/],
    ['proxy destination --listen stdio --connect fd:99', /fd:99: no such descriptor is open/],
    ['proxy destination --listen unix:s --connect unix:d --max-handshakes -1', /--max-handshakes -1: at least 1/],
    ['proxy source --libvirt --listen intercept:7 --connect unix:d', /intercept:7: .*: leave out --libvirt/],
    ['proxy source --libvirt --listen unix:s --connect unix:d --port 5', /--port 5: .* goes to a libvirt daemon/],
    [`${TUNNEL} --connect unix:{name}.sock`, /unix:\{name\}\.sock: .* nothing stands for \{name\}/],
    [`${TUNNEL} --connect tcp:[::1]:{port}`, /tcp:\[::1\]:\{port\}: .* nothing stands for \{port\}/],
    [`${TUNNEL} --connect unix:d --peer src --peer b=vm1`, /--peer b=vm1: .* limit guests in libvirt's access control/],
    [`${TUNNEL} --connect unix:d --libvirt-allow 23,all`, /--libvirt-allow 23,all: all stands alone/],
    [`${TUNNEL} --connect unix:d --libvirt-allow 23,0`, /--libvirt-allow 23,0: numbers of procedures, from 1/],
    [`${TUNNEL} --connect unix:d --libvirt-allow x`, /--libvirt-allow x: numbers of procedures, from 1, or all/],
    [
      'proxy destination --listen unix:s --connect unix:d --libvirt-allow 23',
      /--libvirt-allow is for a libvirt daemon/,
    ],
    [
      'proxy destination --listen unix:s --connect unix:d --handshake-timeout 0s',
      /--handshake-timeout 0 ms: at least 1 ms/,
    ],
    ['encode --levl 1', /unknown option '--levl'/],
    ['decode --codec zstd', /unknown option '--codec'/],
    ['encode file', /too many arguments/],
    ['compress', /cannot open compress: no such file/],
    ['encode -i fd:77', /fd:77: no such descriptor is open/],
    ['decode -o fd:77', /fd:77: no such descriptor is open/],
    ['encode --stats fd:77', /fd:77: no such descriptor is open/],
    ['encode -i missing', /cannot open missing: no such file/],
    ['encode --fsync', /standard output is no file, and cannot be made durable/],
    ['encode -o missing/file', /cannot open missing\/file: no such file or folder/],
    ['encode -o file/below', /cannot open file\/below: a part of the path is not a folder/],
    ['encode -o .', /cannot open \.: it is a folder/],
    ['encode -i .', /cannot open \.: it is a folder/],
    ['decode -i .', /cannot open \.: it is a folder/],
    ['encode -i file -o out --stats file', /--stats file: the stream is read from the same place \(file\)/],
    ['encode -i file -o out --stats ./out', /--stats \.\/out: the stream is written to the same place \(out\)/],
    ['encode -o file --stats file', /--stats file: the stream is written to the same place \(file\)/],
    ['encode --stats /dev/stdout', /the stream is written to the same place \(standard output\)/],
    ['decode -i fd:0 --stats fd:0', /the stream is read from the same place \(fd:0\)/],
    ['encode --stats missing/file', /cannot open missing\/file for --stats/],
    ['encode -i file -o out --stats missing/file', /cannot open missing\/file for --stats/],
  ];
  for (const [args, message] of wrong) {
    it(`pagewire ${args}`, async (t) => {
      const path = folder(t);
      writeFileSync(path('file'), 'left alone');
      const { code, stdout, stderr } = await pagewire(t, args.split(' '), { cwd: path('') });
      assert.match(stderr, /^pagewire.*\n$/);
      assert.match(stderr, message);
      assert.deepEqual([code, stdout.length], [EXIT.usage, 0]);
      assert.equal(readFileSync(path('file'), 'utf8'), 'left alone');
      const { stdout: left } = await pagewire(t, ['-A', path('')], { program: 'ls' });
      assert.equal(left.toString(), 'file\n');
    });
  }

  it('a folder that may not be written', async (t) => {
    const path = folder(t);
    mkdirSync(path('closed'));
    chmodSync(path('closed'), 0o500);
    // Root may write into any folder, but nobody may make a file in sysfs.
    const closed = process.getuid?.() === 0 ? '/sys' : path('closed');
    const { code, stderr } = await pagewire(t, ['encode', '-o', `${closed}/file`]);
    assert.deepEqual([code, stderr], [EXIT.usage, `pagewire encode: cannot open ${closed}/file: permission denied\n`]);
  });
});

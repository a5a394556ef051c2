import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { linkSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { type OutputFlags, Outputs } from '#src/cli/bench-outputs.js';
import { EXIT, signalExit } from '#src/control/exit.js';
import { checkReport, readReport } from '#src/bench/report/schema.js';
import { smallStream } from '../bench/measured.js';
import { folder, pagewire, Running } from './command.js';

/** Quick ones of each kind. */
const SOME = ['stored', 'zlib-sync', 'xbzrle', 'raw page', 'cache'].flatMap((name) => ['--filter', name]);
/** The least there is to measure. */
const QUICK = ['--quick', '--runs', '1', '--filter', 'stored'];

describe('pagewire bench', () => {
  it('writes its report as a table, JSON, CSV, a page and pictures, and compares it', async (t) => {
    const path = folder(t);
    writeFileSync(path('guest.qemu'), smallStream());
    const out = ['--json', 'report.json', '--csv', 'report.csv', '--html', 'report.html', '--svg', 'plots'];
    const args = ['bench', 'guest.qemu', '--quick', '--runs', '1', ...SOME];
    const first = await pagewire(t, [...args, ...out], { cwd: path('.') });
    assert.equal(first.code, EXIT.ok, first.stderr);
    assert.match(first.stderr, /taking a sample/);

    const lines = first.stdout.toString().split('\n');
    assert.deepEqual(
      lines.filter((line) => line.length > 100),
      [],
    );
    const report = readReport(path('report.json'));
    for (const { name, status } of report.variants) {
      assert.equal(status, 'measured', name);
      assert.ok(
        lines.some((line) => line.startsWith(`${name} `)),
        name,
      );
    }
    const csv = readFileSync(path('report.csv'), 'utf8').split('\r\n');
    assert.equal(csv.length, report.variants.length + 2);
    assert.ok(
      csv[0]?.startsWith('stream,kind,name,status,') && csv.some((row) => row.includes('"delta + zstd 1, cache 10%"')),
    );
    assert.match(readFileSync(path('report.html'), 'utf8'), /^<!doctype html>[\s\S]*<svg class="plot"/);
    assert.deepEqual(readdirSync(path('plots')).sort(), [
      ...['block-links.svg', 'block-ratio-speed.svg', 'chain-cache.svg', 'chain-links.svg', 'chain-ratio-speed.svg'],
      ...['delta-links.svg', 'delta-ratio-speed.svg'],
    ]);

    const again = await pagewire(t, [...args, '-q', '--compare', 'report.json'], { cwd: path('.') });
    assert.deepEqual({ code: again.code, stderr: again.stderr }, { code: EXIT.ok, stderr: '' });
    assert.match(
      again.stdout.toString(),
      /^Compared with report\.json: \d+ of \d+ figures changed beyond the noise\.$/m,
    );
    const over = ['-q', '--compare', 'report.json', '--json', 'report.json'];
    assert.equal((await pagewire(t, [...args, ...over], { cwd: path('.') })).code, EXIT.usage);
    assert.deepEqual(readReport(path('report.json')), report);
  });

  const inputs: [what: string, flags: OutputFlags][] = [
    ['by another name', { json: 'link' }],
    ['--csv', { csv: 'S' }],
    ['--html', { html: 'S' }],
    ['a picture', { svg: 'plots' }],
    ['the report to compare with', { json: 'old.json' }],
    ['the same file twice', { json: 'new', csv: 'new' }],
  ];
  it(`writes over nothing that it reads: --json, ${inputs.map(([what]) => what).join(', ')}`, async (t) => {
    const path = folder(t);
    const stream = smallStream();
    writeFileSync(path('S'), stream);
    symlinkSync('S', path('link'));
    mkdirSync(path('plots'));
    linkSync(path('S'), path('plots/block-links.svg'));
    writeFileSync(path('old.json'), 'a report');
    const read = [path('S'), path('old.json')];
    const refused = /(must not be written over|would be written twice): /;
    const { code, stderr } = await pagewire(t, ['bench', 'S', ...QUICK, '-q', '--json', 'S'], { cwd: path('.') });
    assert.equal(code, EXIT.usage);
    assert.match(stderr, refused);
    for (const [what, flags] of inputs) {
      const named = (Object.entries(flags) as [string, string][]).map(([option, name]) => [option, path(name)]);
      const opened = Outputs.open(Object.fromEntries(named) as OutputFlags, read, new AbortController().signal);
      await assert.rejects(opened, { code: 'BAD_OPTION', message: refused }, what);
    }
    assert.ok(readFileSync(path('S')).equals(stream));
    assert.deepEqual(readdirSync(path('.')).sort(), ['S', 'link', 'old.json', 'plots']);
  });

  it('refuses what it could not write before it measures, and tells what it measured where it cannot', async (t) => {
    const path = folder(t);
    writeFileSync(path('S'), smallStream());
    writeFileSync(path('file'), '');
    const args = ['bench', 'S', ...QUICK];
    for (const output of [
      ['--json', 'gone/x'],
      ['--csv', 'S/x'],
      ['--svg', 'file'],
    ]) {
      const { code, stdout, stderr } = await pagewire(t, [...args, ...output], { cwd: path('.') });
      assert.deepEqual({ code, stdout: stdout.toString() }, { code: EXIT.usage, stdout: '' }, stderr);
      assert.match(stderr, /^pagewire bench: cannot (open|write into) .*\n$/);
    }
    const full = ['-q', '--html', '/dev/full', '--csv', 'csv'];
    const { code, stdout, stderr } = await pagewire(t, [...args, ...full], { cwd: path('.') });
    assert.equal(code, EXIT.failed);
    assert.match(stdout.toString(), /^stored +1\.00/m);
    assert.match(stderr, /^pagewire bench: cannot write \/dev\/full: .*\n$/);
    assert.match(readFileSync(path('csv'), 'utf8'), /^stream,kind/);
  });

  it('gives the report to standard output, and nothing of a name to the terminal as a command', async (t) => {
    const path = folder(t);
    writeFileSync(path('\x1b[2Jguest'), smallStream());
    const args = ['bench', '\x1b[2Jguest', ...QUICK, '--json', '-'];
    const { code, stdout, stderr } = await pagewire(t, args, { cwd: path('.') });
    assert.equal(code, EXIT.ok, stderr);
    assert.equal(checkReport(JSON.parse(stdout.toString()), 'it').streams[0]?.name, '\x1b[2Jguest');
    assert.match(stderr, /^\?\[2Jguest, \d\.\d+ MiB/m);
    assert.ok(!stderr.includes('\x1b'), JSON.stringify(stderr));
  });

  it('names the variants', async (t) => {
    const { code, stdout } = await pagewire(t, ['bench', '--list', '--filter', 'xbzrle', '--filter', 'stored']);
    assert.deepEqual({ code, stdout: stdout.toString() }, { code: EXIT.ok, stdout: 'block  stored\ndelta  xbzrle\n' });
  });

  it('lists and measures what is there, where npm packages are not', async (t) => {
    const path = folder(t);
    const hook = `export const resolve = (name, context, next) => {
      if (name === 'lz4-napi' || name === 'zlib-sync') throw new Error('no such package');
      return next(name, context);
    };`;
    const register = `import { register } from 'node:module'; register('data:text/javascript,' + ${JSON.stringify(encodeURIComponent(hook))});`;
    writeFileSync(path('hide.mjs'), register);
    writeFileSync(path('guest.qemu'), smallStream());
    const env = { NODE_OPTIONS: `--import=${path('hide.mjs')}` };
    const filter = ['lz4-napi', 'zlib-sync', 'stored'].flatMap((name) => ['--filter', name]);
    const list = await pagewire(t, ['bench', '--list', ...filter], { env });
    const told = 'block  stored\nblock  lz4-napi (not installed)\nblock  zlib-sync inflate (not installed)\n';
    assert.equal(list.stdout.toString(), told);
    const run = await pagewire(t, ['bench', path('guest.qemu'), '--quick', '-q', ...filter], { env });
    assert.equal(run.code, EXIT.ok, run.stderr);
    assert.match(run.stdout.toString(), /^stored +1\.00[\s\S]*^lz4-napi: not installed \(npm install lz4-napi\)$/m);
  });

  const refused: [what: string, args: string[], message: RegExp][] = [
    ['a file that is not there', ['gone.qemu'], /^pagewire bench: cannot open gone\.qemu: .*\n$/],
    [
      'what is no file',
      ['/dev/null'],
      /^pagewire bench: \/dev\/null is no file: a stream is read more than once, .*\n$/,
    ],
    ['a filter that nothing fits', ['--filter', 'snappy'], /^pagewire bench: no variant has snappy in its name .*\n$/],
    ['no runs', ['--runs', '0'], /^pagewire bench: 0 runs: from 1 to 1000\n$/],
    ['no time', ['--seconds', '0'], /^pagewire bench: 0 seconds: more than 0, up to 3600\n$/],
    ['a report that is none', ['--compare', '/etc/hostname'], /^pagewire bench: \/etc\/hostname is no report of .*\n$/],
  ];
  for (const [what, args, message] of refused) {
    it(`refuses ${what}, with one line`, async (t) => {
      const { code, stderr } = await pagewire(t, ['bench', '-q', ...args], { cwd: folder(t)('.') });
      assert.equal(code, EXIT.usage);
      assert.match(stderr, message);
    });
  }

  it('ends by Ctrl-C, and leaves nothing behind', async (t) => {
    const path = folder(t);
    const running = new Running(t, ['bench', '--simulate'], { env: { TMPDIR: path('.') } });
    await running.says(/simulated guest: warming up/);
    const open = spawnSync('ls', ['-l', `/proc/${running.child.pid ?? 0}/fd`], { encoding: 'utf8' }).stdout;
    running.child.kill('SIGINT');
    const { code, stdout } = await running.ended;
    assert.deepEqual({ code, stdout: stdout.toString() }, { code: signalExit('SIGINT'), stdout: '' });
    const mine = [...open.matchAll(/(\/dev\/shm\/pagewire-bench-\w+)/g)].map(([, name = '']) => name);
    assert.deepEqual(
      [readdirSync(path('.')), mine.filter((name) => spawnSync('test', ['-e', name]).status === 0)],
      [[], []],
    );
  });
});

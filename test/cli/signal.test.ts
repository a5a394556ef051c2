// How a command ends when it is told to, or when its reader goes.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { constants, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { EXIT, signalExit } from '#src/control/exit.js';
import { noise, simulated, text } from '../pipeline/content.js';
import { encoded } from '../pipeline/carried.js';
import { Pipe } from '../pipeline/pipe.js';
import { folder, pagewire, PAGEWIRE, Running } from './command.js';

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/** Waits until a process sleeps: it has done what it can. */
async function idle(running: Running): Promise<void> {
  const stat = (): string => spawnSync('cat', [`/proc/${running.child.pid ?? 0}/stat`]).stdout.toString();
  for (let quiet = 0, last = ''; quiet < 5;) {
    await sleep(50);
    // CPU time in user and kernel mode; a process that has just begun has used little.
    const [user, system] = stat().split(' ').slice(13, 15);
    const now = `${user ?? ''} ${system ?? ''}`;
    quiet = now === last && Number(user) > 0 ? quiet + 1 : 0;
    last = now;
  }
}

async function endsBy(running: Running, signal: 'SIGINT' | 'SIGTERM'): Promise<void> {
  running.child.kill(signal);
  const { code, signal: killedBy, stderr } = await running.ended;
  assert.deepEqual({ code, killedBy, stderr }, { code: signalExit(signal), killedBy: null, stderr: '' });
}

describe('a signal ends', () => {
  for (const signal of SIGNALS) {
    for (const command of ['encode', 'decode']) {
      it(`${command} with a silent input: ${signal}`, async (t) => {
        const running = new Running(t, [command]);
        await idle(running);
        await endsBy(running, signal);
      });

      it(`${command} whose input paused in the middle: ${signal}`, async (t) => {
        const running = new Running(t, [command]);
        const stream = text(300_000);
        running.child.stdin?.write(command === 'encode' ? stream : (await encoded(stream)).subarray(0, -10));
        await idle(running);
        await endsBy(running, signal);
      });

      it(`${command} with an output that nobody reads: ${signal}`, async (t) => {
        const blocked = new Pipe(t);
        const running = new Running(t, [command], { stdio: ['pipe', blocked.writeEnd, 'pipe'] });
        const stream = Buffer.alloc(40 << 20, 7);
        running.child.stdin?.write(command === 'encode' ? stream : await encoded(stream, { codec: 'zstd' }));
        if (command === 'encode') running.child.stdin?.write(stream);
        await idle(running);
        await endsBy(running, signal);
      });

      it(`${command} that waits for the other end of a FIFO: ${signal}`, async (t) => {
        const path = folder(t);
        assert.equal(spawnSync('mkfifo', [path('in'), path('out')]).status, 0);
        for (const args of [
          ['-i', path('in')],
          ['-o', path('out')],
          ['-i', path('in'), '-o', path('out')],
        ]) {
          const running = new Running(t, [command, ...args]);
          await idle(running);
          await endsBy(running, signal);
        }
      });
    }
  }

  it('demo', async (t) => {
    const running = new Running(t, ['demo']);
    await running.says(/migrating: lz4/);
    running.child.kill('SIGINT');
    const { code, stdout, stderr } = await running.ended;
    assert.deepEqual([code, stdout.length], [130, 0]);
    assert.doesNotMatch(stderr, /Error|at .*\.js/);
  });
});

describe('a reader that goes', () => {
  it('ends encode and decode with one line and exit code 1', async (t) => {
    for (const command of ['encode', 'decode']) {
      const output = new Pipe(t);
      const running = new Running(t, [command], { stdio: ['pipe', output.writeEnd, 'pipe'] });
      output.close(output.writeEnd);
      const stream = noise(8_000_000);
      running.child.stdin?.end(command === 'encode' ? stream : await encoded(stream));
      await output.reader().has(1);
      output.close();
      const { code, stderr } = await running.ended;
      assert.equal(code, EXIT.failed);
      assert.match(
        stderr,
        new RegExp(`^pagewire ${command}: standard output was closed by its reader after \\d+ bytes \\(.*\\)\\n$`),
      );
    }
  });

  it('of its notes does not end what it carries', async (t) => {
    const notes = new Pipe(t);
    notes.close(notes.readEnd);
    const { stream } = simulated();
    const running = new Running(t, ['encode'], { stdio: ['pipe', 'pipe', notes.writeEnd] });
    running.child.stdin?.end(stream);
    const { code, stdout } = await running.ended;
    assert.equal(code, 0);
    const { code: decoded } = await pagewire(t, ['decode'], { input: stdout });
    assert.equal(decoded, 0);
  });
});

describe('pipes that are shared', () => {
  for (const [command, stderr] of [
    ['encode', /./],
    ['decode', /^$/],
  ] as const) {
    it(`stay blocking while ${command} runs, and after SIGKILL`, async (t) => {
      const [out, notes] = [new Pipe(t), new Pipe(t)];
      const flags = (process: string, fd: number): string =>
        /flags:\s*(\d+)/.exec(readFileSync(`/proc/${process}/fdinfo/${fd}`, 'utf8'))?.[1]?.slice(-4) ?? '';
      const before = flags('self', notes.writeEnd);
      assert.equal(Number.parseInt(before, 8) & constants.O_NONBLOCK, 0);
      const running = new Running(t, [command, '--threads', '2'], { stdio: ['pipe', out.writeEnd, notes.writeEnd] });
      const { stream } = simulated();
      running.child.stdin?.write(command === 'encode' ? stream : (await encoded(stream)).subarray(0, -10));
      const reader = out.reader();
      await reader.has(100_000);
      await idle(running);
      const now = [1, 2].map((fd) => flags(String(running.child.pid), fd));
      running.child.kill('SIGKILL');
      await running.ended;
      assert.deepEqual([...now, flags('self', notes.writeEnd)], [before, before, before]);
      notes.close(notes.writeEnd);
      assert.match((await notes.reader().end()).toString(), stderr);
    });
  }

  it('stay blocking where the usage is wrong', async (t) => {
    const command = `"${process.execPath}" "${PAGEWIRE}" encode --levl; grep flags /proc/self/fdinfo/2`;
    const { stdout, stderr } = await pagewire(t, ['-c', command], { program: 'sh' });
    assert.match(stderr, /^pagewire: unknown option/);
    assert.equal(Number.parseInt(stdout.toString().replace(/\D/g, ''), 8) & constants.O_NONBLOCK, 0);
  });
});

/** Runs a command line on a terminal of its own, with util-linux's script; what it prints there. */
function onTerminal(
  t: Parameters<typeof pagewire>[0],
  command: string,
): Promise<{ code: number | null; shown: string }> {
  const running = new Running(t, ['-qec', command, '/dev/null'], { program: 'script' });
  running.child.stdin?.end();
  return running.ended.then(({ code, stdout }) => ({ code, shown: stdout.toString() }));
}

describe('on a terminal', () => {
  const lacks = spawnSync('script', ['--version']).status !== 0;
  if (lacks) console.log('PAGEWIRE-NOT-RUN the command line on a terminal: please install script (util-linux)');
  const quoted = `'${process.execPath}' '${PAGEWIRE}'`;

  it('frames are not written, nor read', { skip: lacks }, async (t) => {
    for (const [args, message] of [
      ['encode < /dev/null', /pagewire encode: standard output is a terminal/],
      ['encode --stock < /dev/null', /pagewire encode: standard output is a terminal/],
      ['decode -o /dev/null', /pagewire decode: standard input is a terminal/],
    ] as const) {
      const { code, shown } = await onTerminal(t, `${quoted} ${args}`);
      assert.equal(code, EXIT.usage, shown);
      assert.match(shown, message);
    }
  });

  it('a line tells how far it has come, unless it is to be quiet', { skip: lacks }, async (t) => {
    const path = folder(t);
    const slowly = `(head -c 3000000 /dev/zero; sleep 1.5) | ${quoted} encode`;
    const loud = await onTerminal(t, `${slowly} -o ${path('a')}`);
    assert.equal(loud.code, 0);
    assert.match(loud.shown, /\r2\.86 MiB → .* (?:Ki)?B · .*\/s in · .*x/);
    // The line is cleared, and nothing else is left on the screen.
    assert.ok(loud.shown.endsWith('\r\x1b[K'), JSON.stringify(loud.shown));
    const quiet = await onTerminal(t, `${slowly} --quiet -o ${path('b')}`);
    assert.deepEqual(quiet, { code: 0, shown: '' });
  });
});

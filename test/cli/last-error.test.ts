// --last-error of both proxies: who writes the file, and when.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LastError } from '#src/session/failure.js';
import { noise } from '../pipeline/content.js';
import { ANSWER, arrives, leaves } from '../session/qemus.js';
import { folder, Running } from './command.js';

const FAILED = 1;
const LINK = 6;
const SIGTERM = 143;

/** So long after it says that it waits, a proxy hears signals, in milliseconds. */
const HANDLED_MS = 500;

const read = (path: string): LastError => JSON.parse(readFileSync(path, 'utf8')) as LastError;

/** A proxy that listens on `unix:at`. */
async function proxy(t: TestContext, role: string, at: string, far: string, ...options: string[]): Promise<Running> {
  const words = ['proxy', role, '--listen', `unix:${at}`, '--connect', `unix:${far}`, '-T', '1', ...options];
  const running = new Running(t, words);
  await running.says(/waiting for|listening on/);
  return running;
}

/** Who talks to a session that will fail: it ends, or breaks. */
async function migrates(t: TestContext, socket: string): Promise<void> {
  await leaves(t, socket, noise(100_000)).catch(() => 'reset');
}

describe('--last-error', { concurrency: true }, () => {
  it('tells of a destination that cannot be reached; a success leaves it alone', async (t) => {
    const path = folder(t);
    const file = path('vm1.json');
    const source = (...options: string[]): Promise<Running> =>
      proxy(t, 'source', path('src.sock'), path('dst.sock'), '--name', 'vm1', ...options);
    const failing = await source('--last-error', path('{name}.json'));
    await migrates(t, path('src.sock'));
    const { code, stderr } = await failing.ended;
    assert.equal(code, LINK);
    const { time, message, remedy, ...rest } = read(file);
    assert.ok(!Number.isNaN(Date.parse(time)));
    assert.match(message, /dst\.sock: no such file/);
    assert.deepEqual(rest, {
      ...{ role: 'source', guest: 'vm1', session: 'vm1', connection: `unix:${path('dst.sock')}` },
      ...{ code: 'CONNECT_FAILED', exitCode: LINK },
    });
    assert.ok(stderr.includes(`vm1: ${message}; what to do: ${remedy ?? 'none'}\n`), stderr);

    // Nobody came: nothing has failed.
    const before = readFileSync(file, 'utf8');
    const waiting = await source('--last-error', file);
    await sleep(HANDLED_MS);
    waiting.child.kill('SIGTERM');
    assert.equal((await waiting.ended).code, SIGTERM);
    // And all went well.
    await proxy(t, 'destination', path('dst.sock'), path('{name}.sock'));
    const arrived = arrives(t, path('vm1.sock'));
    const well = await source('--last-error', file);
    assert.equal(await leaves(t, path('src.sock'), noise(1000)), ANSWER);
    await arrived;
    assert.equal((await well.ended).code, 0);
    assert.equal(readFileSync(file, 'utf8'), before);
  });

  it('tells at both ends of a QEMU that nobody has started; of strangers, nothing', async (t) => {
    const path = folder(t);
    const destination = await proxy(
      ...([t, 'destination', path('dst.sock'), path('{name}.sock')] as const),
      ...['--last-error', path('dst-{name}.json')],
    );
    const stranger = connect(path('dst.sock'));
    stranger.on('error', () => undefined).end(noise(1000));
    await destination.says(/does not begin as|is no pagewire proxy/);
    assert.deepEqual(
      readdirSync(path('')).filter((name) => name.endsWith('.json')),
      [],
    );

    const source = await proxy(
      ...([t, 'source', path('src.sock'), path('dst.sock'), '--name', 'vm1'] as const),
      ...['--last-error', path('src.json')],
    );
    await migrates(t, path('src.sock'));
    assert.equal((await source.ended).code, FAILED);
    await destination.says(/what to do/);
    while (!existsSync(path('dst-vm1.json'))) await sleep(10);
    const [there, here] = [read(path('dst-vm1.json')), read(path('src.json'))];
    assert.deepEqual([there.role, there.guest, there.code], ['destination', 'vm1', 'CONNECT_FAILED']);
    assert.deepEqual([here.role, here.guest, here.code], ['source', 'vm1', 'PEER_FAILED']);
    for (const { message } of [there, here]) assert.match(message, /vm1\.sock: no such file/);
  });

  it("is written by the listener where a session's process is killed, and only warned of where it cannot be", async (t) => {
    const path = folder(t);
    const destination = await proxy(
      ...([t, 'destination', path('dst.sock'), path('{name}.sock')] as const),
      ...['--last-error', path('dst.json')],
    );
    void arrives(t, path('vm1.sock'), () => {
      for (const pid of processesOf(destination)) if (title(pid) === 'pagewire: vm1') process.kill(pid, 'SIGKILL');
    });
    const source = await proxy(
      ...([t, 'source', path('src.sock'), path('dst.sock'), '--name', 'vm1', '--reconnect', '0s'] as const),
      ...['--last-error', path('none/src.json')],
    );
    await migrates(t, path('src.sock'));
    const { code, stderr } = await source.ended;
    assert.equal(code, LINK);
    assert.match(stderr, /vm1: warning: --last-error: .*none/);
    await destination.says(/what to do/);
    while (!existsSync(path('dst.json'))) await sleep(10);
    const { guest, code: failure, message } = read(path('dst.json'));
    assert.deepEqual([guest, failure], ['vm1', 'INTERNAL']);
    assert.match(message, /was ended by SIGKILL/);
  });

  it("is written by the process of each of libvirt's connections", async (t) => {
    const path = folder(t);
    const source = await proxy(
      ...([t, 'source', path('src.sock'), path('dst.sock'), '--libvirt', '--name', 'to-dst'] as const),
      ...['--last-error', path('last-{name}.json')],
    );
    const libvirt = connect(path('src.sock'));
    libvirt.on('error', () => undefined).resume();
    await once(libvirt, 'close');
    await source.says(/what to do/);
    // No guest is known: one file for all such connections.
    while (!existsSync(path('last-session.json'))) await sleep(10);
    const { session, connection, code, message } = read(path('last-session.json'));
    assert.match(session, /^to-dst-[0-9a-f]{8}$/);
    assert.deepEqual([connection, code], [`unix:${path('dst.sock')}`, 'CONNECT_FAILED']);
    assert.match(message, /dst\.sock: no such file/);
  });
});

function processesOf({ child: { pid = 0 } }: Running): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(/\s+/).map(Number);
}

function title(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[0]?.trim() ?? '';
}

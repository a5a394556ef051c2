// A source proxy that listens for many: each session is a process of its own. (Intercepted ones: test/e2e/libvirt.)
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { folder, Running, titles } from '../cli/command.js';

/** A sign of life, in libvirt's protocol. */
const PING = Buffer.from([28, 0x6b656570, 1, 1, 2, 0, 0].flatMap((word) => [24, 16, 8, 0].map((by) => word >> by)));

/** The far daemon: connections to it, in their order, and how much has come over each. */
function daemon(t: TestContext, path: string): { came: number }[] {
  const connections: { came: number }[] = [];
  const server = createServer((socket) => {
    const connection = { came: 0 };
    connections.push(connection);
    socket.on('error', () => undefined).on('data', ({ length }) => (connection.came += length));
  }).listen(path);
  t.after(() => server.close());
  return connections;
}

/** The near one. */
async function libvirt(t: TestContext, path: string): Promise<Socket> {
  const socket = connect(path);
  t.after(() => socket.destroy());
  socket.on('error', () => undefined).resume();
  await once(socket, 'connect');
  return socket;
}

/** The processes of a proxy that have a session, by its name. */
function sessions(running: Running): Map<string, number> {
  const named = [...titles(running)].map(
    ([title, child]) => [/^pagewire: (to-dst-[0-9a-f]{8})/.exec(title)?.[1] ?? '', child] as const,
  );
  return new Map(named.filter(([name]) => name !== ''));
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const end = performance.now() + 20_000;
  while (!holds()) {
    assert.ok(performance.now() < end, `in vain: ${what}`);
    await sleep(10);
  }
}

describe('the sessions of a source proxy that listens', () => {
  it('are processes: one that is killed harms no other, and settings reach all', async (t) => {
    const path = folder(t);
    const [config, stats] = [path('config'), path('stats')];
    writeFileSync(config, '');
    const far = daemon(t, path('daemon.sock'));
    const ends = ['-T', '1', '--libvirt', '--listen'];
    const destination = new Running(t, [
      ...['proxy', 'destination', ...ends, `unix:${path('dst.sock')}`, '--connect', `unix:${path('daemon.sock')}`],
    ]);
    await destination.says(/listening on/);
    const source = new Running(t, [
      ...['proxy', 'source', ...ends, `unix:${path('src.sock')}`, '--connect', `unix:${path('dst.sock')}`],
      ...['--name', 'to-dst', '--config', config, '--stats', stats],
    ]);
    await source.says(/waiting for libvirt on/);

    const near = [await libvirt(t, path('src.sock')), await libvirt(t, path('src.sock'))] as const;
    for (const socket of near) socket.write(PING);
    await until('both reach the daemon', () => far.length === 2 && far.every(({ came }) => came === PING.length));
    await until('both have names', () => sessions(source).size === 2);
    const [[killed, pid] = ['', 0], [other, survivor] = ['', 0]] = [...sessions(source)];

    // Said to one alone it is no end either: who holds a guest in doubt may be spoken to.
    process.kill(survivor, 'SIGHUP');
    await source.says(new RegExp(`read ${config} again`));
    process.kill(pid, 'SIGKILL');
    await Promise.race(near.map((socket) => once(socket, 'close')));
    await source.says(new RegExp(`${killed}: the session's process was ended by SIGKILL`));
    for (const socket of near.filter(({ closed }) => !closed)) socket.write(PING);
    await until('the other goes on', () => far.some(({ came }) => came === 2 * PING.length));
    assert.deepEqual([...sessions(source).keys()], [other]);

    // What the listener reads holds for this one and for the next. A limit that lets nothing through shows it.
    writeFileSync(config, 'max-bandwidth = 1\n');
    source.child.kill('SIGHUP');
    await source.says(/read .* again[\s\S]*read .* again/);
    const next = await libvirt(t, path('src.sock'));
    const much = Buffer.concat(Array.from({ length: 4096 }, () => PING));
    for (const socket of [...near, next]) if (!socket.closed) socket.write(much);
    await until('the next one', () => sessions(source).size === 2);
    await sleep(500);
    assert.ok(
      far.every(({ came }) => came < much.length),
      JSON.stringify(far),
    );
    await until('stats of both', () =>
      [...sessions(source).keys()].every((name) => readFileSync(stats, 'utf8').includes(name)),
    );

    source.child.kill('SIGTERM');
    const { code, stderr } = await source.ended;
    assert.equal(code, 0, stderr);
  });

  it('are not missed where none has begun when the proxy is stopped', async (t) => {
    const path = folder(t);
    const source = new Running(t, [
      ...['proxy', 'source', '-T', '1', '--libvirt', '--insecure', '--listen', `unix:${path('src.sock')}`],
      ...['--connect', `unix:${path('dst.sock')}`],
    ]);
    // The process that is to wait for the first one is starting: it hears no signal yet.
    await source.says(/waiting for libvirt on/);
    source.child.kill('SIGTERM');
    const { code, stderr } = await source.ended;
    assert.deepEqual([code, stderr.split('\n').length], [0, 2], stderr);
  });

  it('begin in another process where the one that waits is killed, which is no failed migration', async (t) => {
    const path = folder(t);
    const proxy = (role: string, at: string, to: string): Running =>
      new Running(t, [
        ...['proxy', role, '-T', '1', '--libvirt', '--insecure', '--listen', `unix:${path(at)}`],
        ...['--connect', `unix:${path(to)}`],
      ]);
    const proxies = [proxy('destination', 'dst.sock', 'daemon.sock'), proxy('source', 'src.sock', 'dst.sock')];
    await Promise.all(
      proxies.map(async (running) => {
        const waits = (): number | undefined => titles(running).get('pagewire: a session to be');
        await until('one waits', () => waits() !== undefined);
        const killed = waits() ?? 0;
        process.kill(killed, 'SIGKILL');
        await running.says(/warning: a process that waited for a session was ended by SIGKILL/);
        await until('another one waits', () => ![undefined, killed].includes(waits()));
        running.child.kill('SIGTERM');
        const { code, stderr } = await running.ended;
        assert.equal(code, 0, stderr);
        assert.doesNotMatch(stderr, /error:|fails/);
      }),
    );
  });
});

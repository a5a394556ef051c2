// Libvirt's tunnel whose conversation breaks off while a guest is on its way: both ends tell of it, by the log and by
// the file of --last-error. (With real daemons: test/e2e/libvirt.)
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LastError } from '#src/session/failure.js';
import { folder, Running, titles } from '../cli/command.js';

const REMOTE = 0x20008086;
const PREPARE_TUNNEL3_PARAMS = 304;
const FINISH3_PARAMS = 306;
const CALL = 0;
const REPLY = 1;
const STREAM = 3;
const OK = 0;
const CONTINUE = 2;

const words = (...of: number[]): Buffer => Buffer.from(of.flatMap((word) => [24, 16, 8, 0].map((by) => word >> by)));

/** A string in XDR. */
function string(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([words(bytes.length), bytes, Buffer.alloc(-bytes.length & 3)]);
}

function packet(procedure: number, kind: number, serial: number, status: number, body?: Buffer): Buffer {
  const header = words(28 + (body?.length ?? 0), REMOTE, 1, procedure, kind, serial, status);
  return body ? Buffer.concat([header, body]) : header;
}

const prepares = (kind: number, status: number, body?: Buffer): Buffer =>
  packet(PREPARE_TUNNEL3_PARAMS, kind, 1, status, body);

/** A guest vm1 is prepared for, and its stream begins. */
const BEGINNING = Buffer.concat([
  prepares(CALL, OK, Buffer.concat([words(1), string('destination_name'), words(7), string('vm1')])),
  prepares(STREAM, CONTINUE, Buffer.from('QEVM and more')),
]);
const PREPARED = prepares(REPLY, OK);
const STREAM_ENDS = prepares(STREAM, OK);
/** Lets the guest run: it was not cancelled. */
const FINISHES = packet(FINISH3_PARAMS, CALL, 2, OK, words(0, 0));
const FINISHED = packet(FINISH3_PARAMS, REPLY, 2, OK);
/** libvirt takes its leave some time behind that, with calls that want answers: of CONNECT_UNREGISTER_CLOSE_CALLBACK first. */
const LEAVES = packet(361, CALL, 3, OK);
/** libvirt's keepalive: the daemons ask each other whether they live, and answer. */
const [PING, PONG] = [1, 2].map((procedure) => words(28, 0x6b656570, 1, procedure, 2, 0, 0)) as [Buffer, Buffer];

interface Tunnel {
  readonly path: (name: string) => string;
  readonly source: Running;
  readonly destination: Running;
  /** The daemons' sockets. */
  readonly near: Socket;
  readonly far: Socket;
  /** What the near one has heard. */
  readonly heard: () => string;
  /** Writes at one end, and waits until the other has it. */
  readonly says: (from: Socket, bytes: Buffer) => Promise<void>;
  /** What `--last-error` of an end says, once it does. */
  readonly lastError: (end: string) => Promise<LastError>;
}

/** The session's process of a proxy. */
function sessionOf(running: Running): number {
  const [session] = [...titles(running)].filter(([title]) => title.startsWith('pagewire: libvirt-'));
  assert.ok(session);
  return session[1];
}

/** The stream is complete, and the daemon at the destination has what comes behind it. */
async function complete({ near, far, says }: Tunnel, then?: Buffer): Promise<void> {
  await says(far, PREPARED);
  await says(near, STREAM_ENDS);
  await says(far, STREAM_ENDS);
  if (then) await says(near, then);
}

/** A conversation in the middle of a guest's stream. */
async function tunnel(t: TestContext): Promise<Tunnel> {
  const path = folder(t);
  const proxy = async (role: string, at: string, to: string): Promise<Running> => {
    const running = new Running(t, [
      ...['proxy', role, '-T', '1', '--libvirt', '--listen', `unix:${path(at)}`, '--connect', `unix:${path(to)}`],
      ...['--silence', '1s', '--reconnect', '500ms', '--last-error', path(`${role}-{name}.json`)],
    ]);
    await running.says(/listening on|waiting for/);
    return running;
  };
  const daemon = createServer().listen(path('daemon.sock'));
  t.after(() => daemon.close());
  const destination = await proxy('destination', 'dst.sock', 'daemon.sock');
  const source = await proxy('source', 'src.sock', 'dst.sock');
  const near = connect(path('src.sock'));
  const came = new Map<Socket, string>([[near, '']]);
  const hear = (socket: Socket): void => {
    t.after(() => socket.destroy());
    socket
      .on('error', () => undefined)
      .on('data', (said) => {
        came.set(socket, (came.get(socket) ?? '') + said.toString('latin1'));
      });
  };
  hear(near);
  const heard = (by = near): string => came.get(by) ?? '';
  const [far] = (await once(daemon, 'connection')) as [Socket];
  hear(far);
  const says = async (from: Socket, bytes: Buffer): Promise<void> => {
    const to = from === near ? far : near;
    const until = heard(to).length + bytes.length;
    from.write(bytes);
    while (heard(to).length < until) await sleep(5);
  };
  await says(near, BEGINNING);
  const lastError = async (end: string): Promise<LastError> => {
    const file = path(`${end}-vm1.json`);
    while (!existsSync(file)) await sleep(10);
    return JSON.parse(readFileSync(file, 'utf8')) as LastError;
  };
  return { path, source, destination, near, far, heard, says, lastError };
}

describe("libvirt's tunnel in the middle of a guest's stream", () => {
  it("fails at both ends when the source's daemon goes", async (t) => {
    const { path, source, destination, near, lastError } = await tunnel(t);
    near.end();
    const here = await lastError('source');
    assert.deepEqual([here.guest, here.code], ['vm1', 'READ_FAILED']);
    const broke = `libvirt's connection at unix:${path('src.sock')} broke: libvirt closed its connection in the middle`;
    assert.ok(here.message.includes(broke), here.message);
    await source.says(/in the middle of a guest's stream.*what to do: /);
    const there = await lastError('destination');
    assert.deepEqual([there.guest, there.code], ['vm1', 'PEER_FAILED']);
    assert.match(there.message, /the source gave up: libvirt closed its connection/);
    await destination.says(/what to do: /);
  });

  it("fails at both ends when the destination's daemon goes, and the source's is told", async (t) => {
    const { path, source, destination, near, far, heard, lastError } = await tunnel(t);
    const closed = once(near, 'close');
    far.destroy();
    await closed;
    assert.match(heard(), /pagewire: .*the libvirt daemon behind|pagewire: .*libvirt daemon at the destination closed/);
    const [here, there] = [await lastError('source'), await lastError('destination')];
    for (const { guest, code } of [here, there]) assert.equal(guest, 'vm1', code);
    assert.equal(there.code, 'OUTPUT_CLOSED');
    assert.ok(there.message.includes(`unix:${path('daemon.sock')}`), there.message);
    assert.match(here.message, /daemon .* closed/);
    for (const running of [source, destination]) await running.says(/vm1.*what to do: /);
  });

  for (const end of ['source', 'destination'] as const) {
    it(`names the guest whose process at the ${end} is killed`, async (t) => {
      const running = await tunnel(t);
      // It prepares for the guest, and tells its listener of that, at the same time as it sends it on.
      await running.source.says(/guest vm1: libvirt sends its stream/);
      await running.destination.says(/guest vm1: libvirt prepares for it/);
      process.kill(sessionOf(running[end]), 'SIGKILL');
      const { guest, code, message } = await running.lastError(end);
      assert.deepEqual([guest, code], ['vm1', 'INTERNAL']);
      assert.match(message, /was ended by SIGKILL .*: libvirt fails its migration/);
    });
  }
});

describe("libvirt's tunnel whose daemons take nothing", () => {
  const MORE = Buffer.alloc(64 << 10, 'more');

  it("tells the destination that the source's daemon has gone, though nothing more goes over the link", async (t) => {
    const { near, far, lastError } = await tunnel(t);
    far.pause();
    // Until nothing has gone for a while: all between the two is full.
    let sent = -1;
    while (sent !== near.bytesWritten) {
      sent = near.bytesWritten;
      while (near.writableLength < 16 * MORE.length) near.write(prepares(STREAM, CONTINUE, MORE));
      await sleep(500);
    }
    near.destroy();
    for (const [end, code] of [
      ['source', 'READ_FAILED'],
      ['destination', 'PEER_FAILED'],
    ] as const) {
      const failure = await lastError(end);
      assert.equal(failure.code, code);
      assert.match(failure.message, /libvirt closed its connection in the middle of a (migration|guest's stream)/);
    }
  });

  it("tells of a destination's daemon that has gone, though the source's does not hear of it", async (t) => {
    const { destination, near, far } = await tunnel(t);
    near.pause();
    // More than the socket there holds, and less than that and the link's.
    for (let i = 0; i < 5; i++) far.write(prepares(STREAM, CONTINUE, MORE));
    far.end();
    await destination.says(
      /the libvirt daemon closed unix:.*daemon.sock before the end of the migration of guest vm1; /,
    );
  });
});

describe("libvirt's tunnel behind a guest's stream", () => {
  it('ends well at both ends where the link is lost for good behind the last answer', async (t) => {
    const running = await tunnel(t);
    const { path, source, destination, near, far, says } = running;
    await complete(running, FINISHES);
    await says(far, FINISHED);
    await says(near, LEAVES);
    const session = sessionOf(destination);
    process.kill(session, 'SIGSTOP');
    await once(near, 'close');
    process.kill(session, 'SIGCONT');
    await source.says(/warning: the link is lost for good: .* behind the last answer of libvirt's migration/);
    await source.says(/connection has ended \(1 stream complete\)/);
    await destination.says(/warning: the link is lost for good: .* behind the last answer/);
    await destination.says(/connection has ended/);
    for (const end of ['source', 'destination']) assert.ok(!existsSync(path(`${end}-vm1.json`)), end);
  });

  for (const [who, ends] of [
    ["source's proxy is stopped", ({ source }: Tunnel) => process.kill(sessionOf(source), 'SIGTERM')],
    ["destination's proxy is stopped", ({ destination }: Tunnel) => process.kill(sessionOf(destination), 'SIGTERM')],
    ["destination's daemon goes", ({ far }: Tunnel) => far.destroy()],
  ] as const) {
    it(`ends well at both ends where the ${who} behind the last answer`, async (t) => {
      const running = await tunnel(t);
      const { path, source, destination, near, far, says } = running;
      await complete(running, FINISHES);
      await says(far, FINISHED);
      await says(near, LEAVES);
      ends(running);
      await once(near, 'close');
      await source.says(/connection has ended \(1 stream complete\)/);
      await destination.says(/connection has ended/);
      for (const end of ['source', 'destination']) assert.ok(!existsSync(path(`${end}-vm1.json`)), end);
    });
  }

  it('ends well where the daemon at the destination goes right behind its last answer', async (t) => {
    const running = await tunnel(t);
    const { path, source, near, far, says } = running;
    await complete(running, FINISHES);
    await says(far, FINISHED);
    far.destroy();
    await once(near, 'close');
    await source.says(/connection has ended \(1 stream complete\)/);
    for (const end of ['source', 'destination']) assert.ok(!existsSync(path(`${end}-vm1.json`)), end);
  });

  it("waits for the last answer of a source's daemon that has said all", async (t) => {
    const running = await tunnel(t);
    const { path, source, near, far, says, heard } = running;
    await complete(running, FINISHES);
    near.end();
    await sleep(100);
    assert.equal(far.readableEnded, false);
    await says(far, FINISHED);
    await source.says(/connection has ended \(1 stream complete\)/);
    assert.ok(heard().endsWith(FINISHED.toString('latin1')));
    for (const end of ['source', 'destination']) assert.ok(!existsSync(path(`${end}-vm1.json`)), end);
  });

  it("fails at both ends when the destination's daemon goes before the last call", async (t) => {
    const running = await tunnel(t);
    const { near, far, lastError } = running;
    await complete(running);
    const closed = once(near, 'close');
    far.destroy();
    await closed;
    for (const end of ['source', 'destination']) assert.equal((await lastError(end)).code, 'OUTPUT_CLOSED');
  });

  it("fails at both ends when the source's daemon goes without the last answer, though the far one hangs", async (t) => {
    const running = await tunnel(t);
    await complete(running, FINISHES);
    running.near.destroy();
    const [here, there] = [await running.lastError('source'), await running.lastError('destination')];
    for (const { message, remedy } of [here, there]) {
      assert.match(message, /libvirt closed its connection in the middle of a migration's last call/);
      assert.match(remedy ?? '', /see where the guest runs/);
    }
  });

  for (const [who, end, why] of [
    ["destination's daemon goes", ({ far }: Tunnel) => far.destroy(), 'the libvirt daemon behind .* closed'],
    [
      "destination's proxy is stopped",
      async ({ destination }: Tunnel) => {
        const session = sessionOf(destination);
        process.kill(session, 'SIGTERM');
        await destination.says(/A second signal closes it/);
        process.kill(session, 'SIGTERM');
      },
      'the destination gave up: stopped',
    ],
    [
      "source's daemon says what is no call",
      ({ near }: Tunnel) => near.write(Buffer.alloc(28, 0xff)),
      "what came from libvirt's side .* cannot be read",
    ],
  ] as const) {
    it(`holds a guest that may run at the destination, and its daemon, when the ${who}`, async (t) => {
      const running = await tunnel(t);
      const { source, near, far, heard, says } = running;
      await complete(running, PING);
      await says(far, PONG);
      await says(near, FINISHES);
      const before = heard().length;
      await end(running);
      await source.says(new RegExp(`IN DOUBT: ${why}`));
      const signs = (): string => heard().slice(before);
      // The third shows that they go on.
      while (signs().length < 3 * PONG.length) await sleep(20);
      assert.equal(signs().replaceAll(PONG.toString('latin1'), ''), '');
      assert.equal(near.readableEnded, false);
      const session = sessionOf(source);
      process.kill(session, 'SIGTERM');
      await source.says(/A second signal ends the session/);
      process.kill(session, 'SIGTERM');
      assert.match((await running.lastError('source')).remedy ?? '', /see where the guest runs/);
    });
  }
});

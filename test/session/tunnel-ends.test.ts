// Libvirt's tunnel whose conversation breaks off while a guest is on its way: both ends tell of it, by the log and by
// the file of --last-error. (With real daemons: test/e2e/libvirt.)
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LastError } from '#src/session/failure.js';
import { folder, Running } from '../cli/command.js';

const REMOTE = 0x20008086;
const PREPARE_TUNNEL3_PARAMS = 304;
const CALL = 0;
const STREAM = 3;
const CONTINUE = 2;

const words = (...of: number[]): Buffer => Buffer.from(of.flatMap((word) => [24, 16, 8, 0].map((by) => word >> by)));

/** A string in XDR. */
function string(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([words(bytes.length), bytes, Buffer.alloc(-bytes.length & 3)]);
}

function packet(kind: number, status: number, body: Buffer): Buffer {
  const header = words(28 + body.length, REMOTE, 1, PREPARE_TUNNEL3_PARAMS, kind, 1, status);
  return Buffer.concat([header, body]);
}

/** A guest vm1 is prepared for, and its stream begins. */
const BEGINNING = Buffer.concat([
  packet(CALL, 0, Buffer.concat([words(1), string('destination_name'), words(7), string('vm1')])),
  packet(STREAM, CONTINUE, Buffer.from('QEVM and more')),
]);

interface Tunnel {
  readonly path: (name: string) => string;
  readonly source: Running;
  readonly destination: Running;
  /** The daemons' sockets. */
  readonly near: Socket;
  readonly far: Socket;
  /** What the near one has heard. */
  readonly heard: () => string;
  /** What `--last-error` of an end says, once it does. */
  readonly lastError: (end: string) => Promise<LastError>;
}

/** A conversation in the middle of a guest's stream. */
async function tunnel(t: TestContext): Promise<Tunnel> {
  const path = folder(t);
  const proxy = async (role: string, at: string, to: string): Promise<Running> => {
    const running = new Running(t, [
      ...['proxy', role, '-T', '1', '--libvirt', '--listen', `unix:${path(at)}`, '--connect', `unix:${path(to)}`],
      ...['--reconnect', '500ms', '--last-error', path(`${role}-{name}.json`)],
    ]);
    await running.says(/listening on|waiting for/);
    return running;
  };
  const daemon = createServer().listen(path('daemon.sock'));
  t.after(() => daemon.close());
  const destination = await proxy('destination', 'dst.sock', 'daemon.sock');
  const source = await proxy('source', 'src.sock', 'dst.sock');
  const near = connect(path('src.sock'));
  let heard = '';
  near.on('error', () => undefined).on('data', (said) => (heard += said.toString('latin1')));
  const [far] = (await once(daemon, 'connection')) as [Socket];
  for (const socket of [near, far]) t.after(() => socket.destroy());
  let came = 0;
  const all = new Promise<void>((resolve) => {
    far
      .on('error', () => undefined)
      .on('data', ({ length }) => {
        if ((came += length) >= BEGINNING.length) resolve();
      });
  });
  near.write(BEGINNING);
  await all;
  const lastError = async (end: string): Promise<LastError> => {
    const file = path(`${end}-vm1.json`);
    while (!existsSync(file)) await sleep(10);
    return JSON.parse(readFileSync(file, 'utf8')) as LastError;
  };
  return { path, source, destination, near, far, heard: () => heard, lastError };
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
      const { pid } = running[end].child;
      const sessions = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ');
      const [session] = sessions.filter((each) =>
        readFileSync(`/proc/${each}/cmdline`, 'latin1').startsWith('pagewire: libvirt-'),
      );
      assert.ok(session);
      process.kill(Number(session), 'SIGKILL');
      const { guest, code, message } = await running.lastError(end);
      assert.deepEqual([guest, code], ['vm1', 'INTERNAL']);
      assert.match(message, /was ended by SIGKILL .*: libvirt fails its migration/);
    });
  }
});

// The destination's listener where the system has no process for a session, and among strangers. What it does else:
// test/e2e/proxy.
import assert from 'node:assert/strict';
import { fstatSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { codeOf } from '#src/errors.js';
import { native } from '#src/native.js';
import { Dialler } from '#src/session/dial.js';
import { Listener } from '#src/session/listener.js';
import { createLog } from '#src/telemetry/log.js';
import { type JoinHello, PROTOCOL, readJoinWelcome } from '#src/session/hello.js';
import { type Kind, writePreamble } from '#src/session/preamble.js';
import { folder } from '../cli/command.js';
import { OPEN, settings, TIMEOUT } from './handshake.js';

function isOpen(fd: number): boolean {
  try {
    fstatSync(fd);
    return true;
  } catch {
    return false;
  }
}

/** Processes are started from there. */
function programIs(t: TestContext, path: string): void {
  const { execPath } = process;
  process.execPath = path;
  t.after(() => {
    process.execPath = execPath;
  });
}

interface Open {
  readonly path: (name: string) => string;
  readonly listener: Listener;
  readonly dialler: Dialler;
  /** Resolves once the log has such a line. */
  readonly says: (what: RegExp) => Promise<void>;
}

function open(t: TestContext): Open {
  const path = folder(t);
  const address = { kind: 'unix', path: path('in') } as const;
  let said = '';
  let heard = (): void => undefined;
  const write = (line: string): void => {
    said += line;
    heard();
  };
  const listener = new Listener({
    ...{ listen: address, socket: {}, shown: `unix:${address.path}`, settings: settings(path) },
    ...{ maxSessions: 4, maxHandshakes: 4 },
    log: createLog({ name: 'test', format: 'text', quiet: false, write }),
    logging: { format: 'text', quiet: true, verbose: false },
  });
  t.after(async () => {
    listener.stop();
    await listener.done;
  });
  const says = async (what: RegExp): Promise<void> => {
    while (!what.test(said)) await new Promise<void>((resolve) => (heard = resolve));
  };
  return { path, listener, dialler: new Dialler([address], null), says };
}

describe('a listener without a process for a session', { timeout: TIMEOUT }, () => {
  it('lets go of each that could not be started, and ends when it is told to', async (t) => {
    programIs(t, '/nowhere/node');
    const { listener, dialler, says } = open(t);
    await says(/a session's process: .*ENOENT/);
    // More often than it has places.
    for (let times = 0; times < 8; times++) {
      await assert.rejects(dialler.open(OPEN, 0, TIMEOUT), { code: 'CONNECTION_LOST' });
    }
    listener.stop();
    await listener.done;
  });

  it('says so to whoever comes', async (t) => {
    programIs(t, ''); // node:child_process throws
    const pairs = t.mock.method(native, 'socketPair');
    const { dialler, says } = open(t);
    const left = pairs.mock.calls.flatMap(({ result = [] }) => result).filter(isOpen);
    assert.deepEqual(left, [], 'descriptors are left open');
    await assert.rejects(dialler.open(OPEN, 0, TIMEOUT), /refuses: no process can be started/);
    await says(/no process for a session/);
    assert.equal(pairs.mock.callCount(), 2);
  });
});

describe('a listener among strangers', { timeout: TIMEOUT }, () => {
  /** Asks for a session, as a peer would, and says this instead of HELLO. */
  const stranger = (path: string, number: number, says = '', kind: Kind = 'open'): Promise<unknown> => {
    const socket = connect(path);
    socket.write(writePreamble({ kind, session: number.toString(16).padStart(32, '0') }));
    socket.write(says);
    socket.resume();
    return new Promise((resolve) => socket.on('error', resolve).on('close', resolve));
  };

  it('starts no process for each of them', async (t) => {
    const started = t.mock.method(native, 'socketPair');
    const { path } = open(t);
    for (let number = 1; number <= 30; number++) await stranger(path('in'), number, 'x'.repeat(64));
    assert.ok(started.mock.callCount() <= 2, `${started.mock.callCount()} for 30`);
  });

  it('takes nobody for a link of a session that a stranger has asked for', async (t) => {
    const { path, says } = open(t);
    void stranger(path('in'), 1);
    await stranger(path('in'), 1, '', 'join');
    await says(/came while too many others wait/);
  });

  it('has a place for a link that comes back, whoever waits', async (t) => {
    const { path, dialler } = open(t);
    const qemu = createServer((socket) => socket.on('error', () => undefined)).listen(path('vm1'));
    t.after(() => qemu.close());
    const { link } = await dialler.open(OPEN, 0, TIMEOUT);
    link.close();
    // Where it has a place it is refused by its port: a session of the same guest would put an end to the one here.
    const denied = { ...OPEN, port: 1 };
    const another = (): Promise<unknown> =>
      new Dialler([{ kind: 'unix', path: path('in') }], null).open(denied, 0, TIMEOUT).catch(codeOf);
    const join: JoinHello = {
      ...{ kind: 'join', protocol: PROTOCOL, program: '0.0.1', token: OPEN.token, channel: 0, received: 0 },
    };
    // Those that wait, silent. Their address has one place, which a handshake that ended just now may still have: who
    // finds it taken is closed. Whoever came before `another`, and waits on behind the join, has had it all the while.
    const waiting = new Set<number>();
    let isBack = false;
    for (let number = 1; !isBack; number++) {
      const before = [...waiting];
      waiting.add(number);
      void stranger(path('in'), number).then(() => waiting.delete(number));
      if ((await another()) !== 'CONNECTION_LOST') continue;
      const back = await dialler.join(join, 0, TIMEOUT);
      assert.equal(readJoinWelcome(back.welcome).received, 0);
      back.link.close();
      isBack = before.some((each) => waiting.has(each));
    }
  });
});

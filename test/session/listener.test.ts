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
    const { listener, dialler, says } = open(t);
    const left = pairs.mock.calls.flatMap(({ result = [] }) => result).filter(isOpen);
    assert.deepEqual(left, [], 'descriptors are left open');
    await assert.rejects(dialler.open(OPEN, 0, TIMEOUT), /refuses: no process can be started/);
    await says(/no process for a session/);
    assert.equal(pairs.mock.callCount(), 2);
    listener.stop();
    await listener.done;
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
    const { path, listener } = open(t);
    for (let number = 1; number <= 30; number++) await stranger(path('in'), number, 'x'.repeat(64));
    assert.ok(started.mock.callCount() <= 2, `${started.mock.callCount()} for 30`);
    listener.stop();
    await listener.done;
  });

  it('takes nobody for a link of a session that a stranger has asked for', async (t) => {
    const { path, listener, says } = open(t);
    const silent = stranger(path('in'), 1);
    await stranger(path('in'), 1, '', 'join');
    await says(/came while too many others wait/);
    listener.stop();
    await listener.done;
    await silent;
  });

  it('has a place for a link that comes back, whoever waits', async (t) => {
    const { path, listener, dialler } = open(t);
    const qemu = createServer((socket) => socket.on('error', () => undefined)).listen(path('vm1'));
    t.after(() => qemu.close());
    const { link } = await dialler.open(OPEN, 0, TIMEOUT);
    link.close();
    // The handshake that has just ended may still have its place.
    const silent: Promise<unknown>[] = [];
    const another = (): Promise<unknown> =>
      new Dialler([{ kind: 'unix', path: path('in') }], null).open(OPEN, 0, TIMEOUT).catch(codeOf);
    do silent.push(stranger(path('in'), silent.length + 1));
    while ((await another()) !== 'CONNECTION_LOST');
    const join: JoinHello = {
      ...{ kind: 'join', protocol: PROTOCOL, program: '0.0.1', token: OPEN.token, channel: 0, received: 0 },
    };
    const back = await dialler.join(join, 0, TIMEOUT);
    assert.equal(readJoinWelcome(back.welcome).received, 0);
    back.link.close();
    listener.stop();
    await listener.done;
    await Promise.all(silent);
  });
});

// The destination's listener where the system has no process for a session. What it does else: test/e2e/proxy.
import assert from 'node:assert/strict';
import { fstatSync } from 'node:fs';
import { describe, it, type TestContext } from 'node:test';
import { native } from '#src/native.js';
import { Dialler } from '#src/session/dial.js';
import { Listener } from '#src/session/listener.js';
import { createLog } from '#src/telemetry/log.js';
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
  return { listener, dialler: new Dialler([address], null), says };
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

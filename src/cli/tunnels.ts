/** libvirt's tunnel at the source, for any number of connections: each gets a process of its own. */
import { type ChildProcess, fork } from 'node:child_process';
import { closeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { notify } from '../control/notify.js';
import { onReload, onStop } from '../control/signals.js';
import { PagewireError } from '../errors.js';
import { native, type NativeListener } from '../native.js';
import type { Listenable } from '../session/endpoints.js';
import { type Failed, lastErrorOf, tellFailure } from '../session/failure.js';
import type { SessionSnapshot } from '../session/snapshot.js';
import type { SourceProxySettings } from '../session/source-proxy.js';
import type { Log } from '../telemetry/log.js';
import type { Metrics } from '../telemetry/metrics.js';
import type { SessionOutcome } from '../telemetry/session.js';
import { EXIT } from './exit.js';

/** libvirt's connections that may wait at once, and for how long: they are taken at once. */
const LISTEN = { preamble: false, maxPending: 64, timeoutMs: 10_000 };

/** Where a process finds its connection. */
const CONNECTION_FD = 3;

/** What the process of a connection tells: how it stands, and in the end how it ended. */
export interface TunnelNews {
  readonly snapshot: SessionSnapshot;
  readonly outcome?: SessionOutcome;
}

/** Runs until it is told to end, and all connections have ended. */
export async function serveTunnels(
  { address, shown }: Listenable,
  { socket = {}, name, connect }: SourceProxySettings,
  lastError: string | undefined,
  metrics: Metrics | undefined,
  log: Log,
): Promise<number> {
  const children = new Set<ChildProcess>();
  let settle!: () => void;
  const done = new Promise<void>((resolve) => (settle = resolve));
  let isStopping = false;
  const listener: NativeListener = native.NativeListener.listen(address, { ...LISTEN, ...socket }, (fd) => {
    const child = start(fd);
    children.add(child);
    let last: Failed = { role: 'source', name, peer: connect.join(', '), tunnel: null };
    child.on('message', ({ snapshot, outcome }: TunnelNews) => {
      last = { ...snapshot, peer: snapshot.peer ?? last.peer };
      if (outcome) metrics?.end(snapshot, outcome.state);
      else metrics?.update(snapshot);
    });
    child.on('error', (error) => {
      log.error(`the process of a connection: ${error.message}`);
    });
    child.once('close', (_, signal) => {
      children.delete(child);
      if (signal !== null) {
        // It could not tell so itself.
        const message = `the process of a connection was ended by ${signal}: libvirt fails its migration`;
        tellFailure(log, lastErrorOf(last, new PagewireError('INTERNAL', message)), lastError);
      }
      if (isStopping && children.size === 0) settle();
    });
  });
  log.info(`waiting for libvirt on ${shown}`);
  notify(log, `READY=1\nSTATUS=waiting for libvirt on ${shown}`);
  const signal = (name: NodeJS.Signals): void => {
    for (const child of children) child.kill(name);
  };
  onStop(() => {
    notify(log, 'STOPPING=1');
    if (!isStopping) listener.close();
    isStopping = true;
    signal('SIGTERM');
    if (children.size === 0) settle();
  });
  onReload(() => {
    signal('SIGHUP');
  });
  await done;
  metrics?.close();
  return EXIT.ok;
}

/** The same command for one connection. In a group of its own, so that a signal to ours does not count twice. */
function start(fd: number): ChildProcess {
  try {
    return fork(
      fileURLToPath(new URL('./main.js', import.meta.url)),
      [...process.argv.slice(2), '--listen', `fd:${CONNECTION_FD}`, '--of-listener'],
      { stdio: ['ignore', 'ignore', 'inherit', fd, 'ipc'], detached: true },
    );
  } finally {
    closeSync(fd);
  }
}

import { randomBytes } from 'node:crypto';
import { faultText, onFault } from '../control/faults.js';
import { notify } from '../control/notify.js';
import { onReload, onStop } from '../control/signals.js';
import { PagewireError } from '../errors.js';
import { listenable } from '../session/endpoints.js';
import { lastErrorOf, tellFailure } from '../session/failure.js';
import type { SessionSnapshot } from '../session/snapshot.js';
import { type Ended, Interception, interceptionPort } from '../session/interception.js';
import { checkSource, SourceProxy, type SourceProxySettings } from '../session/source-proxy.js';
import type { SessionEnd } from '../session/source.js';
import type { Log } from '../telemetry/log.js';
import { Metrics } from '../telemetry/metrics.js';
import { Progress } from '../telemetry/progress.js';
import {
  endedSession,
  failedSession,
  type SessionOutcome,
  sessionEnd,
  sessionProgress,
  sessionSummary,
  statsLine,
} from '../telemetry/session.js';
import { EXIT, type Signal } from './exit.js';
import { exitOf, openLog, openStats, parseOwner, reload, settingsOf, type SourceFlags } from './proxy.js';
import { serveTunnels, type TunnelNews } from './tunnels.js';

/** How often `--stats` and `--metrics` get how it stands, in milliseconds. */
const EVERY_MS = 1000;

/** `pagewire proxy source` */
export async function proxySource(flags: SourceFlags): Promise<number> {
  const listenPort = interceptionPort(flags.listen);
  return listenPort === undefined ? carryOne(flags) : intercept(flags, listenPort);
}

/** What comes over one connection of QEMU's and those that belong to it, or over each of libvirt's. */
async function carryOne(flags: SourceFlags): Promise<number> {
  const { libvirt, listen, metrics: at, ofListener } = flags;
  const name = nameOf(flags);
  const log = openLog('proxy source', flags).child({ guest: name });
  const settings = proxySettings(flags, name);
  const writeStats = openStats(flags.stats);
  const metrics = at === undefined || ofListener ? undefined : await Metrics.serve(at);
  if (libvirt && !ofListener) {
    const target = listenable(listen, flags.insecure);
    if (target.connected === undefined) {
      checkSource(settings, log);
      return serveTunnels(target, settings, flags.lastError, metrics, log);
    }
  }
  const tell = (news: TunnelNews): void => {
    if (ofListener && process.connected) process.send?.(news);
  };
  const proxy = new SourceProxy(settings, log);
  onFault((error) => {
    proxy.fault(error);
  });
  notify(log, `READY=1\nSTATUS=waiting for ${libvirt ? 'libvirt' : 'QEMU'} on ${proxy.listening}`);

  let signalled: Signal | undefined;
  onStop((signal) => {
    signalled = signal;
    notify(log, 'STOPPING=1');
    proxy.stop();
  });
  onReload(() => {
    reload(flags, log, ({ maxBandwidth, inDoubt, reconnectMs }) => {
      proxy.setMaxBandwidth(maxBandwidth);
      proxy.setInDoubt(inDoubt);
      proxy.setReconnect(reconnectMs);
    });
  });
  const progress = new Progress(
    flags.quiet,
    () => proxy.snapshot().streamBytes,
    sessionProgress(() => proxy.snapshot()),
  );
  const timer = setInterval(() => {
    const snapshot = proxy.snapshot();
    writeStats?.(statsLine(snapshot, null));
    metrics?.update(snapshot);
    tell({ snapshot });
    notify(log, `STATUS=${status(snapshot)}`);
  }, EVERY_MS);
  try {
    const ended = await proxy.done.then(
      (end): Ended => ({ end }),
      (error: unknown): Ended => ({ failure: PagewireError.from(error) }),
    );
    clearInterval(timer);
    progress.end();
    const [snapshot, outcome] = [proxy.snapshot(), outcomeOf(ended)];
    writeStats?.(statsLine(snapshot, outcome));
    metrics?.end(snapshot, outcome.state);
    tell({ snapshot, outcome });
    notify(log, `STOPPING=1\nSTATUS=${outcome.state}`);
    if ('end' in ended) {
      tellEnd(log, snapshot, ended.end);
      return ended.end.cancelled ? EXIT.truncated : EXIT.ok;
    }
    const code = exitOf(ended.failure, signalled);
    const failed = { ...snapshot, peer: snapshot.peer ?? settings.connect.join(', ') };
    // Where nobody came, nothing has failed.
    const file = signalled && snapshot.seconds === 0 ? undefined : flags.lastError;
    tellFailure(log, lastErrorOf(failed, ended.failure, code), file);
    return code;
  } finally {
    metrics?.close();
  }
}

/** Every migration whose connections the packet filter sends us. */
async function intercept(flags: SourceFlags, listenPort: number): Promise<number> {
  for (const [option, value] of [
    ['--port', flags.port],
    ['--listen-mode', flags.listenMode],
    ['--listen-owner', flags.listenOwner],
  ] as const) {
    if (value === undefined) continue;
    throw new PagewireError('BAD_OPTION', `${option} is of no use with --listen ${flags.listen}`);
  }
  const log = openLog('proxy source', flags);
  const writeStats = openStats(flags.stats);
  const metrics = flags.metrics === undefined ? undefined : await Metrics.serve(flags.metrics);
  const interception = new Interception(
    { ...proxySettings(flags, nameOf(flags)), listenPort, lastError: flags.lastError },
    log,
    (snapshot, ended) => {
      const outcome = outcomeOf(ended);
      writeStats?.(statsLine(snapshot, outcome));
      metrics?.end(snapshot, outcome.state);
      if ('end' in ended) tellEnd(log.child({ guest: snapshot.name }), snapshot, ended.end);
    },
  );
  onFault((error) => {
    log.error(faultText(error));
    interception.fault(error);
  });
  onStop(() => {
    notify(log, 'STOPPING=1');
    interception.stop();
  });
  onReload(() => {
    reload(flags, log, (config) => {
      interception.change(config);
    });
  });
  notify(log, `READY=1\nSTATUS=waiting for connections on port ${listenPort}`);
  log.info(`waiting for QEMU on ${flags.listen}: connections that the packet filter redirects there`);
  const timer = setInterval(() => {
    const snapshots = interception.snapshots();
    for (const snapshot of snapshots) {
      writeStats?.(statsLine(snapshot, null));
      metrics?.update(snapshot);
    }
    notify(log, `STATUS=${snapshots.length} migrations`);
  }, EVERY_MS);
  await interception.done;
  clearInterval(timer);
  metrics?.close();
  return EXIT.ok;
}

function outcomeOf(ended: Ended): SessionOutcome {
  return 'failure' in ended ? failedSession(ended.failure) : endedSession(ended.end);
}

function tellEnd(log: Log, snapshot: SessionSnapshot, { cancelled, within }: SessionEnd): void {
  if (cancelled && !snapshot.tunnel) {
    const where = within === undefined ? '' : ` (within ${within})`;
    log.warn(`QEMU ended its stream before the end${where}: the migration was cancelled, or failed there`);
  } else {
    log.info(`${sessionEnd(snapshot, cancelled)}: ${sessionSummary(snapshot)}`);
  }
}

function status({ state, streamBytes, wire, peer }: SessionSnapshot): string {
  return `${state}${peer === null ? '' : ` with ${peer}`}: ${streamBytes} bytes of the stream, ${wire.out} on the wire`;
}

/** A session's name: its guest's; in libvirt's tunnel several may come, so each connection has a name of its own. */
function nameOf({ name, libvirt }: SourceFlags): string {
  if (libvirt) return `${name ?? 'libvirt'}-${randomBytes(4).toString('hex')}`;
  if (name === undefined) throw new PagewireError('BAD_OPTION', "--name GUEST is needed: the guest's name");
  return name;
}

/** What the command line says, in the library's words. */
function proxySettings(flags: SourceFlags, name: string): SourceProxySettings {
  const { listen, libvirt, connect, port, insecure, stock, delta, codec, level, match, threads, cacheSize } = flags;
  const { memoryLimit } = flags;
  const { listenMode: mode, listenOwner: owner, tlsDir: dir, key, peer: peers } = flags;
  const { replay: replayBytes, silence: silenceMs, require } = flags;
  return {
    ...{ name, libvirt, listen, connect, port, insecure, stock, delta, codec, level, match, threads, cacheSize },
    ...{ memoryLimit },
    ...{ replayBytes, silenceMs, require, tls: { dir, key, peers } },
    socket: { ...(mode !== undefined && { mode }), ...(owner !== undefined && parseOwner(owner)) },
    ...settingsOf(flags),
  };
}

import { closeSync } from 'node:fs';
import { faultText, onFault } from '../control/faults.js';
import type { Config } from '../control/config.js';
import { notify } from '../control/notify.js';
import { onReload, onStop } from '../control/signals.js';
import { PagewireError } from '../errors.js';
import { native } from '../native.js';
import { nearListenable, type NearListenable } from '../session/endpoints.js';
import { tellFailure } from '../session/failure.js';
import { checkInterception, Interception, interceptionPort, MARK } from '../session/interception.js';
import { rehearse } from '../session/rehearsal.js';
import type { SessionSnapshot } from '../session/snapshot.js';
import { type Belongs, type Session, SourceListener } from '../session/source-process.js';
import { failedOf, SourceProcesses } from '../session/source-processes.js';
import {
  checkSource,
  defaultEnd,
  SourceMigration,
  SourceProxy,
  type SourceProxySettings,
  warmWorkers,
} from '../session/source-proxy.js';
import type { SessionEnd } from '../session/outcome.js';
import { tunnelName, Tunnels } from '../session/tunnels.js';
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
import { EXIT, type Signal } from '../control/exit.js';
import { exitOf, openLog, openStats, parseOwner, reload, settingsOf, type SourceFlags } from './proxy.js';

/** How often `--stats` and `--metrics` get how it stands, in milliseconds. */
const EVERY_MS = 1000;

/** Who hears how a session stands, and in the end its outcome. */
type Hears = (snapshot: SessionSnapshot, outcome: SessionOutcome | undefined) => unknown;

/** `pagewire proxy source` */
export async function proxySource(flags: SourceFlags): Promise<number> {
  if (flags.ofListener) return carryGiven(flags);
  const port = interceptionPort(flags.listen);
  if (port !== undefined) return intercept(flags, port);
  if (!flags.libvirt) return carryOne(flags, guestName(flags));
  const target = nearListenable(flags);
  const isOne = target.connected !== undefined;
  return isOne ? carryOne(flags, tunnelName(flags.name ?? TUNNEL)) : serveTunnels(flags, target);
}

/** What names of libvirt's connections begin with. */
const TUNNEL = 'libvirt';

/** What comes over one connection of QEMU's and those that belong to it, or over one of libvirt's. */
async function carryOne(flags: SourceFlags, name: string): Promise<number> {
  const log = openLog('proxy source', flags).child({ guest: name });
  const settings = proxySettings(flags, name);
  const writeStats = openStats(flags.stats, log);
  const metrics = flags.metrics === undefined ? undefined : await Metrics.serve(flags.metrics);
  const proxy = new SourceProxy(settings, log);
  const who = flags.libvirt ? 'libvirt' : 'QEMU';
  notify(log, `READY=1\nSTATUS=waiting for ${who} on ${proxy.listening}`);
  onReload(() => {
    reload(flags, log, (config) => {
      apply(proxy, config);
    });
  });
  try {
    return await carry(flags, settings, proxy, log, (snapshot, outcome) => {
      writeStats?.(statsLine(snapshot, outcome ?? null));
      if (outcome) metrics?.end(snapshot, outcome.state);
      else metrics?.update(snapshot);
      notify(log, outcome ? `STOPPING=1\nSTATUS=${outcome.state}` : `STATUS=${status(snapshot)}`);
    });
  } finally {
    metrics?.close();
  }
}

/** One session of a proxy that listens, in a process of its own: with the connections that it is given. */
function carryGiven(flags: SourceFlags): Promise<number> {
  process.title = 'pagewire: a session to be';
  const log = openLog('proxy source', flags);
  if (interceptionPort(flags.listen) !== undefined) native.setMark(MARK);
  // Nothing is packed with --stock.
  const workers = flags.stock ? undefined : warmWorkers(proxySettings(flags, TUNNEL));
  let migration: SourceMigration | undefined;
  const leave = (): void => {
    if (!migration) process.exit(EXIT.ok);
  };
  onStop(leave);
  // Whoever finds this one in doubt may speak to it alone.
  onReload(() => {
    reload(flags, log, (config) => {
      if (migration) apply(migration, config);
    });
  });
  return new Promise((resolve) => {
    const begin = (fd: number, { name, connect, port, config }: Session): Promise<number> | number => {
      process.title = `pagewire: ${name}`;
      const ours = log.child({ guest: name });
      const settings = { ...proxySettings(flags, name, config), connect, port };
      try {
        migration = new SourceMigration(settings, ours, workers);
      } catch (error) {
        closeSync(fd);
        void workers?.close();
        const failed = failedOf({ name, connect }, flags.libvirt);
        return tellFailure(ours, failed, PagewireError.from(error), flags.lastError).exitCode;
      }
      migration.accept(fd);
      return carry(flags, settings, migration, ours, (snapshot, outcome) =>
        listener.tell(snapshot, outcome, flags.stats === undefined ? undefined : statsLine(snapshot, outcome ?? null)),
      );
    };
    const callOff = rehearse(defaultEnd(flags.libvirt), () => {
      // With interception, where it goes comes with the connection.
      if (interceptionPort(flags.listen) !== undefined) return;
      checkSource(proxySettings(flags, TUNNEL), log.child({}, { level: 'silent' }));
    });
    const listener = new SourceListener({
      begin: (fd, session) => {
        callOff();
        resolve(begin(fd, session));
      },
      further: (fd) => {
        const belongs = migration ? belongsTo(migration) : 'another';
        if (belongs === 'here') migration?.accept(fd);
        else closeSync(fd);
        return belongs;
      },
      change: (config) => {
        if (migration) apply(migration, config);
      },
      gone: leave,
    });
  });
}

/** Whose a further connection is. */
function belongsTo(migration: SourceMigration): Belongs {
  switch (migration.snapshot().state) {
    case 'waiting':
    case 'connecting':
    case 'running':
    case 'reconnecting':
      return 'here';
    case 'ending':
      return 'next';
    case 'in doubt':
    case 'ended':
    case 'failed':
      return 'another';
  }
}

/** Carries a migration to its end. */
async function carry(
  flags: SourceFlags,
  { connect }: SourceProxySettings,
  migration: SourceMigration,
  log: Log,
  hears: Hears,
): Promise<number> {
  onFault((error) => {
    migration.fault(error);
  });
  let signalled: Signal | undefined;
  onStop((signal) => {
    signalled = signal;
    notify(log, 'STOPPING=1');
    migration.stop();
  });
  const progress = new Progress(
    flags.quiet,
    () => migration.snapshot().streamBytes,
    sessionProgress(() => migration.snapshot()),
  );
  const tell = (): void => {
    hears(migration.snapshot(), undefined);
  };
  const timer = setInterval(tell, EVERY_MS);
  // Whose guest it is, the listener must know even of a process that is killed at once.
  migration.onTunnel(tell);
  const over = async (outcome: SessionOutcome): Promise<SessionSnapshot> => {
    clearInterval(timer);
    progress.end();
    const snapshot = migration.snapshot();
    await hears(snapshot, outcome);
    return snapshot;
  };
  let end: SessionEnd;
  try {
    end = await migration.done;
  } catch (error) {
    const failure = PagewireError.from(error);
    const snapshot = await over(failedSession(failure));
    const failed = { ...snapshot, peer: snapshot.peer ?? connect.join(', ') };
    // Where nobody came, nothing has failed.
    const file = signalled && snapshot.seconds === 0 ? undefined : flags.lastError;
    return tellFailure(log, failed, failure, file, exitOf(failure, signalled)).exitCode;
  }
  tellEnd(log, await over(endedSession(end)), end);
  return end.cancelled ? EXIT.truncated : EXIT.ok;
}

/** Every migration whose connections the packet filter sends us. */
function intercept(flags: SourceFlags, port: number): Promise<number> {
  if (flags.libvirt) {
    const why = "what is redirected there are QEMU's connections: leave out --libvirt, or listen on unix:PATH";
    throw new PagewireError('BAD_OPTION', `--listen ${flags.listen}: ${why}`);
  }
  for (const [option, value] of [
    ['--port', flags.port],
    ['--listen-mode', flags.listenMode],
    ['--listen-owner', flags.listenOwner],
  ] as const) {
    if (value === undefined) continue;
    throw new PagewireError('BAD_OPTION', `${option} is of no use with --listen ${flags.listen}`);
  }
  const name = guestName(flags);
  const log = openLog('proxy source', flags);
  const settings = proxySettings(flags, name);
  checkInterception(settings, log);
  return serve(flags, log, {
    waits: `waiting for QEMU on ${flags.listen}: connections that the packet filter redirects there`,
    sessions: 'migrations',
    libvirt: false,
    listen: (processes) => new Interception(port, settings, processes, log),
  });
}

/** Each of libvirt's connections. */
function serveTunnels(flags: SourceFlags, target: NearListenable): Promise<number> {
  const name = flags.name ?? TUNNEL;
  const log = openLog('proxy source', flags);
  const settings = proxySettings(flags, name);
  checkSource(settings, log);
  return serve(flags, log, {
    waits: `waiting for libvirt on ${target.shown}`,
    sessions: 'connections',
    libvirt: true,
    listen: (processes) => new Tunnels(target, settings, processes),
  });
}

/** How a proxy at the source listens, whose sessions are processes. */
interface Serving {
  /** What it waits for, and of what there are how many, for people. */
  readonly waits: string;
  readonly sessions: string;
  readonly libvirt: boolean;
  readonly listen: (processes: SourceProcesses) => Interception | Tunnels;
}

/** Runs until it is told to end, and all sessions have ended. */
async function serve(flags: SourceFlags, log: Log, { waits, sessions, libvirt, listen }: Serving): Promise<number> {
  const writeStats = openStats(flags.stats, log);
  const metrics = flags.metrics === undefined ? undefined : await Metrics.serve(flags.metrics);
  const processes = new SourceProcesses({
    ...{ log, libvirt, config: settingsOf(flags), lastError: flags.lastError },
    onNews: (snapshot, outcome, line) => {
      if (line !== undefined) writeStats?.(line);
      if (outcome) metrics?.end(snapshot, outcome.state);
      else metrics?.update(snapshot);
    },
  });
  const listener = listen(processes);
  onFault((error) => {
    log.error(faultText(error));
  });
  onStop(() => {
    notify(log, 'STOPPING=1');
    listener.stop();
  });
  onReload(() => {
    reload(flags, log, (config) => {
      listener.change(config);
    });
  });
  notify(log, `READY=1\nSTATUS=${waits}`);
  log.info(waits);
  const timer = setInterval(() => {
    notify(log, `STATUS=${processes.sessions} ${sessions}`);
  }, EVERY_MS);
  await listener.done;
  clearInterval(timer);
  metrics?.close();
  return EXIT.ok;
}

function apply(migration: SourceMigration, { maxBandwidth, inDoubt, reconnectMs }: Required<Config>): void {
  migration.setMaxBandwidth(maxBandwidth);
  migration.setInDoubt(inDoubt);
  migration.setReconnect(reconnectMs);
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

function guestName({ name }: SourceFlags): string {
  if (name === undefined) throw new PagewireError('BAD_OPTION', "--name GUEST is needed: the guest's name");
  return name;
}

/** What the command line says, in the library's words. */
function proxySettings(flags: SourceFlags, name: string, config = settingsOf(flags)): SourceProxySettings {
  const { listen, libvirt, connect, port, insecure, stock, delta, codec, level, match, threads, cacheSize } = flags;
  const { memoryLimit } = flags;
  const { listenMode: mode, listenOwner: owner, tlsDir: dir, key, peer: peers } = flags;
  const { replay: replayBytes, silence: silenceMs, require } = flags;
  return {
    ...{ name, libvirt, listen, connect, port, insecure, stock, delta, codec, level, match, threads, cacheSize },
    ...{ memoryLimit },
    ...{ replayBytes, silenceMs, require, tls: { dir, key, peers } },
    socket: { ...(mode !== undefined && { mode }), ...(owner !== undefined && parseOwner(owner)) },
    ...config,
  };
}

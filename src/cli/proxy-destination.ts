import { type Config } from '../control/config.js';
import { onFault } from '../control/faults.js';
import { notify } from '../control/notify.js';
import { onReload, onStop } from '../control/signals.js';
import { PagewireError } from '../errors.js';
import { checkThreads } from '../pipeline/settings.js';
import { endOf } from '../session/end.js';
import { type Listenable, listenable, tlsFor } from '../session/endpoints.js';
import { tellFailure } from '../session/failure.js';
import { Host, type HostSettings } from '../session/host.js';
import { Listener } from '../session/listener.js';
import { parsePeer, parsePorts, type PeerRule } from '../session/peers.js';
import { readPreamble } from '../session/preamble.js';
import { frameSizeFor, matchRoom, RETURN_REPLAY } from '../session/room.js';
import type { NativeAllow } from '../native.js';
import type { SessionSnapshot } from '../session/snapshot.js';
import type { Log } from '../telemetry/log.js';
import { Metrics } from '../telemetry/metrics.js';
import { Progress } from '../telemetry/progress.js';
import {
  endedSession,
  failedSession,
  sessionEnd,
  sessionProgress,
  sessionSummary,
  statsLine,
} from '../telemetry/session.js';
import { openLink } from '../transport/connect.js';
import { checkOpen, checkPlain, type Endpoint, endpointText, parseEndpoint } from '../transport/endpoint.js';
import { EXIT, type Signal } from '../control/exit.js';
import { type DestinationFlags, exitOf, openLog, openStats, parseOwner, reload, settingsOf } from './proxy.js';

const EVERY_MS = 1000;

/** `pagewire proxy destination` */
export async function proxyDestination(flags: DestinationFlags): Promise<number> {
  const target = listenable(flags.listen, flags.insecure);
  const isOne = target.connected !== undefined;
  const settings = hostSettings(flags, target.tls, isOne);
  const log = openLog('proxy destination', flags);
  return isOne ? serveOne(flags, settings, target.endpoint, log) : serveMany(flags, settings, target, log);
}

/** `isOne`: there is one connection, which nobody can make a second time. */
function hostSettings(flags: DestinationFlags, tls: boolean, isOne: boolean): HostSettings {
  atLeastOne('--max-sessions', flags.maxSessions);
  atLeastOne('--max-handshakes', flags.maxHandshakes);
  atLeastOne('--handshake-timeout', flags.handshakeTimeout, ' ms');
  const { connect, memoryLimit, handshakeTimeout: handshakeMs, replay, tlsDir: dir, key } = flags;
  const peers = (flags.peer ?? []).map(parsePeer);
  if (flags.libvirt) checkTunnel(flags, peers);
  const ports = parsePorts(flags.ports);
  // A place for each guest is filled in later: whether the endpoint can be one is seen now.
  const example = connect.replaceAll('{name}', 'guest').replaceAll('{port}', String(ports.least));
  const far = parseEndpoint(example);
  checkPlain(far, flags.insecure);
  const { kind } = far;
  if (kind !== 'unix' && kind !== 'tcp' && kind !== 'fd') {
    throw new PagewireError(
      'BAD_OPTION',
      `--connect ${connect}: ${flags.libvirt ? 'libvirt' : 'QEMU'} is at unix:PATH, tcp:HOST:PORT or fd:N`,
    );
  }
  if (kind === 'fd') {
    if (!isOne) {
      const reason =
        'a connection that was passed on is for one guest, and --listen takes many: fd:N or stdio there too';
      throw new PagewireError('BAD_OPTION', `--connect ${connect}: ${reason}`);
    }
    checkOpen(far.fd, endpointText(far));
  }
  const { inDoubt, reconnectMs } = settingsOf(flags);
  const threads = checkThreads(flags.threads);
  const allow = allowed(flags);
  const frameSize = frameSizeFor(threads, memoryLimit);
  const match = matchRoom(threads, frameSize, memoryLimit);
  const end = endOf({ ...flags, silenceMs: flags.silence, match }, frameSize);
  return {
    ...{ connect, ports, peers, inDoubt, handshakeMs, end, threads },
    tls: tlsFor('destination', tls, peers, { dir, key })?.tls ?? null,
    replayBytes: Math.min(replay, RETURN_REPLAY),
    reconnectMs: isOne ? 0 : reconnectMs,
    ...(memoryLimit !== undefined && { memoryLimit }),
    ...(allow && { allow }),
  };
}

/** A tunnel does not belong to one guest: many may come over it, and its name is the source's choice. */
function checkTunnel({ connect, peer = [] }: DestinationFlags, rules: readonly PeerRule[]): void {
  const place = /\{name\}|\{port\}/.exec(connect)?.[0];
  if (place !== undefined) {
    const why = `with --libvirt it is the daemon's socket, one for all guests, and nothing stands for ${place}`;
    throw new PagewireError('BAD_OPTION', `--connect ${connect}: ${why}`);
  }
  const limited = rules.findIndex(({ guests }) => guests.length > 0);
  if (limited < 0) return;
  const why =
    "with --libvirt a session is a tunnel, whose name is no guest's: limit guests in libvirt's access control";
  throw new PagewireError('BAD_OPTION', `--peer ${peer[limited] ?? ''}: ${why}, and give the key or name alone`);
}

/** With less, everybody would be refused. */
function atLeastOne(option: string, value: number, unit = ''): void {
  if (value < 1) throw new PagewireError('BAD_OPTION', `${option} ${value}${unit}: at least 1${unit}`);
}

/** What a libvirt daemon gets to see, where one is at `--connect`. */
function allowed({ libvirt, libvirtAllow = [] }: DestinationFlags): NativeAllow | undefined {
  if (!libvirt && libvirtAllow.length > 0) {
    throw new PagewireError('BAD_OPTION', '--libvirt-allow is for a libvirt daemon: give --libvirt too');
  }
  if (!libvirt) return undefined;
  const all = libvirtAllow.length === 1 && libvirtAllow[0] === 'all';
  if (all) return { all, procedures: [] };
  const wrong = libvirtAllow.find((name) => !/^[1-9]\d{0,8}$/.test(name));
  if (wrong !== undefined) {
    const why = wrong === 'all' ? 'all stands alone, without numbers' : 'numbers of procedures, from 1, or all';
    throw new PagewireError('BAD_OPTION', `--libvirt-allow ${libvirtAllow.join(',')}: ${why}`);
  }
  return { all, procedures: libvirtAllow.map(Number) };
}

/** A listener, and a process for each migration. */
async function serveMany(
  flags: DestinationFlags,
  settings: HostSettings,
  { address, shown }: Listenable,
  log: Log,
): Promise<number> {
  const writeStats = openStats(flags.stats, log);
  const metrics = flags.metrics === undefined ? undefined : await Metrics.serve(flags.metrics);
  const listener = new Listener({
    ...{ listen: address, shown, settings, log },
    ...{ maxSessions: flags.maxSessions, maxHandshakes: flags.maxHandshakes },
    logging: { format: flags.log, quiet: flags.quiet, verbose: flags.verbose },
    lastError: flags.lastError,
    socket: {
      ...(flags.listenMode !== undefined && { mode: flags.listenMode }),
      ...(flags.listenOwner !== undefined && parseOwner(flags.listenOwner)),
    },
    onSnapshot: (snapshot, outcome) => {
      writeStats?.(statsLine(snapshot, outcome ?? null));
      if (outcome) metrics?.end(snapshot, outcome.state);
      else metrics?.update(snapshot);
    },
  });
  notify(log, `READY=1\nSTATUS=listening on ${shown}`);
  log.info(`listening on ${shown}, for ${flags.libvirt ? 'libvirt' : 'QEMU'} at ${settings.connect}`);
  onStop(() => {
    notify(log, 'STOPPING=1');
    listener.stop();
  });
  onReload(() => {
    reload(flags, log, ({ inDoubt, reconnectMs }) => {
      listener.change({ inDoubt, reconnectMs });
    });
  });
  const timer = setInterval(() => {
    notify(log, `STATUS=listening on ${shown}: ${listener.sessions} sessions`);
  }, EVERY_MS);
  await listener.done;
  clearInterval(timer);
  metrics?.close();
  return EXIT.ok;
}

/** One connection, and one migration, in this process. */
async function serveOne(flags: DestinationFlags, settings: HostSettings, listen: Endpoint, log: Log): Promise<number> {
  const writeStats = openStats(flags.stats, log);
  const metrics = flags.metrics === undefined ? undefined : await Metrics.serve(flags.metrics);
  const registry = { sessions: { now: 0, most: 1 }, claim: () => Promise.resolve(undefined) };
  const host = new Host(settings, registry, log);
  let signalled: Signal | undefined;
  onStop((signal) => {
    if (!host.session) process.exit(exitOf(new PagewireError('STOPPED', 'stopped'), signal));
    signalled = signal;
    host.session.stop('stopped by a signal at the destination');
  });
  onReload(() => {
    reload(flags, log, (config: Required<Config>) => {
      host.session?.setInDoubt(config.inDoubt);
    });
  });
  onFault((error) => {
    host.session?.fault(error);
  });
  const link = openLink(listen);
  const preamble = readPreamble(await link.receivePreamble(settings.handshakeMs));
  if (!preamble) {
    throw new PagewireError(
      'INCOMPATIBLE',
      `what comes from ${endpointText(listen)} is no pagewire proxy, or a later one`,
    );
  }
  await host.take(link, preamble);
  const { session: of } = host;
  if (!of) return EXIT.ok;
  const progress = new Progress(
    flags.quiet,
    () => of.snapshot().streamBytes,
    sessionProgress(() => of.snapshot()),
  );
  const timer = setInterval(() => {
    const snapshot = of.snapshot();
    writeStats?.(statsLine(snapshot, null));
    metrics?.update(snapshot);
  }, EVERY_MS);
  const over = (): SessionSnapshot => {
    clearInterval(timer);
    metrics?.close();
    progress.end();
    return of.snapshot();
  };
  try {
    const end = await of.done;
    const { cancelled } = end;
    const snapshot = over();
    writeStats?.(statsLine(snapshot, endedSession(end)));
    log.info({ guest: of.name }, `${sessionEnd(snapshot, cancelled)}: ${sessionSummary(snapshot)}`);
    return cancelled ? EXIT.truncated : EXIT.ok;
  } catch (error) {
    const failure = PagewireError.from(error);
    const [snapshot, code] = [over(), exitOf(failure, signalled)];
    writeStats?.(statsLine(snapshot, failedSession(failure)));
    tellFailure(log.child({ guest: of.name }), snapshot, failure, flags.lastError, code);
    return code;
  }
}

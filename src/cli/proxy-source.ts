import { onReload, onStop } from '../control/signals.js';
import { PagewireError } from '../errors.js';
import { native, type NativeListener } from '../native.js';
import type { EncoderSettings } from '../pipeline/settings.js';
import { Dialler } from '../session/dial.js';
import { parsePeer } from '../session/peers.js';
import type { SessionSnapshot } from '../session/snapshot.js';
import { SourceSession } from '../session/source.js';
import { StockSession } from '../session/stock.js';
import { Metrics } from '../telemetry/metrics.js';
import { Progress } from '../telemetry/progress.js';
import {
  failedSession,
  type SessionOutcome,
  sessionProgress,
  sessionSummary,
  statsLine,
} from '../telemetry/session.js';
import { type Endpoint, endpointText, isGuestName } from '../transport/endpoint.js';
import { EXIT, type Signal } from './exit.js';
import { endOf, exitOf, openLog, openStats, parseOwner, reload, settingsOf, type SourceFlags } from './proxy.js';
import { connectable, listenable, tlsFor } from './proxy-endpoints.js';
import { plain } from './run.js';

/** How often `--stats` and `--metrics` get how it stands, in milliseconds. */
const EVERY_MS = 1000;

/** QEMU's connections that may wait at once, and for how long: they are taken at once. */
const LISTEN = { preamble: false, maxPending: 64, timeoutMs: 10_000 };

/** `pagewire proxy source` */
export async function proxySource(flags: SourceFlags): Promise<number> {
  const { name, port, stock, encoder, connect } = check(flags);
  const settings = settingsOf(flags);
  const log = openLog('proxy source', flags).child({ guest: name });
  const isTls = connect.some(({ kind }) => kind === 'tls');
  const identity = tlsFor('source', isTls, (flags.peer ?? []).map(parsePeer), flags);
  if (identity) log.debug(`TLS by ${identity.files.join(', ')}`);
  const writeStats = openStats(flags.stats);
  const metrics = flags.metrics === undefined ? undefined : await Metrics.serve(flags.metrics);
  const session = stock
    ? new StockSession({ name, connect, encoder, log })
    : new SourceSession({
        ...{ name, port, encoder, log, replayBytes: flags.replay, end: endOf(flags) },
        ...settings,
        dialler: new Dialler(connect, identity?.tls ?? null),
      });
  const { listener, shown } = listen(flags, (fd) => {
    session.accept(fd);
  });
  native.notify(`READY=1\nSTATUS=waiting for QEMU on ${shown}`);
  log.info(listener ? `waiting for QEMU on ${shown}` : `QEMU is on ${shown}`);

  let signalled: Signal | undefined;
  onStop((signal) => {
    signalled = signal;
    native.notify('STOPPING=1');
    session.stop();
  });
  onReload(() => {
    reload(flags, log, ({ maxBandwidth, inDoubt, reconnectMs }) => {
      if (session instanceof StockSession) return;
      session.setMaxBandwidth(maxBandwidth);
      session.setInDoubt(inDoubt);
      session.setReconnect(reconnectMs);
    });
  });
  const progress = new Progress(
    flags.quiet,
    () => session.snapshot().streamBytes,
    sessionProgress(() => session.snapshot()),
  );
  const timer = setInterval(() => {
    const snapshot = session.snapshot();
    writeStats?.(statsLine(snapshot, null));
    metrics?.update(snapshot);
    native.notify(`STATUS=${status(snapshot)}`);
  }, EVERY_MS);
  const report = (outcome: SessionOutcome): SessionSnapshot => {
    clearInterval(timer);
    progress.end();
    const snapshot = session.snapshot();
    writeStats?.(statsLine(snapshot, outcome));
    metrics?.end(snapshot, outcome.state);
    native.notify(`STOPPING=1\nSTATUS=${outcome.state}`);
    return snapshot;
  };
  try {
    const { cancelled, within } = await session.done;
    const snapshot = report(cancelled ? { state: 'cancelled', within: within ?? null } : { state: 'complete' });
    if (!cancelled) {
      log.info(`migrated: ${sessionSummary(snapshot)}`);
      return EXIT.ok;
    }
    const where = within === undefined ? '' : ` (within ${within})`;
    log.warn(`QEMU ended its stream before the end${where}: the migration was cancelled, or failed there`);
    return EXIT.truncated;
  } catch (error) {
    const failure = PagewireError.from(error);
    report(failedSession(failure));
    log.error({ code: failure.code }, plain(failure.message));
    return exitOf(failure, signalled);
  } finally {
    listener?.close();
    metrics?.close();
  }
}

function status({ state, streamBytes, wire, peer }: SessionSnapshot): string {
  return `${state}${peer === null ? '' : ` with ${peer}`}: ${streamBytes} bytes of the stream, ${wire.out} on the wire`;
}

interface Checked {
  name: string;
  port: number | undefined;
  stock: boolean;
  encoder: EncoderSettings;
  connect: Endpoint[];
}

function check(flags: SourceFlags): Checked {
  const { name, port, stock, delta, codec, level, threads, cacheSize, memoryLimit } = flags;
  if (!isGuestName(name)) {
    throw new PagewireError('BAD_OPTION', `--name ${name}: 1 to 64 of A-Z a-z 0-9 . _ - (and not only dots)`);
  }
  if (port !== undefined && (port < 1 || port > 65535))
    throw new PagewireError('BAD_OPTION', `--port ${port}: 1 to 65535`);
  const connect = flags.connect.map((text) => connectable(text, flags.insecure));
  if (stock) {
    const tls = connect.find(({ kind }) => kind !== 'tcp' && kind !== 'unix' && kind !== 'fd');
    if (tls) {
      const what = `--stock connects to a QEMU, which is at tcp: or unix:, not at ${endpointText(tls)}`;
      throw new PagewireError('BAD_OPTION', what);
    }
    if (flags.require !== undefined)
      throw new PagewireError('BAD_OPTION', '--stock has no peer that could lack what --require names');
  }
  return { name, port, stock, connect, encoder: { delta, codec, level, threads, cacheSize, memoryLimit } };
}

function listen(
  flags: SourceFlags,
  accept: (fd: number) => void,
): { listener: NativeListener | undefined; shown: string } {
  const { address, shown, connected } = listenable(flags.listen, flags.insecure);
  if (connected !== undefined) {
    accept(connected);
    return { listener: undefined, shown };
  }
  const socket = {
    ...LISTEN,
    ...(flags.listenMode !== undefined && { mode: flags.listenMode }),
    ...(flags.listenOwner !== undefined && parseOwner(flags.listenOwner)),
  };
  return { listener: native.NativeListener.listen(address, socket, accept), shown };
}

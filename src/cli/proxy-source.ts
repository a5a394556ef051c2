import { onFault } from '../control/faults.js';
import { notify } from '../control/notify.js';
import { onReload, onStop } from '../control/signals.js';
import { PagewireError } from '../errors.js';
import type { SessionSnapshot } from '../session/snapshot.js';
import { SourceProxy, type SourceProxySettings } from '../session/source-proxy.js';
import { Metrics } from '../telemetry/metrics.js';
import { Progress } from '../telemetry/progress.js';
import {
  failedSession,
  type SessionOutcome,
  sessionProgress,
  sessionSummary,
  statsLine,
} from '../telemetry/session.js';
import { EXIT, type Signal } from './exit.js';
import { exitOf, openLog, openStats, parseOwner, reload, settingsOf, type SourceFlags } from './proxy.js';
import { plain } from './run.js';

/** How often `--stats` and `--metrics` get how it stands, in milliseconds. */
const EVERY_MS = 1000;

/** `pagewire proxy source` */
export async function proxySource(flags: SourceFlags): Promise<number> {
  const log = openLog('proxy source', flags).child({ guest: flags.name });
  const settings = proxySettings(flags);
  const writeStats = openStats(flags.stats);
  const metrics = flags.metrics === undefined ? undefined : await Metrics.serve(flags.metrics);
  const proxy = new SourceProxy(settings, log);
  onFault((error) => {
    proxy.fault(error);
  });
  notify(log, `READY=1\nSTATUS=waiting for QEMU on ${proxy.listening}`);

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
    notify(log, `STATUS=${status(snapshot)}`);
  }, EVERY_MS);
  const report = (outcome: SessionOutcome): SessionSnapshot => {
    clearInterval(timer);
    progress.end();
    const snapshot = proxy.snapshot();
    writeStats?.(statsLine(snapshot, outcome));
    metrics?.end(snapshot, outcome.state);
    notify(log, `STOPPING=1\nSTATUS=${outcome.state}`);
    return snapshot;
  };
  try {
    const { cancelled, within } = await proxy.done;
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
    metrics?.close();
  }
}

function status({ state, streamBytes, wire, peer }: SessionSnapshot): string {
  return `${state}${peer === null ? '' : ` with ${peer}`}: ${streamBytes} bytes of the stream, ${wire.out} on the wire`;
}

/** What the command line says, in the library's words. */
function proxySettings(flags: SourceFlags): SourceProxySettings {
  const { name, listen, connect, port, insecure, stock, delta, codec, level, match, threads, cacheSize, memoryLimit } =
    flags;
  const { listenMode: mode, listenOwner: owner, tlsDir: dir, key, peer: peers } = flags;
  const { replay: replayBytes, silence: silenceMs, require } = flags;
  return {
    ...{ name, listen, connect, port, insecure, stock, delta, codec, level, match, threads, cacheSize, memoryLimit },
    ...{ replayBytes, silenceMs, require, tls: { dir, key, peers } },
    socket: { ...(mode !== undefined && { mode }), ...(owner !== undefined && parseOwner(owner)) },
    ...settingsOf(flags),
  };
}

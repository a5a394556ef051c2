// Two proxies with a link between them: what `pagewire proxy` users run.
import { identities, startDestination, startSource } from '../../test/e2e/harness/proxies.js';
import type { Stage } from '../../test/e2e/harness/stage.js';
import { Filter } from './filter.js';
import type { Side } from './link.js';

export interface ProxyOptions {
  /** Where the destination's proxy listens. */
  readonly host: string;
  readonly port: number;
  /** Both ends authenticated by keys made for this run; else plain TCP. */
  readonly tls: boolean;
  /** Further options of the source's, as `--no-delta`. */
  readonly options?: readonly string[];
  /** Words that put a command on its side; default: both are here. */
  readonly on?: (side: Side) => readonly string[];
  /** What waits for the stream: a path by `farSocket`. */
  readonly far: string;
}

export interface Proxies {
  /** The unix socket that takes the stream. */
  readonly near: string;
  readonly filters: readonly Filter[];
  /** Waits until the session is over; fails unless all went well. */
  readonly end: () => Promise<void>;
}

const GUEST = 'bench';

/** A unix socket that the destination's proxy finds by the guest's name. */
export function farSocket(stage: Stage): string {
  return stage.path(`far-${GUEST}.sock`);
}

export async function startProxies(
  stage: Stage,
  { host, port, tls, options = [], on = () => [], far }: ProxyOptions,
): Promise<Proxies> {
  const near = stage.path('near.sock');
  const kind = tls ? 'tls' : 'tcp';
  const trust = tls ? identities(stage, {}) : { source: ['--insecure'], destination: ['--insecure'] };
  const inlet = far.replace(GUEST, '{name}');
  const destination = await Filter.start(
    stage,
    (prefix) => startDestination(stage, { kind, host, port }, `unix:${inlet}`, trust.destination, prefix),
    on('destination'),
  );
  const source = await Filter.start(
    stage,
    (prefix) => {
      const more = ['--name', GUEST, ...trust.source, ...options];
      return startSource(stage, near, [`${kind}:${host}:${port}`], more, prefix);
    },
    on('source'),
  );
  return {
    near,
    filters: [source, destination],
    end: async () => {
      await source.endsWell();
      await destination.stop();
    },
  };
}

// The link between the two hosts: two network namespaces, joined by a veth pair that `tc tbf` shapes at both ends.
// (The kernel needs neither netem nor anything else that is not in every Debian.)
import { existsSync, readdirSync } from 'node:fs';
import { Shaper, run } from './shaper.js';

export type Side = 'source' | 'destination';

const DEVICE = 'wire0';
const ADDRESSES: Readonly<Record<Side, string>> = { source: '10.77.0.1', destination: '10.77.0.2' };
const NAMESPACE = /^pw(\d+)[sd]$/;

export interface Carried {
  /** Bytes from the source to the destination, as {@link Shaper.sent} counts them. */
  readonly forward: number;
  readonly back: number;
}

export class Link {
  private readonly shapers = new Map<Side, Shaper>();

  private constructor(private readonly namespaces: Readonly<Record<Side, string>>) {}

  /** `mbit`: Mbit/s each way; 0: unlimited. Needs root. There is one link at a time in a process. */
  static open(mbit: number): Link {
    removeAbandoned();
    const namespaces = { source: `pw${process.pid}s`, destination: `pw${process.pid}d` };
    const link = new Link(namespaces);
    process.on('exit', link.close);
    try {
      link.lay(mbit);
    } catch (error) {
      link.close();
      throw error;
    }
    return link;
  }

  private lay(mbit: number): void {
    const { source, destination } = this.namespaces;
    for (const namespace of [source, destination]) run('ip', 'netns', 'add', namespace);
    const peer = ['peer', 'name', DEVICE, 'netns', destination];
    run('ip', 'link', 'add', DEVICE, 'netns', source, 'type', 'veth', ...peer);
    for (const side of ['source', 'destination'] as const) {
      const namespace = this.namespaces[side];
      run('ip', '-n', namespace, 'addr', 'add', `${ADDRESSES[side]}/30`, 'dev', DEVICE);
      run('ip', '-n', namespace, 'link', 'set', DEVICE, 'up');
      run('ip', '-n', namespace, 'link', 'set', 'lo', 'up');
      this.shapers.set(side, new Shaper(this.on(side), DEVICE, mbit));
    }
  }

  /** The address of a side, in the namespaces. */
  address(side: Side): string {
    return ADDRESSES[side];
  }

  /** Words that put the command behind them on that side of the link. It keeps its process id. */
  on(side: Side): [string, ...string[]] {
    return ['ip', 'netns', 'exec', this.namespaces[side]];
  }

  /** Bytes carried so far. */
  carried(): Carried {
    const sent = (side: Side): number => this.shapers.get(side)?.sent() ?? 0;
    return { forward: sent('source'), back: sent('destination') };
  }

  readonly close = (): void => {
    process.off('exit', this.close);
    for (const namespace of Object.values(this.namespaces)) {
      if (existsSync(`/run/netns/${namespace}`)) run('ip', 'netns', 'del', namespace);
    }
  };
}

/** Removes the namespaces of runs that were killed. */
function removeAbandoned(): void {
  if (!existsSync('/run/netns')) return;
  for (const name of readdirSync('/run/netns')) {
    const pid = NAMESPACE.exec(name)?.[1];
    if (pid !== undefined && (pid === `${process.pid}` || !existsSync(`/proc/${pid}`))) run('ip', 'netns', 'del', name);
  }
}

// The link between the two hosts: two network namespaces, joined by a veth pair that `tc tbf` shapes at both ends.
// (The kernel needs neither netem nor anything else that is not in every Debian.)
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { isObject, number, object } from '#src/demo/qmp.js';

export type Side = 'source' | 'destination';

const DEVICE = 'wire0';
const ADDRESSES: Readonly<Record<Side, string>> = { source: '10.77.0.1', destination: '10.77.0.2' };
const NAMESPACE = /^pw(\d+)[sd]$/;

/** Room for the largest packet that the kernel hands to a device in one piece (64 KiB), twice. */
const LEAST_BURST = 128 << 10;
/** What may wait in the shaper. A TCP connection keeps far less in it by itself, so nothing is dropped. */
const QUEUE = 8 << 20;

function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** The first object of a JSON list that `ip` or `tc` printed. */
function first(json: string): Readonly<Record<string, unknown>> {
  const list: unknown = JSON.parse(json);
  return Array.isArray(list) && isObject(list[0]) ? list[0] : {};
}

export interface Carried {
  /** From the source to the destination, with the headers of every packet (unshaped: of every 64 KiB). */
  readonly forward: number;
  readonly back: number;
}

export class Link {
  private constructor(
    /** Mbit/s each way; 0: unlimited. */
    readonly mbit: number,
    private readonly namespaces: Readonly<Record<Side, string>>,
  ) {}

  /** Needs root. There is one link at a time in a process. */
  static open(mbit: number): Link {
    removeAbandoned();
    const namespaces = { source: `pw${process.pid}s`, destination: `pw${process.pid}d` };
    const link = new Link(mbit, namespaces);
    process.on('exit', link.close);
    try {
      link.lay();
    } catch (error) {
      link.close();
      throw error;
    }
    return link;
  }

  private lay(): void {
    const { source, destination } = this.namespaces;
    for (const namespace of [source, destination]) run('ip', 'netns', 'add', namespace);
    const peer = ['peer', 'name', DEVICE, 'netns', destination];
    run('ip', 'link', 'add', DEVICE, 'netns', source, 'type', 'veth', ...peer);
    for (const side of ['source', 'destination'] as const) {
      const namespace = this.namespaces[side];
      run('ip', '-n', namespace, 'addr', 'add', `${ADDRESSES[side]}/30`, 'dev', DEVICE);
      run('ip', '-n', namespace, 'link', 'set', DEVICE, 'up');
      run('ip', '-n', namespace, 'link', 'set', 'lo', 'up');
      if (this.mbit === 0) continue;
      const burst = Math.max(LEAST_BURST, Math.round((this.mbit * 1e6) / 8 / 1000)); // a millisecond of the link
      const shape = ['rate', `${this.mbit}mbit`, 'burst', `${burst}`, 'limit', `${QUEUE}`];
      run('tc', '-n', namespace, 'qdisc', 'add', 'dev', DEVICE, 'root', 'tbf', ...shape);
    }
  }

  /** The address of a side, in the namespaces. */
  address(side: Side): string {
    return ADDRESSES[side];
  }

  /** Words that put the command behind them on that side of the link. It keeps its process id. */
  on(side: Side): string[] {
    return ['ip', 'netns', 'exec', this.namespaces[side]];
  }

  /** Bytes carried so far. */
  carried(): Carried {
    return { forward: this.sentBy('source'), back: this.sentBy('destination') };
  }

  private sentBy(side: Side): number {
    const namespace = this.namespaces[side];
    if (this.mbit > 0) {
      // the shaper counts packets as they are on a wire, the device counts up to 64 KiB as one
      return number(first(run('tc', '-n', namespace, '-s', '-j', 'qdisc', 'show', 'dev', DEVICE)), 'bytes') ?? 0;
    }
    const device = first(run('ip', '-n', namespace, '-s', '-j', 'link', 'show', 'dev', DEVICE));
    return number(object(object(device, 'stats64'), 'tx'), 'bytes') ?? 0;
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

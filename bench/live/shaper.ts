// A device of a network namespace that lets through so many bits a second, and counts what it sent.
import { execFileSync } from 'node:child_process';
import { isObject, number, object } from '#src/demo/qmp.js';

/** Room for the largest packet that the kernel hands to a device in one piece (64 KiB), twice. */
const LEAST_BURST = 128 << 10;
/** What may wait in the shaper. A TCP connection keeps far less in it by itself, so nothing is dropped. */
const QUEUE = 8 << 20;

export function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** The first object of a JSON list that `ip` or `tc` printed. */
function first(json: string): Readonly<Record<string, unknown>> {
  const list: unknown = JSON.parse(json);
  return Array.isArray(list) && isObject(list[0]) ? list[0] : {};
}

export class Shaper {
  /** `enter`: words that put a command into the namespace. `mbit`: megabits a second; 0: unlimited. */
  constructor(
    private readonly enter: readonly [string, ...string[]],
    private readonly device: string,
    private readonly mbit: number,
  ) {
    if (mbit === 0) return;
    const burst = Math.max(LEAST_BURST, Math.round((mbit * 1e6) / 8 / 1000)); // a millisecond of the link
    const shape = ['rate', `${mbit}mbit`, 'burst', `${burst}`, 'limit', `${QUEUE}`];
    this.run('tc', 'qdisc', 'replace', 'dev', device, 'root', 'tbf', ...shape);
  }

  private run(...command: string[]): string {
    const [program, ...words] = this.enter;
    return run(program, ...words, ...command);
  }

  /** Bytes sent so far, with the headers of every packet (unshaped: of every 64 KiB). */
  sent(): number {
    if (this.mbit > 0) {
      // the shaper counts packets as they are on a wire, the device counts up to 64 KiB as one
      return number(first(this.run('tc', '-s', '-j', 'qdisc', 'show', 'dev', this.device)), 'bytes') ?? 0;
    }
    const device = first(this.run('ip', '-s', '-j', 'link', 'show', 'dev', this.device));
    return number(object(object(device, 'stats64'), 'tx'), 'bytes') ?? 0;
  }

  /** Lets everything through again. */
  remove(): void {
    if (this.mbit > 0) this.run('tc', 'qdisc', 'del', 'dev', this.device, 'root');
  }
}

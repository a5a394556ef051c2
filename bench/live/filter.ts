// What stands between the two QEMUs, and the CPU time that it takes.
import { readFileSync } from 'node:fs';
import { until } from '#src/demo/time.js';
import type { Running, Stage } from '../../test/e2e/harness/stage.js';
import { cpuOfSession } from './cpu.js';

/**
 * Runs a command and writes down what it and all that it started took. A TERM to the group ends the command, not the
 * shell. The command dies with the shell, as the shell does with us.
 */
const TIMED = 'times=$1; shift; trap : TERM; setpriv --pdeathsig KILL "$@"; code=$?; times >"$times"; exit $code';

export class Filter {
  private constructor(
    private readonly running: Running,
    private readonly times: string,
  ) {}

  /** `start` starts a process with the words before its command. `place` are such words too, as `ip netns exec`. */
  static async start(
    stage: Stage,
    start: (prefix: readonly string[]) => Running | Promise<Running>,
    place: readonly string[] = [],
  ): Promise<Filter> {
    const times = stage.fresh('times');
    return new Filter(await start([...place, 'sh', '-c', TIMED, 'sh', times]), times);
  }

  /** Starts a command and waits until it listens; fails as soon as it has ended. */
  static async listening(
    stage: Stage,
    name: string,
    command: readonly string[],
    isListening: (pid: number) => boolean,
    place: readonly string[] = [],
  ): Promise<Filter> {
    const filter = await Filter.start(stage, (prefix) => stage.start(name, [...prefix, ...command], []), place);
    await until(
      () => {
        if (filter.running.hasEnded) throw new Error(`${name} ended: ${filter.running.complaint()}`);
        return isListening(filter.running.pid);
      },
      30,
      () => `${name} does not listen: ${filter.running.complaint()}`,
    );
    return filter;
  }

  /** CPU seconds so far, or in all. */
  cpu(): number {
    if (!this.running.hasEnded) return cpuOfSession(this.running.pid);
    const children = readFileSync(this.times, 'utf8').split('\n')[1] ?? '';
    return [...children.matchAll(/(\d+)m([\d.]+)s/g)].reduce(
      (total, [, m, s]) => total + Number(m) * 60 + Number(s),
      0,
    );
  }

  /** Waits for its end and fails unless it was a good one. */
  async endsWell(seconds = 30): Promise<void> {
    const code = await this.running.exitCode(seconds);
    if (code !== 0) throw new Error(`${this.running.name} ended with exit code ${code}: ${this.running.complaint()}`);
  }

  /** Asks it to end, and waits until it has. */
  async stop(seconds = 20): Promise<void> {
    if (!this.running.hasEnded) process.kill(-this.running.pid, 'SIGTERM');
    await this.running.exitCode(seconds);
  }
}

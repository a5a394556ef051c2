// What postcopy needs of this machine, and QEMU's own recovery from a broken one.
import { accessSync, constants, readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { isObject, number, object, text } from '#src/demo/qmp.js';
import type { Answer } from '#src/demo/qmp.js';
import { until } from '#src/demo/time.js';
import type { Journey } from './journey.js';
import type { Proxies } from './proxies.js';
import type { Qemu } from './qemu.js';
import { inCi } from './repository.js';
import type { Stage } from './stage.js';

/** What this machine lacks for postcopy, in words, or undefined: a destination has to handle the guest's page faults. */
function postcopyLacks(): string | undefined {
  if (process.getuid?.() === 0) return undefined;
  try {
    if (readFileSync('/proc/sys/vm/unprivileged_userfaultfd', 'utf8').trim() === '1') return undefined;
    accessSync('/dev/userfaultfd', constants.R_OK | constants.W_OK);
    return undefined;
  } catch {
    return 'no right to userfaultfd: be root, or run sysctl vm.unprivileged_userfaultfd=1';
  }
}

/** For `describe`: false, or why postcopy is not tried here. In CI it is tried in any case. */
export function skipPostcopy(): string | false {
  const lacks = postcopyLacks();
  return lacks === undefined || inCi ? false : `PAGEWIRE-NOT-RUN postcopy: ${lacks}`;
}

/**
 * A monitor that listens even while QEMU's main loop stands: once postcopy is paused, it may wait for a page of the
 * guest as the guest does. It must be opened before.
 */
export class OutOfBand {
  private status = 'none';
  private answer: Answer | undefined;

  private constructor(
    private readonly socket: Socket,
    private readonly qemu: Qemu,
  ) {}

  static async open(stage: Stage, qemu: Qemu): Promise<OutOfBand> {
    const monitor = new OutOfBand(await stage.connect(qemu.spareMonitor), qemu);
    const lines = createInterface({ input: monitor.socket });
    lines.on('error', () => undefined);
    lines.on('line', (line) => {
      const message: unknown = JSON.parse(line);
      if (!isObject(message)) return;
      if (message['event'] === 'MIGRATION') monitor.status = text(object(message, 'data'), 'status') ?? '?';
      if ('return' in message || 'error' in message) monitor.answer = message;
    });
    await monitor.run({ execute: 'qmp_capabilities', arguments: { enable: ['oob'] } });
    return monitor;
  }

  private async run(command: Answer): Promise<void> {
    this.answer = undefined;
    this.socket.write(`${JSON.stringify({ ...command, id: 1 })}\n`);
    const answer = await until(
      () => this.answer,
      20,
      () => `not answered: ${JSON.stringify(command)}; ${this.qemu.complaint()}`,
    );
    if ('error' in answer) throw new Error(`${JSON.stringify(command)}: ${JSON.stringify(answer)}`);
  }

  async execute(command: string, args: Answer): Promise<void> {
    await this.run({ 'exec-oob': command, arguments: args });
  }

  /** Waits until QEMU tells of this state of the migration. */
  async waitForMigration(wanted: string, seconds: number): Promise<void> {
    await until(
      () => this.status === wanted,
      seconds,
      () => `the migration is ${this.status}, not ${wanted}; ${this.qemu.complaint()}`,
    );
  }
}

/** Waits until pages go over that are not part of the package: both ends know by then that the guest has moved. */
export async function wellInPostcopy({ from }: Journey): Promise<void> {
  const sent = async (): Promise<number> =>
    number(object((await from.migration()).answer, 'ram'), 'postcopy-bytes') ?? 0;
  const before = await sent();
  await until(
    async () => (await sent()) > before + (2 << 20),
    30,
    () => `no pages go over; ${from.complaint()}`,
  );
}

/** Both QEMUs wait for somebody who mends their connection. */
export async function bothPause({ from }: Journey, to: OutOfBand, seconds = 30): Promise<void> {
  await Promise.all([from, to].map((qemu) => qemu.waitForMigration('postcopy-paused', seconds)));
}

/** Mends it: over other proxies, from the source's socket to the destination's. */
export async function recover({ from }: Journey, to: OutOfBand, over: Proxies): Promise<void> {
  await to.execute('migrate-recover', { uri: over.inlet });
  await from.qmp.execute('migrate', { uri: `unix:${over.outlet}`, resume: true });
  await until(
    async () => ['postcopy-active', 'completed'].includes((await from.migration()).status),
    30,
    () => `the source does not recover; ${from.complaint()}`,
  );
}

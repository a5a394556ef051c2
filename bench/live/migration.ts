// One migration over the link, measured.
import { chmodSync, writeFileSync } from 'node:fs';
import { number, object, text } from '#src/demo/qmp.js';
import { sleep, until } from '#src/demo/time.js';
import { linuxGuest } from '../../test/e2e/harness/guests.js';
import type { Guest } from '../../test/e2e/harness/guests.js';
import { assertSameGuest, lastTickOf } from '../../test/e2e/harness/migrate.js';
import { Qemu } from '../../test/e2e/harness/qemu.js';
import { keepsDirtyPages } from '../../test/e2e/harness/qemus.js';
import type { QemuBuild } from '../../test/e2e/harness/qemus.js';
import { shellCommand } from '../../test/e2e/harness/repository.js';
import { onStage } from '../../test/e2e/harness/stage.js';
import type { Stage } from '../../test/e2e/harness/stage.js';
import { cpuOfMachine, cpuOfProcess, cpuOfVcpus } from './cpu.js';
import { Events } from './events.js';
import { Link } from './link.js';
import type { Side } from './link.js';
import { SETTINGS, layWay } from './modes.js';
import type { Mode } from './modes.js';

export const WORKLOADS = ['idle', 'sparse', 'mid', 'full'] as const;
export type Workload = (typeof WORKLOADS)[number];

/** MiB of the guest, and of it what the guest works on. */
const GUEST = { megabytes: 512, workingSet: 128 };
const DOWNTIME_LIMIT_MS = 300;
/** How long the guest works before it is migrated, in seconds. */
const SETTLE = 1.5;
/** How long a migration has that was forced to end, in seconds. */
const FORCED = 120;

/** Pages touched in a second; what a touch writes is in test/e2e/guest/init.c (there `mid` is one letter, as `mixed`). */
const GUESTS: Readonly<Record<Workload, () => Guest>> = {
  idle: () => linuxGuest('idle', { megabytes: GUEST.workingSet }),
  sparse: () => linuxGuest('sparse', { megabytes: GUEST.workingSet, rate: 20_000 }),
  mid: () => linuxGuest('mixed', { megabytes: GUEST.workingSet, rate: 10_000 }),
  full: () => linuxGuest('full', { megabytes: GUEST.workingSet, rate: 8000 }),
};

export interface Setup {
  readonly build: QemuBuild;
  readonly mode: Mode;
  readonly workload: Workload;
  /** Mbit/s; 0: unlimited. */
  readonly mbit: number;
  readonly tls: boolean;
  /** Hold the destination's guest and compare the RAM of both. Else it runs on by itself. */
  readonly compare: boolean;
  /** Seconds after which a migration that has not converged is forced to end. */
  readonly cap: number;
}

export interface Measurement {
  readonly mode: Mode;
  readonly workload: Workload;
  readonly mbit: number;
  readonly qemu: string;
  /** `forced`: it did not converge, and what is told includes the forced end. */
  readonly outcome: 'completed' | 'forced' | 'failed';
  /** What is wrong with it: such a run fails the benchmark. */
  readonly error?: string;
  /** Worth knowing, and no failure. */
  readonly note?: string;
  /** From the migrate command until the destination has completed. */
  readonly wallSeconds?: number;
  readonly wireBytes?: number;
  readonly wireBackBytes?: number;
  /** From the source's STOP until the destination's RESUME (held: until it has completed). */
  readonly blackoutMs?: number;
  /** What the source QEMU believes. */
  readonly downtimeMs?: number;
  readonly passes?: number;
  /** Pages with content that QEMU sent, as they are in the guest. */
  readonly pageBytes?: number;
  /** CPU seconds of the programs between the QEMUs, and of the source QEMU without its guest. */
  readonly filterCpu?: number;
  readonly sourceCpu?: number;
  readonly guest?: 'same RAM, runs on' | 'runs on';
  /** Cores that others kept busy meanwhile: from 0.3 on the figures are not worth much. */
  readonly foreignCores?: number;
}

/** A QEMU of this kind that runs on one side of the link. */
function buildOn(stage: Stage, link: Link, side: Side, build: QemuBuild): QemuBuild {
  const command = stage.path(`qemu-${side}`);
  writeFileSync(command, `#!/bin/sh\nexec ${shellCommand(...link.on(side), build.command)} "$@"\n`);
  chmodSync(command, 0o755);
  return { ...build, command };
}

/** Migrates a guest and answers what it took. A failure is part of the answer. */
export async function measure(setup: Setup): Promise<Measurement> {
  const { build, mode, workload, mbit } = setup;
  const what = { mode, workload, mbit, qemu: build.version };
  try {
    return { ...what, ...(await onStage((stage) => migrate(stage, setup))) };
  } catch (error) {
    return { ...what, outcome: 'failed', error: error instanceof Error ? error.message : String(error) };
  }
}

type Figures = Omit<Measurement, 'mode' | 'workload' | 'mbit' | 'qemu'>;

async function migrate(stage: Stage, setup: Setup): Promise<Figures> {
  const { build, mode, workload, mbit, compare } = setup;
  const link = Link.open(mbit);
  stage.onEnd(link.close);
  const machine = {
    type: build.machines.pc[0] ?? 'pc',
    guest: GUESTS[workload](),
    megabytes: GUEST.megabytes,
    more: ['-name', 'debug-threads=on'],
  };
  const [from, to] = await Promise.all([
    Qemu.start(stage, machine, { build: buildOn(stage, link, 'source', build) }),
    Qemu.start(stage, machine, { build: buildOn(stage, link, 'destination', build), incoming: true }),
  ]);
  const { capabilities, parameters } = SETTINGS[mode];
  for (const qemu of [from, to]) {
    await qemu.setCapabilities('events', ...capabilities);
    await qemu.setParameters({ 'max-bandwidth': 10 << 30, 'downtime-limit': DOWNTIME_LIMIT_MS, ...parameters });
  }
  const [source, destination] = [await Events.of(stage, from), await Events.of(stage, to)];
  if (!compare) await to.qmp.execute('cont'); // it goes on by itself when it has come
  const way = await layWay(mode, stage, link, to, setup.tls);
  await sleep(SETTLE * 1000);

  const sourceCpu = (): number => cpuOfProcess(from.process.pid) - cpuOfVcpus(from.process.pid);
  const filterCpu = (): number => way.filters.reduce((total, filter) => total + filter.cpu(), 0);
  const ourCpu = (): number =>
    process.cpuUsage().user / 1e6 +
    process.cpuUsage().system / 1e6 +
    cpuOfProcess(from.process.pid) +
    cpuOfProcess(to.process.pid);
  const before = { source: sourceCpu(), filter: filterCpu(), our: ourCpu(), machine: cpuOfMachine() };
  const carriedBefore = link.carried();
  const began = Date.now();
  await from.qmp.execute('migrate', { uri: way.uri });
  const forced = await untilSourceIsDone(from, setup.cap);
  await until(
    () => {
      if (to.process.hasEnded) throw new Error(`the destination ended: ${to.complaint()}`);
      if (destination.timeOf('MIGRATION', 'failed') !== undefined) throw new Error(`it failed: ${to.complaint()}`);
      return (
        destination.timeOf('MIGRATION', 'completed') !== undefined &&
        (compare || destination.timeOf('RESUME') !== undefined)
      );
    },
    60,
    () => `the destination is not done a minute after the source; ${to.complaint()}`,
  );
  const carried = link.carried();
  const [sourceUsed, ourUsed] = [sourceCpu() - before.source, ourCpu() - before.our];
  const machineUsed = cpuOfMachine() - before.machine;
  await way.end();
  const filterUsed = filterCpu() - before.filter;

  const completed = destination.timeOf('MIGRATION', 'completed') ?? NaN;
  const stopped = source.timeOf('STOP') ?? NaN;
  const resumed = compare ? completed : (destination.timeOf('RESUME') ?? NaN);
  const wallSeconds = (completed - began) / 1000;
  const { answer, passes } = await from.migration();
  const ram = object(answer, 'ram');
  const pages = (number(ram, 'normal') ?? 0) + (number(object(answer, 'xbzrle-cache'), 'pages') ?? 0);
  const note = compare ? await compareRam(from, to) : undefined;
  await to.runsOnFrom(lastTickOf(from));
  return {
    outcome: forced ? 'forced' : 'completed',
    wallSeconds,
    wireBytes: carried.forward - carriedBefore.forward,
    wireBackBytes: carried.back - carriedBefore.back,
    blackoutMs: resumed - stopped,
    downtimeMs: number(answer, 'downtime') ?? NaN,
    passes,
    pageBytes: pages * (number(ram, 'page-size') ?? 4096),
    filterCpu: filterUsed,
    sourceCpu: sourceUsed,
    guest: compare && note === undefined ? 'same RAM, runs on' : 'runs on',
    foreignCores: Math.max(0, (machineUsed - ourUsed - filterUsed) / wallSeconds),
    ...(note === undefined ? {} : { note }),
  };
}

/** Waits for the source's end; after `cap` seconds it forces one. Answers whether it had to. */
async function untilSourceIsDone(from: Qemu, cap: number): Promise<boolean> {
  const began = performance.now();
  let forced = false;
  for (;;) {
    const { status, answer } = await from.migration();
    // it says so a moment before it has worked out the times
    if (status === 'completed' && number(answer, 'downtime') !== undefined) return forced;
    if (status === 'failed' || status === 'cancelled') {
      throw new Error(`migration ${status}: ${text(answer, 'error-desc') ?? ''}; ${from.complaint()}`);
    }
    const seconds = (performance.now() - began) / 1000;
    if (seconds > cap && !forced) {
      forced = true;
      await from.setParameters({ 'downtime-limit': 2_000_000 });
    }
    if (seconds > cap + FORCED) throw new Error(`not done ${FORCED} s after its end was forced`);
    await sleep(100);
  }
}

/** Fails if the two guests differ, unless the QEMU is known to lose pages by itself: then it answers with a note. */
async function compareRam(from: Qemu, to: Qemu): Promise<string | undefined> {
  try {
    await assertSameGuest(from, to);
  } catch (error) {
    if (keepsDirtyPages(from.build)) throw error;
    return `${String(error)} (this QEMU loses dirty pages by itself)`;
  }
  return undefined;
}

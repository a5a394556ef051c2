// One migration from beginning to end, and the proof that it is the same guest.
import { carry, startDestination } from './carriage.js';
import type { Destination, Filter, Transport } from './carriage.js';
import { Qemu, assertSameRam } from './qemu.js';
import type { Capability, Machine } from './qemu.js';
import { keepsDirtyPages } from './qemus.js';
import type { QemuBuild } from './qemus.js';
import type { Answer } from '#src/demo/qmp.js';
import type { Stage } from './stage.js';

export interface Migration {
  readonly source: QemuBuild;
  readonly destination: QemuBuild;
  readonly machine: Machine;
  readonly transport: Transport;
  readonly filter: Filter;
  /** Passes over the guest's RAM before it may end. */
  readonly passes?: number;
  /** Set on both sides, as QEMU wants it. */
  readonly capabilities?: readonly Capability[];
  /** Those that are the source's own business. */
  readonly sourceCapabilities?: readonly Capability[];
  readonly sourceParameters?: Answer;
  /** MiB of memory devices above 4 GiB. */
  readonly high?: number;
}

/** Two QEMUs ready for a migration: the source's guest at work, the destination waiting. */
export async function startPair(
  stage: Stage,
  { source, destination, machine, transport, capabilities = [], sourceCapabilities = [], sourceParameters }: Migration,
): Promise<{ from: Qemu; to: Destination }> {
  const [from, to] = await Promise.all([
    Qemu.start(stage, machine, { build: source }),
    startDestination(stage, machine, { build: destination }, transport),
  ]);
  await from.setCapabilities(...capabilities, ...sourceCapabilities);
  await to.qemu.setCapabilities(...capabilities);
  if (sourceParameters !== undefined) await from.setParameters(sourceParameters);
  return { from, to };
}

/**
 * Migrates a guest through the filter and checks that the destination holds the source's RAM and runs on. Answers what
 * encode says of it. The RAM of a QEMU that loses dirty pages by itself is no measure: there the stream is captured and
 * given to one destination as it is and to another through the filter, and those are compared.
 */
export async function migrate(stage: Stage, migration: Migration): Promise<unknown> {
  const { source, machine, high } = migration;
  const ramBlocks = (machine.ramBlocks ?? 1) + (high === undefined ? 0 : 1);
  return keepsDirtyPages(source, { ramBlocks }) ? migrateLive(stage, migration) : migrateCaptured(stage, migration);
}

async function migrateLive(stage: Stage, migration: Migration): Promise<unknown> {
  const { transport, filter, passes, high } = migration;
  const { from, to } = await startPair(stage, migration);
  await from.slowDown();
  const carriage = await carry(stage, from, to, transport, filter);
  await from.finishMigration(passes);
  await carriage.endsWell();
  await to.qemu.waitForMigration('completed');
  await assertSameGuest(from, to.qemu, high);
  await to.qemu.runsOnFrom(lastTickOf(from));
  return carriage.stats();
}

async function migrateCaptured(stage: Stage, migration: Migration): Promise<unknown> {
  const { source, destination, machine, transport, filter, passes, high } = migration;
  const stream = stage.path('captured.qemu');
  const from = await Qemu.start(stage, machine, { build: source });
  await from.setCapabilities(...(migration.capabilities ?? []), ...(migration.sourceCapabilities ?? []));
  if (migration.sourceParameters !== undefined) await from.setParameters(migration.sourceParameters);
  await from.slowDown();
  const capture = await carry(stage, from, stream, transport);
  await from.finishMigration(passes);
  await capture.endsWell();
  const tick = lastTickOf(from);
  await from.quit();

  let stats: unknown;
  const [plain, filtered] = await Promise.all(
    [1, 2].map(() => startDestination(stage, machine, { build: destination }, transport)),
  );
  if (plain === undefined || filtered === undefined) throw new Error('two were started');
  for (const { qemu } of [plain, filtered]) await qemu.setCapabilities(...(migration.capabilities ?? []));
  await Promise.all([
    carry(stage, stream, plain, transport),
    carry(stage, stream, filtered, transport, filter).then(async (carriage) => {
      await carriage.endsWell();
      stats = carriage.stats();
    }),
  ]);
  await Promise.all([plain, filtered].map(({ qemu }) => qemu.waitForMigration('completed')));
  await assertSameGuest(plain.qemu, filtered.qemu, high);
  // A page that the source lost can be one that the guest cannot live without: then neither runs on.
  const runs = await plain.qemu.runsOnFrom(tick).then(
    () => true,
    () => false,
  );
  if (runs) await filtered.qemu.runsOnFrom(tick);
  return stats;
}

/** Compares the RAM of two QEMUs whose guests are stopped. */
export async function assertSameGuest(a: Qemu, b: Qemu, high = 0): Promise<void> {
  for (const qemu of [a, b]) {
    if (!(await qemu.isStopped())) throw new Error(`the guest is not stopped; ${qemu.complaint()}`);
  }
  const [ramA, ramB] = await Promise.all([a.saveRam(high), b.saveRam(high)]);
  assertSameRam(ramA, ramB, `${a.name} and ${b.name}`);
}

export function lastTickOf(qemu: Qemu): { time: number; line: string } {
  const tick = qemu.lastTick();
  if (tick === undefined) throw new Error(`the guest of ${qemu.name} printed no tick: '${qemu.printed()}'`);
  return tick;
}

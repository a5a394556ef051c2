// A guest's journey from one QEMU to another through two proxies, in steps: what a test does in between is its own.
import { text } from '#src/demo/qmp.js';
import { until } from '#src/demo/time.js';
import { bareGuest } from './guests.js';
import type { Workload } from './guests.js';
import { assertSameGuest, lastTickOf } from './migrate.js';
import { Proxies, SOON } from './proxies.js';
import type { Plan } from './proxies.js';
import { Qemu } from './qemu.js';
import type { Capability, Machine } from './qemu.js';
import { keepsDirtyPages, saysOfCancelled } from './qemus.js';
import type { QemuBuild } from './qemus.js';
import { assertTouchedRam } from './ram.js';
import { onStage } from './stage.js';
import type { Stage } from './stage.js';

export interface Itinerary {
  readonly source: QemuBuild;
  /** Default: as the source. */
  readonly destination?: QemuBuild;
  /** Default: a q35 with a `sparse` guest. */
  readonly machine?: Partial<Machine>;
  /** Arguments that one of the two QEMUs gets alone. */
  readonly more?: { readonly source?: readonly string[]; readonly destination?: readonly string[] };
  readonly workload?: Workload;
  readonly capabilities?: readonly Capability[];
  readonly parameters?: Record<string, unknown>;
  readonly plan?: Plan;
  /** Whether the guest runs as soon as it has arrived; it is held for a comparison otherwise. */
  readonly atOnce?: boolean;
}

export interface Journey {
  readonly stage: Stage;
  readonly from: Qemu;
  readonly to: Qemu;
  readonly proxies: Proxies;
}

/** MiB a second in postcopy: so slow that there is time to break something, and pages are asked for. */
export const POSTCOPY_RATE = 16;

/** The same journey with all that postcopy needs. */
export function throughPostcopy(itinerary: Itinerary): Itinerary {
  return { atOnce: true, ...itinerary, capabilities: ['postcopy-ram', ...(itinerary.capabilities ?? [])] };
}

/** QEMUs and proxies, ready. */
export async function prepare(stage: Stage, itinerary: Itinerary): Promise<Journey> {
  const { source, destination = source, capabilities = [], parameters = {}, atOnce = false } = itinerary;
  const machine = { type: 'q35', guest: bareGuest(stage, itinerary.workload ?? 'sparse'), ...itinerary.machine };
  const having = (more: readonly string[] = []): Machine => ({ ...machine, more: [...(machine.more ?? []), ...more] });
  const [from, to, proxies] = await Promise.all([
    Qemu.start(stage, having(itinerary.more?.source), { build: source }),
    Qemu.start(stage, having(itinerary.more?.destination), { build: destination, incoming: true }),
    Proxies.start(stage, itinerary.plan),
  ]);
  for (const qemu of [from, to]) {
    await qemu.setCapabilities('events', ...capabilities);
    if (Object.keys(parameters).length > 0) await qemu.setParameters(parameters);
  }
  await from.slowDown();
  // After a pause of the link QEMU takes it for so fast that any limit is met; what it takes it for can be told newer ones.
  if (source.major >= 9) await from.setParameters({ 'avail-switchover-bandwidth': 1 << 20 });
  if (capabilities.includes('postcopy-ram')) {
    await from.setParameters({ 'max-postcopy-bandwidth': POSTCOPY_RATE << 20 });
  }
  if (atOnce) await to.qmp.execute('cont');
  await to.qmp.execute('migrate-incoming', { uri: proxies.inlet });
  return { stage, from, to, proxies };
}

/** Orders the migration. */
export async function setOut({ from, proxies }: Journey): Promise<void> {
  await from.qmp.execute('migrate', { uri: `unix:${proxies.outlet}` });
}

/** Waits until some pages have gone over more than once. */
export async function onTheWay({ from }: Journey, passes = 3, seconds = 60): Promise<void> {
  await until(
    async () => {
      const { status, passes: made, answer } = await from.migration();
      if (!['none', 'setup', 'active'].includes(status)) {
        throw new Error(`the migration is ${status}: ${JSON.stringify(answer)}`);
      }
      return made >= passes;
    },
    seconds,
    () => `the migration does not make ${passes} passes; ${from.complaint()}`,
  );
}

/** Changes to postcopy, and waits until both ends know. */
export async function intoPostcopy({ from, to }: Journey): Promise<void> {
  await from.qmp.execute('migrate-start-postcopy');
  for (const qemu of [from, to]) await qemu.waitForMigration('postcopy-active', 30);
}

/**
 * Waits for the end of both migrations and of the session. A guest that is held must be the source's, byte by byte; one
 * that runs must hold what it wrote. Then it must run on.
 *
 * The source keeps its RAM in `postmigrate`, after postcopy too (without the capability `release-ram`). A QEMU that
 * loses dirty pages by itself (`keepsDirtyPages`) is no measure of RAM: there the guest's running on is all, and that
 * both proxies found the stream's hash right.
 */
export async function arrives(journey: Journey, seconds = 90): Promise<void> {
  const { stage, from, to, proxies } = journey;
  await from.waitForMigration('completed', seconds);
  await to.waitForMigration('completed', seconds);
  await proxies.endWith(0);
  const ran = !(await to.isStopped());
  const before = lastTickOf(from);
  if (ran) {
    await until(
      () => (to.lastTick()?.time ?? 0) > before.time + 4,
      15,
      () => `the guest stands; ${to.complaint()}`,
    );
    await to.qmp.execute('stop');
  }
  if (keepsDirtyPages(from.build, { byPostcopy: states(from).includes('postcopy-active') })) {
    if (!ran) await assertSameGuest(from, to);
    await assertTouchedRam(stage, to);
  }
  await to.runsOnFrom(to.lastTick() ?? before);
}

/**
 * Plays a migration through; once more if it fails with a QEMU that loses dirty pages by itself. They may be those that
 * the guest runs by: once is chance, twice is not.
 */
export function plays({ source }: Itinerary, play: (stage: Stage) => Promise<void>): Promise<void> {
  const once = (): Promise<void> => onStage(play);
  if (keepsDirtyPages(source)) return once();
  return once().catch((error: unknown) => {
    console.error(`QEMU ${source.version} loses dirty pages by itself; once more after: ${String(error)}`);
    return once();
  });
}

/** A whole journey: some passes over the RAM of a guest that is at work, then the end. */
export function travels(itinerary: Itinerary, passes = 4): Promise<void> {
  return plays(itinerary, async (stage) => {
    const journey = await prepare(stage, itinerary);
    await setOut(journey);
    await journey.from.finishMigration(passes);
    await arrives(journey);
  });
}

/** The same, with the guest running at the destination while the rest of its RAM follows. */
export function travelsByPostcopy(itinerary: Itinerary, passes = 3): Promise<void> {
  const byPostcopy = throughPostcopy(itinerary);
  return plays(byPostcopy, async (stage) => {
    const journey = await prepare(stage, byPostcopy);
    await setOut(journey);
    await onTheWay(journey, passes);
    await intoPostcopy(journey);
    await arrives(journey);
  });
}

/** The states that a QEMU's migration went through. */
export function states(qemu: Qemu): string[] {
  return qemu.qmp.events.filter(({ name }) => name === 'MIGRATION').map(({ data }) => text(data, 'status') ?? '?');
}

/** QEMU has noticed nothing but a pause. */
export function noticedNothing({ from, to }: Journey): void {
  for (const qemu of [from, to]) {
    const bad = states(qemu).filter((state) => /paused|recover|fail|cancel/.test(state));
    if (bad.length > 0) throw new Error(`${qemu.name} has noticed: its migration was ${bad.join(', ')}`);
  }
}

/** The migration has failed cleanly, or was cancelled: the source's guest runs on. */
export async function staysHome({ from }: Journey, status: 'failed' | 'cancelled' = 'failed'): Promise<void> {
  await from.waitForMigration(status === 'cancelled' ? saysOfCancelled(from.build) : status, 30);
  await goesOn(from);
}

/** A guest that runs prints ticks. */
export async function goesOn(qemu: Qemu): Promise<void> {
  const ticks = (): number => qemu.lastTick()?.time ?? -1;
  const before = ticks();
  await until(
    () => ticks() > Math.max(before, 0) + 4,
    10,
    () => `the guest does not run on; ${qemu.complaint()}`,
  );
  if (await qemu.isStopped()) throw new Error(`the guest does not run; ${qemu.complaint()}`);
}

/** The destination's QEMU ends, as it does when a stream ends in the middle. */
export async function leavesNothing({ to }: Journey, seconds = SOON): Promise<void> {
  const code = await to.process.exitCode(seconds);
  if (code === 0) throw new Error(`the destination QEMU has ended well; ${to.complaint()}`);
}

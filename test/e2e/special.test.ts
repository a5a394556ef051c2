// Streams of other kinds than the matrix has, and migrations that do not go to their end.
import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { describe, it } from 'node:test';
import { carry, startDestination } from './harness/carriage.js';
import type { Filter } from './harness/carriage.js';
import { bareGuest, linuxGuest, linuxGuestLacks } from './harness/guests.js';
import { assertSameGuest, lastTickOf, migrate, startPair } from './harness/migrate.js';
import { Qemu } from './harness/qemu.js';
import { isObject, object } from '#src/demo/qmp.js';
import { keepsDirtyPages, qemus } from './harness/qemus.js';
import type { QemuBuild } from './harness/qemus.js';
import { atOnce, full, inCi, pagewire } from './harness/repository.js';
import { onStage } from './harness/stage.js';
import type { Stage } from './harness/stage.js';
import { pagesOfKind } from './harness/stats.js';
import { until } from '#src/demo/time.js';

const RELAY: Filter = { stock: false, options: [] };
const STOCK: Filter = { stock: true, options: [] };
const WAYS = [
  ['encode | decode', RELAY],
  ['encode --stock', STOCK],
] as const;

/** The ways to try, by turns: `npm run test:full` tries both each time. */
function waysOf(turn: number): readonly (typeof WAYS)[number][] {
  return full ? WAYS : WAYS.filter((_, index) => index === turn % WAYS.length);
}

/** Exit code of both ends when the QEMU stream ends in the middle (docs/cli.md). */
const TRUNCATED = 3;

/** A tick of the guest after `tick`, at the same QEMU. */
async function ticksOn(qemu: Qemu): Promise<void> {
  const { time } = lastTickOf(qemu);
  await until(
    () => lastTickOf(qemu).time > time + 4,
    10,
    () => `the guest does not run on; ${qemu.complaint()}`,
  );
}

/** From a QEMU to another of its kind through the filter. */
function throughFilter(
  build: QemuBuild,
  filter: Filter,
  options: Omit<Partial<Parameters<typeof migrate>[1]>, 'machine'> & {
    machine?: (stage: Stage) => Partial<Parameters<typeof migrate>[1]['machine']>;
  },
): Promise<unknown> {
  const { machine, ...rest } = options;
  return onStage((stage) =>
    migrate(stage, {
      source: build,
      destination: build,
      transport: 'unix',
      filter,
      ...rest,
      machine: { type: 'pc', guest: bareGuest(stage, 'sparse'), ...machine?.(stage) },
    }),
  );
}

void describe('streams of other kinds', { concurrency: atOnce }, () => {
  for (const [index, build] of qemus.entries()) {
    const on = (what: string): string => `${what}, QEMU ${build.version}`;

    // A delta over a delta: what QEMU itself leaves out or sends as a difference.
    for (const [way, filter] of waysOf(index)) {
      void it(on(`QEMU's own xbzrle, ${way}`), async () => {
        const stats = await throughFilter(build, filter, {
          sourceCapabilities: ['xbzrle'],
          sourceParameters: { 'xbzrle-cache-size': 128 << 20 },
          passes: 6,
          machine: (stage) => ({ guest: bareGuest(stage, 'mixed', 24) }),
        });
        assert.ok(pagesOfKind(stats, 'xbzrle') > 0, 'QEMU sent no delta of its own');
      });
    }

    for (const [way, filter] of waysOf(index + 1)) {
      void it(on(`no description at the end (suppress-vmdesc), ${way}`), async () => {
        const stats = await throughFilter(build, filter, { machine: () => ({ type: 'q35,suppress-vmdesc=on' }) });
        assert.ok(pagesOfKind(stats, 'delta') > 0);
      });
    }

    for (const [way, filter] of waysOf(index)) {
      void it(on(`no footers, ${way}`), async () => {
        await throughFilter(build, filter, {
          machine: () => ({ more: ['-global', 'migration.send-section-footer=off'] }),
        });
      });
    }

    for (const [way, filter] of waysOf(index + 1)) {
      void it(on(`no configuration, ${way}`), async () => {
        // The description goes with it: without the one, newer QEMUs fail an assertion of their own at the other.
        await throughFilter(build, filter, {
          machine: () => ({ type: 'pc,suppress-vmdesc=on', more: ['-global', 'migration.send-configuration=off'] }),
        });
      });
    }

    void it(on('every kind of page, a cache of a sixteenth of the guest, encode --stock'), async () => {
      const stats = await throughFilter(
        build,
        { stock: true, options: ['--cache-size', '12M'] },
        {
          machine: (stage) => ({ megabytes: 192, guest: bareGuest(stage, 'mixed', 160) }),
        },
      );
      assert.ok(pagesOfKind(stats, 'delta') > 0);
    });

    if (build.major < 9) {
      void it(on('compressed pages (capability compress), encode | decode'), async () => {
        await throughFilter(build, RELAY, { capabilities: ['compress'] });
      });
    }

    for (const [way, filter] of waysOf(index)) {
      void it(on(`the dirty bitmap of a disk, ${way}`), () => dirtyBitmap(build, filter));
    }

    void it(on('RAM left out (x-ignore-shared)'), () => ignoreShared(build));

    if (build.major >= 10) void it(on('multifd'), () => multifd(build));
    if (build.major >= 9) void it(on('mapped-ram'), () => mappedRam(build));

    for (const [way, filter] of waysOf(index + 1)) {
      void it(on(`a pause before switchover, ${way}`), () => pauseBeforeSwitchover(build, filter));
    }
  }
});

void describe('a Linux guest', { concurrency: atOnce }, () => {
  const lacks = linuxGuestLacks();
  const skip = lacks === undefined || inCi ? false : `PAGEWIRE-NOT-RUN a Linux guest: ${lacks}`;
  for (const [index, build] of qemus.entries()) {
    // It takes ten seconds to boot: by turns.
    for (const [way, filter] of waysOf(index)) {
      // From 10.0 on, TCG fails an assertion when the dirty bitmap of a memory device is cleared.
      const device = build.major < 9;
      void it(`on QEMU ${build.version}${device ? ', with a memory device' : ''}, ${way}`, { skip }, async () => {
        assert.equal(lacks, undefined);
        const stats = await throughFilter(build, filter, {
          transport: 'exec',
          ...(device ? { high: 128 } : {}),
          machine: () => ({
            type: 'q35',
            megabytes: 256,
            devices: 'default',
            guest: linuxGuest('sparse', { megabytes: 96, options: device ? 'memhp_default_state=online' : '' }),
            more: device
              ? [
                  ...['-m', 'slots=2,maxmem=1G', '-object', 'memory-backend-ram,id=extra,size=128M'],
                  ...['-device', 'pc-dimm,memdev=extra,addr=0x100000000'],
                ]
              : [],
          }),
        });
        assert.ok(pagesOfKind(stats, 'delta') > 0);
      });
    }
  }
});

void describe('a migration that does not go to its end', { concurrency: atOnce }, () => {
  for (const build of qemus) {
    for (const [way, filter] of WAYS) {
      void it(`cancelled on QEMU ${build.version}, ${way}: the exit code of a stream cut short, the guest runs on`, () =>
        onStage(async (stage) => {
          const machine = { type: 'q35', guest: bareGuest(stage, 'sparse') };
          const { from, to } = await startPair(stage, {
            ...{ source: build, destination: build, machine, transport: 'unix', filter },
          });
          await from.slowDown(20);
          const carriage = await carry(stage, from, to, 'unix', filter);
          await until(
            async () => Number(object((await from.migration()).answer, 'ram')['transferred'] ?? 0) > 10e6,
            20,
            'nothing is transferred',
          );
          await from.qmp.execute('migrate_cancel');
          await from.waitForMigration('cancelled');
          for (const { name, code, complaint } of await carriage.exitCodes(10)) {
            assert.equal(code, TRUNCATED, `${name}: ${complaint}`);
            assert.notEqual(complaint, '', `${name} says nothing`);
          }
          await ticksOn(from);
        }));
    }

    void it(`decode is killed on QEMU ${build.version}: the source QEMU fails the migration and its guest runs on`, () =>
      onStage(async (stage) => {
        const machine = { type: 'pc', guest: bareGuest(stage, 'sparse') };
        const { from, to } = await startPair(stage, {
          ...{ source: build, destination: build, machine, transport: 'fd', filter: RELAY },
        });
        await from.slowDown(20);
        const carriage = await carry(stage, from, to, 'fd', RELAY);
        await until(async () => (await from.migration()).status === 'active', 20, 'the migration does not begin');
        const decode = carriage.filters.find(({ name }) => name === 'decode');
        assert.ok(decode !== undefined && 'kill' in decode);
        await decode.kill();
        await from.waitForMigration('failed', 20);
        const [, encode] = await carriage.exitCodes(10);
        assert.ok(encode !== undefined && encode.code > 0 && encode.code < 128, `encode: ${encode?.code ?? '?'}`);
        assert.doesNotMatch(encode.complaint, /^ {4}at /m, 'a stack trace');
        await ticksOn(from);
      }));
  }
});

async function dirtyBitmap(build: QemuBuild, filter: Filter): Promise<void> {
  await onStage(async (stage) => {
    const names: string[] = [];
    const machine = {
      type: 'pc',
      guest: bareGuest(stage, 'sparse'),
      more: [
        ...['-blockdev', 'driver=null-co,node-name=disk0,size=67108864,read-zeroes=on'],
        ...['-device', 'virtio-blk-pci,drive=disk0'],
      ],
    };
    const migration = { source: build, destination: build, machine, transport: 'exec', filter } as const;
    const { from, to } = await startPair(stage, { ...migration, capabilities: ['dirty-bitmaps'] });
    for (const name of ['first', 'second']) {
      await from.qmp.execute('block-dirty-bitmap-add', { node: 'disk0', name });
      names.push(name);
    }
    await from.slowDown();
    const carriage = await carry(stage, from, to, 'exec', filter);
    await from.finishMigration();
    await carriage.endsWell();
    await to.qemu.waitForMigration('completed');
    if (keepsDirtyPages(build)) {
      await assertSameGuest(from, to.qemu);
      await to.qemu.runsOnFrom(lastTickOf(from));
    }
    const nodes = await to.qemu.qmp.execute('query-named-block-nodes', { flat: true });
    assert.ok(Array.isArray(nodes));
    const node: unknown = nodes.find((one: unknown) => isObject(one) && one['node-name'] === 'disk0');
    assert.ok(isObject(node) && Array.isArray(node['dirty-bitmaps']), 'no bitmap has come');
    assert.deepEqual(node['dirty-bitmaps'].map((one: unknown) => (isObject(one) ? one['name'] : one)).sort(), names);
  });
}

/** The guest's RAM is in a file that both QEMUs map: the stream has its addresses and no content. */
async function ignoreShared(build: QemuBuild): Promise<void> {
  await onStage(async (stage) => {
    const machine = {
      type: 'q35,memory-backend=shared',
      guest: bareGuest(stage, 'sparse'),
      more: ['-object', `memory-backend-file,id=shared,size=128M,share=on,mem-path=${stage.path('guest.ram')}`],
    };
    const capabilities = ['x-ignore-shared'];
    const from = await Qemu.start(stage, machine, { build });
    await from.setCapabilities(...capabilities);
    const stream = stage.path('stream.qemu');
    const carriage = await carry(stage, from, stream, 'unix', RELAY);
    await from.waitForMigration('completed');
    await carriage.endsWell();
    const tick = lastTickOf(from);
    await from.quit();
    const to = await startDestination(stage, machine, { build }, 'unix');
    await to.qemu.setCapabilities(...capabilities);
    await carry(stage, stream, to, 'unix');
    await to.qemu.waitForMigration('completed');
    await to.qemu.runsOnFrom(tick);
  });
}

/** Each connection of the migration goes through filters of its own; they are opened onward in their order. */
async function multifd(build: QemuBuild): Promise<void> {
  await onStage(async (stage) => {
    const machine = { type: 'q35', guest: bareGuest(stage, 'sparse') };
    const migration = { source: build, destination: build, machine, transport: 'unix', filter: RELAY } as const;
    const { from, to } = await startPair(stage, { ...migration, capabilities: ['multifd'] });
    for (const qemu of [from, to.qemu]) await qemu.setParameters({ 'multifd-channels': 2 });
    await from.slowDown();
    const [outside, inside] = [stage.path('outside.sock'), stage.path('inside.sock')];
    await to.qemu.qmp.execute('migrate-incoming', { uri: `unix:${inside}` });
    const ends: Promise<[number, number]>[] = [];
    let before = Promise.resolve();
    await stage.listen(outside, (socket) => {
      const opened = before.then(() => stage.connect(inside));
      before = opened.then(() => undefined);
      ends.push(
        opened.then((onward) => {
          const wire = stage.pipe('wire');
          const encode = stage.start('encode', [pagewire, 'encode'], [socket, wire.write]);
          const decode = stage.start('decode', [pagewire, 'decode'], [wire.read, onward]);
          stage.close(socket, wire.read, wire.write, onward);
          return Promise.all([encode.exitCode(60), decode.exitCode(60)]);
        }),
      );
    });
    await from.qmp.execute('migrate', { uri: `unix:${outside}` });
    await from.finishMigration();
    await to.qemu.waitForMigration('completed');
    assert.deepEqual(await Promise.all(ends), [
      [0, 0],
      [0, 0],
      [0, 0],
    ]);
    await assertSameGuest(from, to.qemu);
    await to.qemu.runsOnFrom(lastTickOf(from));
  });
}

/** Goes to a file that QEMU seeks in: the filter comes after it, and must give every byte back. */
async function mappedRam(build: QemuBuild): Promise<void> {
  await onStage(async (stage) => {
    const machine = { type: 'q35', guest: bareGuest(stage, 'sparse') };
    const migration = { source: build, destination: build, machine, transport: 'exec', filter: RELAY } as const;
    const { from, to } = await startPair(stage, { ...migration, capabilities: ['mapped-ram'] });
    const [saved, packed, restored] = [stage.path('saved.qemu'), stage.path('saved.pw'), stage.path('restored.qemu')];
    await from.qmp.execute('migrate', { uri: `file:${saved}` });
    await from.finishMigration(1);
    for (const command of [
      ['encode', '-i', saved, '-o', packed],
      ['decode', '-i', packed, '-o', restored],
    ]) {
      const filter = stage.start(command[0] ?? '', [pagewire, ...command], []);
      assert.equal(await filter.exitCode(60), 0, filter.complaint());
    }
    assert.ok(readFileSync(saved).equals(readFileSync(restored)), 'what was decoded is not what was encoded');
    assert.ok(statSync(packed).size < statSync(saved).size / 2);
    await to.qemu.qmp.execute('migrate-incoming', { uri: `file:${restored}` });
    await to.qemu.waitForMigration('completed');
    await assertSameGuest(from, to.qemu);
    await to.qemu.runsOnFrom(lastTickOf(from));
  });
}

/** QEMU stands after the RAM it has sent for as long as the operator likes. What it has sent must have come through. */
async function pauseBeforeSwitchover(build: QemuBuild, filter: Filter): Promise<void> {
  await onStage(async (stage) => {
    const machine = { type: 'q35', guest: bareGuest(stage, 'sparse') };
    const from = await Qemu.start(stage, machine, { build });
    await from.setCapabilities('pause-before-switchover');
    await from.slowDown();
    const stream = stage.path('stream.qemu');
    const carriage = await carry(stage, from, stream, 'fd', filter);
    await until(
      async () => {
        const { passes, status } = await from.migration();
        return passes >= 4 || status === 'pre-switchover';
      },
      60,
      'the migration makes no four passes',
    );
    await from.speedUp();
    await from.waitForMigration('pre-switchover');
    const endOfSection = Buffer.from('0000000000000010', 'hex');
    // Older QEMUs hold the last bytes back themselves.
    if (build.major >= 10) {
      await until(
        () => readFileSync(stream).subarray(-8).equals(endOfSection),
        10,
        () => `the stream that came out stands at ...${readFileSync(stream).subarray(-24).toString('hex')}`,
      );
    }
    await from.qmp.execute('migrate-continue', { state: 'pre-switchover' });
    await from.waitForMigration('completed');
    await carriage.endsWell();
    const to = await startDestination(stage, machine, { build }, 'unix');
    await carry(stage, stream, to, 'unix');
    await to.qemu.waitForMigration('completed');
    if (keepsDirtyPages(build)) {
      await assertSameGuest(from, to.qemu);
      await to.qemu.runsOnFrom(lastTickOf(from));
    }
  });
}

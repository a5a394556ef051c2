// A guest that works while it is saved, and comes back from the file: `pagewire -o FILE` and `pagewire -dc FILE`.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, it } from 'node:test';
import { until } from '#src/demo/time.js';
import { bareGuest } from './harness/guests.js';
import { assertSameGuest, lastTickOf } from './harness/migrate.js';
import { Qemu } from './harness/qemu.js';
import { keepsDirtyPages, qemus } from './harness/qemus.js';
import { atOnce, pagewire, shellCommand } from './harness/repository.js';
import { onStage } from './harness/stage.js';

void describe('a guest is saved and restored', { concurrency: atOnce }, () => {
  for (const build of qemus) {
    for (const options of [['--direct'], ['-9']]) {
      void it(`pagewire ${options.join(' ')}, QEMU ${build.version}`, () =>
        onStage(async (stage) => {
          const machine = { type: 'q35', guest: bareGuest(stage, 'mixed') };
          const file = stage.path('guest.pw');
          const from = await Qemu.start(stage, machine, { build });
          // The RAM of a QEMU that loses dirty pages by itself is no measure, unless the guest stands still.
          const isLive = keepsDirtyPages(build);
          if (isLive) await from.slowDown();
          else await from.qmp.execute('stop');
          const save = shellCommand(pagewire, ...options, '-o', file);
          await from.qmp.execute('migrate', { uri: `exec:${save}` });
          assert.ok(!existsSync(file), 'no name before it is whole');
          await from.finishMigration(isLive ? 3 : 1);
          // QEMU does not wait for the program behind its pipe.
          await until(
            () => existsSync(file),
            30,
            () => `no file: ${readdirSync(dirname(file)).join(' ')}; ${from.complaint()}`,
          );
          const test = spawnSync(pagewire, ['-t', file], { encoding: 'utf8' });
          assert.deepEqual([test.status, test.stderr], [0, '']);

          const to = await Qemu.start(stage, machine, { build, incoming: true });
          const restore = shellCommand(pagewire, '-dc', file);
          await to.qmp.execute('migrate-incoming', { uri: `exec:${restore}` });
          await to.waitForMigration('completed');
          await assertSameGuest(from, to);
          await to.runsOnFrom(lastTickOf(from));
        }));
    }
  }

  const build = qemus.at(-1);
  if (build === undefined) return;
  void it(`against the save before it (--base), QEMU ${build.version}`, () =>
    onStage(async (stage) => {
      const machine = { type: 'q35', guest: bareGuest(stage, 'mixed') };
      const files = ['monday.pw', 'tuesday.pw'].map((name) => stage.path(name)) as [string, string];
      const from = await Qemu.start(stage, machine, { build });
      const save = async (file: string, ...options: string[]): Promise<void> => {
        await from.qmp.execute('stop');
        await from.qmp.execute('migrate', { uri: `exec:${shellCommand(pagewire, ...options, '-o', file)}` });
        await until(
          () => existsSync(file),
          60,
          () => `no file; ${from.complaint()}`,
        );
        await from.waitForMigration('completed');
      };
      await save(files[0]);
      await from.qmp.execute('cont');
      const before = lastTickOf(from).time;
      await until(
        () => (from.lastTick()?.time ?? 0) > before + 4,
        15,
        () => `the guest stands; ${from.complaint()}`,
      );
      await save(files[1], '--base', files[0]);

      const to = await Qemu.start(stage, machine, { build, incoming: true });
      await to.qmp.execute('migrate-incoming', { uri: `exec:${shellCommand(pagewire, '-dc', files[1])}` });
      await to.waitForMigration('completed');
      await assertSameGuest(from, to);
      await to.runsOnFrom(lastTickOf(from));
    }));
});

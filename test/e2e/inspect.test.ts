// Streams of every QEMU at hand: what `pagewire inspect` finds in them is what QEMU says that it sent.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { number, object } from '#src/demo/qmp.js';
import { look } from '#src/inspect/inspect.js';
import { inspection as schema } from '#src/inspect/schema.js';
import { bareGuest } from './harness/guests.js';
import { Qemu } from './harness/qemu.js';
import { qemus } from './harness/qemus.js';
import { atOnce, shellCommand } from './harness/repository.js';
import { onStage } from './harness/stage.js';

/** Blocks that every PC of QEMU has. */
const BLOCKS = ['pc.ram', 'pc.bios', 'pc.rom'];

/** Device sections that every PC of QEMU has. */
const DEVICES = ['timer', 'cpu', 'apic', 'i8259', 'ioapic', 'mc146818rtc'];

void describe('inspect, on the stream of', { concurrency: atOnce }, () => {
  for (const build of qemus) {
    // Older ones do not tell their machine type, so nothing tells the page size.
    const oldest = build.machines.pc.findLast((name) => !/-(1\.\d+|2\.[0-3])$/.test(name));
    const cases = [
      [build.machines.q35[0], 'default', []],
      [oldest, 'none', ['xbzrle']],
    ] as const;
    for (const [type, devices, capabilities] of cases) {
      void it(`QEMU ${build.version}, ${type}${capabilities.map((name) => ` with ${name}`).join('')}`, () =>
        onStage(async (stage) => {
          assert.ok(type !== undefined);
          const file = stage.path('stream');
          const qemu = await Qemu.start(stage, { type, guest: bareGuest(stage, 'sparse', 24), devices }, { build });
          await qemu.setCapabilities(...capabilities);
          await qemu.slowDown();
          await qemu.qmp.execute('migrate', { uri: `exec:${shellCommand('dd', 'bs=1M', `of=${file}`)}` });
          await qemu.finishMigration(3);
          const { answer } = await qemu.migration();
          await qemu.quit();

          const { inspection } = await look(file);
          schema.parse(inspection);
          const { stream, machine, blocks, sections, pages, error } = inspection;
          assert.equal(error, null);
          assert.deepEqual([stream.state, stream.understood, machine], ['complete', stream.bytes, type]);
          const names = blocks.map(({ name }) => name);
          for (const name of BLOCKS) assert.ok(names.includes(name), names.join(' '));
          const size = blocks.find(({ name }) => name === 'pc.ram')?.bytes;
          assert.equal(size, 128 << 20);
          const states = sections.flatMap((section) => (section.type === 'device' ? [section.name] : []));
          for (const name of DEVICES) assert.ok(states.includes(name), states.join(' '));
          assert.equal(sections.at(-1)?.type, 'description');

          const ram = object(answer, 'ram');
          const cache = object(answer, 'xbzrle-cache');
          assert.ok(pages);
          const { raw, zero, fill, compressed, xbzrle } = pages.total;
          const counted = [number(ram, 'normal'), number(ram, 'duplicate'), 0, 0];
          assert.deepEqual([raw, zero, fill, compressed], counted);
          // QEMU counts pages among them that had not changed and were not sent.
          const most = number(cache, 'pages') ?? 0;
          assert.ok(xbzrle <= most && xbzrle > 0 === most > 0, `${xbzrle} of ${most}`);
          assert.ok(pages.passes.length >= 3 && (pages.resent?.moreThanOnce ?? 0) > 0);
        }));
    }
  }
});

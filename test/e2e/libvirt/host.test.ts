// The harness itself: two hosts, a guest that ticks, and libvirt's own migration between them.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { onStage } from '../harness/stage.js';
import { boot, furnish, isGone, lastTick, runs } from './guest.js';
import { Hosts, libvirtVersion, skipLibvirt } from './host.js';

void describe('two hosts with libvirt', { skip: skipLibvirt() }, () => {
  void it("a guest goes from one to the other by libvirt's own means", () =>
    onStage(async (stage) => {
      const { a, b } = await Hosts.start(stage);
      await boot(a);
      furnish(b);
      await a.virsh('migrate', '--live', 'vm1', 'qemu+tcp://dst/system');
      await runs(b, 'vm1', lastTick(a));
      await isGone(a);
      await b.restartDaemon();
      await runs(b);
      assert.ok((await a.virsh('version')).includes(`libvirt ${libvirtVersion}.`));
    }));
});

// When a guest stopped and went on, as libvirt tells: both hosts have this machine's clock.
import { until } from '#src/demo/time.js';
import type { Host } from '../../test/e2e/libvirt/host.js';
import { inside } from '../../test/e2e/libvirt/host.js';
import type { Running } from '../../test/e2e/harness/stage.js';

export class Lifecycle {
  private constructor(private readonly virsh: Running) {}

  /** Listens on a host from now on. */
  static async of(host: Host): Promise<Lifecycle> {
    const virsh = host.start('events', [
      ...['stdbuf', '-oL', 'virsh', '--connect', 'qemu:///system'],
      ...['event', '--event', 'lifecycle', '--loop', '--timestamp'],
    ]);
    // It says nothing when it has begun to listen.
    await until(() => inside(virsh).length > 0, 10, 'virsh event does not start');
    return new Lifecycle(virsh);
  }

  /** When this happened last, in milliseconds since the epoch. */
  timeOf(event: 'Suspended' | 'Resumed'): Promise<number> {
    const line = new RegExp(`^(\\S+ \\S+): event 'lifecycle' for domain '?vm1'?: ${event}`, 'gm');
    return until(
      () => {
        const time = [...this.virsh.said().matchAll(line)].at(-1)?.[1];
        return time === undefined ? undefined : Date.parse(time.replace(' ', 'T').replace(/\+0000$/, 'Z'));
      },
      10,
      () => `libvirt does not tell that the guest was ${event}: ${this.virsh.said()}`,
    );
  }

  end(): Promise<void> {
    return this.virsh.kill();
  }
}

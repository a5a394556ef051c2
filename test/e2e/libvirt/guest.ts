// Guests under libvirt: the bare machine of test/e2e/guest/bare.S under TCG, whose console ticks.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { until } from '#src/demo/time.js';
import { guestImage } from '#src/demo/guest.js';
import type { Workload } from '../harness/guests.js';
import type { Host } from './host.js';

/** What to boot. */
export interface GuestPlan {
  readonly name?: string;
  readonly workload?: Workload;
  /** Pages that it touches in a second. */
  readonly rate?: number;
  /** MiB of RAM. */
  readonly megabytes?: number;
  /** MiB that it works on, from the 16th on. */
  readonly workingSet?: number;
}

const FOLDER = '/var/lib/libvirt/images';
const consolePath = (name: string): string => `/var/log/libvirt/console-${name}.log`;

/** The guest as libvirt's XML. */
export function domainXml(plan: GuestPlan = {}): string {
  const { name = 'vm1', workload = 'sparse', rate = 4000, megabytes = 128, workingSet = 56 } = plan;
  return `<domain type='qemu'>
  <name>${name}</name>
  <memory unit='MiB'>${megabytes}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>${FOLDER}/bare.bin</kernel>
    <cmdline>mode=${workload} mb=${workingSet} rate=${rate}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <serial type='file'><source path='${consolePath(name)}' append='on'/><target port='0'/></serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
`;
}

/** Puts on a host what guests boot from: also where a guest only arrives. */
export function furnish(...hosts: readonly Host[]): void {
  for (const host of hosts) {
    mkdirSync(host.path(FOLDER), { recursive: true });
    if (!existsSync(host.path(`${FOLDER}/bare.bin`))) writeFileSync(host.path(`${FOLDER}/bare.bin`), guestImage);
  }
}

/** Boots a transient guest, and waits until it works. What one of its name has printed before is forgotten. */
export async function boot(host: Host, plan: GuestPlan = {}): Promise<void> {
  const { name = 'vm1' } = plan;
  furnish(host);
  forget(host, name);
  const xml = `/run/${name}.xml`;
  writeFileSync(host.path(xml), domainXml(plan));
  await host.virsh('create', xml);
  await until(
    () => printed(host, name).includes('READY'),
    60,
    () => `the guest ${name} does not come up on host ${host.name}: ${printed(host, name)} ${host.qemuLog(name)}`,
  );
  await runs(host, name);
}

/** Removes what guests of that name have printed on these hosts. None runs there. */
export function forget(host: Host, name = 'vm1'): void {
  rmSync(host.path(consolePath(name)), { force: true });
}

/** All that a guest printed on this host. */
export function printed(host: Host, name: string): string {
  const path = host.path(consolePath(name));
  return existsSync(path) ? readFileSync(path, 'latin1') : '';
}

/** The time by the guest's last whole tick on this host, or -1. A tick is 20 ms of its own time. */
export function lastTick(host: Host, name = 'vm1'): number {
  return Number([...printed(host, name).matchAll(/^T (\d+) [0-9a-f]+(?=\r?\n)/gm)].at(-1)?.[1] ?? -1);
}

/** libvirt's word for a guest's state, or undefined where the host does not know the guest. */
export async function stateOf(host: Host, name = 'vm1'): Promise<string | undefined> {
  const running = host.startVirsh('domstate', name);
  if ((await running.exitCode(30)) !== 0) {
    if (/failed to get domain|no domain/i.test(running.said())) return undefined;
    throw new Error(running.said());
  }
  return running.said();
}

/** The guest runs here, and its console ticks on, beyond `after`. */
export async function runs(host: Host, name = 'vm1', after = lastTick(host, name)): Promise<void> {
  await until(
    () => lastTick(host, name) > after + 4,
    20,
    () =>
      `the guest ${name} does not tick on host ${host.name}: ${printed(host, name).slice(-200)} ${host.qemuLog(name).slice(-1500)}`,
  );
  const state = await stateOf(host, name);
  if (state !== 'running') throw new Error(`libvirt of host ${host.name} says that ${name} is ${state ?? 'unknown'}`);
}

/** The guest is not known on this host (any more). */
export async function isGone(host: Host, name = 'vm1', seconds = 20): Promise<void> {
  let state: string | undefined;
  await until(
    async () => (state = await stateOf(host, name)) === undefined,
    seconds,
    () => `the guest ${name} is still on host ${host.name}: ${state ?? ''}`,
  );
}

// The guests: what QEMU boots, and how to see that it lives.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { guestImage } from '#src/demo/guest.js';
import { cache, fetchMissing } from './qemus.js';
import { root } from './repository.js';
import type { Stage } from './stage.js';

/** What a guest does to the pages that it touches. `half` and `full` write random bytes, `mixed` a bit of everything. */
export type Workload = 'idle' | 'sparse' | 'half' | 'full' | 'mixed';

/** What to boot. Both QEMUs of a migration get the same. */
export interface Guest {
  readonly arguments: readonly string[];
  /** What it prints when its memory is filled and the work begins. */
  readonly ready: string;
}

/**
 * Pages touched in a second, by workload: what TCG manages on a slow machine. `sparse` and `mixed` touch about as many as
 * `slowDown` lets through, so that one pass leaves a next one something to do.
 */
const RATE: Readonly<Record<Workload, number>> = { idle: 0, sparse: 12_000, half: 6000, full: 4000, mixed: 10_000 };

/** MiB that a guest works on, from the 16th on. With two RAM blocks of 64 MiB, a part of it lies in the second. */
export const WORKING_SET = 56;

/** The guest of test/e2e/guest/bare.S; it is up in a third of a second. `megabytes` is its working set. */
export function bareGuest(stage: Stage, workload: Workload, megabytes = WORKING_SET): Guest {
  const image = stage.path('bare.bin');
  if (!existsSync(image)) writeFileSync(image, guestImage);
  return {
    arguments: ['-kernel', image, '-append', `mode=${workload} mb=${megabytes} rate=${RATE[workload]}`],
    ready: 'READY',
  };
}

/** One file as a cpio archive of the kind that Linux unpacks at boot. */
function cpio(files: readonly { name: string; mode: number; data: Buffer }[]): Buffer {
  const parts: Buffer[] = [];
  const pad = (length: number): Buffer => Buffer.alloc((4 - (length % 4)) % 4);
  for (const [index, { name, mode, data }] of [
    ...files,
    { name: 'TRAILER!!!', mode: 0, data: Buffer.alloc(0) },
  ].entries()) {
    const fields = [index + 1, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length + 1, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${name}\0`;
    parts.push(Buffer.from(header), pad(header.length), data, pad(data.length));
  }
  return Buffer.concat(parts);
}

/** What the Linux guest needs and this machine lacks, in words, or undefined. */
export function linuxGuestLacks(): string | undefined {
  fetchMissing('kernel');
  if (!existsSync(join(cache, 'kernel/vmlinuz'))) return 'no kernel: run scripts/qemu/setup.sh kernel (no root)';
  const compiler = spawnSync('cc', ['-static', '-x', 'c', '-o', '/dev/null', '-'], {
    input: 'int main(void){return 0;}',
  });
  return compiler.status === 0 ? undefined : 'no C compiler with a static libc: install gcc and libc6-dev';
}

/** The initramfs with test/e2e/guest/init.c as its only program, made once and kept in the cache. */
function initramfs(): string {
  const folder = join(cache, 'guest');
  mkdirSync(folder, { recursive: true });
  const source = join(root, 'test/e2e/guest/init.c');
  const [made, from] = [join(folder, 'initramfs.gz'), join(folder, 'init.c')];
  if (existsSync(made) && existsSync(from) && readFileSync(from).equals(readFileSync(source))) return made;
  const program = join(folder, `init.${process.pid}`);
  const { status, stderr } = spawnSync('cc', ['-O2', '-Wall', '-static', '-s', '-o', program, source], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`cannot compile the Linux guest's init: ${stderr}`);
  const archive = cpio([{ name: 'init', mode: 0o100755, data: readFileSync(program) }]);
  writeFileSync(`${made}.${process.pid}`, gzipSync(archive));
  renameSync(`${made}.${process.pid}`, made);
  renameSync(program, join(folder, 'init'));
  writeFileSync(from, readFileSync(source));
  return made;
}

/** A Linux with test/e2e/guest/init.c as its userland. Boots in some 3 s. `rate`: pages touched in a second. */
export function linuxGuest(
  workload: Workload,
  { megabytes = WORKING_SET, rate = RATE[workload], options = '' } = {},
): Guest {
  const append = `console=ttyS0 quiet dmb=${megabytes} dmode=${workload} drate=${rate} ${options}`;
  return {
    arguments: ['-kernel', join(cache, 'kernel/vmlinuz'), '-initrd', initramfs(), '-append', append.trim()],
    ready: 'READY',
  };
}

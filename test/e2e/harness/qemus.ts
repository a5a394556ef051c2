// Which QEMUs there are to test with.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { inCi, root } from './repository.js';

export type Chipset = 'pc' | 'q35';

/** A QEMU that can be run. */
export interface QemuBuild {
  readonly command: string;
  /** As 10.0: what tells one from another. */
  readonly version: string;
  readonly major: number;
  /** Versioned machine types, newest first. */
  readonly machines: Readonly<Record<Chipset, readonly string[]>>;
}

const setup = join(root, 'scripts/qemu/setup.sh');

/** The folder where setup.sh keeps what it fetched. */
export const cache =
  process.env['PAGEWIRE_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'pagewire');

const WANTED = ['7.2', '10', '11'];

/** What a user does to have the tests run. */
export const howToInstall = 'run scripts/qemu/setup.sh (no root, about 500 MB), or install qemu-system-x86';

function output(command: string, ...args: string[]): string {
  const { stdout, status } = spawnSync(command, args, { encoding: 'utf8' });
  return status === 0 ? stdout : '';
}

function byVersion(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}

function inspect(command: string): QemuBuild | undefined {
  const version = /version (\d+)\.(\d+)/.exec(output(command, '--version'));
  if (version === null) return undefined;
  const names = output(command, '-machine', 'help').split('\n');
  const machines = (prefix: string): string[] =>
    names
      .map((line) => line.split(/\s/)[0] ?? '')
      .filter((name) => name.startsWith(prefix))
      .sort(byVersion)
      .reverse();
  return {
    command,
    version: `${version[1] ?? ''}.${version[2] ?? ''}`,
    major: Number(version[1]),
    machines: { pc: machines('pc-i440fx-'), q35: machines('pc-q35-') },
  };
}

/** In CI what is missing is fetched; a mirror that does not answer is told by the tests that then miss a QEMU. */
export function fetchMissing(...names: string[]): void {
  if (!inCi) return;
  const { status, stderr } = spawnSync(setup, names, {
    encoding: 'utf8',
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, PAGEWIRE_CACHE: cache },
  });
  if (status !== 0) console.error(stderr);
}

function find(): QemuBuild[] {
  const named = process.env['PAGEWIRE_QEMU'];
  if (named !== undefined && named !== '') {
    return named.split(':').map((command) => {
      const build = inspect(command);
      if (build === undefined) throw new Error(`PAGEWIRE_QEMU: ${command} is not a QEMU that runs`);
      return build;
    });
  }
  fetchMissing(...WANTED);
  const found = [...WANTED.map((name) => join(cache, `qemu-${name}`, 'qemu')).filter((path) => existsSync(path))]
    .concat('qemu-system-x86_64')
    .map(inspect)
    .filter((build) => build !== undefined);
  // the machine's own is often one of them
  return [...new Map(found.reverse().map((build) => [build.version, build])).values()].sort((a, b) =>
    byVersion(a.version, b.version),
  );
}

/** The QEMUs to test with, oldest first. PAGEWIRE_QEMU names others than those that are found, as a PATH does. */
export const qemus: readonly QemuBuild[] = find();

/** The newest by which the RAM of a guest that moved by postcopy can be judged. */
export const strictInPostcopy = qemus.filter((build) => keepsDirtyPages(build, { byPostcopy: true })).at(-1);

/** The versions that CI must have and that are not there. */
export const missing: readonly string[] =
  process.env['PAGEWIRE_QEMU'] === undefined
    ? WANTED.filter((name) => !qemus.some(({ version }) => version === name || version.startsWith(`${name}.`)))
    : [];

/**
 * What a QEMU whose migration has a return path may say of it after `migrate_cancel`. 7.2 and 10.0 shut that down first,
 * by the socket that the stream goes over too, and only then say that they cancel: if the migration's thread writes in
 * between, its error comes first. With 0.3 s put between the two (strace's delay_exit of shutdown), and a plain reader
 * at the other end, both said `failed` in 5 of 5, without a return path `cancelled` in 5 of 5; 11.1 `cancelled` in 10 of 10.
 */
export function saysOfCancelled({ major }: QemuBuild): readonly string[] {
  return major >= 11 ? ['cancelled'] : ['cancelled', 'failed'];
}

/** The newest machine type that both know: a migration needs one. */
export function commonMachine(a: QemuBuild, b: QemuBuild, chipset: Chipset): string | undefined {
  return a.machines[chipset].find((name) => b.machines[chipset].includes(name));
}

/**
 * Whether this QEMU under TCG keeps track of all pages that a guest dirties while it is migrated. Before 9.0 none does.
 * 10.0 and 11.1 miss some in all but the first RAM block of the guest's memory: in 14 of 31 and 17 of 25 migrations of
 * two blocks through a byte-exact relay, and in none of 25 of one block. 11.1 misses some of one block too if it goes
 * into postcopy, with nothing or a byte-exact relay between: in 26 of 480 it never sent a page again that the guest had
 * written since (the page with its variables, mostly). 10.0 did in none of 140, and 11.1 in none of 160 by precopy.
 */
export function keepsDirtyPages(build: QemuBuild, { ramBlocks = 1, byPostcopy = false } = {}): boolean {
  return build.major >= 9 && ramBlocks === 1 && !(byPostcopy && build.major >= 11);
}

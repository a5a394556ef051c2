/** What a host needs so that libvirt's migrations go through the proxies: files, whose they are, and their undo. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { replaceFile } from '../control/replace.js';
import { PagewireError } from '../errors.js';
import { type Way, WAYS } from './ways.js';

/** By this line a file is known for ours. */
const MARK = '# Made by: pagewire libvirt setup\n';

/** A file to be made. */
export interface SetupFile {
  readonly path: string;
  readonly text: string;
  /** It is the operator's once it is there: one that was changed is neither written anew nor removed. */
  readonly isSettings: boolean;
  /** The line of settings by which a way differs from another that has them too. */
  readonly line: string | undefined;
}

const contrib = (name: string): string => readFileSync(new URL(`../../contrib/${name}`, import.meta.url), 'utf8');

/** Of contrib, for guests that come and that go: units, and the settings of `/etc/pagewire`. */
const PARTS: Record<Way, { units: readonly string[]; settings: readonly string[] }> = {
  unix: {
    units: ['pagewire-destination.service', 'pagewire-source@.service'],
    settings: ['etc/destination.env', 'etc/source.env'],
  },
  intercept: {
    units: ['pagewire-destination.service', 'pagewire-intercept.service'],
    settings: ['etc/destination.env', 'etc/intercept.env', 'libvirt/intercept.nft'],
  },
  tunnel: {
    units: ['pagewire-tunnel-destination.service', 'pagewire-tunnel@.service'],
    settings: ['etc/tunnel-destination.env', 'etc/tunnel.env'],
  },
};

/** What a host is given. `qemu`: the user that QEMU runs as. */
export function setupFiles(way: Way, qemu: string): SetupFile[] {
  const file = (path: string, text: string, settings?: { line?: string | undefined }): SetupFile => ({
    path,
    text: MARK + text,
    isSettings: settings !== undefined,
    line: settings?.line,
  });
  // Who is in the group may use the sockets in /run/pagewire.
  const member = qemu === 'root' ? '' : `m ${qemu} pagewire\n`;
  const { units, settings } = PARTS[way];
  return [
    file('/etc/sysusers.d/pagewire.conf', contrib('sysusers.d/pagewire.conf') + member),
    file('/etc/tmpfiles.d/pagewire.conf', contrib('tmpfiles.d/pagewire.conf')),
    ...units.map((name) => file(`/etc/systemd/system/${name}`, contrib(`systemd/${name}`))),
    ...settings.map((name) => {
      const { text, ...more } = settingsFor(way, name);
      return file(`/etc/pagewire/${basename(name)}`, text, more);
    }),
  ];
}

/** A setting by which ways that have the same file differ. */
const CONNECT = /^PAGEWIRE_CONNECT=.*$/m;

function settingsFor(way: Way, name: string): { text: string; line?: string | undefined } {
  const text = contrib(name);
  if (name !== 'etc/destination.env') return { text };
  // With interception, libvirt chooses the port at which QEMU waits for its guest.
  const fitting = way === 'intercept' ? text.replace(CONNECT, 'PAGEWIRE_CONNECT=tcp:127.0.0.1:{port}') : text;
  return { text: fitting, line: CONNECT.exec(fitting)?.[0] };
}

/** The line that the way has there as shipped, where the settings that are there have another one. */
export function otherwise({ path, line }: SetupFile, root: string): string | undefined {
  const there = contentOf(join(root, path))?.match(new RegExp(CONNECT, 'gm'))?.at(-1); // systemd takes the last one
  return there?.trim() === line ? undefined : line;
}

/** The units of all ways. */
export const UNITS: readonly string[] = [...new Set(WAYS.flatMap((way) => PARTS[way].units))];

/** The user that QEMU runs as, by libvirt's settings or else by who is there. */
export function qemuUser(root: string): string {
  const conf = contentOf(join(root, '/etc/libvirt/qemu.conf')) ?? '';
  const set = /^\s*user\s*=\s*"\+?([\w.-]+)"/m.exec(conf)?.[1];
  if (set !== undefined) return set === '0' ? 'root' : set;
  const users = contentOf(join(root, '/etc/passwd')) ?? '';
  return ['libvirt-qemu', 'qemu'].find((name) => new RegExp(`^${name}:`, 'm').test(users)) ?? 'root';
}

/** What became of a file. */
export type Fate = 'made' | 'kept' | 'removed';

/** Makes the files below `root`, each whole or not at all; settings that are there stay as they are. */
export function makeSetup(files: readonly SetupFile[], root: string): [SetupFile, Fate][] {
  const foreign = files.find(({ path, isSettings }) => !isSettings && !isOurs(join(root, path)));
  if (foreign) {
    throw new PagewireError('OPEN_FAILED', `${foreign.path} is there and was not made by this: move it away first`);
  }
  return files.map((file) => {
    const path = join(root, file.path);
    if (file.isSettings && existsSync(path)) return [file, 'kept'];
    try {
      mkdirSync(dirname(path), { recursive: true });
      replaceFile(path, (partial) => {
        writeFileSync(partial, file.text, { mode: 0o644, flag: 'wx' });
      });
    } catch (error) {
      throw failed('make', path, error);
    }
    return [file, 'made'];
  });
}

/** Removes what was made; settings that were changed stay. */
export function removeSetup(root: string): [SetupFile, Fate][] {
  const all = WAYS.flatMap((way) => setupFiles(way, 'root'));
  const files = new Map(all.map((file) => [file.path, file]));
  const texts = new Set(all.map(({ text }) => text));
  return [...files.values()].flatMap((file): [SetupFile, Fate][] => {
    const path = join(root, file.path);
    const content = contentOf(path);
    if (content === undefined || !isOurs(path)) return [];
    if (file.isSettings && !texts.has(content)) return [[file, 'kept']];
    try {
      rmSync(path);
    } catch (error) {
      throw failed('remove', path, error);
    }
    return [[file, 'removed']];
  });
}

/** Whether nothing is there, or something that was made by us. */
function isOurs(path: string): boolean {
  return contentOf(path)?.startsWith(MARK) ?? true;
}

function contentOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw failed('read', path, error);
  }
}

function failed(what: string, path: string, cause: unknown): PagewireError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new PagewireError('OPEN_FAILED', `cannot ${what} ${path}: ${reason} (are you root?)`, { cause });
}

/** The save filter on a host: which files stand where, and what they say. docs/libvirt.md has the reasons. */
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { replaceFile } from '../control/replace.js';
import { PagewireError } from '../errors.js';
import { type Program, PROGRAMS } from './programs.js';

/** libvirt's daemons that save guests: the one for everything, and that for QEMU alone. */
export const DAEMONS = ['libvirtd', 'virtqemud'] as const;

/**
 * Where the filter itself stands. Not below /usr/local, nor deeper: AppArmor looks at what a link leads to, and lets
 * libvirtd execute `/usr/sbin/*`.
 */
export const FILTER = '/usr/sbin/pagewire-libvirt-filter';

/** The folder that comes first in the daemon's PATH: links to the filter, and nothing else. */
export const FOLDER = '/usr/local/lib/pagewire/libvirt';

/** What systemd gives to services that set no PATH of their own. */
export const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** A file to be made. */
export interface Made {
  readonly path: string;
  /** What it says, or, for a link, where it leads. */
  readonly text: string;
  readonly kind: 'file' | 'program' | 'link';
}

export interface Filter {
  /** The Node that is to run us, and the program that it runs; absolute. */
  readonly node: string;
  readonly program: string;
}

/** The Node and the package that run now. */
export function thisFilter(): Filter {
  return { node: process.execPath, program: fileURLToPath(new URL('filter.cjs', import.meta.url)) };
}

/** What an installation makes, in its order: what something leads to comes first. `paths` are the daemons' own. */
export function files(programs: readonly Program[], filter: Filter, paths: Record<string, string>): Made[] {
  return [
    { path: FILTER, text: filterText(filter), kind: 'program' },
    ...programs.map((name): Made => ({ path: `${FOLDER}/${name}`, text: FILTER, kind: 'link' })),
    ...DAEMONS.map((daemon): Made => ({
      path: dropIn(daemon),
      text: dropInText(paths[daemon] ?? DEFAULT_PATH),
      kind: 'file',
    })),
  ];
}

/** A daemon's drop-in. It is read after what an administrator would call 50-… */
export function dropIn(daemon: string): string {
  return `/etc/systemd/system/${daemon}.service.d/90-pagewire-filter.conf`;
}

/** Files that a daemon's unit reads its environment from; what they set counts more than a drop-in. */
export function environmentFiles(daemon: string): string[] {
  return ['/etc/default', '/etc/sysconfig'].map((folder) => `${folder}/${daemon}`);
}

function filterText({ node, program }: Filter): string {
  const template = readFileSync(new URL('../../contrib/libvirt/filter.sh', import.meta.url), 'utf8');
  return template.replace('@NODE@', () => forShell(node)).replace('@PROGRAM@', () => forShell(program));
}

function forShell(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

function dropInText(path: string): string {
  // In quotes; for systemd % stands before a specifier.
  const value = withoutFolder(path).replace(/["\\]/g, '\\$&').replaceAll('%', '%%');
  return `# Made by: pagewire install-libvirt-filter
# libvirt looks for the programs that pack and unpack saved guests in its PATH; pagewire's come first.
[Service]
Environment="PATH=${FOLDER}:${value}"
`;
}

/** A PATH as it is without us. */
export function withoutFolder(path: string): string {
  return path
    .split(':')
    .filter((folder) => folder !== FOLDER)
    .join(':');
}

/** Makes the files below `root`, each whole or not at all; none where one would take the place of what is not ours. */
export function make(made: readonly Made[], root: string): void {
  const foreign = made.find(({ path }) => !isOurs(join(root, path)));
  if (foreign) {
    const path = join(root, foreign.path);
    throw new PagewireError('OPEN_FAILED', `${path} is there and was not made by pagewire: move it away first`);
  }
  for (const { path, text, kind } of made) {
    const final = join(root, path);
    try {
      mkdirSync(dirname(final), { recursive: true, mode: 0o755 });
      replaceFile(final, (partial) => {
        if (kind === 'link') symlinkSync(text, partial);
        else writeFileSync(partial, text, { mode: kind === 'program' ? 0o755 : 0o644, flag: 'wx' });
      });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new PagewireError('OPEN_FAILED', `cannot make ${final}: ${reason} (are you root?)`, { cause: error });
    }
  }
}

/** The programs that the filter stands for now, below `root`. */
export function installed(root: string): Program[] {
  return PROGRAMS.filter((name) => leadsToFilter(join(root, FOLDER, name)));
}

/** What an undo for these programs removes, in its order: what leads to something goes first. */
export function leftovers(programs: readonly Program[], root: string): string[] {
  const stays = installed(root).some((name) => !programs.includes(name));
  const links = programs.map((name) => `${FOLDER}/${name}`).filter((path) => leadsToFilter(join(root, path)));
  const rest = stays ? [] : [FILTER].filter((path) => lstatSync(join(root, path), { throwIfNoEntry: false }));
  const dropIns = stays ? [] : DAEMONS.map(dropIn).filter((path) => readable(join(root, path)) !== undefined);
  return [...dropIns, ...links, ...rest].filter((path) => isOurs(join(root, path)));
}

/** Removes files, and the folders that are empty then and were made for them. */
export function remove(paths: readonly string[], root: string): void {
  for (const path of paths) {
    try {
      rmSync(join(root, path), { force: true });
      const folder = dirname(path);
      if (folder === FOLDER || folder.endsWith('.service.d')) removeEmpty(folder, root);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new PagewireError('OPEN_FAILED', `cannot remove ${path}: ${reason} (are you root?)`, { cause: error });
    }
  }
}

function removeEmpty(folder: string, root: string): void {
  const path = join(root, folder);
  if (readdirSync(path).length > 0) return;
  rmdirSync(path);
  // Above the links' folder stands one that is ours alone.
  if (folder === FOLDER) removeEmpty(dirname(FOLDER), root);
}

/** Whether there is nothing, or something that we made. */
function isOurs(path: string): boolean {
  const stats = lstatSync(path, { throwIfNoEntry: false });
  if (!stats) return true;
  if (stats.isSymbolicLink()) return leadsToFilter(path);
  return stats.isFile() && (readable(path) ?? '').includes('pagewire install-libvirt-filter');
}

function leadsToFilter(path: string): boolean {
  try {
    return readlinkSync(path) === FILTER;
  } catch {
    return false;
  }
}

function readable(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

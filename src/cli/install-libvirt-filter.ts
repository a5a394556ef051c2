import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { PagewireError } from '../errors.js';
import { readImage } from '../libvirt/image.js';
import {
  DAEMONS,
  DEFAULT_PATH,
  environmentFiles,
  files,
  type Filter,
  FOLDER,
  installed,
  leftovers,
  type Made,
  make,
  remove,
  thisFilter,
  withoutFolder,
} from '../libvirt/install.js';
import type { Program } from '../libvirt/programs.js';
import { EXIT } from '../control/exit.js';
import { print } from '../control/standard-streams.js';
import { say } from './run.js';

export interface InstallFlags {
  /** What the filter is to stand for, or with `uninstall` no longer. */
  as?: Program[];
  dryRun: boolean;
  uninstall: boolean;
  /** The system to install to, if it is not the one that runs. */
  root?: string;
}

/** What an installation adds to where nothing is asked for: what nobody but libvirt runs. */
const DEFAULT_PROGRAM: Program = 'lzop';

/** Where libvirt itself keeps guests that it saved. */
const SAVE_FOLDERS = ['save', 'snapshot', 'dump'].map((name) => `/var/lib/libvirt/qemu/${name}`);

const NAME = 'install-libvirt-filter';

/** `pagewire install-libvirt-filter`: what it does, or would do, is told on standard output. */
export function installLibvirtFilter(flags: InstallFlags): number {
  const root = flags.root ?? '/';
  if (flags.root !== undefined && !statSync(root, { throwIfNoEntry: false })?.isDirectory()) {
    throw new PagewireError('BAD_OPTION', `--root ${root}: no such folder`);
  }
  return flags.uninstall ? uninstall(flags, root) : install(flags, root);
}

function install({ as, dryRun, root: other }: InstallFlags, root: string): number {
  const programs = [...new Set([...installed(root), ...(as ?? [DEFAULT_PROGRAM])])];
  const filter = thisFilter();
  const paths = Object.fromEntries(
    DAEMONS.map((daemon) => [daemon, other === undefined ? pathOf(daemon) : DEFAULT_PATH]),
  );
  const made = files(programs, filter, paths);
  if (dryRun) {
    print(`would make, below ${root}:\n`);
    for (const file of made) print(`\n${describe(file)}\n`);
    print('\n');
  } else {
    make(made, root);
    for (const { path } of made) print(`made ${path}\n`);
  }
  reload(dryRun, other);
  for (const problem of [...inTheWay(root), ...notOurs(filter)]) say(NAME, problem);
  print(nextSteps(programs, root));
  return EXIT.ok;
}

function uninstall({ as, dryRun, root: other }: InstallFlags, root: string): number {
  const programs = as ?? installed(root);
  const paths = leftovers(programs, root);
  if (paths.length === 0) {
    print(as ? `nothing of pagewire stands for ${as.join(', ')}\n` : 'nothing is installed\n');
  } else {
    if (!dryRun) remove(paths, root);
    for (const path of paths) print(`${dryRun ? 'would remove' : 'removed'} ${path}\n`);
    reload(dryRun, other);
  }
  print(readingOn(root));
  return EXIT.ok;
}

function describe({ path, text, kind }: Made): string {
  return kind === 'link' ? `${path} -> ${text}` : `${path}:\n${text.trimEnd().replace(/^/gm, '    ')}`;
}

// ---- systemd

/** The PATH that a daemon has without us, as far as systemd tells. */
function pathOf(daemon: string): string {
  const own = systemctl('show', '--property=Environment', '--value', `${daemon}.service`);
  // With a space in it, the whole assignment stands in quotes.
  const [, quoted, plain] = /(?:^|\s)(?:"PATH=([^"]*)"|PATH=(\S+))/.exec(own ?? '') ?? [];
  return withoutFolder(quoted ?? plain ?? managers()) || DEFAULT_PATH;
}

function managers(): string {
  return /^PATH=(\S+)$/m.exec(systemctl('show-environment') ?? '')?.[1] ?? DEFAULT_PATH;
}

/** What systemctl says; undefined where it cannot. */
function systemctl(...words: string[]): string | undefined {
  const { status, stdout } = spawnSync('systemctl', words, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  return status === 0 ? stdout : undefined;
}

function reload(dryRun: boolean, other: string | undefined): void {
  if (other !== undefined) return;
  if (!existsSync('/run/systemd/system')) {
    say(NAME, `systemd does not run here: see to it that ${FOLDER} comes first in the PATH of libvirt's daemon`);
  } else if (dryRun) {
    print('would run: systemctl daemon-reload\n');
  } else if (systemctl('daemon-reload') === undefined) {
    throw new PagewireError('INTERNAL', 'systemctl daemon-reload failed: run it, or nothing has changed');
  } else {
    print('done: systemctl daemon-reload\n');
  }
}

// ---- what keeps the filter from working, or makes it dangerous

function inTheWay(root: string): string[] {
  return DAEMONS.flatMap(environmentFiles)
    .map((path) => join(root, path))
    .filter((path) => /^\s*(export\s+)?PATH=/m.test(contentOf(path)))
    .map((path) => `${path} sets PATH, which counts more than the drop-in: put ${FOLDER} first there`);
}

/** The daemon runs as root, and so does what it starts. */
function notOurs({ node, program }: Filter): string[] {
  return [node, program].flatMap((path) => {
    const open = withFolders(path).find((part) => {
      const { uid, mode } = lstatSync(part);
      // In a sticky folder nobody can touch what is root's.
      return uid !== 0 || ((mode & 0o022) !== 0 && (mode & 0o1000) === 0);
    });
    return open === undefined
      ? []
      : [`libvirt's daemon will run ${path} as root, and ${open} can be changed by others: install pagewire as root`];
  });
}

/** A path without its links, and every folder above it. */
function withFolders(path: string): string[] {
  const parts: string[] = [];
  for (let part = realpathSync(path); !parts.includes(part); part = dirname(part)) parts.push(part);
  return parts;
}

// ---- what is left to do

function nextSteps(programs: readonly Program[], root: string): string {
  const set = [...contentOf(join(root, '/etc/libvirt/qemu.conf')).matchAll(/^\s*(\w+_image_format)\s*=\s*"(\w+)"/gm)];
  const formats = new Map(set.map(([, setting = '', format = '']) => [setting, format]));
  const wanted = ['save_image_format', 'dump_image_format', 'snapshot_image_format'].map((setting) => {
    const format = formats.get(setting) ?? 'raw';
    const isSet = (programs as readonly string[]).includes(format);
    return `  ${setting} = "${isSet ? format : programs[0]}"${isSet ? '   (as it is)' : `   (now: ${format})`}\n`;
  });
  return `
What is left to do:
1. Where pagewire is to pack, in /etc/libvirt/qemu.conf (virsh save and managedsave; dump; external snapshots):
${wanted.join('')}2. When no save, restore or migration is under way (guests run on):
  systemctl try-restart libvirtd   (or virtqemud)
Images that the real ${programs.join(', ')} wrote still restore. Undo: pagewire ${NAME} --uninstall
`;
}

/** How images are read that were saved meanwhile. */
function readingOn(root: string): string {
  const images = SAVE_FOLDERS.flatMap((folder) => pagewireImages(root, folder));
  const found =
    images.length === 0
      ? `There is none in ${SAVE_FOLDERS.join(', ')}; there may be elsewhere.\n`
      : `There are, and there may be elsewhere:\n${images.map((line) => `  ${line}\n`).join('')}`;
  return `
Restart the daemon (systemctl try-restart libvirtd, or virtqemud), and see what /etc/libvirt/qemu.conf says: the formats
there need their programs now.

Images that pagewire saved meanwhile cannot be restored as things are: the real program refuses them, and libvirt waits
for ever (virsh destroy ends that). They restore again after pagewire ${NAME} with the same --as, or are made
images of the real program (here lzop; it must be the format that the image's header names):
  at=$((92 + $(od -An -tu4 -j20 -N4 IMAGE)))
  { head -c $at IMAGE; tail -c +$((at + 1)) IMAGE | pagewire decode | lzop -c; } >NEW
What virsh dump wrote has no header: pagewire decode -i FILE -o NEW
${found}`;
}

function pagewireImages(root: string, folder: string): string[] {
  let names: string[];
  try {
    names = readdirSync(join(root, folder));
  } catch {
    return [];
  }
  return names.flatMap((name) => {
    try {
      const image = readImage(join(root, folder, name));
      return image?.isPagewire ? [`${folder}/${name} (format ${image.format})`] : [];
    } catch {
      return []; // a folder, or gone
    }
  });
}

function contentOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

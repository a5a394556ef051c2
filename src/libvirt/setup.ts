/** What a host needs so that libvirt's migrations go through the proxies: files, whose they are, and their undo. */
import { accessSync, constants, lstatSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { replaceFile } from '../control/replace.js';
import { hasCode, PagewireError } from '../errors.js';
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

/** What a host is given. `member`: the user that QEMU runs as, where it is to use the proxies' sockets. */
export function setupFiles(way: Way, member: string | undefined): SetupFile[] {
  const file = (path: string, text: string, settings?: { line?: string | undefined }): SetupFile => ({
    path,
    text: MARK + text,
    isSettings: settings !== undefined,
    line: settings?.line,
  });
  const { units, settings } = PARTS[way];
  return [
    file('/etc/sysusers.d/pagewire.conf', contrib('sysusers.d/pagewire.conf')),
    // A file of its own: what is set up for a way that does without leaves it as it is.
    ...(member === undefined ? [] : [file(MEMBER, `# QEMU's user may use the sockets.\nm ${member} pagewire\n`)]),
    file('/etc/tmpfiles.d/pagewire.conf', contrib('tmpfiles.d/pagewire.conf')),
    ...units.map((name) => file(`/etc/systemd/system/${name}`, contrib(`systemd/${name}`))),
    ...settings.map((name) => {
      const { text, ...more } = settingsFor(way, name);
      return file(`/etc/pagewire/${basename(name)}`, text, more);
    }),
  ];
}

const MEMBER = '/etc/sysusers.d/pagewire-qemu.conf';

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

/** QEMU's user, for the way in which QEMU uses the proxies' sockets, and they its. Root may do so as it is. */
export function memberFor(way: Way, root: string): string | undefined {
  const user = way === 'unix' ? qemuUser(root) : 'root';
  return user === 'root' ? undefined : user;
}

/** The user that QEMU runs as, by libvirt's settings or else by who is there. */
function qemuUser(root: string): string {
  const users = (contentOf(join(root, '/etc/passwd')) ?? '').split('\n').map((line) => {
    const [name = '', , uid = ''] = line.split(':');
    return { name, uid };
  });
  const conf = join(root, '/etc/libvirt/qemu.conf');
  // libvirt takes the first of two settings.
  const set = /^[ \t]*user[ \t]*=[ \t]*(.*)$/m.exec(contentOf(conf) ?? '')?.[1]?.trim();
  if (set === undefined) {
    return ['libvirt-qemu', 'qemu'].find((each) => users.some(({ name }) => name === each)) ?? 'root';
  }
  const [, , value = ''] = /^(["'])(.*)\1\s*(?:#.*)?$/.exec(set) ?? [];
  const [, plus = '', digits] = /^(\+?)(\d+)$/.exec(value) ?? [];
  // As libvirt has it, a number may be a name if there is no plus before it.
  const byName = plus === '' && users.some(({ name }) => name === value);
  const user = digits === undefined || byName ? value : nameOf(Number(digits), users);
  if (user !== undefined && SYSUSERS_NAME.test(user)) return user;
  const remedy =
    user === undefined
      ? `${join(root, '/etc/passwd')} has no such number: write the user's name there`
      : 'no name of a user that systemd-sysusers takes, nor a number: write user = "NAME" or user = "+NUMBER"';
  throw new PagewireError('OPEN_FAILED', `cannot tell which user QEMU runs as: ${conf} has user = ${set}, ${remedy}`);
}

/** What systemd-sysusers lets a user be called. */
const SYSUSERS_NAME = /^[A-Za-z_][\w-]{0,30}$/;

function nameOf(uid: number, users: readonly { name: string; uid: string }[]): string | undefined {
  return uid === 0 ? 'root' : users.find((user) => user.uid !== '' && Number(user.uid) === uid)?.name;
}

/** What becomes of a file. */
export type Fate = 'made' | 'kept' | 'removed';

/** What would become of each file below a root, and what must be out of the way before. */
export interface SetupPlan {
  readonly root: string;
  readonly fates: readonly (readonly [SetupFile, 'made' | 'kept'])[];
  readonly obstacles: readonly string[];
}

/** Looks at what is there; settings that are there stay as they are. */
export function planSetup(files: readonly SetupFile[], root: string): SetupPlan {
  const fates: [SetupFile, 'made' | 'kept'][] = [];
  const obstacles = new Set<string>();
  for (const file of files) {
    const path = join(root, file.path);
    try {
      const obstacle = inTheWay(file, path);
      if (obstacle !== undefined) obstacles.add(obstacle);
      else fates.push([file, file.isSettings && exists(path) ? 'kept' : 'made']);
    } catch (error) {
      throw failed('look at', path, error);
    }
  }
  return { root, fates, obstacles: [...obstacles] };
}

function inTheWay({ isSettings }: SetupFile, path: string): string | undefined {
  if (!exists(path)) {
    const folder = nearest(path);
    return isOne(folder, 'isDirectory') ? undefined : `${folder} is no folder`;
  }
  if (!isOne(path, 'isFile')) return `${path} is ${isOne(path, 'isDirectory') ? 'a folder' : 'no file'}`;
  return isSettings || isOurs(path) ? undefined : `${path} is there and was not made by this`;
}

/** Whether something has the name, be it a link that leads to nothing. */
function exists(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return false;
    throw error;
  }
}

const isOne = (path: string, what: 'isFile' | 'isDirectory'): boolean =>
  statSync(path, { throwIfNoEntry: false })?.[what]() ?? false;

/** What is there already of the folders that lead to a file. */
function nearest(path: string): string {
  let folder = dirname(path);
  while (!exists(folder)) folder = dirname(folder);
  return folder;
}

/** @throws PagewireError where something is in the way, with all of it. */
export function assertClear({ obstacles }: SetupPlan): void {
  if (obstacles.length === 0) return;
  throw new PagewireError('OPEN_FAILED', `${obstacles.join('; ')}: move away what is in the way first`);
}

/** Makes the files, each whole or not at all, and tells of each once it is there. What can be seen to fail does so before the first. */
export function* makeSetup(plan: SetupPlan): Generator<readonly [SetupFile, Fate]> {
  assertClear(plan);
  const pathOf = (file: SetupFile): string => join(plan.root, file.path);
  for (const [file, fate] of plan.fates) if (fate === 'made') assertWritable(pathOf(file));
  for (const [file, fate] of plan.fates) {
    const path = pathOf(file);
    try {
      if (fate === 'made') make(path, file.text);
    } catch (error) {
      throw failed('make', path, error);
    }
    yield [file, fate];
  }
}

function assertWritable(path: string): void {
  try {
    accessSync(nearest(path), constants.W_OK | constants.X_OK);
  } catch (error) {
    throw failed('make', path, error);
  }
}

function make(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  replaceFile(path, (partial) => {
    writeFileSync(partial, text, { mode: 0o644, flag: 'wx' });
  });
}

/** Removes what was made, and tells of each file; settings that were changed stay. */
export function* removeSetup(root: string): Generator<readonly [SetupFile, Fate]> {
  const all = WAYS.flatMap((way) => setupFiles(way, 'anybody'));
  const files = new Map(all.map((file) => [file.path, file]));
  const texts = new Set(all.map(({ text }) => text));
  for (const file of files.values()) {
    const path = join(root, file.path);
    const content = contentOf(path);
    if (content?.startsWith(MARK) !== true) continue;
    if (file.isSettings && !texts.has(content)) {
      yield [file, 'kept'];
      continue;
    }
    try {
      rmSync(path);
    } catch (error) {
      throw failed('remove', path, error);
    }
    yield [file, 'removed'];
  }
}

const isOurs = (path: string): boolean => contentOf(path)?.startsWith(MARK) === true;

/** Of a file; undefined where there is none. */
function contentOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR', 'EISDIR')) return undefined;
    throw failed('read', path, error);
  }
}

function failed(what: string, path: string, cause: unknown): PagewireError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const remedy = hasCode(cause, 'EACCES', 'EPERM') ? ' (are you root?)' : '';
  return new PagewireError('OPEN_FAILED', `cannot ${what} ${path}: ${reason}${remedy}`, { cause });
}

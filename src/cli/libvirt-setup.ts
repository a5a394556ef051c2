import { spawnSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { PagewireError } from '../errors.js';
import {
  assertClear,
  type Fate,
  makeSetup,
  memberFor,
  otherwise,
  planSetup,
  removeSetup,
  type SetupFile,
  setupFiles,
  type SetupPlan,
  UNITS,
} from '../libvirt/setup.js';
import type { Way } from '../libvirt/ways.js';
import { EXIT } from '../control/exit.js';
import { print } from '../control/standard-streams.js';

export interface SetupFlags {
  way: Way;
  apply: boolean;
  undo: boolean;
  /** The system to set up, if it is not the one that runs. */
  root?: string;
}

/** `pagewire libvirt setup`: what it would do, does or undoes is told on standard output. */
export function libvirtSetup({ way, apply, undo, root: other }: SetupFlags): number {
  const root = other ?? '/';
  if (!statSync(root, { throwIfNoEntry: false })?.isDirectory()) {
    throw new PagewireError('BAD_OPTION', `--root ${root}: no such folder`);
  }
  if (apply && undo) throw new PagewireError('BAD_OPTION', '--apply and --undo: one of them');
  if (undo) {
    takeBack(root, other === undefined);
    return EXIT.ok;
  }
  const files = setupFiles(way, memberFor(way, root));
  if (apply) setUp(planSetup(files, root), way, other);
  else show(files, root, way, other);
  return EXIT.ok;
}

const RELOAD = ['systemctl', 'daemon-reload'] as const;

/** What files are followed by, as root. */
function commandsFor(files: readonly SetupFile[]): (readonly string[])[] {
  const users = files.map(({ path }) => path).filter((path) => path.startsWith('/etc/sysusers.d/'));
  return [['systemd-sysusers', ...users], ['systemd-tmpfiles', '--create', '/etc/tmpfiles.d/pagewire.conf'], RELOAD];
}

/** Of the commands, what is run in the system that runs, and what is left to whoever runs the system to set up. */
function runs(files: readonly SetupFile[], other: string | undefined): { now: (readonly string[])[]; left: string } {
  const all = commandsFor(files);
  if (other !== undefined) {
    const listed = all.map((command) => `${command.join(' ')}\n`).join('');
    return { now: [], left: `Left to do in the system of ${other}, once it runs, as root there:\n${listed}` };
  }
  if (isSystemdHere()) return { now: all, left: '' };
  return {
    now: all.filter((command) => command !== RELOAD),
    left: 'systemd does not run here: start the commands of the units by other means\n',
  };
}

const isSystemdHere = (): boolean => existsSync('/run/systemd/system');

/** A migration's own service is left to end with it. */
const SERVICES = UNITS.filter((name) => name !== 'pagewire-source@.service');

function show(files: readonly SetupFile[], root: string, way: Way, other: string | undefined): void {
  for (const { path, text } of files) print(`${path}:\n${text.trimEnd().replace(/^(?=.)/gm, '    ')}\n\n`);
  const plan = planSetup(files, root);
  for (const [file, fate] of plan.fates) print(`would be ${told(file, fate, root)}`);
  const { now, left } = runs(files, other);
  for (const command of now) print(`would be run: ${command.join(' ')}\n`);
  print(left);
  print(nextSteps(way));
  print('Nothing was done.\n');
  assertClear(plan); // --apply would refuse, too
  print('To do all of it but what is left to do: the same with --apply; undo: --undo\n');
}

function setUp(plan: SetupPlan, way: Way, other: string | undefined): void {
  let isBegun = false;
  try {
    for (const [file, fate] of makeSetup(plan)) {
      print(told(file, fate, plan.root));
      isBegun = true;
    }
    const { now, left } = runs(
      plan.fates.map(([file]) => file),
      other,
    );
    for (const command of now) run(command);
    print(left);
  } catch (error) {
    if (!isBegun) throw error;
    const { code, message } = PagewireError.from(error);
    const undo = ['pagewire', 'libvirt', 'setup', ...(other === undefined ? [] : ['--root', other]), '--undo'];
    throw new PagewireError(
      code,
      `${message}; what was done before is told on standard output: do the same again when this is mended, or take it away with ${undo.join(' ')}`,
      { cause: error },
    );
  }
  print(nextSteps(way));
}

/** A line about a file. */
function told(file: SetupFile, fate: Fate, root: string): string {
  const line = otherwise(file, root);
  const differs = fate === 'kept' && line !== undefined;
  return `${fate} ${file.path}${differs ? `: as shipped, this way has ${line} there` : ''}\n`;
}

function takeBack(root: string, isRunning: boolean): void {
  const isSystemd = isRunning && isSystemdHere();
  const there = SERVICES.filter((name) => existsSync(`/etc/systemd/system/${name}`));
  // The interception's rules go with its service.
  if (isSystemd && there.length > 0) {
    run(['systemctl', 'disable', ...there]);
    // All instances of a template.
    const stop = ['systemctl', 'stop', ...there.map((name) => name.replace('@.', '@*.'))];
    print(`running: ${stop.join(' ')} (a service whose guest is in doubt waits for what is decided: docs/proxy.md)\n`);
    run(stop);
  }
  let isNothing = true;
  for (const [{ path }, fate] of removeSetup(root)) {
    print(`${fate} ${path}${fate === 'kept' ? ' (it was changed)' : ''}\n`);
    isNothing = false;
  }
  if (isSystemd) run(RELOAD);
  print(
    isNothing
      ? 'nothing was set up\n'
      : 'Left: the user and groups pagewire*, with whoever is in them, keys, /run/pagewire* and /var/lib/pagewire*.\n',
  );
}

function run(command: readonly string[]): void {
  const [program = '', ...words] = command;
  const { status, error, stderr } = spawnSync(program, words, { encoding: 'utf8' });
  if (error) {
    print(`not done, ${program} is not there: ${command.join(' ')}\n`);
  } else if (status === 0) {
    print(`done: ${command.join(' ')}\n`);
  } else {
    throw new PagewireError('INTERNAL', `${command.join(' ')} failed: ${stderr.trim()}`);
  }
}

/** For guests that come and that go: what is run on each host, and what else there is to know. */
const STEPS: Record<Way, { where: string; comes: string; goes: string; last: string }> = {
  unix: {
    where: ', and where they are,',
    comes: 'systemctl enable --now pagewire-destination.service',
    goes: 'systemctl start pagewire-source@GUEST; virsh migrate … --migrateuri unix:///run/pagewire/GUEST.sock',
    last: "5. Where AppArmor is in force: '/run/pagewire/*.sock rw,' in /etc/apparmor.d/local/abstractions/libvirt-qemu\n",
  },
  intercept: {
    where: '',
    comes: 'systemctl enable --now pagewire-destination.service',
    goes: 'systemctl enable --now pagewire-intercept.service; virsh migrate … as ever',
    last: '',
  },
  tunnel: {
    where: '',
    comes: 'systemctl enable --now pagewire-tunnel-destination.service',
    goes:
      'systemctl enable --now pagewire-tunnel@HOST.service; ' +
      'virsh migrate --live --p2p --tunnelled GUEST qemu+unix:///system?socket=/run/pagewire-tunnel/HOST.sock',
    last: '',
  },
};

function nextSteps(way: Way): string {
  const { where, comes, goes, last } = STEPS[way];
  return `
What is left to do, as root:
1. A key: pagewire keygen --dir /etc/pagewire; chgrp pagewire-keys /etc/pagewire/pagewire.pem; chmod 640 /etc/pagewire/pagewire.pem
2. The other hosts' keys (--peer SHA256:…)${where} in /etc/pagewire/*.env
3. For guests that come: ${comes}
4. For guests that go: ${goes}
${last}`;
}

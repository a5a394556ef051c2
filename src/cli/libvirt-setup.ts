import { spawnSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { PagewireError } from '../errors.js';
import { makeSetup, otherwise, qemuUser, removeSetup, type SetupFile, setupFiles, UNITS } from '../libvirt/setup.js';
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
  if (undo) takeBack(root, other === undefined);
  else if (apply) setUp(way, root, other === undefined);
  else show(setupFiles(way, qemuUser(root)), way);
  return EXIT.ok;
}

/** What files are followed by, as root; each is left out where its program is not there. */
const COMMANDS = [
  ['systemd-sysusers', '/etc/sysusers.d/pagewire.conf'],
  ['systemd-tmpfiles', '--create', '/etc/tmpfiles.d/pagewire.conf'],
] as const;
const RELOAD = ['systemctl', 'daemon-reload'] as const;

/** A migration's own service is left to end with it. */
const SERVICES = UNITS.filter((name) => name !== 'pagewire-source@.service');

function show(files: readonly SetupFile[], way: Way): void {
  for (const { path, text } of files) print(`${path}:\n${text.trimEnd().replace(/^(?=.)/gm, '    ')}\n\n`);
  for (const command of [...COMMANDS, RELOAD]) print(`${command.join(' ')}\n`);
  print(nextSteps(way));
  print('Nothing was done. To do all of it but these steps: the same with --apply; undo: --undo\n');
}

function setUp(way: Way, root: string, isRunning: boolean): void {
  for (const [file, fate] of makeSetup(setupFiles(way, qemuUser(root)), root)) {
    const line = otherwise(file, root);
    print(`${fate} ${file.path}${line === undefined ? '' : `: as shipped, this way has ${line} there`}\n`);
  }
  if (isRunning) {
    for (const command of COMMANDS) run(command);
    if (existsSync('/run/systemd/system')) run(RELOAD);
    else print('systemd does not run here: start the commands of the units by other means\n');
  }
  print(nextSteps(way));
}

function takeBack(root: string, isRunning: boolean): void {
  const isSystemd = isRunning && existsSync('/run/systemd/system');
  const there = SERVICES.filter((name) => existsSync(`/etc/systemd/system/${name}`));
  // The interception's rules go with its service.
  if (isSystemd && there.length > 0) {
    run(['systemctl', 'disable', ...there]);
    // All instances of a template.
    const stop = ['systemctl', 'stop', ...there.map((name) => name.replace('@.', '@*.'))];
    print(`running: ${stop.join(' ')} (a service whose guest is in doubt waits for what is decided: docs/proxy.md)\n`);
    run(stop);
  }
  const removed = removeSetup(root);
  for (const [{ path }, fate] of removed) print(`${fate} ${path}${fate === 'kept' ? ' (it was changed)' : ''}\n`);
  if (isSystemd) run(RELOAD);
  print(
    removed.length === 0
      ? 'nothing was set up\n'
      : 'The user pagewire, its key, /run/pagewire and /var/lib/pagewire* are left.\n',
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
      'virsh migrate --live --p2p --tunnelled GUEST qemu+unix:///system?socket=/run/pagewire/libvirt-HOST.sock',
    last: '',
  },
};

function nextSteps(way: Way): string {
  const { where, comes, goes, last } = STEPS[way];
  return `
What is left to do, as root:
1. A key: pagewire keygen --dir /etc/pagewire; chgrp pagewire /etc/pagewire/pagewire.pem; chmod 640 /etc/pagewire/pagewire.pem
2. The other hosts' keys (--peer SHA256:…)${where} in /etc/pagewire/*.env
3. For guests that come: ${comes}
4. For guests that go: ${goes}
${last}`;
}

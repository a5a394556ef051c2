// Hosts with a libvirt of their own on this machine: each has its namespaces (mounts, network, names, processes) over
// the root folder of scripts/libvirt/setup.sh, with an /etc, /var and /run that nobody else has, and this machine's Node,
// repository and /tmp. All that runs in it goes with it, however the tests end.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from '#src/demo/time.js';
import type { Authority } from '../../transport/pki.js';
import { childrenOf } from '../harness/proxies.js';
import { cache } from '../harness/qemus.js';
import { inCi, root as repository } from '../harness/repository.js';
import type { Running, Stage } from '../harness/stage.js';

const setup = join(repository, 'scripts/libvirt/setup.sh');
/** `9`: the tests run with libvirt 9.0 and QEMU 7.2, Debian 12's own; else with 11.3 and 10.0 of its backports. */
const edition = process.env['PAGEWIRE_TEST_LIBVIRT'] ?? '';
/** What the hosts' root folder holds. */
export const libvirtVersion = edition === '9' ? '9.0' : '11.3';
export const rootFolder = join(cache, edition === '' ? 'libvirt' : `libvirt-${edition}`, 'root');

/** What this machine lacks for hosts with libvirt, in words, or undefined. In CI the root folder is fetched. */
export function libvirtLacks(): string | undefined {
  if (process.getuid?.() !== 0) return 'hosts with libvirt need root';
  for (const tool of ['unshare', 'nsenter', 'ip']) {
    if (spawnSync(tool, ['--version']).error) return `no ${tool}: install util-linux and iproute2`;
  }
  const { status, stderr } = spawnSync(setup, [...(inCi ? [] : ['--print']), edition], {
    encoding: 'utf8',
    env: { ...process.env, PAGEWIRE_CACHE: cache },
  });
  if (status === 0) return undefined;
  const command = `scripts/libvirt/setup.sh ${edition}`.trim();
  return inCi ? `${command}: ${stderr}` : `no libvirt: run ${command} (some 300 MB)`;
}

/** For `describe` and `it`: false, or why they are not run here. In CI they are, and fail. */
export function skipLibvirt(): false | string {
  const lacks = libvirtLacks();
  return lacks === undefined || inCi ? false : `PAGEWIRE-NOT-RUN libvirt: ${lacks}`;
}

/** Run by unshare: ROOT FOLDER NAME NODE REPOSITORY. Its end is the end of all that runs in the namespaces. */
const INIT = `
root=$1 folder=$2 new=$2/root
mount -t tmpfs -o mode=755 tmpfs "$new"
cd "$new"
mkdir -p usr etc var run tmp dev proc sys root opt/node/bin
for name in bin sbin lib lib64; do ln -s usr/$name $name; done
mount --bind "$root/usr" usr
for name in etc var run; do mount --bind "$folder/$name" $name; done
# without KVM, so that they are the same everywhere: libvirt would ask QEMU again and again what it can do with it
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for name in null zero full random urandom tty userfaultfd; do
  [ ! -e /dev/$name ] || { : >dev/$name; mount --bind /dev/$name dev/$name; }
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount --bind /tmp tmp
mount -t proc proc proc
mount -t sysfs sysfs sys
: >opt/node/bin/node
mount --bind "$4" opt/node/bin/node
ln -s "$5/bin/pagewire" opt/node/bin/pagewire
[ -d "$new$5" ] || { mkdir -p "$new$5"; mount --bind "$5" "$new$5"; }
hostname "$3"
ip link set lo up
: >run/ready
# a process without a parent becomes its child: it waits for all of them
exec chroot . /bin/bash -c 'while :; do sleep 1000 & wait; done'
`;

/** The address of each host on the link between the two. */
export const ADDRESS = { a: '10.77.0.1', b: '10.77.0.2' } as const;
export const ADDRESS6 = { a: 'fd77::1', b: 'fd77::2' } as const;
export type HostName = keyof typeof ADDRESS;

const UUID = { a: 'aaaaaaaa-0000-4000-8000-00000000000a', b: 'bbbbbbbb-0000-4000-8000-00000000000b' };

/** The names by which the hosts know each other, as in the documentation: guests mostly go from `a`, `src`, to `b`. */
export const HOSTNAME = { a: 'src', b: 'dst' } as const;
const HOSTS = `127.0.0.1 localhost\n${ADDRESS.a} ${HOSTNAME.a}\n${ADDRESS.b} ${HOSTNAME.b}\n`;

/** QEMU as root, without what guards a host from it: no such thing is there in a namespace. */
const QEMU_CONF = [
  'user = "root"',
  'group = "root"',
  'dynamic_ownership = 0',
  'remember_owner = 0',
  'security_driver = "none"',
  'namespaces = []',
  'cgroup_controllers = []',
  'stdio_handler = "file"',
];
const settingName = (line: string): string => line.split('=')[0]?.trim() ?? '';

/** What a host is to be like. */
export interface HostOptions {
  /** Further lines of qemu.conf, each in the place of ours for the same setting. */
  readonly qemuConf?: readonly string[];
  /** Folders that come first in the daemon's PATH. */
  readonly path?: readonly string[];
  /** Certificates by which the daemons know each other: they listen with TLS, too. */
  readonly authority?: Authority;
  /** Environment of the daemon. */
  readonly environment?: Readonly<Record<string, string>>;
}

const PATH = '/opt/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export class Host {
  private daemon: Running | undefined;

  private constructor(
    private readonly stage: Stage,
    readonly name: HostName,
    /** The process that holds the namespaces, by this machine's numbers. */
    readonly pid: number,
    private readonly folder: string,
    private readonly options: HostOptions,
  ) {}

  /** Namespaces and a libvirtd that answers. */
  static async start(stage: Stage, name: HostName, options: HostOptions = {}): Promise<Host> {
    const lacks = libvirtLacks();
    if (lacks !== undefined) throw new Error(lacks);
    const folder = stage.path(`host-${name}`);
    for (const part of ['root', 'run', 'etc', 'var']) mkdirSync(join(folder, part), { recursive: true });
    for (const part of ['etc', 'var']) {
      cpSync(join(rootFolder, part), join(folder, part), { recursive: true, verbatimSymlinks: true });
    }
    for (const part of ['etc/libvirt', 'var/log/libvirt/qemu', 'var/lib/libvirt/qemu', 'var/cache/libvirt']) {
      mkdirSync(join(folder, part), { recursive: true });
    }
    const words = [rootFolder, folder, HOSTNAME[name], process.execPath, repository];
    const unshare = ['unshare', '--mount', '--net', '--uts', '--pid', '--propagation', 'private', '--fork'];
    const holder = stage.start(
      `host-${name}`,
      [...unshare, '--kill-child', 'sh', '-euc', INIT, 'sh', ...words],
      [undefined, undefined],
    );
    await until(
      () => {
        if (holder.hasEnded) throw new Error(`host ${name} does not come up: ${holder.complaint()}`);
        return existsSync(join(folder, 'run/ready'));
      },
      20,
      () => `host ${name} does not come up: ${holder.complaint()}`,
    );
    const [pid] = childrenOf(holder);
    if (pid === undefined) throw new Error(`host ${name} has no process: ${holder.complaint()}`);
    const host = new Host(stage, name, pid, folder, options);
    host.configure();
    await host.startDaemon();
    return host;
  }

  /** Where a file of the host is for us. */
  path(path: string): string {
    if (!/^\/(etc|var|run)\//.test(path)) throw new Error(`${path} is not the host's own`);
    return join(this.folder, path);
  }

  get address(): string {
    return ADDRESS[this.name];
  }

  private configure(): void {
    writeFileSync(this.path('/etc/hosts'), HOSTS);
    const { authority } = this.options;
    if (authority) this.certify(authority);
    writeFileSync(
      this.path('/etc/libvirt/libvirtd.conf'),
      [
        `listen_tls = ${authority ? 1 : 0}`,
        'listen_tcp = 1',
        'auth_tcp = "none"',
        'auth_unix_rw = "none"',
        'unix_sock_rw_perms = "0700"',
        `host_uuid = "${UUID[this.name]}"`,
        'log_outputs = "3:stderr"',
        '',
      ].join('\n'),
    );
    const asked = this.options.qemuConf ?? [];
    const names = asked.map(settingName);
    // libvirt takes the first of two settings
    const ours = QEMU_CONF.filter((line) => !names.includes(settingName(line)));
    writeFileSync(this.path('/etc/libvirt/qemu.conf'), [...ours, ...asked, ''].join('\n'));
  }

  /** Puts certificates where libvirt has them. */
  private certify(authority: Authority): void {
    const host = HOSTNAME[this.name];
    mkdirSync(this.path('/etc/pki/CA'), { recursive: true });
    mkdirSync(this.path('/etc/pki/libvirt/private'), { recursive: true });
    cpSync(authority.certificate, this.path('/etc/pki/CA/cacert.pem'));
    for (const [end, usage] of [
      ['server', 'serverAuth'],
      ['client', 'clientAuth'],
    ] as const) {
      const { certificate, key } = authority.issue(`${host}-${end}`, { hosts: [host], usage });
      cpSync(certificate, this.path(`/etc/pki/libvirt/${end}cert.pem`));
      cpSync(key, this.path(`/etc/pki/libvirt/private/${end}key.pem`));
    }
  }

  /** Put before a command, it runs in this host. */
  get prefix(): readonly string[] {
    const enter = ['nsenter', '-t', `${this.pid}`, '-m', '-n', '-u', '-p', '-r'];
    return [...enter, 'env', '-i', '--chdir=/', `PATH=${PATH}`, 'LC_ALL=C.UTF-8', 'HOME=/root'];
  }

  /**
   * Starts a command in this host. What we see is the process that went in; the command itself is its child:
   * {@link inside}.
   */
  start(name: string, command: readonly string[]): Running {
    return this.stage.start(`${name}-${this.name}`, [...this.prefix, ...command], [undefined]);
  }

  /** From now on /usr may be written to: the host has what is changed in it to itself, below /var/usr/upper. */
  async ownUsr(): Promise<void> {
    for (const name of ['upper', 'work']) mkdirSync(this.path(`/var/usr/${name}`), { recursive: true });
    const layers = 'lowerdir=/usr,upperdir=/var/usr/upper,workdir=/var/usr/work';
    await this.run(['mount', '-t', 'overlay', 'overlay', '-o', layers, '/usr']);
  }

  /** Runs a command to its end; what it said, on either channel. Fails if it does. */
  async run(command: readonly string[], seconds = 30): Promise<string> {
    const running = this.start(command[0] ?? 'nothing', command);
    const code = await running.exitCode(seconds);
    if (code !== 0) throw new Error(`host ${this.name}: ${command.join(' ')}: exit code ${code}: ${running.said()}`);
    return running.said();
  }

  /** Starts virsh. */
  startVirsh(...words: string[]): Running {
    return this.start('virsh', ['virsh', '--connect', 'qemu:///system', ...words]);
  }

  /** Runs virsh to its end; what it said. Fails if it does. */
  async virsh(...words: string[]): Promise<string> {
    const running = this.startVirsh(...words);
    const code = await running.exitCode(60);
    if (code !== 0) throw new Error(`host ${this.name}: virsh ${words.join(' ')}: ${running.said()}`);
    return running.said();
  }

  // ---- the daemon

  private async startDaemon(): Promise<void> {
    rmSync(this.path('/run/libvirt/libvirt-sock'), { force: true });
    const path = [...(this.options.path ?? []), PATH].join(':');
    const environment = Object.entries({ ...this.options.environment, PATH: path }).map(([k, v]) => `${k}=${v}`);
    const daemon = this.start('libvirtd', ['env', '-i', ...environment, 'libvirtd', '--listen']);
    this.daemon = daemon;
    await until(
      async () => {
        if (daemon.hasEnded) throw new Error(`libvirtd of host ${this.name} has ended: ${daemon.complaint()}`);
        if (!existsSync(this.path('/run/libvirt/libvirt-sock'))) return false;
        return (await this.startVirsh('version').exitCode(30)) === 0;
      },
      60,
      () => `libvirtd of host ${this.name} does not answer: ${daemon.complaint()}`,
    );
  }

  /** Ends the daemon, as a service manager does, and starts it again. Guests run on. */
  async restartDaemon(): Promise<void> {
    const { daemon } = this;
    if (daemon !== undefined) {
      for (const pid of inside(daemon)) process.kill(pid, 'SIGTERM');
      await daemon.exitCode(30);
    }
    await this.startDaemon();
  }

  /** Kills the daemon. Guests run on. */
  async killDaemon(): Promise<void> {
    const { daemon } = this;
    if (daemon === undefined) return;
    for (const pid of inside(daemon)) process.kill(pid, 'SIGKILL');
    await daemon.exitCode(30);
    this.daemon = undefined;
  }

  /** Holds the daemon, which answers nothing meanwhile, or lets it go on. */
  holdDaemon(on: boolean): void {
    const { daemon } = this;
    if (daemon === undefined) return;
    for (const pid of inside(daemon)) process.kill(pid, on ? 'SIGSTOP' : 'SIGCONT');
    // nsenter stops with what it started.
    if (!on) process.kill(daemon.pid, 'SIGCONT');
  }

  /** The daemon that was started is there and answers. */
  async daemonLives(): Promise<void> {
    if (this.daemon?.hasEnded !== false) {
      throw new Error(`libvirtd of host ${this.name} has ended: ${this.daemon?.complaint() ?? ''}`);
    }
    await this.virsh('version');
  }

  /** What the daemon logged. */
  daemonSaid(): string {
    return this.daemon?.said() ?? '';
  }

  /** What QEMU logged for a guest. */
  qemuLog(guest: string): string {
    const path = this.path(`/var/log/libvirt/qemu/${guest}.log`);
    return existsSync(path) ? readFileSync(path, 'utf8') : '';
  }
}

/** The processes of a command that {@link Host.start} started, by this machine's numbers. */
export function inside(running: Running): number[] {
  return childrenOf(running);
}

/** Two hosts and a link between them, mig0 on each: {@link ADDRESS}. */
export class Hosts {
  private constructor(
    readonly a: Host,
    readonly b: Host,
  ) {}

  static async start(stage: Stage, options: HostOptions = {}): Promise<Hosts> {
    const [a, b] = await Promise.all([Host.start(stage, 'a', options), Host.start(stage, 'b', options)]);
    const enter = (...command: string[]): void => {
      const done = spawnSync('nsenter', ['-t', `${a.pid}`, '-n', ...command], { encoding: 'utf8' });
      if (done.status !== 0) throw new Error(`${command.join(' ')}: ${done.stderr}`);
    };
    enter('ip', 'link', 'add', 'mig0', 'type', 'veth', 'peer', 'name', 'mig0', 'netns', `${b.pid}`);
    for (const host of [a, b]) {
      await host.run(['ip', 'address', 'add', `${host.address}/24`, 'dev', 'mig0']);
      await host.run(['ip', 'address', 'add', `${ADDRESS6[host.name]}/64`, 'dev', 'mig0', 'nodad']);
      await host.run(['ip', 'link', 'set', 'mig0', 'up']);
    }
    return new Hosts(a, b);
  }
}

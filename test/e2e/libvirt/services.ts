// What systemd would do with a unit that `pagewire libvirt setup` has made, on a host that has no systemd: its command,
// word by word, as its user with its rights, in its environment and with its folders.
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Running } from '../harness/stage.js';
import { HOSTNAME } from './host.js';
import type { Host } from './host.js';

/** A unit's settings; of one that is given several times, all that is not empty. */
class Unit {
  private readonly settings = new Map<string, string[]>();

  constructor(
    host: Host,
    readonly name: string,
  ) {
    const [, before = '', instance = ''] = /^([^@]*@?)(.*)\.service$/.exec(name) ?? [];
    const text = readFileSync(host.path(`/etc/systemd/system/${before}.service`), 'utf8');
    for (const [, key = '', value = ''] of text.matchAll(/^(\w+)=(.+)$/gm)) {
      const filled = value.replaceAll('%i', instance).replaceAll('%l', HOSTNAME[host.name]);
      this.settings.set(key, [...this.all(key), filled]);
    }
  }

  all(key: string): readonly string[] {
    return this.settings.get(key) ?? [];
  }

  one(key: string): string | undefined {
    assert.ok(this.all(key).length < 2, `${this.name} has ${key} more than once`);
    return this.all(key)[0];
  }
}

/** The unit's command, before what is set is put in. `name` is that of the service, with its instance. */
export function execStart(host: Host, name: string): string {
  return new Unit(host, name).one('ExecStart') ?? assert.fail(`${name} has no ExecStart`);
}

function environment(host: Host, unit: Unit): Map<string, string> {
  const variables = new Map<string, string>();
  for (const file of unit.all('EnvironmentFile')) {
    const path = host.path(file.replace(/^-/, ''));
    if (file.startsWith('-') && !existsSync(path)) continue;
    for (const [, name = '', value = ''] of readFileSync(path, 'utf8').matchAll(/^(\w+)=(.*)$/gm)) {
      variables.set(name, value.trim().replace(/^"(.*)"$/, '$1'));
    }
  }
  return variables;
}

/** The command in words: `${NAME}` is put in as it is, `$NAME` as none, one or several words. */
function command(host: Host, unit: Unit): string[] {
  const variables = environment(host, unit);
  const value = (name: string): string => variables.get(name) ?? assert.fail(`${unit.name}: ${name} is not set`);
  return execStart(host, unit.name)
    .split(' ')
    .flatMap((word) => {
      const words = /^\$(\w+)$/.exec(word)?.[1];
      if (words !== undefined) return value(words).split(' ').filter(Boolean);
      return [word.replaceAll(/\$\{(\w+)\}/g, (_, name: string) => value(name))];
    });
}

/** Starts what `systemctl start NAME` would. */
export async function startService(host: Host, name: string): Promise<Running> {
  const unit = new Unit(host, name);
  const [user = 'root', group = user] = [unit.one('User'), unit.one('Group')];
  for (const [kind, parent] of [
    ['Runtime', '/run'],
    ['State', '/var/lib'],
  ] as const) {
    const folder = unit.one(`${kind}Directory`);
    if (folder === undefined) continue;
    const mode = unit.one(`${kind}DirectoryMode`) ?? '0755';
    await host.run(['install', '-d', '-m', mode, '-o', user, '-g', group, `${parent}/${folder}`]);
  }
  const ofUser = (await host.run(['id', '-Gn', user])).trim().split(' ');
  const groups = [...ofUser, ...unit.all('SupplementaryGroups')];
  const kept = unit.all('AmbientCapabilities').map((right) => `+${right.replace(/^CAP_/, '').toLowerCase()}`);
  const bounds = unit.all('CapabilityBoundingSet').map((right) => `+${right.replace(/^CAP_/, '').toLowerCase()}`);
  const as = [
    ...['setpriv', '--reuid', user, '--regid', group, '--groups', groups.join(',')],
    ...[`--bounding-set=${['-all', ...bounds].join(',')}`, `--inh-caps=${['-all', ...kept].join(',')}`],
    ...(kept.length > 0 ? [`--ambient-caps=${kept.join(',')}`] : []),
    ...(unit.one('NoNewPrivileges') === 'yes' ? ['--no-new-privs'] : []),
  ];
  const mask = ['sh', '-c', `umask ${unit.one('UMask') ?? '0022'}; exec "$@"`, 'sh'];
  return host.start(name.replace('@', '-'), [...mask, ...as, ...command(host, unit)]);
}

/** What QEMU's user may do, in the group of the sockets too; what it said, and the exit code behind it. */
async function asQemu(host: Host, script: string): Promise<string> {
  await host.run(['sed', '-i', '/^pagewire:/s/:[^:]*$/:libvirt-qemu/', '/etc/group']);
  const user = ['setpriv', '--reuid', 'libvirt-qemu', '--regid', 'kvm', '--init-groups'];
  return (await host.run([...user, 'sh', '-c', `{ id -Gn; ${script}; } 2>&1; echo $?`])).trim();
}

/** QEMU's user does not get at the key of the host, though it is in the group of the sockets. */
export async function qemuReadsNoKey(host: Host): Promise<void> {
  await host.run(['test', '-s', '/etc/pagewire/pagewire.pem']);
  const said = await asQemu(host, 'cat /etc/pagewire/pagewire.pem');
  assert.match(said, /\bpagewire\b.*\n.*Permission denied\n1$/);
}

/** Nor can it put another socket, or another folder, in the place of the tunnel's. */
export async function qemuReplacesNo(host: Host, socket: string): Promise<void> {
  await host.run(['test', '-S', socket]);
  for (const script of [`mv ${socket} ${socket}.old`, `rm -f ${socket}`, `mv ${dirname(socket)} /run/pagewire/old`]) {
    assert.match(await asQemu(host, script), /Permission denied\n1$/, script);
  }
}

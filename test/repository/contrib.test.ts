// The units in contrib are ones that systemd understands, and that run what there is.
import assert from 'node:assert/strict';
import { chmod, cp, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { mustRun, ROOT, run, withEmptyFolder } from './clean.js';

const CONTRIB = join(ROOT, 'contrib');
const read = (path: string): Promise<string> => readFile(join(CONTRIB, path), 'utf8');

/** What the units refer to, as far as systemd must find it. */
const TARGETS = ['basic', 'multi-user', 'network-online', 'shutdown', 'sockets', 'sysinit'];
const PROGRAMS = ['pagewire', 'kill', 'nft'];

/** A folder that systemd's tools take for the root of a system with our units. */
async function system(folder: string): Promise<string> {
  const [units, programs] = [join(folder, 'etc/systemd/system'), join(folder, 'usr/bin')];
  await mkdir(units, { recursive: true });
  await mkdir(programs, { recursive: true });
  for (const name of TARGETS) await writeFile(join(units, `${name}.target`), '[Unit]\n');
  for (const name of PROGRAMS) {
    await writeFile(join(programs, name), '#!/bin/sh\n');
    await chmod(join(programs, name), 0o755);
  }
  await cp(join(CONTRIB, 'systemd'), units, { recursive: true });
  return folder;
}

const hasSystemd = (await run('systemd-analyze', ['--version'], ROOT)).status === 0;
const isCi = /^(1|true)$/i.test(process.env['CI'] ?? '');
const skip = hasSystemd || isCi ? false : 'PAGEWIRE-NOT-RUN the systemd units: please install systemd';

describe('contrib', () => {
  it('has units in which systemd finds nothing wrong', { skip }, () =>
    withEmptyFolder(async (folder) => {
      const root = await system(folder);
      const names = (await readdir(join(CONTRIB, 'systemd'))).map((name) => name.replace('@.', '@vm1.'));
      assert.ok(names.length >= 3);
      const verified = await run('systemd-analyze', ['verify', '--man=no', `--root=${root}`, ...names], ROOT);
      assert.deepEqual(verified, { status: 0, output: '' });
    }),
  );

  it('has services that may do no more than they need', { skip }, async () => {
    for (const name of (await readdir(join(CONTRIB, 'systemd'))).filter((file) => file.endsWith('.service'))) {
      // In tenths; without any of it a service has 96.
      const args = ['security', '--offline=yes', '--threshold=20', join(CONTRIB, 'systemd', name)];
      const { status, output } = await run('systemd-analyze', args, ROOT);
      assert.equal(status, 0, output);
      // V8 would not start.
      assert.doesNotMatch(await read(`systemd/${name}`), /^MemoryDenyWriteExecute=/m);
    }
  });

  it("lets the threads of libvirt's tunnel wait for their turns, at both ends", async () => {
    const tunnels: string[] = [];
    for (const name of await readdir(join(CONTRIB, 'systemd'))) {
      const unit = await read(`systemd/${name}`);
      if (!/^ExecStart=.* --libvirt /m.test(unit)) continue;
      tunnels.push(name);
      // A list that stands later takes back what one before it has taken away: @resources has the call.
      const lists = [...unit.matchAll(/^SystemCallFilter=(.*)$/gm)].map(([, list]) => list);
      assert.deepEqual(lists, ['@system-service', '~@resources @keyring @memlock', 'sched_setscheduler'], name);
    }
    assert.deepEqual(tunnels.sort(), ['pagewire-tunnel-destination.service', 'pagewire-tunnel@.service']);
  });

  it('has a user and folders that systemd can make', { skip }, () =>
    withEmptyFolder(async (root) => {
      await mkdir(join(root, 'etc'));
      await mustRun('systemd-sysusers', [`--root=${root}`, join(CONTRIB, 'sysusers.d/pagewire.conf')], ROOT);
      assert.match(await readFile(join(root, 'etc/passwd'), 'utf8'), /^pagewire:x:\d+:\d+:[^:]*:[^:]*:.*nologin$/m);
      assert.match(await readFile(join(root, 'etc/group'), 'utf8'), /^pagewire:/m);
    }),
  );

  it('gives the commands no option that they do not have', async () => {
    for (const [file, command, settings] of [
      ['systemd/pagewire-destination.service', 'destination', 'destination'],
      ['systemd/pagewire-source@.service', 'source', 'source'],
      ['systemd/pagewire-intercept.service', 'source', 'intercept'],
      ['systemd/pagewire-tunnel-destination.service', 'destination', 'tunnel-destination'],
      ['systemd/pagewire-tunnel@.service', 'source', 'tunnel'],
    ] as const) {
      const help = await mustRun(process.execPath, [join(ROOT, 'bin/pagewire'), 'proxy', command, '--help'], ROOT);
      const options = [file, `etc/${settings}.env`].map(read);
      for (const [option] of (await Promise.all(options)).join('\n').matchAll(/(?<=\s|\()--[a-z][\w-]*/g)) {
        assert.match(help, new RegExp(`${option}\\b`), `${file}: ${option}`);
      }
    }
  });

  it("runs for libvirt's tunnel what docs/libvirt-tunnel.md says", async () => {
    const docs = await readFile(join(ROOT, 'docs/libvirt-tunnel.md'), 'utf8');
    const [, byHand = '', services = ''] = docs.split(/^## (?:Setting it up|As services)$/m);
    for (const [unit, settings, command] of [
      ['pagewire-tunnel-destination.service', 'tunnel-destination', /^dst# (pagewire proxy destination .*)$/m],
      ['pagewire-tunnel@.service', 'tunnel', /^src# (pagewire proxy source .*)$/m],
    ] as const) {
      const [service, environment] = await Promise.all([read(`systemd/${unit}`), read(`etc/${settings}.env`)]);
      const set = new Map(
        [...environment.matchAll(/^(\w+)=(.*)$/gm)].map(([, name = '', value = '']) => [name, value]),
      );
      const run = /^ExecStart=(.*)$/m.exec(service)?.[1] ?? '';
      const filled = run
        .replaceAll(/\$\{?(\w+)\}?/g, (_, name: string) => set.get(name) ?? assert.fail(`${unit}: ${name}`))
        .replaceAll('%i', 'dst')
        .replace(/ --last-error \/var\/lib\/(\S+)\/\S+ $/, (_, folder: string) => {
          assert.match(service, new RegExp(`^StateDirectory=${folder}$`, 'm'));
          return '';
        });
      const told = command.exec(byHand)?.[1] ?? '';
      // What the documents' hosts are called, and where they listen.
      const asInUnits = told
        .replace(/ --peer \S+$/, '')
        .replace('0.0.0.0', '[::]')
        .replace('/run/pagewire/libvirt.sock', '/run/pagewire-tunnel/dst.sock');
      assert.equal(filled, asInUnits);
      assert.ok(services.includes(`systemctl enable --now ${unit.replace('@', '@dst')}\n`), unit);
    }
    const socket = /\?socket=(\S+)$/m.exec(services)?.[1] ?? '';
    assert.ok(
      (await read('systemd/pagewire-tunnel@.service')).includes(`unix:${socket.replace('dst', '%i')} `),
      socket,
    );
  });
});

// `npm run test:systemd`: the units of contrib, `pagewire libvirt setup` and the filter, under a systemd that runs.
//
//   node scripts/test-systemd.mjs [--fresh]
//
// Two hosts, src and dst, are booted by systemd-nspawn, each over an overlay of one Debian root with libvirt and QEMU in
// it, with a link of their own between them. Guests go from one to the other by each way that has units, through ssh,
// and by hand as contrib/README.md says; they are saved and restored by the filter. This machine's systemd, where there
// is one, is not touched. Root on Debian; needs debootstrap, systemd-container, iproute2 and binutils. About 800 MB in PAGEWIRE_SYSTEMD_ROOT (default /var/tmp/pagewire-systemd), which is
// kept for the next run; --fresh makes it anew. Five minutes the first time, two after that.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, openSync, readFileSync, readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { makeRoot, needs, notRun, run } from './debian-root.mjs';
import { setUpOrExit } from './setup.mjs';

const project = fileURLToPath(new URL('..', import.meta.url));
const root = process.env.PAGEWIRE_SYSTEMD_ROOT || '/var/tmp/pagewire-systemd';
const what = 'the services under a systemd that runs';
const packages = [
  ...[
    'systemd-sysv',
    'dbus',
    'nftables',
    'iptables',
    'iproute2',
    'openssh-server',
    'openssh-client',
    'socat',
    'procps',
  ],
  ...['libvirt-daemon-system', 'libvirt-clients', 'libvirt-daemon-driver-qemu', 'qemu-system-x86', 'lzop', 'polkitd'],
];

/** The Debian of this machine: its C library is what the native core was built for. */
function release() {
  const names = readFileSync('/etc/os-release', 'utf8');
  const name = /^VERSION_CODENAME=(\w+)/m.exec(names)?.[1];
  return /^ID=debian$/m.test(names) && name ? name : notRun(what, 'this machine does not run Debian');
}

/** Puts the package into the root as `npm install --global` does, with what was built here. */
function installPackage() {
  const addon = 'build/Release/pagewire.node';
  const to = join(root, 'usr/local/lib/node_modules/pagewire');
  rmSync(to, { recursive: true, force: true });
  const copy = (path) => {
    mkdirSync(dirname(join(to, path)), { recursive: true });
    cpSync(join(project, path), join(to, path), { recursive: true });
  };
  const [{ files }] = JSON.parse(run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: project }));
  const listed = run('npm', ['ls', '--omit=dev', '--all', '--parseable'], { cwd: project }).trim().split('\n').slice(1);
  for (const path of [...files.map(({ path }) => path), ...listed.map((path) => path.slice(project.length)), addon]) {
    copy(path);
  }
  const command = join(root, 'usr/local/bin/pagewire');
  rmSync(command, { force: true });
  symlinkSync('../lib/node_modules/pagewire/bin/pagewire', command);
  cpSync(process.execPath, join(root, 'usr/bin/node'));
  rmSync(join(root, 'etc/hostname'), { force: true }); // the host's is the container's name
  const guest = join(root, 'opt/bare');
  run('as', ['--32', '-o', `${guest}.o`, join(project, 'test/e2e/guest/bare.S')]);
  run('ld', ['-m', 'elf_i386', '--oformat', 'binary', '-Ttext', '0x100000', '-o', `${guest}.bin`, `${guest}.o`]);
}

const hosts = { src: '10.99.0.1', dst: '10.99.0.2' };
const running = new Map();
const namespace = (host) => `pagewire-${host}`;

async function boot() {
  shutDown(); // what a run that was killed has left
  for (const host of Object.keys(hosts)) run('ip', ['netns', 'add', namespace(host)]);
  const [src, dst] = Object.keys(hosts).map(namespace);
  run('ip', ['link', 'add', 'link0', 'netns', src, 'type', 'veth', 'peer', 'name', 'link0', 'netns', dst]);
  for (const [host, address] of Object.entries(hosts)) {
    const ip = (...args) => run('ip', ['-n', namespace(host), ...args]);
    ip('addr', 'add', `${address}/24`, 'dev', 'link0');
    for (const device of ['lo', 'link0']) ip('link', 'set', device, 'up');
    const log = openSync(`${root}-${host}.log`, 'w');
    // Each in a control group of its own, or two systemds would manage one.
    const intoGroup = `for group do mkdir -p "$group" && echo $$ > "$group/cgroup.procs"; done; exec systemd-nspawn \
      ${[
        ...['--register=no', '--keep-unit', '--volatile=overlay', '--capability=CAP_NET_ADMIN', '--boot'],
        ...[`--network-namespace-path=/run/netns/${namespace(host)}`, `--machine=${host}`, `--directory="$ROOT"`],
      ].join(' ')}`;
    const nspawn = spawn('sh', ['-euc', intoGroup, 'sh', ...groups(host)], {
      stdio: ['ignore', log, log],
      detached: true,
      env: { ...process.env, ROOT: root },
    });
    nspawn.unref();
    running.set(host, nspawn);
  }
  for (const host of Object.keys(hosts)) {
    await until(() => leader(host) !== undefined, 10, `${host} does not start: see ${root}-${host}.log`);
    await until(() => /running|degraded/.test(state(host)), 60, `${host} does not boot: see ${root}-${host}.log`);
    assert.equal(on(host, 'systemctl --failed --plain --no-legend'), '');
    const names = Object.entries(hosts).map(([name, address]) => `${address} ${name}\n`);
    on(host, `printf '127.0.0.1 localhost\\n${names.join('').replaceAll('\n', '\\n')}' > /etc/hosts`);
  }
}

/** Its control groups, in whichever hierarchies systemd keeps processes here. */
const groups = (host) =>
  ['/sys/fs/cgroup/systemd', '/sys/fs/cgroup/unified', '/sys/fs/cgroup']
    .filter((folder) => existsSync(join(folder, 'cgroup.procs')))
    .map((folder) => join(folder, namespace(host)));

/** The first process of a host, once it is in namespaces of its own. */
function leader(host) {
  const { pid } = running.get(host);
  const children = `/proc/${pid}/task/${pid}/children`;
  const ids = existsSync(children) ? readFileSync(children, 'utf8').trim().split(' ') : [];
  const own = (id) => existsSync(`/proc/${id}/ns/pid`) && readlinkSync(`/proc/${id}/ns/pid`);
  return ids.find((id) => id !== '' && own(id) && own(id) !== own('self'));
}

/** Nothing that the hosts hold is worth an orderly end. */
function shutDown() {
  for (const host of Object.keys(hosts)) {
    const there = spawnSync('ip', ['netns', 'pids', namespace(host)], { encoding: 'utf8' }).stdout.trim();
    if (there !== '') spawnSync('kill', ['-9', ...there.split(/\s+/)], { stdio: 'ignore' });
    spawnSync('ip', ['netns', 'del', namespace(host)], { stdio: 'ignore' });
    for (const group of groups(host)) {
      const empty = 'for i in 1 2 3 4 5 6 7 8 9; do find "$1" -depth -type d -exec rmdir {} + && exit; sleep 0.3; done';
      if (existsSync(group)) spawnSync('sh', ['-c', empty, 'sh', group], { stdio: 'ignore' });
    }
  }
}

/** `message`: what to say, or a function that tells it, if it does not come to that. */
async function until(holds, seconds, message) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(200)) if (holds()) return;
  throw new Error(typeof message === 'string' ? message : message());
}

/** Of systemd there, as far as it can be asked already. */
function state(host) {
  try {
    return on(host, 'systemctl is-system-running || true');
  } catch {
    return '';
  }
}

/** Runs a shell script on a host; what it printed, or an error with what it said. */
function on(host, script) {
  const args = ['-t', leader(host) ?? 'nobody', '-m', '-u', '-i', '-n', '-p', '-C', '-r', '-w', 'sh', '-euc', script];
  const { status, stdout, stderr } = spawnSync('nsenter', args, {
    encoding: 'utf8',
    timeout: 120_000,
    env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root' },
  });
  if (status !== 0) throw new Error(`${host}: ${script}: ${status}\n${stdout}${stderr}`);
  return stdout.trim();
}

const both = (script) => Object.keys(hosts).map((host) => on(host, script));
const journal = (host, unit) => on(host, `journalctl --no-pager -o cat -u '${unit}'`);
const unitIs = (host, unit) =>
  on(host, `echo "$(systemctl show -P ActiveState '${unit}') $(systemctl show -P Result '${unit}')"`);

/** QEMU's user is in the group of the sockets only where it needs them, and reads no key even so. */
function qemuReadsNoKey(isMember) {
  for (const said of both(
    `setpriv --reuid libvirt-qemu --regid kvm --init-groups sh -c 'id -Gn; cat /etc/pagewire/pagewire.pem' 2>&1 || true`,
  )) {
    assert.match(said, /pagewire\.pem: Permission denied$/);
    assert.equal(said.split('\n')[0].split(' ').includes('pagewire'), isMember);
  }
}

/** Whether a thread of a service's processes is scheduled as SCHED_BATCH, by the 41st field of its stat. */
const hasBatchThread = (host, unit) =>
  on(
    host,
    `group=$(systemctl show -P ControlGroup '${unit}')
     for pid in $(cat /sys/fs/cgroup/systemd$group/cgroup.procs /sys/fs/cgroup$group/cgroup.procs 2>/dev/null); do
       cat /proc/$pid/task/*/stat 2>/dev/null || true
     done | sed 's/.*) //' | cut -d ' ' -f 39`,
  )
    .split('\n')
    .includes('3');

/** The keys that the hosts have made, and settings that name them. */
function exchangeKeys(atSource, atDestination) {
  const [src, dst] = both(
    `pagewire keygen --dir /etc/pagewire 2>/dev/null
     chgrp pagewire-keys /etc/pagewire/pagewire.pem; chmod 640 /etc/pagewire/pagewire.pem`,
  );
  on('src', `sed -i 's|^PAGEWIRE_OPTIONS=|&--peer ${dst} |' /etc/pagewire/${atSource}`);
  on('dst', `sed -i 's|^PAGEWIRE_OPTIONS=|&--peer ${src} |' /etc/pagewire/${atDestination}`);
}

const QEMU = `qemu-system-x86_64 -accel tcg -M q35 -m 128 -display none -kernel /opt/bare.bin \
  -append 'mode=sparse mb=64 rate=5000' -serial file:/run/vm/ticks -monitor unix:/run/vm/monitor,server,nowait`;

/** Two QEMUs of a user in the group pagewire; the guest of src is ready to go. */
async function startGuests() {
  for (const [host, incoming] of [
    ['src', ''],
    ['dst', '-incoming unix:/run/pagewire/vm1.sock'],
  ]) {
    on(
      host,
      `pkill -x qemu-system-x86 || true; rm -rf /run/vm; id vm >/dev/null 2>&1 || useradd -M vm; usermod -aG pagewire vm
       install -d -o vm /run/vm
       setsid runuser -u vm -- sh -c "umask 007; exec ${QEMU} ${incoming}" </dev/null >/run/vm/log 2>&1 &`,
    );
  }
  await until(() => ticks('src') > 0, 30, 'the guest does not run');
  await until(() => on('dst', 'ls /run/vm').includes('monitor'), 10, 'no QEMU at dst');
}

/** What the guest of a host has told of its time last; it tells it as long as it runs. */
const ticksIn = (file) => (host) =>
  parseInt(/^T (\d+)/.exec(on(host, `tail -n 1 ${file} 2>/dev/null || true`))?.[1] ?? '0', 10);
const ticks = ticksIn('/run/vm/ticks');
const domainTicks = ticksIn('/var/log/libvirt/qemu/vm1-ticks.log');

/** Waits for another tick than `before`. */
const runsOn = (host, ticksOf, before) => until(() => ticksOf(host) > before, 10, 'the guest does not run on');

const monitor = (host, command) => on(host, `(echo '${command}'; sleep 0.3) | socat - unix:/run/vm/monitor`);

function migrate() {
  for (const host of ['dst', 'src']) monitor(host, 'migrate_set_capability return-path on');
  monitor('src', 'migrate_set_parameter max-bandwidth 100G');
  monitor('src', 'migrate -d unix:/run/pagewire/vm1.sock');
}

async function arrives() {
  await until(() => /status: +completed/.test(monitor('src', 'info migrate')), 60, 'the migration does not end');
  await runsOn('dst', ticks, ticks('src'));
}

const DOMAIN = `<domain type="qemu"><name>vm1</name><memory unit="MiB">128</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="q35">hvm</type><kernel>/opt/bare.bin</kernel>
<cmdline>mode=sparse mb=64 rate=5000</cmdline></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<serial type="file"><source path="/var/log/libvirt/qemu/vm1-ticks.log"/></serial><memballoon model="none"/></devices></domain>`;

async function startDomain() {
  both(
    'pkill -x qemu-system-x86 || true; virsh -q destroy vm1 2>/dev/null || true; rm -f /var/log/libvirt/qemu/*ticks.log',
  );
  on('src', `echo '${DOMAIN}' > ~/vm1.xml; virsh -q create ~/vm1.xml`);
  await until(() => domainTicks('src') > 0, 30, 'the guest does not run');
}

/** The guest of libvirt has moved, and runs on. */
async function moved() {
  assert.equal(on('src', 'virsh -q list'), '');
  await runsOn('dst', domainTicks, domainTicks('src'));
}

const tests = {
  async 'by hand, as contrib/README.md has it'() {
    both(
      `cd /usr/local/lib/node_modules/pagewire/contrib
       install -D -m 644 -t /etc/sysusers.d sysusers.d/pagewire.conf
       install -D -m 644 -t /etc/tmpfiles.d tmpfiles.d/pagewire.conf
       install -D -m 644 -t /etc/systemd/system systemd/*
       systemd-sysusers
       systemd-tmpfiles --create /etc/tmpfiles.d/pagewire.conf
       install -m 640 -g pagewire-keys -t /etc/pagewire etc/*.env
       systemctl daemon-reload`,
    );
    exchangeKeys('source.env', 'destination.env');
    on('src', "sed -i 's|dst.example|dst|' /etc/pagewire/source.env");
    on('dst', 'systemctl enable --now pagewire-destination.service');
    await startGuests();
    on('src', 'systemctl start pagewire-source@vm1');
    migrate();
    await arrives();
    await until(
      () => unitIs('src', 'pagewire-source@vm1') === 'inactive success',
      10,
      () => journal('src', 'pagewire-source@vm1'),
    );
    assert.match(journal('dst', 'pagewire-destination'), /vm1: arrived/);
    on('dst', 'systemctl reload pagewire-destination');
    assert.equal(unitIs('dst', 'pagewire-destination'), 'active success');
  },

  async 'systemd listens'() {
    on(
      'dst',
      `systemctl disable --now pagewire-destination.service
       sed -i 's|^PAGEWIRE_LISTEN=.*|PAGEWIRE_LISTEN=tls:systemd|' /etc/pagewire/destination.env
       systemctl enable --now pagewire-destination.socket`,
    );
    assert.equal(unitIs('dst', 'pagewire-destination.service'), 'inactive success');
    await startGuests();
    on('src', 'systemctl start pagewire-source@vm1');
    migrate();
    await arrives();
    assert.equal(unitIs('dst', 'pagewire-destination.service'), 'active success');
  },

  async 'through ssh'() {
    on('src', "mkdir -p ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519");
    const key = on('src', 'cat ~/.ssh/id_ed25519.pub');
    on('dst', `mkdir -p -m 700 ~/.ssh; echo '${key}' > ~/.ssh/authorized_keys`);
    on('src', 'ssh -o StrictHostKeyChecking=accept-new dst true');
    await startGuests();
    on(
      'src',
      `setsid pagewire proxy source --name vm1 --listen unix:/run/pagewire/vm1.sock --listen-mode 0666 --connect \
       'exec:ssh dst pagewire proxy destination --listen stdio --connect unix:/run/pagewire/vm1.sock' \
       </dev/null >/run/proxy.log 2>&1 &`,
    );
    await until(() => on('src', 'ls /run/pagewire').includes('vm1.sock'), 10, 'no proxy');
    migrate();
    await arrives();
    await until(() => on('src', 'cat /run/proxy.log').includes('vm1: migrated'), 10, 'the proxy does not end');
  },

  async 'told to stop in the middle, the guest stays'() {
    await startGuests();
    on(
      'src',
      "sed 's|^PAGEWIRE_OPTIONS=|&--max-bandwidth 2M |' /etc/pagewire/source.env > /etc/pagewire/source-vm1.env",
    );
    on('src', 'systemctl start pagewire-source@vm1');
    migrate();
    await sleep(2000);
    on('src', 'systemctl stop pagewire-source@vm1; rm /etc/pagewire/source-vm1.env');
    assert.equal(unitIs('src', 'pagewire-source@vm1'), 'failed exit-code');
    on('src', 'systemctl reset-failed');
    assert.match(on('src', 'cat /var/lib/pagewire/source-vm1.json'), /"code": "STOPPED"/);
    await until(() => /status: +failed/.test(monitor('src', 'info migrate')), 10, 'the migration does not fail');
    await runsOn('src', ticks, ticks('src'));
    on('dst', 'systemctl disable --now pagewire-destination.socket pagewire-destination.service');
    both(
      'rm /etc/systemd/system/pagewire-* /etc/sysusers.d/pagewire.conf /etc/tmpfiles.d/pagewire.conf /etc/pagewire/*.env',
    );
  },

  async "libvirt's tunnel"() {
    const tunnels = [
      ['src', 'pagewire-tunnel@dst'],
      ['dst', 'pagewire-tunnel-destination'],
    ];
    both('pagewire libvirt setup --way tunnel --apply');
    exchangeKeys('tunnel.env', 'tunnel-destination.env');
    on('dst', 'systemctl enable --now pagewire-tunnel-destination.service');
    on('src', 'systemctl enable --now pagewire-tunnel@dst.service');
    qemuReadsNoKey(false);
    await startDomain();
    on(
      'src',
      `setsid virsh migrate --live --p2p --tunnelled --bandwidth 40 vm1 \
       qemu+unix:///system?socket=/run/pagewire-tunnel/dst.sock </dev/null >/run/virsh.log 2>&1 &`,
    );
    // The threads that carry the guest are batch: the units' filters let them be.
    for (const [host, unit] of tunnels) await until(() => hasBatchThread(host, unit), 20, `none is batch at ${host}`);
    await until(
      () => on('src', 'virsh -q list') === '',
      60,
      () => on('src', 'cat /run/virsh.log'),
    );
    await moved();
    assert.match(journal('src', 'pagewire-tunnel@dst'), /1 stream complete/);
    for (const [host, unit] of tunnels) {
      assert.doesNotMatch(journal(host, unit), /only permitted for main PID/, 'its sessions talk to systemd');
      on(host, `systemctl stop ${unit}`);
      assert.equal(unitIs(host, unit), 'inactive success');
    }
  },

  async interception() {
    both('pagewire libvirt setup --way intercept --apply');
    exchangeKeys('intercept.env', 'destination.env');
    on('dst', 'systemctl enable --now pagewire-destination.service');
    on('src', 'systemctl enable --now pagewire-intercept.service');
    await startDomain();
    on('src', 'virsh migrate --live vm1 qemu+ssh://root@dst/system');
    await moved();
    assert.match(journal('src', 'pagewire-intercept'), /src-49152: migrated/);
    on('src', 'systemctl stop pagewire-intercept');
    assert.equal(unitIs('src', 'pagewire-intercept'), 'inactive success');
    assert.doesNotMatch(on('src', 'nft list ruleset'), /pagewire/, 'its rules are there still');
    both('pagewire libvirt setup --undo; rm -f /etc/pagewire/*.env');
  },

  async 'a unix socket, with virsh'() {
    both('pagewire libvirt setup --way unix --apply');
    exchangeKeys('source.env', 'destination.env');
    on('src', "sed -i 's|dst.example|dst|' /etc/pagewire/source.env");
    on('dst', 'systemctl enable --now pagewire-destination.service');
    await startDomain();
    on('src', 'systemctl start pagewire-source@vm1');
    qemuReadsNoKey(true);
    on('dst', 'rm -f /run/pagewire/vm1.sock'); // a QEMU of another user has left it, and no other one may replace it
    on('src', 'virsh migrate --live --migrateuri unix:///run/pagewire/vm1.sock vm1 qemu+ssh://root@dst/system');
    await moved();
    await until(
      () => unitIs('src', 'pagewire-source@vm1') === 'inactive success',
      10,
      () => journal('src', 'pagewire-source@vm1'),
    );
    both('pagewire libvirt setup --undo');
    assert.deepEqual(both('find /etc/systemd -name "pagewire*"'), ['', '']);
  },

  async 'save and restore by the filter'() {
    await startDomain();
    const file = (name) => `/var/lib/libvirt/images/${name}.save`;
    const inUse = (format) =>
      on('src', `echo 'save_image_format = "${format}"' >> /etc/libvirt/qemu.conf; systemctl restart libvirtd`);
    const there = async (name) => {
      const before = domainTicks('src');
      on('src', `virsh restore ${file(name)}`);
      await runsOn('src', domainTicks, before);
    };
    inUse('lzop');
    on('src', `virsh save vm1 ${file('before')}`);
    on('src', 'pagewire install-libvirt-filter; systemctl restart libvirtd');
    await there('before');
    on('src', `virsh save vm1 ${file('after')}`);
    assert.match(on('src', `pagewire inspect ${file('after')}`), /libvirt/i);
    const [before, after] = ['before', 'after'].map((name) => Number(on('src', `stat -c %s ${file(name)}`)));
    assert.ok(after < before, `${after} bytes, and ${before} by lzop`);
    await there('after');
    on('src', 'pagewire install-libvirt-filter --uninstall; systemctl restart libvirtd; virsh -q list | grep -q vm1');
  },
};

needs(what, 'systemd-nspawn', 'ip', 'as', 'ld', 'nsenter');
setUpOrExit();
if (process.argv.includes('--fresh')) rmSync(root, { recursive: true, force: true });
makeRoot({ what, root, release: release(), packages });
installPackage();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => {
    shutDown();
    process.exit(130);
  });
}
const failed = [];
try {
  await boot();
  for (const host of Object.keys(hosts)) {
    const uuid = readFileSync('/proc/sys/kernel/random/uuid', 'utf8').trim();
    on(
      host,
      `echo 'host_uuid = "${uuid}"' >> /etc/libvirt/libvirtd.conf
       echo 'cgroup_controllers = [ ]' >> /etc/libvirt/qemu.conf
       systemctl restart libvirtd`,
    );
  }
  for (const [name, test] of Object.entries(tests)) {
    const started = performance.now();
    try {
      await test();
      console.log(`ok ${name} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed.push(name);
      console.log(`FAILED ${name}\n${error.stack}`);
      break; // the next one begins where this one ended
    }
  }
} finally {
  shutDown();
}
console.log(`test-systemd: ${failed.length === 0 ? 'all well' : `failed: ${failed.join(', ')}`}`);
process.exit(failed.length === 0 ? 0 : 1);

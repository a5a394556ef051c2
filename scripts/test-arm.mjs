// `npm run test:arm`: the native core's tests on aarch64 (the NEON tier), and its build with Rust 1.85.
//
//   node scripts/test-arm.mjs [--fresh] [arguments of cargo test]      e.g. --test xbzrle
//
// Makes a Debian 13 root by debootstrap, in which rustc 1.85 compiles for aarch64 and qemu-user runs the tests. Root;
// needs debootstrap and unshare. The mirror is the one in this machine's own APT sources. The crates are those of
// native/Cargo.lock, fetched by this machine's cargo. All is mounted in a mount namespace of its own, so nothing stays
// mounted, and no service is started. About 500 MB in PAGEWIRE_ARM_ROOT (default /var/tmp/pagewire-debian13-arm), which
// is kept for the next run; delete the folder to remove it, --fresh makes it anew.
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const project = fileURLToPath(new URL('..', import.meta.url));
const root = process.env.PAGEWIRE_ARM_ROOT || '/var/tmp/pagewire-debian13-arm';
const target = 'aarch64-unknown-linux-gnu';
const packages = ['cargo', 'rustc', 'libstd-rust-dev:arm64', 'gcc-aarch64-linux-gnu', 'libc6-dev-arm64-cross'];
// gcc, libc6-dev: build scripts run on this machine
packages.push('gcc', 'libc6-dev', 'qemu-user');

/** The exit code of a test that could not be run, as automake has it. */
const NOT_RUN = 77;

function notRun(why) {
  console.log(`PAGEWIRE-NOT-RUN the tests on aarch64: ${why}`);
  process.exit(NOT_RUN);
}

/** Runs a command to its end; what it says is shown only if it fails, unless `loud`. */
function run(command, args, { loud = false, ...options } = {}) {
  const done = spawnSync(command, args, { stdio: loud ? 'inherit' : 'pipe', maxBuffer: 1 << 28, ...options });
  if (done.error || done.status !== 0) {
    const why = done.error?.message ?? (done.signal ? `signal ${done.signal}` : `exit code ${done.status}`);
    console.error(`${done.stdout ?? ''}${done.stderr ?? ''}test-arm: ${command} ${args.join(' ')}: ${why}`);
    process.exit(1);
  }
  return done.stdout?.toString() ?? '';
}

/** Runs a shell script in a mount namespace of its own: what it mounts goes with it. */
const isolated = (script, args, options) =>
  run('unshare', ['--mount', '--propagation', 'private', 'sh', '-euc', script, 'sh', ...args], options);

/** Runs a command in the root, with /proc and /dev. */
const inside = (args, options) =>
  isolated(
    'root=$1; shift; mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"; exec chroot "$root" "$@"',
    [root, ...args],
    { env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root', LC_ALL: 'C.UTF-8' }, ...options },
  );

/** A Debian mirror that this machine itself uses, from its APT sources in either form. */
function mirror() {
  const folder = '/etc/apt/sources.list.d';
  const files = existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
  const uris = ['/etc/apt/sources.list', ...files]
    .filter((file) => /\.(sources|list)$/.test(file) && existsSync(file))
    .flatMap((file) => readFileSync(file, 'utf8').split('\n'))
    .flatMap((line) => /^URIs:\s*(\S+)|^deb\s+(?:\[[^\]]*\]\s+)?(\S+)/.exec(line)?.slice(1) ?? [])
    .filter((uri) => uri && /\/debian\/?$/.test(uri));
  return uris[0] ?? notRun("this machine's APT sources name no Debian mirror");
}

function makeRoot() {
  const ready = join(root, '.pagewire-ready');
  const made = packages.join(' ');
  if (existsSync(ready) && readFileSync(ready, 'utf8') === made) return;
  if (!existsSync(join(root, '.pagewire-base'))) {
    console.log(`test-arm: making a Debian 13 root in ${root}`);
    rmSync(root, { recursive: true, force: true });
    isolated('exec debootstrap --variant=minbase trixie "$1" "$2"', [root, mirror()]);
    writeFileSync(join(root, '.pagewire-base'), '');
  }
  console.log('test-arm: installing rustc, the cross compiler and qemu-user in it');
  const policy = join(root, 'usr/sbin/policy-rc.d'); // start no service in there
  writeFileSync(policy, '#!/bin/sh\nexit 101\n');
  chmodSync(policy, 0o755);
  // However APT and the resolver get out of here, they do the same in there.
  cpSync('/etc/apt/apt.conf.d', join(root, 'etc/apt/apt.conf.d'), { recursive: true });
  cpSync('/etc/resolv.conf', join(root, 'etc/resolv.conf'), { dereference: true });
  const script = 'dpkg --add-architecture arm64; apt-get -q update; apt-get -q -y --no-install-recommends install "$@"';
  inside(['env', 'DEBIAN_FRONTEND=noninteractive', 'sh', '-euc', script, 'sh', ...packages]);
  writeFileSync(ready, made);
}

/** Copies the core as a workspace of its own, with all its crates, so that cargo needs no network in there. */
function copySources() {
  const work = join(root, 'work');
  for (const name of existsSync(work) ? readdirSync(work) : []) {
    if (name !== 'target') rmSync(join(work, name), { recursive: true });
  }
  mkdirSync(work, { recursive: true });
  const native = join(project, 'native');
  const manifest = readFileSync(join(native, 'Cargo.toml'), 'utf8');
  writeFileSync(join(work, 'Cargo.toml'), manifest.replace(/^members = .*$/m, 'members = ["core"]'));
  cpSync(join(native, 'Cargo.lock'), join(work, 'Cargo.lock'));
  cpSync(join(native, 'core'), join(work, 'core'), {
    recursive: true,
    preserveTimestamps: true,
    filter: (file) => basename(file) !== 'target' || !statSync(file).isDirectory(),
  });
  run('cargo', ['vendor', '--quiet', '--versioned-dirs', 'vendor'], { cwd: work });
  mkdirSync(join(work, '.cargo'));
  const config = '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "vendor"\n';
  writeFileSync(join(work, '.cargo/config.toml'), config);
}

const args = process.argv.slice(2).filter((arg) => arg !== '--fresh');
if (process.platform !== 'linux' || process.getuid?.() !== 0) notRun('making a Debian root takes root on Linux');
for (const command of ['debootstrap', 'unshare', 'cargo']) {
  if (spawnSync(command, ['--version'], { stdio: 'ignore' }).error) notRun(`${command} is missing: install it`);
}
if (process.argv.includes('--fresh')) rmSync(root, { recursive: true, force: true });

makeRoot();
copySources();
console.log(
  `test-arm: ${inside(['rustc', '--version']).trim()}, ${inside(['qemu-aarch64', '--version']).split('\n')[0]}`,
);
const triple = target.toUpperCase().replaceAll('-', '_');
const environment = [
  `CARGO_TARGET_${triple}_LINKER=aarch64-linux-gnu-gcc`,
  `CARGO_TARGET_${triple}_RUNNER=qemu-aarch64`,
  `CC_${target.replaceAll('-', '_')}=aarch64-linux-gnu-gcc`,
  'PAGEWIRE_EMULATED=1',
];
const test = ['cargo', 'test', '--offline', '--package', 'pagewire-core', '--target', target, ...args];
inside(['env', '--chdir=/work', ...environment, ...test], { loud: true });

// `npm run test:arm`: the native core's tests on aarch64 (the NEON tier), and its build with Rust 1.85.
//
//   node scripts/test-arm.mjs [--fresh] [arguments of cargo test]      e.g. --test xbzrle
//
// Makes a Debian 13 root by debootstrap, in which rustc 1.85 compiles for aarch64 and qemu-user runs the tests. Root;
// needs debootstrap and unshare. The mirror is the one in this machine's own APT sources. The crates are those of
// native/Cargo.lock, fetched by this machine's cargo. All is mounted in a mount namespace of its own, so nothing stays
// mounted, and no service is started. About 500 MB in PAGEWIRE_ARM_ROOT (default /var/tmp/pagewire-debian13-arm), which
// is kept for the next run; delete the folder to remove it, --fresh makes it anew.
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { inside, makeRoot, needs, run } from './debian-root.mjs';

const project = fileURLToPath(new URL('..', import.meta.url));
const root = process.env.PAGEWIRE_ARM_ROOT || '/var/tmp/pagewire-debian13-arm';
const target = 'aarch64-unknown-linux-gnu';
const packages = ['cargo', 'rustc', 'libstd-rust-dev:arm64', 'gcc-aarch64-linux-gnu', 'libc6-dev-arm64-cross'];
// gcc, libc6-dev: build scripts run on this machine
packages.push('gcc', 'libc6-dev', 'qemu-user');

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
const what = 'the tests on aarch64';
needs(what, 'cargo');
if (process.argv.includes('--fresh')) rmSync(root, { recursive: true, force: true });

makeRoot({ what, root, release: 'trixie', packages, before: 'dpkg --add-architecture arm64' });
copySources();
const version = (...command) => inside(root, [...command, '--version']).split('\n')[0];
console.log(`test-arm: ${version('rustc')}, ${version('qemu-aarch64')}`);
const triple = target.toUpperCase().replaceAll('-', '_');
const environment = [
  `CARGO_TARGET_${triple}_LINKER=aarch64-linux-gnu-gcc`,
  `CARGO_TARGET_${triple}_RUNNER=qemu-aarch64`,
  `CC_${target.replaceAll('-', '_')}=aarch64-linux-gnu-gcc`,
  'PAGEWIRE_EMULATED=1',
];
const test = ['cargo', 'test', '--offline', '--package', 'pagewire-core', '--target', target, ...args];
inside(root, ['env', '--chdir=/work', ...environment, ...test], { loud: true });

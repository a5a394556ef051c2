// A Debian root in a folder, made by debootstrap and kept for the next run: for what is tested on another Debian, or on
// one that may be booted. Root only. All is mounted in a mount namespace of its own, so nothing stays mounted, and no
// service is started.
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';

/** The exit code of a test that could not be run, as automake has it. */
const NOT_RUN = 77;
const program = basename(process.argv[1] ?? '', '.mjs');

/** Ends the program: this machine lacks something. */
export function notRun(what, why) {
  console.log(`PAGEWIRE-NOT-RUN ${what}: ${why}`);
  process.exit(NOT_RUN);
}

/** Ends the program as not run, unless this is root and the commands are there. */
export function needs(what, ...commands) {
  if (process.platform !== 'linux' || process.getuid?.() !== 0)
    notRun(what, 'making a Debian root takes root on Linux');
  for (const command of ['debootstrap', 'unshare', ...commands]) {
    if (spawnSync(command, ['--version'], { stdio: 'ignore' }).error) notRun(what, `${command} is missing: install it`);
  }
}

/** Runs a command to its end. What it says is shown as it comes if `loud`, or else is in the error if it fails. */
export function run(command, args, { loud = false, ...options } = {}) {
  const done = spawnSync(command, args, { stdio: loud ? 'inherit' : 'pipe', maxBuffer: 1 << 28, ...options });
  if (done.error || done.status !== 0) {
    const why = done.error?.message ?? (done.signal ? `signal ${done.signal}` : `exit code ${done.status}`);
    throw new Error(`${done.stdout ?? ''}${done.stderr ?? ''}${program}: ${command} ${args.join(' ')}: ${why}`);
  }
  return done.stdout?.toString() ?? '';
}

/** Runs a shell script in a mount namespace of its own: what it mounts goes with it. */
const isolated = (script, args, options) =>
  run('unshare', ['--mount', '--propagation', 'private', 'sh', '-euc', script, 'sh', ...args], options);

/** Runs a command in the root, with /proc and /dev. */
export const inside = (root, args, options) =>
  isolated(
    'root=$1; shift; mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"; exec chroot "$root" "$@"',
    [root, ...args],
    { env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root', LC_ALL: 'C.UTF-8' }, ...options },
  );

/** A Debian mirror that this machine itself uses, from its APT sources in either form. */
function mirror(what) {
  const folder = '/etc/apt/sources.list.d';
  const files = existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
  const uris = ['/etc/apt/sources.list', ...files]
    .filter((file) => /\.(sources|list)$/.test(file) && existsSync(file))
    .flatMap((file) => readFileSync(file, 'utf8').split('\n'))
    .flatMap((line) => /^URIs:\s*(\S+)|^deb\s+(?:\[[^\]]*\]\s+)?(\S+)/.exec(line)?.slice(1) ?? [])
    .filter((uri) => uri && /\/debian\/?$/.test(uri));
  return uris[0] ?? notRun(what, "this machine's APT sources name no Debian mirror");
}

/** Makes the root, unless it is there with these packages. `what` is tested in it; `before` is run before they come. */
export function makeRoot({ what, root, release, packages, before = 'true' }) {
  const ready = join(root, '.pagewire-ready');
  const made = [release, ...packages].join(' ');
  if (existsSync(ready) && readFileSync(ready, 'utf8') === made) return;
  const base = join(root, '.pagewire-base');
  if (!existsSync(base) || readFileSync(base, 'utf8') !== release) {
    console.log(`${program}: making a Debian root (${release}) in ${root}`);
    rmSync(root, { recursive: true, force: true });
    isolated('exec debootstrap --variant=minbase "$1" "$2" "$3"', [release, root, mirror(what)]);
    writeFileSync(base, release);
  }
  console.log(`${program}: installing ${packages.join(' ')} in it`);
  const policy = join(root, 'usr/sbin/policy-rc.d'); // start no service in there
  writeFileSync(policy, '#!/bin/sh\nexit 101\n');
  chmodSync(policy, 0o755);
  // However APT and the resolver get out of here, they do the same in there.
  cpSync('/etc/apt/apt.conf.d', join(root, 'etc/apt/apt.conf.d'), { recursive: true });
  cpSync('/etc/resolv.conf', join(root, 'etc/resolv.conf'), { dereference: true });
  const script = `${before}; apt-get -q update; apt-get -q -y --no-install-recommends install "$@"`;
  inside(root, ['env', 'DEBIAN_FRONTEND=noninteractive', 'sh', '-euc', script, 'sh', ...packages]);
  rmSync(policy);
  writeFileSync(ready, made);
}

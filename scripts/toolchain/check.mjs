// Checks that this machine has what pagewire's native core is built with, and names all that is missing in one line.
//
// It runs three times: before npm builds any dependency (as the `preinstall` script of this folder's package), before
// npm builds pagewire itself (package.json's `install`; the only time for who installs the packed package), and
// before scripts/build-native.mjs runs cargo.
import { spawnSync } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The oldest Rust that builds the binding (`rust-version` in native/node/Cargo.toml). */
const OLDEST_RUST = [1, 88];
/** The oldest Python that node-gyp runs on. */
const OLDEST_PYTHON = [3, 8];

/** The first line that a program prints for its version, or undefined if it cannot be started. */
function versionOf(program, args, env) {
  const { status, stdout } = spawnSync(program, args, { encoding: 'utf8', env, stdio: ['ignore', 'pipe', 'ignore'] });
  return status === 0 ? stdout.split('\n', 1)[0] : undefined;
}

function isOlder(line, [major, minor]) {
  const [, foundMajor, foundMinor] = /(\d+)\.(\d+)/.exec(line) ?? [];
  return foundMajor === undefined || +foundMajor < major || (+foundMajor === major && +foundMinor < minor);
}

/**
 * The environment to run cargo in: rustup's folder is on the PATH even if no login shell put it there, and nothing
 * is left of the `make` that node-gyp started us from (its MAKEFLAGS name a job server that cargo cannot reach).
 */
export function cargoEnvironment(base = process.env) {
  const env = { ...base };
  for (const name of ['MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'MAKEOVERRIDES', 'CARGO_MAKEFLAGS']) delete env[name];
  const rustup = join(env.CARGO_HOME ?? join(homedir(), '.cargo'), 'bin');
  if (existsSync(rustup)) env.PATH = [env.PATH, rustup].filter(Boolean).join(delimiter);
  return env;
}

/** What is missing, each as a phrase that says what to install. */
function missingTools() {
  const env = cargoEnvironment();
  const missing = [];
  const rust = ['cargo', 'rustc'].map((program) => versionOf(program, ['--version'], env));
  const oldest = OLDEST_RUST.join('.');
  if (rust.includes(undefined)) {
    missing.push(`Rust ${oldest} or newer, with cargo (from https://rustup.rs)`);
  } else if (rust.some((line) => isOlder(line, OLDEST_RUST))) {
    missing.push(`Rust ${oldest} or newer (found ${rust[1]}; from https://rustup.rs)`);
  }
  if (versionOf(env.CC || 'cc', ['--version'], env) === undefined)
    missing.push('a C compiler (Debian: build-essential)');
  if (versionOf(env.CXX || 'c++', ['--version'], env) === undefined) {
    missing.push('a C++ compiler (Debian: build-essential)');
  }
  if (versionOf(env.MAKE || 'make', ['--version'], env) === undefined) missing.push('make (Debian: build-essential)');
  const pythons = [env.NODE_GYP_FORCE_PYTHON, env.npm_config_python, env.PYTHON, 'python3', 'python'];
  const python = pythons
    .filter(Boolean)
    .map((program) => versionOf(program, ['-c', 'import sys; print("%d.%d" % sys.version_info[:2])'], env))
    .find((line) => line !== undefined && !isOlder(line, OLDEST_PYTHON));
  if (python === undefined) missing.push(`Python ${OLDEST_PYTHON.join('.')} or newer (Debian: python3)`);
  return missing;
}

/** One line that says what to install, or undefined if all is there. */
export function whatIsMissing() {
  const missing = missingTools();
  return missing.length === 0 ? undefined : `cannot build the native core, please install: ${missing.join('; ')}`;
}

/** Ends the process with that line if anything is missing. */
export function requireToolchain() {
  const line = whatIsMissing();
  if (line === undefined) return;
  console.error(`pagewire: ${line}`);
  process.exit(1);
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  requireToolchain();
}

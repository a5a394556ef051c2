// Builds the native core: runs cargo for native/node and puts the addon where src/native.ts loads it from.
//
//   node scripts/build-native.mjs [OUT]     OUT defaults to build/Release/pagewire.node
//
// binding.gyp's one action is this script. Cargo decides what there is to do, so it may run at any time.
// PAGEWIRE_CARGO_PROFILE=dev makes a build that is quicker to come by, for work on the native code.
import { spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { cargoEnvironment, requireToolchain } from './toolchain/check.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const out = resolve(process.argv[2] ?? join(root, 'build/Release/pagewire.node'));

requireToolchain();

const profile = process.env.PAGEWIRE_CARGO_PROFILE || 'release';
const cargo = spawn(
  'cargo',
  ['build', '--profile', profile, '--locked', '--package', 'pagewire-node', '--message-format=json-render-diagnostics'],
  { cwd: join(root, 'native'), env: cargoEnvironment(), stdio: ['ignore', 'pipe', 'inherit'] },
);

// Cargo itself says where the library is: that depends on CARGO_TARGET_DIR and on cargo's own configuration.
let library;
for await (const line of createInterface({ input: cargo.stdout })) {
  const message = line.startsWith('{') ? JSON.parse(line) : {};
  if (message.reason === 'compiler-artifact' && message.target.name === 'pagewire_node') {
    library = message.filenames.find((file) => /\.(so|dylib|dll)$/.test(file)) ?? library;
  }
}
const status = cargo.exitCode ?? (await new Promise((done) => cargo.once('close', done)));
if (status !== 0 || library === undefined) {
  console.error('pagewire: cargo could not build the native core (its messages are above)');
  process.exit(1);
}

if (!same(library, out)) {
  // A rename, not a copy over it: processes that have the old addon mapped go on with the old file.
  mkdirSync(dirname(out), { recursive: true });
  const fresh = `${out}.${process.pid}`;
  try {
    copyFileSync(library, fresh);
    renameSync(fresh, out);
  } finally {
    rmSync(fresh, { force: true });
  }
}

function same(a, b) {
  try {
    return readFileSync(a).equals(readFileSync(b));
  } catch {
    return false;
  }
}

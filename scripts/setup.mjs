// Brings a clone to where it runs: the dependencies of the lock file, the native core, the TypeScript.
//
//   node scripts/setup.mjs
//
// `npm run demo`, `npm test` and the benchmarks begin with it. What is there already is left alone, so it is quick the
// second time.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { whatIsMissing } from './toolchain/check.mjs';

/** The folder of package.json. */
export const root = fileURLToPath(new URL('..', import.meta.url));

/** The oldest Node that the development tools (eslint) run on. */
const OLDEST_NODE = [20, 19];

/** Runs npm: the one that started us, or the one on the PATH. */
export function npm(args, options = {}) {
  const script = process.env.npm_execpath;
  const [program, first] = script?.endsWith('.js') ? [process.execPath, [script]] : ['npm', []];
  return spawnSync(program, [...first, ...args], { cwd: root, stdio: ['ignore', 'inherit', 'inherit'], ...options });
}

/** Whether node_modules holds what the lock file names, by npm's own record of it. */
function dependenciesAreInstalled() {
  const installed = join(root, 'node_modules/.package-lock.json');
  if (!existsSync(installed)) return false;
  const packagesIn = (file) => JSON.parse(readFileSync(file, 'utf8')).packages;
  const [want, have] = [packagesIn(join(root, 'package-lock.json')), packagesIn(installed)];
  return Object.entries(want).every(
    // What is optional is there on some platforms only.
    ([path, { version, optional }]) => path === '' || have[path]?.version === version || (optional && !have[path]),
  );
}

/**
 * Sets the clone up; throws an error whose message is one line for the user. `typescript` names the projects to build
 * (of src, test and bench; default: all).
 */
export function setUp({ typescript = ['src', 'test', 'bench'] } = {}) {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1])) {
    throw new Error(`Node ${OLDEST_NODE.join('.')} or newer is needed here (this is ${process.version})`);
  }
  const missing = whatIsMissing();
  if (missing !== undefined) throw new Error(missing);

  const step = (what, { status }) => {
    if (status !== 0) throw new Error(`setting up failed at: ${what}`);
  };
  const node = (script, ...args) =>
    spawnSync(process.execPath, [join(root, 'scripts', script), ...args], {
      cwd: root,
      stdio: ['ignore', 'inherit', 'inherit'],
    });
  if (!dependenciesAreInstalled()) step('npm ci', npm(['ci', '--include=dev']));
  step('the native core', node('build-native.mjs'));
  if (typescript.length > 0) step('the TypeScript', node('build-ts.mjs', ...typescript));
}

/** As `setUp`, for programs that end with it: says what is wrong and exits. */
export function setUpOrExit(options) {
  try {
    setUp(options);
  } catch (error) {
    console.error(`pagewire: ${error.message}`);
    process.exit(1);
  }
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) setUpOrExit();

// `npm test`: sets the clone up, runs every suite, and ends with the line `N passed, N failed[, N skipped]`.
//
//   node scripts/test.mjs [--full] [--only SUITE]… [--skip SUITE]… [--list]
//
// A check (a formatter, a linter, a type check) counts as one test. A suite fails when one of its tests does, when it
// dies, runs past its time or runs nothing. A line `PAGEWIRE-NOT-RUN <what>: <why>` in a suite's output says that this
// machine lacks what a test needs; they are shown together before the last line. With CI=true, what is missing fails.
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, relative } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { root, setUp } from './setup.mjs';
import { cargoEnvironment } from './toolchain/check.mjs';

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    only: { type: 'string', multiple: true, default: [] },
    skip: { type: 'string', multiple: true, default: [] },
    list: { type: 'boolean', default: false },
  },
});
const inCi = /^(1|true)$/i.test(process.env.CI ?? '');
const require = createRequire(import.meta.url);

const node = (...args) => [process.execPath, ...args];
const script = (name, ...args) => node(join('scripts', name), ...args);
const cargo = (...args) => ['cargo', ...args];
/** A program that a package of node_modules brings. */
const tool = (packageName, bin, ...args) =>
  node(join(require.resolve(`${packageName}/package.json`), '..', bin), ...args);

/** The compiled test files below build/test, without those of the folders in `except`. */
function compiledTests(folder, except = []) {
  const from = join(root, 'build/test', folder);
  if (!existsSync(from)) return [];
  return readdirSync(from, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.test.js'))
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
    .filter((file) => !except.some((name) => file.startsWith(`build/test/${name}/`)))
    .sort();
}

/** Node's test runner over compiled files; `seconds` bounds one test, `atOnce` files run at once. */
const nodeTests = (files, seconds, atOnce = 1) =>
  node(
    ...['--test', `--test-concurrency=${atOnce}`, '--enable-source-maps', '--test-reporter=spec'],
    ...[`--test-timeout=${seconds * 1000}`, ...files],
  );

/**
 * The suites, in their order: cheap checks first. `counts` reads the numbers from the output; a suite without it is one
 * test. `needs` is a command that must work, with what to install where it does not.
 */
const suites = [
  {
    name: 'format',
    title: 'TypeScript and JavaScript are formatted (prettier)',
    minutes: 3,
    command: () => tool('prettier', 'bin/prettier.cjs', '--check', '--log-level', 'warn', '.'),
  },
  {
    name: 'types',
    title: 'types: sources, tests and benchmarks (tsc)',
    minutes: 5,
    command: () => script('build-ts.mjs'),
  },
  {
    name: 'lint',
    title: 'TypeScript and JavaScript are clean (eslint)',
    minutes: 5,
    command: () => tool('eslint', 'bin/eslint.js', '--max-warnings', '0', '.'),
  },
  {
    name: 'rustfmt',
    title: 'Rust is formatted (cargo fmt)',
    minutes: 2,
    cwd: 'native',
    needs: [cargo('fmt', '--version'), 'rustup component add rustfmt'],
    command: () => cargo('fmt', '--all', '--check'),
  },
  {
    name: 'clippy',
    title: 'Rust is clean (cargo clippy, warnings denied)',
    minutes: 10,
    cwd: 'native',
    needs: [cargo('clippy', '--version'), 'rustup component add clippy'],
    command: () => cargo('clippy', '--locked', '--workspace', '--all-targets', '--', '-D', 'warnings'),
  },
  {
    name: 'rust',
    title: 'the native core (cargo test)',
    minutes: 12,
    cwd: 'native',
    // The binding is a library of Node's: what it does is tested from TypeScript.
    command: () => cargo('test', '--locked', '--package', 'pagewire-core', '--no-fail-fast', '--', '--show-output'),
    counts: cargoCounts,
  },
  {
    name: 'unit',
    title: 'TypeScript (node:test)',
    minutes: 10,
    command: () => nodeTests(compiledTests('.', ['e2e', 'repository']), 180, 2),
    env: { PAGEWIRE_TEST_FULL: options.full ? '1' : '' },
    counts: nodeCounts,
  },
  {
    name: 'fuzz',
    title: 'fuzz targets, a short run (npm run fuzz for long ones)',
    minutes: 10,
    when: () => existsSync(join(root, 'scripts/fuzz.mjs')),
    command: () => script('fuzz.mjs', '--seconds', options.full ? '60' : '5'),
    counts: fuzzCounts,
  },
  {
    name: 'repository',
    title: 'the repository and the package (node:test)',
    minutes: 10,
    command: () => nodeTests(compiledTests('repository'), 540),
    counts: nodeCounts,
  },
  {
    name: 'e2e',
    title: 'real QEMU (node:test)',
    minutes: options.full ? 120 : 18,
    when: () => compiledTests('e2e', ['e2e/libvirt']).length > 0,
    command: () => nodeTests(compiledTests('e2e', ['e2e/libvirt']), options.full ? 7000 : 840),
    env: { PAGEWIRE_TEST_FULL: options.full ? '1' : '' },
    counts: nodeCounts,
  },
  {
    name: 'libvirt',
    title: 'real libvirt (node:test)',
    minutes: 15,
    when: () => compiledTests('e2e/libvirt').length > 0,
    command: () => nodeTests(compiledTests('e2e/libvirt'), 600, 2),
    counts: nodeCounts,
  },
];

function cargoCounts(output) {
  const total = { passed: 0, failed: 0, skipped: 0 };
  for (const [, passed, failed, ignored] of output.matchAll(
    /^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored/gm,
  )) {
    total.passed += +passed;
    total.failed += +failed;
    total.skipped += +ignored;
  }
  return total;
}

function nodeCounts(output) {
  const last = (word) => Number([...output.matchAll(new RegExp(`^\\S+ ${word} (\\d+)$`, 'gm'))].at(-1)?.[1] ?? 0);
  return {
    passed: last('pass'),
    failed: last('fail') + last('cancelled'),
    skipped: last('skipped') + last('todo'),
  };
}

/** A target is a test: `fuzz NAME: 123 runs in 10 s`, or `fuzz NAME: crashed …`. */
function fuzzCounts(output) {
  const count = (what) => output.match(new RegExp(`^fuzz \\w+: ${what}`, 'gm'))?.length ?? 0;
  const failed = count('crashed');
  return { passed: count('\\d+ runs') - failed, failed, skipped: 0 };
}

let running;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    if (running !== undefined) killGroup(running, 'SIGKILL');
    process.exit(130);
  });
}

function killGroup(child, signal) {
  try {
    process.kill(-child.pid, signal);
  } catch {
    // It has ended.
  }
}

/**
 * Runs a command with its output shown as it comes, in a process group of its own so that nothing it started outlives
 * its time. Answers how it ended and all that it printed.
 */
async function run([program, ...args], { cwd = root, env = {}, minutes, quiet = false }) {
  const child = spawn(program, args, {
    cwd,
    // What is read back is plain text, also where a CI asks for colours.
    env: { ...cargoEnvironment(), NO_COLOR: '1', FORCE_COLOR: undefined, CARGO_TERM_COLOR: 'never', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  running = child;
  const lines = [];
  for (const [from, to] of [
    [child.stdout, process.stdout],
    [child.stderr, process.stderr],
  ]) {
    createInterface({ input: from }).on('line', (line) => {
      lines.push(line);
      if (!quiet) to.write(`${line}\n`);
    });
  }
  let timedOut = false;
  let leftovers;
  const timer = setTimeout(() => {
    timedOut = true;
    killGroup(child, 'SIGKILL');
  }, minutes * 60_000);
  const problem = await new Promise((done) => {
    child.once('error', (error) => done(`cannot be started: ${error.message}`));
    child.once('close', (code, signal) => {
      done(code === 0 ? undefined : signal === null ? `exit code ${code}` : `killed by ${signal}`);
    });
    child.once('exit', () => {
      // What it left running may hold the pipes open.
      leftovers = setTimeout(() => {
        killGroup(child, 'SIGKILL');
        child.stdout.destroy();
        child.stderr.destroy();
      }, 2000);
    });
  });
  clearTimeout(timer);
  clearTimeout(leftovers);
  running = undefined;
  return { problem: timedOut ? `not done after ${minutes} minutes` : problem, output: lines.join('\n') };
}

async function runSuite(suite) {
  const started = performance.now();
  const done = (counts, problem) => ({ suite, ...counts, problem, seconds: (performance.now() - started) / 1000 });
  console.log(`\n=== ${suite.name}: ${suite.title}`);
  const at = { cwd: join(root, suite.cwd ?? '.'), env: suite.env, minutes: suite.minutes };
  if (suite.needs !== undefined) {
    const [probe, install] = suite.needs;
    const { problem } = await run(probe, { ...at, quiet: true });
    if (problem !== undefined) {
      console.log(`PAGEWIRE-NOT-RUN ${suite.title}: please run: ${install}`);
      notRun.add(`${suite.title}: please run: ${install}`);
      return inCi
        ? done({ passed: 0, failed: 1, skipped: 0 }, 'not installed')
        : done({ passed: 0, failed: 0, skipped: 1 });
    }
  }
  const { problem, output } = await run(suite.command(), at);
  for (const [, what] of output.matchAll(/PAGEWIRE-NOT-RUN (.*)$/gm)) notRun.add(what.trim());
  if (suite.counts === undefined) {
    const passed = problem === undefined ? 1 : 0;
    return done({ passed, failed: 1 - passed, skipped: 0 }, problem);
  }
  const counts = suite.counts(output);
  if (problem === undefined && counts.passed + counts.failed + counts.skipped === 0) {
    return done({ ...counts, failed: 1 }, 'no test ran');
  }
  // It died, or was killed: the numbers that it printed are not the whole truth.
  if (problem !== undefined && counts.failed === 0) return done({ ...counts, failed: 1 }, problem);
  return done(counts, counts.failed > 0 ? `${counts.failed} failed` : undefined);
}

const unknown = [...options.only, ...options.skip].filter((name) => !suites.some((suite) => suite.name === name));
if (options.list || unknown.length > 0) {
  if (unknown.length > 0) console.error(`pagewire: no suite named ${unknown.join(', ')}; there are:`);
  for (const { name, title } of suites) console.log(`${name.padEnd(12)}${title}`);
  process.exit(unknown.length > 0 ? 2 : 0);
}

/** What the last suites need is fetched while the first ones compute; where this fails, they say so. */
function fetchAhead() {
  const fetches = spawn('sh', ['-c', 'scripts/chromium/setup.sh; scripts/qemu/setup.sh; scripts/libvirt/setup.sh'], {
    cwd: root,
    stdio: 'ignore',
    detached: true,
  });
  fetches.once('error', () => undefined);
  fetches.unref();
  process.once('exit', () => killGroup(fetches, 'SIGTERM'));
}

const isRun = ({ name }) => (options.only.length === 0 || options.only.includes(name)) && !options.skip.includes(name);

console.log('=== setting up');
if (inCi && suites.some((suite) => ['unit', 'e2e', 'libvirt'].includes(suite.name) && isRun(suite))) fetchAhead();
const notRun = new Set();
const results = [];
try {
  // The TypeScript is a suite of its own: its errors are a failed test.
  setUp({ typescript: [] });
} catch (error) {
  console.log(`pagewire: ${error.message}\n\n0 passed, 1 failed`);
  process.exit(1);
}
for (const suite of suites) {
  if (!isRun(suite) || !(suite.when?.() ?? true)) continue;
  results.push(await runSuite(suite));
}

const sum = (key) => results.reduce((total, result) => total + result[key], 0);
console.log('\n=== summary');
for (const { suite, passed, failed, skipped, problem, seconds } of results) {
  const numbers = `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
  console.log(`${suite.name.padEnd(12)}${numbers.padEnd(36)}${seconds.toFixed(0).padStart(5)} s  ${problem ?? ''}`);
}
if (notRun.size > 0) {
  console.log('\nNot run on this machine:');
  for (const what of [...notRun].sort()) console.log(`  ${what}`);
}
const [passed, failed, skipped] = [sum('passed'), sum('failed'), sum('skipped')];
console.log(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);

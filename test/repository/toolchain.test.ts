import assert from 'node:assert/strict';
import { access, constants, mkdir, symlink } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { describe, it } from 'node:test';
import { ROOT, run, userEnvironment, withEmptyFolder } from './clean.js';

/** What a build finds on a machine where nothing is missing. */
const PROGRAMS = ['cargo', 'rustc', 'cc', 'c++', 'make', 'python3', 'sh', 'env'];

async function find(program: string): Promise<string | undefined> {
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    const path = join(folder, program);
    const isThere = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (isThere) return path;
  }
  return undefined;
}

/** Runs the check on a machine that lacks `missing`. */
async function checkWithout(...missing: string[]): Promise<{ status: number | string; output: string }> {
  return withEmptyFolder(async (folder) => {
    const bin = join(folder, 'bin');
    await mkdir(bin);
    for (const program of PROGRAMS) {
      const path = missing.includes(program) ? undefined : await find(program);
      if (path !== undefined) await symlink(path, join(bin, program));
    }
    const env = userEnvironment({ PATH: bin, CARGO_HOME: join(folder, 'cargo') });
    // rustup's programs are links to one that finds its toolchains through HOME; pyenv's are scripts with more needs.
    for (const name of ['CC', 'CXX', 'MAKE', 'PYTHON', 'NODE_GYP_FORCE_PYTHON']) Reflect.deleteProperty(env, name);
    return run(process.execPath, [join(ROOT, 'scripts/toolchain/check.mjs')], folder, env);
  });
}

describe('a missing tool gets one line that says what to install', () => {
  const cases: [what: string, missing: string[], told: RegExp][] = [
    ['Rust', ['cargo', 'rustc'], /Rust 1\.\d+ or newer, with cargo \(from https:\/\/rustup\.rs\)/],
    ['a C++ compiler', ['c++'], /a C\+\+ compiler \(Debian: build-essential\)/],
    ['a C compiler', ['cc'], /a C compiler \(Debian: build-essential\)/],
    ['make', ['make'], /make \(Debian: build-essential\)/],
    ['Python', ['python3'], /Python 3\.\d+ or newer \(Debian: python3\)/],
  ];
  for (const [what, missing, told] of cases) {
    it(what, async () => {
      const { status, output } = await checkWithout(...missing);
      assert.equal(status, 1);
      assert.match(output, told);
      assert.match(output, /^pagewire: cannot build the native core, please install: .*\n$/);
    });
  }

  it('nothing where nothing is missing', async () => {
    const script = join(ROOT, 'scripts/toolchain/check.mjs');
    assert.deepEqual(await run(process.execPath, [script], ROOT), { status: 0, output: '' });
  });
});

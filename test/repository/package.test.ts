import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cp, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { it } from 'node:test';
import { SimulatedGuest } from '#src/simulator/guest.js';
import { mustRun, ROOT, userEnvironment, withEmptyFolder } from './clean.js';

it('npm pack gives a package that installs and works in an empty folder', async () => {
  await withEmptyFolder(async (folder) => {
    await mustRun('npm', ['pack', '--pack-destination', folder], ROOT);
    const [archive = ''] = await readdir(folder);
    assert.match(archive, /^pagewire-\d+\.\d+\.\d+\.tgz$/);
    const files = (await mustRun('tar', ['-tzf', archive], folder)).trim().split('\n');
    for (const path of [
      'bin/pagewire',
      'bin/package.json',
      'binding.gyp',
      'dist/filter.cjs',
      'dist/libvirt/filter.cjs',
      'dist/index.js',
      'dist/index.d.ts',
      'native/Cargo.lock',
      'LICENSE',
    ]) {
      assert.ok(files.includes(`package/${path}`), `${path} is not in the package`);
    }
    const needless = files.filter((file) =>
      /^package\/(test|src|bench|build|node_modules|native\/target)\/|\.map$/.test(file),
    );
    assert.deepEqual(needless, []);

    // The dependencies' crates are compiled already; what is the package's own is compiled again, from what it ships.
    const target = join(ROOT, 'build', `package-${process.pid}`);
    await cp(join(ROOT, 'native/target/release'), join(target, 'release'), {
      recursive: true,
      preserveTimestamps: true,
    });
    const home = join(folder, 'home');
    await mkdir(home);
    try {
      await mustRun(
        'npm',
        ['install', '--no-audit', '--no-fund', '--prefer-offline', join(folder, archive)],
        home,
        userEnvironment({ CARGO_TARGET_DIR: target }),
      );
    } finally {
      await rm(target, { recursive: true, force: true });
    }
    const pagewire = join(home, 'node_modules/.bin/pagewire');
    assert.match(await mustRun(pagewire, ['--version'], home), /\d+\.\d+\.\d+/);

    const guest = new SimulatedGuest({ ramBytes: 8 << 20, workload: 'sparse' });
    const stream = Buffer.concat([...guest.stream()]);
    await writeFile(join(home, 'stream'), stream);
    await mustRun(pagewire, ['encode', '--no-delta', '-i', 'stream', '-o', 'stream.pw'], home);
    await mustRun(pagewire, ['decode', '-i', 'stream.pw', '-o', 'again'], home);
    const sha256 = `${createHash('sha256').update(stream).digest('hex')}  again\n`;
    assert.equal(await mustRun('sha256sum', ['again'], home), sha256);
    assert.ok((await stat(join(home, 'stream.pw'))).size < stream.length / 2);
    await mustRun(pagewire, ['-o', 'saved.pw', 'stream'], home);
    await mustRun(pagewire, ['-df', '-o', 'again', 'saved.pw'], home);
    assert.equal(await mustRun('sha256sum', ['again'], home), sha256);

    const script = `import { createEncoder, createDecoder } from 'pagewire'; console.log(typeof createEncoder, typeof createDecoder);`;
    await writeFile(join(home, 'library.mjs'), script);
    assert.equal(await mustRun(process.execPath, ['library.mjs'], home), 'function function\n');
  });
});

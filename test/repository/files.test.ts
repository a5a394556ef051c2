import assert from 'node:assert/strict';
import { access, constants, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { ROOT, run } from './clean.js';

const read = (path: string): Promise<string> => readFile(join(ROOT, path), 'utf8');

interface Manifest {
  engines: { node: string };
  license: string;
  allowScripts: Record<string, boolean>;
  dependencies: Record<string, string>;
  devDependencies: Record<string, string>;
}
interface LockFile {
  packages: Record<string, { version?: string; hasInstallScript?: boolean; resolved?: string }>;
}

describe('the repository', () => {
  it('names exact versions', async () => {
    const { dependencies, devDependencies } = JSON.parse(await read('package.json')) as Manifest;
    for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies })) {
      assert.match(version, /^(\d+\.\d+\.\d+|file:scripts\/\w+)$/, name);
    }
  });

  it('has a lock file that names no download address', async () => {
    const { packages } = JSON.parse(await read('package-lock.json')) as LockFile;
    const addresses = Object.entries(packages).filter(([, { resolved = 'file:' }]) => !resolved.startsWith('file:'));
    assert.deepEqual(addresses, []);
  });

  it('says of every dependency with install scripts whether they may run', async () => {
    const { allowScripts } = JSON.parse(await read('package.json')) as Manifest;
    const { packages } = JSON.parse(await read('package-lock.json')) as LockFile;
    const withScripts = Object.entries(packages)
      .filter(([path, { hasInstallScript }]) => path !== '' && hasInstallScript === true)
      .map(([path]) => path.replace(/^.*node_modules\//, ''));
    assert.ok(withScripts.includes('zlib-sync'));
    assert.deepEqual([...new Set(withScripts)].sort(), Object.keys(allowScripts).sort());
  });

  it("has a CI that runs npm test, and the licence's text", async () => {
    await access(join(ROOT, '.ci/run'), constants.X_OK);
    assert.match(await read('.ci/run'), /^exec npm test$/m);
    assert.match(await read('LICENSE'), /Apache License\s+Version 2\.0, January 2004/);
  });

  it('has shell scripts that a shell can read', async () => {
    const { status, output } = await run('bash', ['-n', '.ci/run'], ROOT);
    assert.deepEqual({ status, output }, { status: 0, output: '' });
  });
});

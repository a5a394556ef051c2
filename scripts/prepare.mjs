// npm's `prepare`: builds the TypeScript after an install in a clone, and before npm packs.
//
// The packed package ships dist/ and npm does not run this for it. Where the sources are there but the compiler is
// not (an install without the development dependencies), what was built before serves.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const built = existsSync(join(root, 'dist/index.js'));

if (!existsSync(join(root, 'src'))) process.exit(0);
try {
  createRequire(import.meta.url).resolve('typescript');
} catch {
  if (built) process.exit(0);
  console.error(
    'pagewire: the TypeScript is not built and its compiler is not installed; run: npm install --include=dev',
  );
  process.exit(1);
}
const { status } = spawnSync(process.execPath, [join(root, 'scripts/build-ts.mjs'), 'src'], { stdio: 'inherit' });
process.exit(status ?? 1);

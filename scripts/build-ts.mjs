// Builds the TypeScript: src into dist, test and bench into build/test and build/bench.
//
//   node scripts/build-ts.mjs [PROJECT…]     of src, test and bench (those that have sources); default: all
//
// What is compiled from a source that is gone is removed, so that no stale file is tested or packed.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const outputs = { src: 'dist', test: 'build/test', bench: 'build/bench' };
const asked = process.argv.slice(2);
const projects = (asked.length > 0 ? asked : Object.keys(outputs)).filter((name) => hasSources(name));

for (const name of projects) removeStale(name, outputs[name]);

let compiler;
try {
  compiler = createRequire(import.meta.url).resolve('typescript/bin/tsc');
} catch {
  console.error('pagewire: TypeScript is not installed, please run: npm install --include=dev');
  process.exit(1);
}
const configs = projects.map((name) => join(root, name, 'tsconfig.json'));
const { status } = spawnSync(process.execPath, [compiler, '--build', ...configs], { cwd: root, stdio: 'inherit' });
if (status === 0 && projects.includes('src')) {
  const { bundle } = await import('./bundle.mjs');
  await bundle(join(root, 'dist'), 'cli/filter-main.js', 'filter.cjs');
  await bundle(join(root, 'dist'), 'libvirt/filter.js', 'libvirt/filter.cjs');
}
process.exit(status ?? 1);

function filesIn(folder) {
  if (!existsSync(folder)) return [];
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath ?? entry.path, entry.name));
}

function hasSources(name) {
  return filesIn(join(root, name)).some((file) => file.endsWith('.ts'));
}

function removeStale(name, output) {
  const [from, to] = [join(root, output), join(root, name)];
  for (const file of filesIn(from)) {
    const source = file.replace(from, to).replace(/(\.d)?\.(c?)(ts|js)(\.map)?$/, '.$2ts');
    if (/\.c?ts$/.test(source) && !existsSync(source)) rmSync(file);
  }
}

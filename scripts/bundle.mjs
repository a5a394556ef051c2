// Makes one script of a filter's modules, for a start in two thirds of the time: a guest waits for it.
//
//   dist/cli/filter-main.js and all of ours that it imports → dist/filter.cjs
//   dist/libvirt/filter.js                                  → dist/libvirt/filter.cjs
//
// What is not ours is required where it was imported.
import { readFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { build } from 'esbuild';

/** Bundles what `entry`, a path under `folder`, needs, into `output` there. */
export async function bundle(folder, entry, output) {
  const outfile = join(folder, output);
  await build({
    ...{ entryPoints: [join(folder, entry)], outfile },
    ...{ bundle: true, packages: 'external', external: ['*.node'], platform: 'node', format: 'cjs', target: 'node20' },
    banner: { js: "const bundleUrl = require('node:url').pathToFileURL(__filename);" },
    plugins: [
      {
        name: 'places',
        // Each module still finds what lies beside it.
        setup({ onLoad }) {
          onLoad({ filter: /\.js$/ }, async ({ path }) => {
            const place = `new URL(${JSON.stringify(relative(dirname(outfile), path))}, bundleUrl).href`;
            return { contents: (await readFile(path, 'utf8')).replaceAll('import.meta.url', place), loader: 'js' };
          });
        },
      },
    ],
  });
}

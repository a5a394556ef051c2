// docs/bench.md tells of the options and fields that there are, and its variants can be measured.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { readReport } from '#src/bench/report/schema.js';
import { folder, pagewire } from '../cli/command.js';
import { measured, smallStream } from './measured.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const text = readFileSync(`${ROOT}docs/bench.md`, 'utf8');

describe('docs/bench.md', () => {
  it('names every option, and no other', async (t) => {
    const { stdout } = await pagewire(t, ['bench', '--help']);
    const told = [...stdout.toString().matchAll(/^ {2}(?:-\w, )?(--[\w-]+)/gm)].map(([, name]) => name);
    const documented = [...text.matchAll(/^\| `(?:-\w, )?(--[\w-]+)/gm)].map(([, name]) => name);
    assert.ok(told.length > 10);
    assert.deepEqual(documented.sort(), told.sort());
  });

  it('names every field of the report', async (t) => {
    const report = await measured(t, { filter: ['xbzrle', 'cache 10'], runs: 1 });
    const section = text.slice(text.indexOf('## The report as JSON'));
    const [variant] = report.variants.slice(-1);
    for (const part of [report, report.machine, report.method, report.streams[0]!, variant!, { reason: '' }]) {
      for (const field of Object.keys(part)) assert.ok(section.includes(`\`${field}\``), field);
    }
  });

  it('has variants that can be measured', async (t) => {
    const path = folder(t);
    const source = /^```ts\n([\s\S]*?)^```$/m.exec(text)?.[1] ?? '';
    const module = ts.transpileModule(source, {
      compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023 },
    });
    writeFileSync(path('mine.mjs'), module.outputText);
    mkdirSync(path('node_modules'));
    symlinkSync(ROOT, path('node_modules/pagewire'));
    writeFileSync(path('guest.qemu'), smallStream());
    const names = ['brotli 1', 'xor + brotli 1', 'delta + zstd 9'];
    const args = [
      'bench',
      'guest.qemu',
      '--variants',
      'mine.mjs',
      '--filter',
      'brotli',
      '--filter',
      'zstd 9',
      '--quick',
    ];
    const { code, stderr } = await pagewire(t, [...args, '--runs', '1', '--json', 'mine.json'], { cwd: path('.') });
    assert.equal(code, 0, stderr);
    const { variants } = readReport(path('mine.json'));
    for (const name of names) assert.equal(variants.find((variant) => variant.name === name)?.status, 'measured', name);
  });
});

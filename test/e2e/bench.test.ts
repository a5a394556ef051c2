// `pagewire bench` without a stream, where there is a QEMU.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { it } from 'node:test';
import { checkReport } from '#src/bench/report/schema.js';
import { folder, pagewire } from '../cli/command.js';
import { howToInstall, qemus } from './harness/qemus.js';
import { inCi } from './harness/repository.js';

const qemu = qemus.at(-1);
const skip = qemu !== undefined || inCi ? false : `PAGEWIRE-NOT-RUN bench with a guest: ${howToInstall}`;

it('bench migrates a guest of its own, and measures on its stream', { skip }, async (t) => {
  assert.ok(qemu);
  const path = folder(t);
  const filter = ['zstd 3', 'xbzrle', 'delta + lz4 1'].flatMap((name) => ['--filter', name]);
  const args = ['bench', '--quick', '--runs', '1', '--json', path('report.json'), ...filter];
  const { code, stderr } = await pagewire(t, args, { env: { PAGEWIRE_QEMU: qemu.command } });
  assert.equal(code, 0, stderr);
  const report = checkReport(JSON.parse(readFileSync(path('report.json'), 'utf8')), 'it');
  const [stream] = report.streams;
  assert.match(stream?.name ?? '', new RegExp(`^guest under QEMU ${qemu.version.replace('.', '\\.')}`));
  assert.match(stream?.machine ?? '', /^pc-q35-/);
  assert.ok((stream?.pagesAgain ?? 0) > 100, 'the guest dirtied its memory');
  for (const { name, status, ratio = 0 } of report.variants) {
    assert.equal(status, 'measured', name);
    assert.ok(ratio > 1.2, `${name}: ${ratio}`);
  }
});

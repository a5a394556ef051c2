// multifd through two proxies: each of QEMU's connections is a channel of its own.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { prepare, setOut, staysHome, travels } from '../harness/journey.js';
import { EXIT } from '../harness/proxies.js';
import { qemus } from '../harness/qemus.js';
import { atOnce, full } from '../harness/repository.js';
import { onStage } from '../harness/stage.js';

const KINDS = [
  [2, 'none'],
  [4, 'none'],
  [2, 'zstd'],
] as const;

void describe('multifd through two proxies', { concurrency: atOnce }, () => {
  for (const [index, source] of qemus.entries()) {
    // all with the newest, and of the others each with one
    const kinds = full || index === qemus.length - 1 ? KINDS : [KINDS[index % KINDS.length] ?? KINDS[0]];
    for (const [channels, compression] of kinds) {
      const parameters = { 'multifd-channels': channels, 'multifd-compression': compression };
      void it(`QEMU ${source.version}, ${channels} channels${compression === 'none' ? '' : `, ${compression}`}`, () =>
        travels({ source, capabilities: ['multifd'], parameters }));
    }
  }

  const source = qemus.at(-1);
  if (source === undefined) return;
  const capabilities = ['multifd', 'return-path'];
  // 112 MiB for the session with one further connection, 7 for each one more (docs/proxy.md).
  const limited = (megabytes: number) => ({ destination: ['-T', '2', '--memory-limit', `${megabytes}M`] });

  void it('within the memory limit of the destination', () =>
    travels({ source, capabilities, parameters: { 'multifd-channels': 2 }, plan: limited(120) }));

  void it('beyond it: refused, and the guest stays', () =>
    onStage(async (stage) => {
      const parameters = { 'multifd-channels': 4 };
      const journey = await prepare(stage, { source, capabilities, parameters, plan: limited(120) });
      await setOut(journey);
      await journey.proxies.endWith(EXIT.link);
      assert.match(journey.proxies.source.said(), /refuses: there is memory for 2 further connections of QEMU/);
      await staysHome(journey);
    }));
});

// multifd through two proxies: each of QEMU's connections is a channel of its own.
import { describe, it } from 'node:test';
import { travels } from '../harness/journey.js';
import { qemus } from '../harness/qemus.js';
import { atOnce, full } from '../harness/repository.js';

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
});

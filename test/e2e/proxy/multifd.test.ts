// multifd through two proxies: each of QEMU's connections is a channel of its own.
import { describe, it } from 'node:test';
import { travels } from '../harness/journey.js';
import { qemus } from '../harness/qemus.js';
import { atOnce } from '../harness/repository.js';

void describe('multifd through two proxies', { concurrency: atOnce }, () => {
  for (const source of qemus) {
    for (const [channels, compression] of [
      [2, 'none'],
      [4, 'none'],
      [2, 'zstd'],
    ] as const) {
      const parameters = { 'multifd-channels': channels, 'multifd-compression': compression };
      void it(`QEMU ${source.version}, ${channels} channels${compression === 'none' ? '' : `, ${compression}`}`, () =>
        travels({ source, capabilities: ['multifd'], parameters }));
    }
  }
});

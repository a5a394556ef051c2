import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { guestImage } from '#src/demo/guest.js';
import { root } from './harness/repository.js';
import { onStage } from './harness/stage.js';

const lacking = ['as', 'ld'].filter((tool) => spawnSync(tool, ['--version']).status !== 0);

void describe('the embedded guest', () => {
  void it(
    'is what test/e2e/guest/bare.S makes',
    { skip: lacking.length > 0 || process.arch !== 'x64' ? 'needs binutils for x86' : false },
    () =>
      onStage((stage) => {
        const [object, image] = [stage.path('bare.o'), stage.path('bare.bin')];
        execFileSync('as', ['--32', '-o', object, join(root, 'test/e2e/guest/bare.S')]);
        execFileSync('ld', ['-m', 'elf_i386', '--oformat', 'binary', '-Ttext', '0x100000', '-o', image, object]);
        assert.deepEqual(
          readFileSync(image),
          Buffer.from(guestImage),
          'src/demo/guest.ts is stale: run scripts/qemu/make-demo-guest.mjs',
        );
        return Promise.resolve();
      }),
  );
});

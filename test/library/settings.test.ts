import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { describe, it } from 'node:test';
import * as pagewire from '#src/index.js';
import { createDecoder, createEncoder, type EncoderSettings, PagewireError } from '#src/index.js';
import { framesInFlight } from '#src/pipeline/settings.js';
import { leavesNothing } from '../pipeline/process.js';

/** Takes all descriptors that it may have, and with one more free each time tries until it can encode. */
const WITHOUT_DESCRIPTORS = `
  import { closeSync, openSync } from 'node:fs';
  import { createEncoder } from '#src/index.js';
  const taken = [openSync('/dev/null', 'r+')];
  const open = taken[0];
  const attempt = (input) => {
    try {
      createEncoder({ input, output: open });
      process.exit();
    } catch ({ code, message }) {
      console.log(code + ' ' + message);
    }
  };
  // What is loaded at the first call needs descriptors of its own.
  attempt(-1);
  try {
    for (;;) taken.push(openSync('/dev/null'));
  } catch ({ code }) {
    console.log(code);
  }
  for (;;) {
    attempt(open);
    closeSync(taken.pop());
  }
`;

const isA =
  (code: string, message: RegExp) =>
  (error: unknown): boolean =>
    error instanceof PagewireError && error.code === code && message.test(error.message);

describe('the library', () => {
  it('has this public face', () => {
    assert.deepEqual(Object.keys(pagewire).sort(), [
      'CODECS',
      'ERROR_CODES',
      'PagewireError',
      'bench',
      'createDecoder',
      'createEncoder',
      'createSourceProxy',
      'flatten',
      'readInfo',
      'readPage',
      'salvage',
      'verifyFile',
    ]);
  });

  it('is what the package name stands for', async () => {
    // Not a literal: what the package is called is known only when it runs.
    const byName = (await import(['page', 'wire'].join(''))) as typeof pagewire;
    assert.equal(byName.createEncoder, createEncoder);
  });

  const refused: [settings: EncoderSettings, message: RegExp][] = [
    [{ codec: 'gzip' as 'zlib' }, /codec gzip: one of none, lz4, zlib, zstd/],
    [{ level: 20 }, /level 20 of zstd: from -100 to 19/],
    [{ level: 0.5 }, /level 0.5/],
    [{ codec: 'lz4', level: NaN }, /level NaN/],
    [{ threads: 0 }, /0 threads/],
    [{ threads: 257 }, /257 threads/],
    [{ threads: 1.5 }, /1.5 threads/],
    [{ frameSize: 4095 }, /frame size 4095: from 4096 to 4194304/],
    [{ frameSize: (4 << 20) + 1 }, /frame size/],
    [{ frameSize: 5000.5 }, /frame size/],
    [{ cacheSize: { bytes: -1 } }, /cache size -1/],
    [{ cacheSize: { percent: 0.5 } }, /cache size 0.5/],
    [{ memoryLimit: -1 }, /memory limit -1/],
    [{ memoryLimit: Infinity }, /memory limit Infinity/],
    [{ stock: true, codec: 'zstd' }, /leave out stock or the codec/],
    [{ stock: true, level: 1 }, /leave out stock or the level/],
    [{ codec: 'none', level: 1 }, /level 1 of none: from 0 to 0/],
    [{ delta: false, cacheSize: { percent: 50 } }, /is for delta/],
    [{ stock: true, delta: false }, /leave one of the two out/],
  ];
  for (const [settings, message] of refused) {
    it(`refuses ${JSON.stringify(settings)} at once`, () => {
      assert.throws(() => createEncoder({ input: 0, output: 1, ...settings }), isA('BAD_OPTION', message));
    });
  }

  it('refuses descriptors that are none, at once, and holds nothing then', async () => {
    await leavesNothing(() => {
      const open = openSync('/dev/null', 'r+');
      for (const wrong of [-1, 9999]) {
        for (const how of [createEncoder, createDecoder]) {
          assert.throws(() => how({ input: wrong, output: open }), isA('BAD_DESCRIPTOR', /^file descriptor -?\d+: /));
          assert.throws(() => how({ input: open, output: wrong }), isA('BAD_DESCRIPTOR', /^file descriptor -?\d+: /));
        }
      }
      closeSync(open);
      return Promise.resolve();
    });
  });

  it('takes the want of descriptors neither for a wrong one nor for want of memory', () => {
    const command = [
      'ulimit -n 512; exec "$@"',
      'sh',
      process.execPath,
      '--input-type=module',
      '-e',
      WITHOUT_DESCRIPTORS,
    ];
    const { status, stdout, stderr } = spawnSync('sh', ['-c', ...command], { encoding: 'utf8' });
    assert.deepEqual([status, stderr], [0, '']);
    const [wrong, full, ...failures] = stdout.trimEnd().split('\n');
    assert.match(wrong ?? '', /^BAD_DESCRIPTOR /);
    assert.equal(full, 'EMFILE');
    for (const failure of failures) {
      assert.match(failure, /^INTERNAL (?:file descriptor \d+|cannot make an eventfd): .*\(os error 24\)$/);
    }
    for (const what of ['file descriptor', 'cannot make an eventfd']) {
      assert.ok(
        failures.some((failure) => failure.includes(what)),
        stdout,
      );
    }
  });

  it('refuses descriptors that are no whole numbers', () => {
    assert.throws(() => createEncoder({ input: 0.5, output: 1 }), isA('BAD_DESCRIPTOR', /^file descriptor 0.5: /));
    assert.throws(() => createDecoder({ input: 0, output: NaN }), isA('BAD_DESCRIPTOR', /^file descriptor NaN: /));
    assert.throws(() => createDecoder({ input: 2 ** 32, output: 1 }), isA('BAD_DESCRIPTOR', /^file descriptor 4294/));
  });

  it('refuses a memory limit that has no room for what is needed besides the cache', () => {
    for (const delta of [true, false]) {
      const settings = { memoryLimit: 30 << 20, delta };
      assert.throws(() => createEncoder({ input: 0, output: 1, ...settings }), isA('OUT_OF_MEMORY', /30\.0 MiB/));
    }
  });

  it('takes as many frames at once as docs/library.md says', () => {
    assert.deepEqual([1, 2, 8].map(framesInFlight), [5, 6, 12]);
  });
});

describe('a PagewireError', () => {
  it('keeps what it is told', () => {
    const cause = new Error('below');
    const error = new PagewireError('FRAMES_DAMAGED', 'wrong', { frame: 3, offset: 99, cause });
    assert.ok(error instanceof Error);
    assert.deepEqual(
      [error.name, error.code, error.message, error.frame, error.offset],
      [...['PagewireError', 'FRAMES_DAMAGED', 'wrong', 3, 99]],
    );
    assert.equal(error.cause, cause);
    assert.ok(!('cause' in new PagewireError('STOPPED', 'stopped')));
  });

  it('is made of anything that was thrown', () => {
    const own = new PagewireError('STOPPED', 'stopped');
    assert.equal(PagewireError.from(own), own);
    const native = Object.assign(new Error('no memory'), { code: 'OUT_OF_MEMORY' });
    assert.deepEqual([PagewireError.from(native).code, PagewireError.from(native).cause], ['OUT_OF_MEMORY', native]);
    assert.equal(PagewireError.from(Object.assign(new Error('no'), { code: 'ENOENT' })).code, 'INTERNAL');
    assert.equal(PagewireError.from('text').message, 'text');
  });
});

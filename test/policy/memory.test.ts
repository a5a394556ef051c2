import assert from 'node:assert/strict';
import { totalmem } from 'node:os';
import { describe, it } from 'node:test';
import type { Codec } from '#src/codecs.js';
import { checkEncoder } from '#src/pipeline/settings.js';
import {
  BASE_BYTES,
  defaultMemoryLimit,
  groupFree,
  sessionMatch,
  THREAD_BYTES,
  WORKER_BYTES,
} from '#src/policy/memory.js';

describe('the memory limit', () => {
  it('is at most half of the machine, in whole bytes', () => {
    const limit = defaultMemoryLimit();
    assert.ok(Number.isSafeInteger(limit) && limit > 0 && limit <= totalmem() / 2, `${limit}`);
  });

  it('is what was asked for, or the default', () => {
    const limit = (memoryLimit?: number): number | undefined => checkEncoder({ memoryLimit }).native.delta?.memoryLimit;
    assert.equal(limit(123_456_789_012), 123_456_789_012);
    const byDefault = limit();
    assert.ok(byDefault !== undefined && byDefault > 0 && byDefault <= totalmem() / 2);
  });
});

describe('how far back a session looks by default', () => {
  it('is an eighth of what there is for a page cache, up to 256 MiB, and not at all where that is little', () => {
    const MiB = 2 ** 20;
    assert.equal(sessionMatch(64 * 1024 * MiB), 256 * MiB);
    assert.equal(sessionMatch(1024 * MiB), 128 * MiB);
    assert.equal(sessionMatch(127 * MiB), 0);
    assert.equal(sessionMatch(-MiB), 0);
  });
});

describe('what a cgroup leaves', () => {
  const [limit, used] = ['1000000\n', '900000\n'];

  it('counts the cache of files that can be taken back as free', () => {
    assert.equal(groupFree({ limit, used, stat: 'anon 5\ninactive_file 600000\nactive_file 7\n' }), 700_000);
    assert.equal(groupFree({ limit, used, stat: 'inactive_file 1\ntotal_inactive_file 600000\n' }), 700_000);
    assert.equal(groupFree({ limit, used, stat: undefined }), 100_000);
  });

  it('is never less than nothing, nor more than its limit', () => {
    assert.equal(groupFree({ limit, used: '2000000', stat: '' }), 0);
    assert.equal(groupFree({ limit, used: '5', stat: 'inactive_file 600000' }), 1_000_000);
    assert.equal(groupFree({ limit: '0', used, stat: '' }), 0);
  });

  it('has no end where there is no limit', () => {
    for (const none of [undefined, 'max\n', '9223372036854771712\n']) {
      assert.equal(groupFree({ limit: none, used, stat: '' }), Infinity);
    }
  });
});

describe('what everything but the cache takes', () => {
  const fixed = (settings: Parameters<typeof checkEncoder>[0]): number =>
    checkEncoder(settings).native.delta?.fixedMemory ?? NaN;
  const [frame, page] = [1 << 20, 4096];

  it('is Node, the slots, and for each thread its own and its codec', () => {
    // docs/library.md: threads + 4 slots on their way and threads + 1 to pack into, each with room for its header.
    const slots = (threads: number, frameSize: number): number => (2 * threads + 5) * (frameSize + page);
    assert.equal(fixed({ codec: 'none', threads: 1 }), BASE_BYTES + slots(1, frame / 4));
    assert.equal(fixed({ codec: 'none', threads: 4, frameSize: 64 << 10 }), BASE_BYTES + slots(4, 64 << 10));
    for (const codec of ['lz4', 'zlib', 'zstd'] as const) {
      const [two, three] = [fixed({ codec, threads: 2 }), fixed({ codec, threads: 3 })];
      assert.ok(two > BASE_BYTES + slots(2, frame) + 2 * THREAD_BYTES, codec);
      const more = three - two - (slots(3, frame) - slots(2, frame));
      assert.ok(more > THREAD_BYTES && more < THREAD_BYTES + 4 * frame, codec);
    }
  });

  it('is in a session what is kept to be sent again, too, and the JavaScript engine of each worker', () => {
    const replay = 5 << 20;
    const more = (settings: Parameters<typeof checkEncoder>[0], codec: Codec): number =>
      checkEncoder(settings, replay).fixedMemory(codec, 0) - checkEncoder(settings).fixedMemory(codec, 0);
    assert.equal(more({ threads: 3 }, 'zstd'), replay + 3 * (WORKER_BYTES - THREAD_BYTES));
    assert.equal(more({ threads: 3 }, 'none'), replay);
  });

  it('grows with the level and with the frames', () => {
    assert.ok(fixed({ level: 19 }) > fixed({ level: 1 }));
    assert.ok(fixed({ codec: 'lz4', level: 9 }) > fixed({ codec: 'lz4', level: 1 }));
    assert.ok(fixed({ frameSize: 4 << 20 }) > fixed({ frameSize: 1 << 20 }));
  });
});

describe('a delta that is worth sending', () => {
  it('is a small one before a codec, any that is smaller than the page without', () => {
    const most = (settings: Parameters<typeof checkEncoder>[0]): number | undefined =>
      checkEncoder(settings).native.delta?.maxDelta;
    assert.equal(most({}), 1024);
    assert.ok(most({ codec: 'none' })! > 65_536 && most({ stock: true })! > 65_536);
    assert.equal(most({ delta: false }), undefined);
  });
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { codecNumber } from '#src/codecs.js';
import type { NativeFlow } from '#src/native.js';
import type { Workers } from '#src/pipeline/workers.js';
import { INLINE_BYTES } from '#src/pipeline/settings.js';
import { Packer } from '#src/session/packer.js';

/** What a packer asks of a flow whose link is full; `told`: what its small frames were to be packed with, in turn. */
class FullFlow {
  readonly handle = 0;
  readonly told: (number | 'stored')[] = [];

  wire(): ReturnType<NativeFlow['wire']> {
    return { isDry: false, isFull: true, isPeerBusy: false };
  }

  setDirect(codec: number): void {
    this.told.push(codec);
  }

  setDirectStored(): void {
    this.told.push('stored');
  }
}

void test('a step holds for the small frames of all flows at once', async () => {
  const workers = { warm: () => undefined, pack: () => Promise.resolve(0) } as unknown as Workers;
  const packer = new Packer({ codec: 'zstd', level: 1 }, workers, 2);
  const [main, other] = [new FullFlow(), new FullFlow()];
  const asFlow = (flow: FullFlow): NativeFlow => flow as unknown as NativeFlow;
  packer.add(asFlow(main));
  packer.add(asFlow(other));
  assert.deepEqual([main.told, other.told], [['stored'], ['stored']]);

  const pack = async (): Promise<number> => packer.pack(asFlow(main), 0, INLINE_BYTES + 1);
  // There is no such slot; a frame that goes as it is asks the core for it.
  await assert.rejects(pack);
  await pack();
  assert.equal(packer.packing.codec, 'lz4');
  assert.deepEqual(other.told, ['stored', codecNumber('lz4')]);

  packer.delete(asFlow(other));
  await pack();
  await pack();
  assert.equal(packer.packing.codec, 'zstd');
  assert.deepEqual(main.told, ['stored', codecNumber('lz4'), codecNumber('zstd')]);
  assert.equal(other.told.length, 2, 'it is closed');
});

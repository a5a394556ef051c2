import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Workers } from '#src/pipeline/workers.js';

/** No pool has none: this one does not start. */
const NO_THREADS = 0;

it('workers that did not start tell whoever needs them, and can be ended all the same', async () => {
  const workers = new Workers(NO_THREADS);
  workers.warm();
  await assert.rejects(workers.pack({ handle: 0, slot: 0, codec: 0, level: 0 }));
  await workers.close();
});

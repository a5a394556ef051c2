import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { it } from 'node:test';
import { createEncoder, type EncoderSettings } from '#src/index.js';
import { Workers } from '#src/pipeline/workers.js';
import { Pipe } from './pipe.js';

/** No pool has none: this one does not start. */
const NO_THREADS = 0;

it('workers that did not start tell whoever needs them, and can be ended all the same', async () => {
  const workers = new Workers(NO_THREADS);
  workers.warm();
  await assert.rejects(workers.pack({ handle: 0, slot: 0, codec: 0, level: 0 }));
  await workers.close();
});

it('an encoder starts the threads that pack, beside those that read and write, and none where nothing is packed', async (t) => {
  for (const [settings, started] of [
    [{ threads: 3 }, 5],
    [{ threads: 3, stock: true }, 2],
  ] as [EncoderSettings, number][]) {
    const [input, output] = [new Pipe(t), new Pipe(t)];
    const before = readdirSync('/proc/self/task').length;
    const encoder = createEncoder({ input: input.readEnd, output: output.writeEnd, ...settings });
    assert.equal(readdirSync('/proc/self/task').length - before, started);
    input.close();
    await encoder.done;
  }
});

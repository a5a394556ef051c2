import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CODECS, createDecoder, createEncoder, type Decoder, type Encoder, PagewireError } from '#src/index.js';
import { encoded } from './carried.js';
import { noise, qemuElements, text } from './content.js';
import { Pipe } from './pipe.js';
import { leavesNothing } from './process.js';

async function isStopped(flow: Encoder | Decoder): Promise<void> {
  await assert.rejects(flow.done, (error) => error instanceof PagewireError && error.code === 'STOPPED');
  // What was counted can still be asked for.
  assert.ok(flow.snapshot().totals.bytesIn >= 0);
  flow.stop();
}

/** Waits until the count stands still: the pipeline holds as much as it can. */
async function standsStill(count: () => number): Promise<number> {
  let last = -1;
  for (let now = count(); now !== last; now = count()) {
    last = now;
    await sleep(300);
  }
  return last;
}

/** A file with these bytes, and as many zeros behind them that take no room. */
function temporaryFile(bytes: Uint8Array, zeros = 0): { open: () => number; remove: () => void } {
  const folder = mkdtempSync(join(tmpdir(), 'pagewire-'));
  const path = join(folder, 'file');
  writeFileSync(path, bytes);
  if (zeros > 0) truncateSync(path, bytes.length + zeros);
  return {
    open: () => openSync(path, 'r'),
    remove: () => {
      rmSync(folder, { recursive: true });
    },
  };
}

/** The ways to stop: each gives what is to be passed to the pipeline, and what then stops it. */
const WAYS = {
  'stop()': () => ({
    signal: undefined,
    stop: (flow: Encoder | Decoder) => {
      flow.stop();
    },
  }),
  'an AbortSignal': () => {
    const controller = new AbortController();
    return {
      signal: controller.signal,
      stop: () => {
        controller.abort();
      },
    };
  },
};

describe('stopping', () => {
  for (const [way, make] of Object.entries(WAYS)) {
    it(`by ${way}, with a silent input: nothing is left`, async (t) => {
      await leavesNothing(async () => {
        const [input, output] = [new Pipe(t), new Pipe(t)];
        const ends = { input: input.readEnd, output: output.writeEnd };
        for (const how of [createEncoder, createDecoder]) {
          const { signal, stop } = make();
          const flow = how({ ...ends, signal });
          await sleep(20);
          stop(flow);
          await isStopped(flow);
        }
        input.close();
        output.close();
      });
    });

    it(`by ${way}, in the middle of a stream whose input has paused: nothing is left`, async (t) => {
      const streams = [Buffer.concat(qemuElements()), text(100_000), Buffer.from('Q')];
      await leavesNothing(async () => {
        for (const stream of streams) {
          const [input, output] = [new Pipe(t), new Pipe(t)];
          const { signal, stop } = make();
          const encoder = createEncoder({ input: input.readEnd, output: output.writeEnd, signal });
          const reader = output.reader();
          const writer = input.writer();
          writer.write(stream);
          await reader.has(65);
          stop(encoder);
          await isStopped(encoder);
          input.close();
          output.close();
        }
      });
    });

    it(`by ${way}, with an output that nobody reads: nothing is left`, async (t) => {
      const file = temporaryFile(noise(32 << 20));
      await leavesNothing(async () => {
        for (const codec of ['none', 'zstd'] as const) {
          const input = file.open();
          const output = new Pipe(t);
          const { signal, stop } = make();
          const encoder = createEncoder({ input, output: output.writeEnd, signal, codec });
          await standsStill(() => encoder.snapshot().totals.bytesIn);
          stop(encoder);
          await isStopped(encoder);
          output.close();
          closeSync(input);
        }
      });
      file.remove();
    });

    it(`by ${way}, a decoder with an output that nobody reads: nothing is left`, async (t) => {
      const frames = await encoded(noise(24 << 20), { frameSize: 300_000 });
      const file = temporaryFile(frames);
      await leavesNothing(async () => {
        const input = file.open();
        const output = new Pipe(t);
        const { signal, stop } = make();
        const decoder = createDecoder({ input, output: output.writeEnd, signal });
        await standsStill(() => decoder.snapshot().totals.bytesIn);
        stop(decoder);
        await isStopped(decoder);
        output.close();
        closeSync(input);
      });
      file.remove();
    });
  }

  it('before it has begun', async (t) => {
    await leavesNothing(async () => {
      const [input, output] = [new Pipe(t), new Pipe(t)];
      const ends = { input: input.readEnd, output: output.writeEnd };
      await isStopped(createEncoder({ ...ends, signal: AbortSignal.abort() }));
      const decoder = createDecoder(ends);
      decoder.stop();
      decoder.stop();
      await isStopped(decoder);
      input.close();
      output.close();
    });
  });

  it('while workers pack', async (t) => {
    const file = temporaryFile(text(4 << 20));
    await leavesNothing(async () => {
      for (let round = 0; round < 4; round++) {
        const input = file.open();
        const output = new Pipe(t);
        const reader = output.reader();
        const encoder = createEncoder({ input, output: output.writeEnd, level: 19, threads: 2, delta: false });
        await reader.has(1);
        await sleep(round * 60);
        encoder.stop();
        await isStopped(encoder);
        output.close();
        closeSync(input);
      }
    });
    file.remove();
  });

  it('after the end does nothing', async () => {
    const output = new PassThrough().resume();
    const input = new PassThrough();
    const encoder = createEncoder({ input, output });
    input.end('all of it');
    assert.deepEqual(await encoder.done, { truncated: false, within: undefined });
    encoder.stop();
    encoder.setDelta(false);
    encoder.setCacheBytes(0);
    assert.equal(encoder.snapshot().totals.bytesIn, 9);
  });
});

describe('an output that nobody reads', () => {
  for (const codec of CODECS) {
    it(`stops the input after a bounded number of bytes: ${codec}`, async (t) => {
      // Noise stays as large as it is with every codec.
      const file = temporaryFile(noise(32 << 20), 256 << 20);
      const input = file.open();
      const output = new Pipe(t);
      const [threads, frameSize] = [2, 256 << 10];
      const before = process.memoryUsage.rss();
      const encoder = createEncoder({ input, output: output.writeEnd, codec, threads, frameSize });
      const read = await standsStill(() => encoder.snapshot().totals.bytesIn);
      // docs/library.md: frames on their way, one for each thread that packs, the parser's buffer and the pipe.
      const bound = (2 * threads + 4 + threads + 1) * frameSize + (256 << 10) + (1 << 20);
      assert.ok(read >= 1 << 20, `only ${read} bytes were read`);
      assert.ok(read <= bound, `${read} bytes were read for an output that takes none; bound ${bound}`);
      const grown = process.memoryUsage.rss() - before;
      assert.ok(grown < 128 << 20, `memory grew by ${grown} bytes`);
      encoder.stop();
      await isStopped(encoder);
      closeSync(input);
      file.remove();
    });
  }

  it('as a Node stream stops the input too', async () => {
    let made = 0;
    const input = new (class extends PassThrough {
      override _read(): void {
        made += 64 << 10;
        if (made < 256 << 20) this.push(Buffer.alloc(64 << 10));
        else this.push(null);
      }
    })();
    const blocked = new Writable({ write: () => undefined });
    const encoder = createEncoder({
      input,
      output: blocked,
      codec: 'none',
      delta: false,
      threads: 1,
      frameSize: 64 << 10,
    });
    await standsStill(() => made);
    // Two pipes of at most 1 MiB, the slots, and what Node's own streams hold.
    assert.ok(made <= (2 << 20) + 8 * (64 << 10) + (1 << 20), `${made} bytes were made for an output that takes none`);
    encoder.stop();
    await isStopped(encoder);
    input.destroy();
    blocked.destroy();
  });
});

it('a reader that goes away ends an encoder and a decoder with OUTPUT_CLOSED', async (t) => {
  const frames = await encoded(noise(4 << 20));
  await leavesNothing(async () => {
    for (const [how, bytes] of [
      [createEncoder, noise(4 << 20)],
      [createDecoder, frames],
    ] as const) {
      const [input, output] = [new Pipe(t), new Pipe(t)];
      const flow = how({ input: input.readEnd, output: output.writeEnd });
      input.close(input.readEnd);
      output.close(output.writeEnd);
      const writer = input.writer();
      writer.write(bytes);
      await sleep(20);
      output.close();
      await assert.rejects(
        flow.done,
        (error) =>
          error instanceof PagewireError &&
          error.code === 'OUTPUT_CLOSED' &&
          error.offset !== undefined &&
          error.message.includes(`after ${error.offset} bytes`),
      );
      input.close();
    }
  });
});

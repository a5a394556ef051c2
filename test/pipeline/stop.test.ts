import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CODECS, createDecoder, createEncoder, type Decoder, type Encoder, PagewireError } from '#src/index.js';
import { Collector, encoded, readable, tryDecode } from './carried.js';
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

/** Opens a file with these bytes, and as many zeros behind them that take no room; it goes with the test. */
function temporaryFile(t: TestContext, bytes: Uint8Array, zeros = 0): () => number {
  const folder = mkdtempSync(join(tmpdir(), 'pagewire-'));
  t.after(() => {
    rmSync(folder, { recursive: true });
  });
  const path = join(folder, 'file');
  writeFileSync(path, bytes);
  if (zeros > 0) truncateSync(path, bytes.length + zeros);
  return () => openSync(path, 'r');
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
      const open = temporaryFile(t, noise(32 << 20));
      await leavesNothing(async () => {
        for (const codec of ['none', 'zstd'] as const) {
          const input = open();
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
    });

    it(`by ${way}, a decoder with an output that nobody reads: nothing is left`, async (t) => {
      const frames = await encoded(noise(24 << 20), { frameSize: 300_000 });
      const open = temporaryFile(t, frames);
      await leavesNothing(async () => {
        const input = open();
        const output = new Pipe(t);
        const { signal, stop } = make();
        const decoder = createDecoder({ input, output: output.writeEnd, signal });
        await standsStill(() => decoder.snapshot().totals.bytesIn);
        stop(decoder);
        await isStopped(decoder);
        output.close();
        closeSync(input);
      });
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
    const open = temporaryFile(t, text(4 << 20));
    await leavesNothing(async () => {
      for (let round = 0; round < 4; round++) {
        const input = open();
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
      const open = temporaryFile(t, noise(32 << 20), 256 << 20);
      const input = open();
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

describe('Node streams', () => {
  it('are let go when the pipeline is stopped, though they are silent or full', async () => {
    await leavesNothing(async () => {
      for (const how of [createEncoder, createDecoder]) {
        const [silent, full] = [new PassThrough(), new Writable({ write: () => undefined })];
        const flow = how({ input: silent, output: full });
        await sleep(20);
        flow.stop();
        await isStopped(flow);
        assert.ok(silent.destroyed, 'the input');
        assert.ok(full.destroyed, 'the output');
      }
    });
  });

  it('an output does not end well where the pipeline failed', async () => {
    const frames = await encoded(text(100_000));
    const output = new PassThrough().resume();
    let finished = false;
    output.on('finish', () => (finished = true)).on('error', () => undefined);
    const decoder = createDecoder({ input: readable(frames.subarray(0, -1)), output });
    await assert.rejects(decoder.done);
    await sleep(50);
    assert.equal(finished, false);
    assert.ok(output.destroyed);
  });

  it('an input that fails, or is cut short, does not end well: there is no end mark', async () => {
    async function* broken(): AsyncGenerator<Buffer> {
      yield text(1000);
      await sleep(10);
      throw new Error('the source broke off');
    }
    const cut = new PassThrough();
    cut.write(text(1000));
    setTimeout(() => cut.destroy(), 20);
    for (const [input, message] of [
      [Readable.from(broken()), /the source broke off/],
      [cut, /Premature close/],
    ] as const) {
      const output = new Collector();
      const encoder = createEncoder({ input, output });
      await assert.rejects(
        encoder.done,
        (error) => error instanceof PagewireError && error.code === 'READ_FAILED' && message.test(error.message),
      );
      assert.ok(output.destroyed && !output.writableFinished);
      assert.equal((await tryDecode(output.bytes)).error?.code, 'FRAMES_TRUNCATED');
    }
  });

  it('an input of objects is refused', async () => {
    for (const [value, type] of [
      [{ a: 1 }, 'object'],
      [5, 'number'],
    ] as const) {
      const encoder = createEncoder({ input: Readable.from([text(10), value]), output: new Collector() });
      await assert.rejects(
        encoder.done,
        (error) =>
          error instanceof PagewireError &&
          error.code === 'READ_FAILED' &&
          error.message === `cannot read the input: the stream gives values of type ${type}, not bytes`,
      );
    }
  });

  it('what came out before a failure is there when done is settled', async () => {
    const content = noise(900_000);
    const frames = await encoded(content, { frameSize: 100_000 });
    const output = new Collector();
    await assert.rejects(createDecoder({ input: readable(frames.subarray(0, -1)), output }).done);
    assert.ok(output.bytes.equals(content));
  });

  it('an output that fails ends the pipeline with its error', async () => {
    const failing = (): Writable =>
      new Writable({
        write: (_chunk, _encoding, done) => {
          done(new Error('the disk is on fire'));
        },
      });
    const [input, closed] = [readable(noise(8 << 20)), new PassThrough()];
    await assert.rejects(createEncoder({ input, output: failing() }).done, {
      code: 'WRITE_FAILED',
      message: 'cannot write the output: the disk is on fire',
    });
    assert.ok(input.destroyed);
    setTimeout(() => closed.destroy(), 20);
    const { done } = createEncoder({ input: readable(noise(8 << 20)), output: closed });
    await assert.rejects(done, { code: 'OUTPUT_CLOSED' });
  });

  it('both ways of one socket can be used at once', async () => {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      createDecoder({ input: socket, output: socket }).done.catch(() => undefined);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const socket = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true });
    const back = new Collector();
    socket.pipe(back);
    const content = text(500_000);
    await createEncoder({ input: readable(content), output: socket }).done;
    await once(back, 'finish');
    assert.ok(back.bytes.equals(content));
    server.close();
  });
});

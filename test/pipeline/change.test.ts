import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { CODECS, createDecoder, createEncoder, PagewireError } from '#src/index.js';
import { codecNumber } from '#src/codecs.js';
import { checkEncoder } from '#src/pipeline/settings.js';
import { SimulatedDestination } from '#src/simulator/destination.js';
import { SimulatedGuest } from '#src/simulator/guest.js';
import { Random } from '#src/simulator/random.js';
import { Collector, decoded } from './carried.js';
import { text } from './content.js';
import { FrameKind, readStream } from './frames.js';
import { Pipe } from './pipe.js';

describe('while a stream flows', () => {
  it('setCodec holds from the next frame on', async (t) => {
    const [input, output] = [new Pipe(t), new Pipe(t)];
    const encoder = createEncoder({ input: input.readEnd, output: output.writeEnd, codec: 'none', delta: false });
    output.close(output.writeEnd);
    input.close(input.readEnd);
    const [writer, reader] = [input.writer(), output.reader()];
    const levels = { none: [0], lz4: [1, 9, -5], zlib: [1, 12], zstd: [1, 19, -7] };
    const changes = CODECS.flatMap((codec) => levels[codec].map((level) => ({ codec, level })));
    const pieces = changes.map((_, i) => text(5000 + 9000 * (i % 3), i));
    let sent = 0;
    for (const [i, { codec, level }] of changes.entries()) {
      encoder.setCodec(codec, level);
      writer.write(pieces[i]!);
      sent += pieces[i]!.length;
      // All of it has come out before the codec changes again.
      while (readComplete(reader.bytes) < sent) await reader.has(reader.bytes.length + 1);
    }
    writer.end();
    await encoder.done;
    const content = Buffer.concat(pieces);
    const frames = readStream(await reader.end(), content);
    let offset = 0;
    for (const [i, { codec, level }] of changes.entries()) {
      const own = frames.filter((frame) => frame.offset >= offset && frame.offset < offset + pieces[i]!.length);
      assert.ok(own.length > 0);
      for (const frame of own) {
        assert.equal(frame.codec, codecNumber(codec), `${codec} ${level}`);
        assert.equal(frame.level, level);
      }
      offset += pieces[i]!.length;
    }
    assert.ok((await decoded(reader.bytes)).equals(content));
  });

  it('setCodec refuses what there is not, and nothing changes', async () => {
    const encoder = createEncoder({ input: Readable.from([text(100)]), output: new Collector(), codec: 'lz4' });
    for (const [codec, level] of [
      ['lz4', 13],
      ['none', 1],
      ['zstd', 1.5],
      ['zlib', -1],
    ] as const) {
      assert.throws(
        () => {
          encoder.setCodec(codec, level);
        },
        (error) => error instanceof PagewireError && error.code === 'BAD_OPTION',
      );
    }
    await encoder.done;
    assert.deepEqual([encoder.snapshot().codec, encoder.snapshot().level], ['lz4', 1]);
  });

  it('setCodec and setCacheBytes keep to the memory limit', async (t) => {
    const { fixedMemory } = checkEncoder({ threads: 2 });
    const memoryLimit = fixedMemory('lz4', 1) + (2 << 20);
    const [input, output] = [new Pipe(t), new Pipe(t)];
    const [codec, threads] = ['lz4', 2] as const;
    const ends = { input: input.readEnd, output: output.writeEnd };
    const encoder = createEncoder({ ...ends, codec, threads, memoryLimit });
    input.close(input.readEnd);
    output.close(output.writeEnd);
    const [writer, reader] = [input.writer(), output.reader()];
    const guest = new SimulatedGuest({ ramBytes: 4 << 20, passes: 3 });
    const stream = Buffer.concat([...guest.stream()]);
    writer.write(stream.subarray(0, 3_000_000));
    while (encoder.snapshot().totals.bytesIn < 3_000_000) await new Promise(setImmediate);
    assert.equal(encoder.snapshot().guest?.cacheGranted, 2 << 20);
    const refused = (level: number): void => {
      assert.throws(
        () => {
          encoder.setCodec('zstd', level);
        },
        (error) =>
          error instanceof PagewireError && error.code === 'BAD_OPTION' && error.message.includes('setCacheBytes'),
      );
    };
    refused(19);
    encoder.setCacheBytes(1 << 30);
    writer.end(stream.subarray(3_000_000));
    await Promise.all([encoder.done, reader.end()]);
    assert.equal(encoder.snapshot().codec, 'lz4');
    assert.equal(encoder.snapshot().delta?.cache.budget, 2 << 20);
  });

  for (const seed of [1, 2, 3]) {
    it(`setDelta and setCacheBytes at any time leave the guest's RAM right (${seed})`, async () => {
      const random = new Random(seed);
      const guest = new SimulatedGuest({ seed, ramBytes: 4 << 20, passes: 8, chunkBytes: 32 << 10 });
      const destination = new SimulatedDestination();
      let [changes, given] = [0, 0];
      async function* stream(): AsyncGenerator<Buffer> {
        for (const chunk of guest.stream()) {
          yield chunk;
          given += chunk.length;
          // What is set here meets it between two chunks, however fast it is.
          while (encoder.snapshot().totals.bytesIn < given) await new Promise(setImmediate);
          if (random.below(4) === 0) encoder.setDelta(random.below(2) === 0);
          if (random.below(6) === 0)
            encoder.setCacheBytes(
              random.pick([
                [0, 1],
                [random.below(2 << 20), 3],
                [64 << 20, 2],
              ]),
            );
          changes++;
        }
      }
      const encoded = new Collector();
      const encoder = createEncoder({ input: Readable.from(stream(), { highWaterMark: 1 }), output: encoded });
      await encoder.done;
      assert.ok(changes > 100);
      destination.push(await decoded(encoded.bytes));
      destination.end();
      assert.deepEqual(destination.digests(), guest.digests());
      // Delta was on for a part of the way at least, so there was something to get wrong.
      assert.ok(encoder.snapshot().delta!.pages.delta > 0);
    });
  }

  it('delta off sends every page, and on again sends differences', async (t) => {
    const [input, output] = [new Pipe(t), new Pipe(t)];
    const encoder = createEncoder({ input: input.readEnd, output: output.writeEnd, stock: true });
    const [writer, reader] = [input.writer(), output.reader()];
    output.close(output.writeEnd);
    input.close(input.readEnd);
    const guest = new SimulatedGuest({ ramBytes: 1 << 20, passes: 8, dirtyPagesPerPass: 80, workload: 'sparse' });
    const chunks = Buffer.concat([...guest.stream()]);
    encoder.setDelta(false);
    const half = chunks.length - 1_500_000;
    writer.write(chunks.subarray(0, half));
    while (encoder.snapshot().totals.bytesIn < half) await new Promise(setImmediate);
    assert.equal(encoder.snapshot().delta?.pages.delta, 0);
    encoder.setDelta(true);
    writer.end(chunks.subarray(half));
    await encoder.done;
    const destination = new SimulatedDestination();
    destination.push(await reader.end());
    assert.deepEqual(destination.digests(), guest.digests());
    assert.ok(encoder.snapshot().delta!.pages.delta > 0);
  });

  it('the guest is told once, while its pages come, and snapshots tell how far it is', async (t) => {
    const guest = new SimulatedGuest({ ramBytes: 1 << 20, passes: 1 });
    const [input, output] = [new Pipe(t), new Pipe(t)];
    const told: string[] = [];
    const encoder = createEncoder({
      input: input.readEnd,
      output: output.writeEnd,
      onGuest: ({ machine, ramBytes, blocks, cacheGranted, cacheForAll }) => {
        told.push(`${machine} ${ramBytes} ${blocks} ${cacheGranted === cacheForAll}`);
      },
    });
    const decoder = createDecoder({ input: output.readEnd, output: new Collector() });
    for (const end of [input.readEnd, output.readEnd, output.writeEnd])
      (end === input.readEnd ? input : output).close(end);
    const writer = input.writer();
    const stream = Buffer.concat([...guest.stream()]);
    writer.write(stream.subarray(0, 50_000));
    while (decoder.snapshot().totals.frames < 2 || told.length === 0) await new Promise(setImmediate);
    const ram = guest.blocks.reduce((sum, { bytes }) => sum + bytes.length, 0);
    assert.deepEqual(told, [`pc-q35-10.0 ${ram} 9 true`]);
    assert.equal(encoder.snapshot().totals.bytesIn, 50_000);
    writer.end(stream.subarray(50_000));
    await Promise.all([encoder.done, decoder.done]);
    assert.equal(told.length, 1);
    assert.equal(encoder.snapshot().totals.bytesOut, decoder.snapshot().totals.bytesIn);
    assert.equal(encoder.snapshot().totals.inFlight, 0);
  });
});

/** How many bytes of the original stream the whole frames at the beginning hold. */
function readComplete(bytes: Buffer): number {
  let raw = 0;
  for (let at = 0; at + 48 <= bytes.length;) {
    const next = at + 48 + bytes.readUInt32LE(at + 28);
    if (next > bytes.length) break;
    if (bytes[at + 4] === FrameKind.DATA) raw += bytes.readUInt32LE(at + 24);
    at = next;
  }
  return raw;
}

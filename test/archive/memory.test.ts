// What a save with an index takes, held against what it tells: the process's own peak, with every slot on its way at once.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { PagewireError } from '#src/errors.js';
import { checkEncoder, type EncoderSettings, framesInFlight } from '#src/pipeline/settings.js';
import { Random } from '#src/simulator/random.js';
import { folder, Running } from '../cli/command.js';
import { qemuElements } from '../pipeline/content.js';

const MiB = 2 ** 20;
const PAGES = 1 << 20;

/** A guest whose pages are each one byte all over, in no order: the shortest records, and the least alike, that a stream can have. */
function filledPages(length: number): Buffer {
  const head = Buffer.concat(qemuElements(PAGES * 4096, 0).slice(0, -3));
  const stream = Buffer.alloc(length);
  head.copy(stream);
  const random = new Random(1);
  let at = head.length;
  for (; at + 9 <= length; at += 9) {
    stream.writeBigUInt64BE(BigInt(random.below(PAGES)) * 4096n + 0x22n, at);
    stream.writeUInt8(random.below(256), at + 8);
  }
  return stream.subarray(0, at);
}

/** Encodes FILE to standard output, says when all slots are taken or the source stands still, and at the end what it took. */
const SAVE = `
  import { openSync } from 'node:fs';
  import { setTimeout as sleep } from 'node:timers/promises';
  import { createEncoder } from ${JSON.stringify(new URL('../../../dist/index.js', import.meta.url).href)};
  const [file, slots, settings] = process.argv.slice(1);
  const encoder = createEncoder({ ...JSON.parse(settings), input: openSync(file, 'r'), output: 1 });
  let [taken, before] = [0, 0];
  for (let still = 0; still < 100 && taken < Number(slots); still++) {
    await sleep(10);
    const { inFlight, rawBytes } = encoder.snapshot().totals;
    if (rawBytes > before) still = 0;
    [taken, before] = [inFlight, rawBytes];
  }
  console.error(taken + ' frames are on their way');
  await encoder.done;
  console.error('peak ' + process.resourceUsage().maxRSS * 1024);
`;

describe('the memory that a save tells', () => {
  it('is not exceeded by page records of frames on their way', async (t) => {
    const at = folder(t);
    const settings: EncoderSettings = { delta: false, codec: 'none', threads: 8, frameSize: MiB, index: true };
    const told = checkEncoder(settings).fixedMemory('none', 0);
    const inFlight = framesInFlight(8);
    const stream = filledPages(4 * inFlight * MiB);
    writeFileSync(at('stream'), stream);
    const limited = { ...settings, memoryLimit: told };
    assert.throws(
      () => checkEncoder({ ...settings, memoryLimit: told - 1 }),
      (error) => error instanceof PagewireError && error.code === 'OUT_OF_MEMORY',
    );
    const args = ['--input-type=module', '-e', SAVE, at('stream'), `${inFlight}`, JSON.stringify(limited)];
    const running = new Running(t, args, { program: process.execPath });
    const { stdout } = running.child;
    assert.ok(stdout);
    // A sink that was fast lets as many frames come as there are slots; then it stands still.
    let read = 0;
    stdout.on('data', (chunk: Buffer) => {
      read += chunk.length;
      if (read >= 2 * inFlight * MiB) stdout.pause();
    });
    const said = await running.says(/on their way/);
    read = -Infinity;
    stdout.resume();
    const { code, stderr, stdout: frames } = await running.ended;
    assert.equal(code, 0, stderr);
    assert.ok(frames.length > stream.length);
    const [, peak = NaN] = /peak (\d+)/.exec(stderr)?.map(Number) ?? [];
    t.diagnostic(`${/\d+ frames.*/.exec(said)?.[0]}: ${(peak / MiB).toFixed(1)} MiB, told ${(told / MiB).toFixed(1)}`);
    assert.ok(peak <= told, `${peak} bytes at the most, ${told} were told`);
  });
});

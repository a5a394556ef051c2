// A frame is sealed when the input pauses and the wire could take more: nothing waits for a frame to fill.
import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { CODECS, createDecoder, createEncoder, type EncoderSettings } from '#src/index.js';
import { noise, qemuElements, text } from './content.js';
import { Pipe } from './pipe.js';

const CONTENTS: [what: string, make: (length: number) => Buffer][] = [
  ['random bytes', (length) => noise(length)],
  ['text', (length) => text(length)],
  ["the first byte of a QEMU stream's name, again and again", (length) => Buffer.alloc(length, 'Q')],
  ["a QEMU stream's beginning", (length) => Buffer.concat(qemuElements()).subarray(0, length)],
];

describe('all that was written arrives while the pipe stays open', () => {
  for (const codec of CODECS) {
    for (const delta of [true, false]) {
      for (const [what, make] of CONTENTS) {
        it(`${codec}, ${delta ? 'delta' : 'no delta'}: 1, 9 and 4097 bytes of ${what}`, async (t) => {
          for (const length of [1, 9, 4097]) {
            const content = make(length);
            // With delta a page is held until it is whole: what became of it cannot be known before.
            const certain = delta && what.includes('beginning') ? wholeElements(length) : length;
            await arrives(t, [content], { codec, delta }, certain);
          }
        });
      }
    }

    it(`${codec}: one byte after the other`, async (t) => {
      await arrives(
        t,
        [...noise(40)].map((byte) => Buffer.from([byte])),
        { codec },
      );
    });

    it(`${codec}: a QEMU stream element by element, and a new page the moment it is whole`, async (t) => {
      await arrives(t, qemuElements(), { codec });
    });
  }

  it('with stock output too', async (t) => {
    await arrives(t, qemuElements(), { stock: true });
  });
});

/** How much of the first `length` bytes of `qemuElements()` is known for certain: all but a page that is not whole. */
function wholeElements(length: number): number {
  let at = 0;
  let certain = 0;
  for (const element of qemuElements()) {
    const isPage = element.length > 4096;
    if (at + element.length <= length) certain = at + element.length;
    else return isPage ? certain : length;
    at = certain;
  }
  return certain;
}

/** Writes one piece after the other and waits for each at the other end before the next is written. */
async function arrives(t: TestContext, pieces: Buffer[], settings: EncoderSettings, certain?: number): Promise<void> {
  const [input, between, output] = [new Pipe(t), new Pipe(t), new Pipe(t)];
  const flows = [createEncoder({ ...settings, input: input.readEnd, output: between.writeEnd })];
  const ends: Promise<unknown>[] = [flows[0]!.done];
  if (settings.stock === true) {
    output.close();
  } else {
    ends.push(createDecoder({ input: between.readEnd, output: output.writeEnd }).done);
    between.close(between.readEnd);
  }
  input.close(input.readEnd);
  between.close(between.writeEnd);
  const writer = input.writer();
  const last = settings.stock === true ? between : output;
  if (last === output) output.close(output.writeEnd);
  const reader = last.reader();
  let sent = Buffer.alloc(0);
  for (const piece of pieces) {
    sent = Buffer.concat([sent, piece]);
    writer.write(piece);
    const due = certain ?? sent.length;
    const arrived = await reader.has(due);
    assert.ok(arrived.length >= due && arrived.equals(sent.subarray(0, arrived.length)), `after ${sent.length} bytes`);
  }
  writer.end();
  await Promise.all(ends);
  assert.ok((await reader.end()).equals(sent));
}

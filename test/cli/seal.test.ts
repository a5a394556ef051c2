// encode | decode, as two programs: nothing that was written waits for more.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CODECS } from '#src/index.js';
import { noise, qemuElements } from '../pipeline/content.js';
import { Pipe } from '../pipeline/pipe.js';
import { Running } from './command.js';

describe('through encode | decode all arrives while the pipe stays open', () => {
  for (const codec of CODECS) {
    it(`1, 9 and 4097 bytes, and a QEMU stream's beginning element by element: ${codec}`, async (t) => {
      const contents = [
        [noise(1), noise(9), noise(4097)],
        [1, 9, 4097].map((length) => Buffer.alloc(length, 'Q')),
        [Buffer.from('Q'), Buffer.from('EVM\0\0\0\x03\x07'), noise(4097)],
        qemuElements(),
      ];
      await Promise.all(
        contents.map(async (pieces, i) => {
          const [between, output] = [new Pipe(t), new Pipe(t)];
          const options = ['--quiet', '--codec', codec];
          const encode = new Running(t, ['encode', ...options], { stdio: ['pipe', between.writeEnd, 'pipe'] });
          const decode = new Running(t, ['decode', '--quiet'], { stdio: [between.readEnd, output.writeEnd, 'pipe'] });
          between.close();
          output.close(output.writeEnd);
          const reader = output.reader();
          let sent = Buffer.alloc(0);
          for (const piece of pieces) {
            sent = Buffer.concat([sent, piece]);
            encode.child.stdin?.write(piece);
            assert.ok((await reader.has(sent.length)).equals(sent), `content ${i} after ${sent.length} bytes`);
          }
          encode.child.stdin?.end();
          // The last one is a QEMU stream that ends in the middle.
          const code = i < 3 ? 0 : 3;
          assert.deepEqual([(await encode.ended).code, (await decode.ended).code], [code, code], `content ${i}`);
          assert.ok((await reader.end()).equals(sent));
        }),
      );
    });
  }
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { PREAMBLE_BYTES, readPreamble, writePreamble } from '#src/session/preamble.js';

const SESSION = '00112233445566778899aabbccddeeff';

describe('the routing preamble', () => {
  it('is these 32 bytes', () => {
    const bytes = writePreamble({ kind: 'join', session: SESSION });
    assert.equal(bytes.toString('hex'), `f350575001020000${SESSION}0000000000000000`);
    assert.equal(bytes.length, PREAMBLE_BYTES);
  });
  for (const kind of ['open', 'join', 'check'] as const) {
    it(`comes out as it went in: ${kind}`, () => {
      assert.deepEqual(readPreamble(writePreamble({ kind, session: SESSION })), { kind, session: SESSION });
    });
  }
  it('is no other bytes', () => {
    const good = writePreamble({ kind: 'open', session: SESSION });
    for (let at = 0; at < good.length; at++) {
      // The session's number may be any.
      if (at >= 8 && at < 24) continue;
      const bad = Buffer.from(good);
      bad[at] = bad[at]! ^ 0x80;
      assert.equal(readPreamble(bad), undefined, `byte ${at}`);
    }
    assert.equal(readPreamble(good.subarray(0, 31)), undefined);
    assert.equal(readPreamble(Buffer.concat([good, good])), undefined);
    assert.equal(readPreamble(Buffer.from('GET / HTTP/1.1\r\nHost: example\r\n\r\n').subarray(0, 32)), undefined);
  });
});

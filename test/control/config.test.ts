import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseConfig, readConfig } from '#src/control/config.js';

describe('--config', () => {
  it('names what can be changed while it runs', () => {
    const text = '# a comment\n\n max-bandwidth = 200Mbit \nin-doubt=fail\r\nreconnect = 10min\n';
    assert.deepEqual(parseConfig(text, 'f'), { maxBandwidth: 25_000_000, inDoubt: 'fail', reconnectMs: 600_000 });
  });
  it('may be empty', () => {
    assert.deepEqual(parseConfig('', 'f'), {});
  });
  const wrong: [text: string, message: RegExp][] = [
    ['max-bandwidth 5', /f, line 1: name = value/],
    ['\nin-doubt =', /f, line 2/],
    ['in-doubt = perhaps', /f: in-doubt: .*hold.*fail/],
    ['max-bandwidth = fast', /f: max-bandwidth: a rate such as 200Mbit or 25MiB is needed, not fast/],
    ['reconnect = 5', /f: reconnect: a time/],
    ['speed = 5', /f: speed is no setting \(max-bandwidth, in-doubt, reconnect\)/],
  ];
  for (const [text, message] of wrong) {
    it(`is refused: ${JSON.stringify(text)}`, () => {
      assert.throws(() => parseConfig(text, 'f'), { code: 'BAD_OPTION', message });
    });
  }
  it('that is not there', () => {
    assert.throws(() => readConfig('/missing/config'), { code: 'OPEN_FAILED', message: /\/missing\/config/ });
  });
});

// What an interception is told, and what it refuses. Real redirected connections: test/e2e/libvirt.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { interceptionPort } from '#src/session/interception.js';
import { pagewire } from '../cli/command.js';

const USAGE = 2;
const WORDS = ['proxy', 'source', '--name', 'src', '--listen', 'intercept:7701'];

void describe('--listen intercept:PORT', () => {
  it('takes a port', () => {
    assert.equal(interceptionPort('intercept:7701'), 7701);
    assert.equal(interceptionPort('tcp:127.0.0.1:7701'), undefined);
    for (const bad of ['intercept:', 'intercept:0', 'intercept:65536', 'intercept:x', 'intercept:[::1]:7701']) {
      assert.throws(() => interceptionPort(bad), { code: 'BAD_OPTION' }, bad);
    }
  });

  for (const [why, words, message] of [
    ['a port that it learns by itself', ['--connect', 'tcp:127.0.0.1:1', '--port', '49152'], /--port is of no use/],
    ["a unix socket's mode", ['--connect', 'tcp:127.0.0.1:1', '--listen-mode', '0660'], /--listen-mode is of no use/],
    ['other hosts without TLS', ['--connect', 'tcp:{host}:7777'], /leaves this host without encryption/],
    ["libvirt's tunnel", ['--connect', 'tcp:127.0.0.1:1', '--libvirt'], /intercept:7701: .*: leave out --libvirt/],
    ['what is no endpoint', ['--connect', 'host:{port}'], /an endpoint is/],
  ] as const) {
    it(`refuses ${why}, before there is a migration`, async (t) => {
      const { code, stderr } = await pagewire(t, [...WORDS, ...words]);
      assert.equal(code, USAGE, stderr);
      assert.match(stderr, message);
    });
  }
});

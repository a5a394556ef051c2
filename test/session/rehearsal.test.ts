// What a waiting process does before it has a session.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { rehearse } from '#src/session/rehearsal.js';
import { defaultEnd } from '#src/session/source-proxy.js';

const LONG_MS = 10_000;

void describe('a process that waits for a session', () => {
  for (const libvirt of [false, true]) {
    it(`goes through what one begins with, ${libvirt ? "libvirt's" : "QEMU's"}`, (t) => {
      t.mock.timers.enable({ apis: ['setTimeout'] });
      let went = 0;
      rehearse(defaultEnd(libvirt), () => went++);
      assert.equal(went, 0);
      t.mock.timers.tick(LONG_MS);
      assert.equal(went, 1);
    });
  }

  it('says nothing of what fails: the session will', (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    let went = 0;
    rehearse(defaultEnd(false), () => {
      went++;
      throw new Error('its certificates are being replaced');
    });
    t.mock.timers.tick(LONG_MS);
    assert.equal(went, 1);
  });

  it('leaves it when the session comes before', (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    let went = 0;
    rehearse(defaultEnd(false), () => went++)();
    t.mock.timers.tick(LONG_MS);
    assert.equal(went, 0);
  });
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  afterLoss,
  afterStop,
  CANCELLED,
  type ChannelState,
  type Held,
  inDoubtText,
  isCarried,
  isInDoubt,
  judge,
  stopInDoubtText,
} from '#src/session/outcome.js';

const AT_WORK: ChannelState = {
  confirmed: false,
  ended: false,
  doubt: false,
  peerBye: false,
  daemonGone: false,
  settled: false,
};
const DONE: ChannelState = { ...AT_WORK, confirmed: true, ended: true };
const SAID: ChannelState = { ...DONE, peerBye: true };

describe('a session is carried', () => {
  it('when both halves of all its channels are', () => {
    assert.ok(isCarried([DONE, DONE]));
    assert.ok(!isCarried([DONE, { ...DONE, ended: false }]));
    assert.ok(!isCarried([DONE, { ...DONE, confirmed: false }]));
  });
  it('not before it has begun', () => {
    assert.ok(!isCarried([]));
  });
});

describe('the source', () => {
  const source = (channels: ChannelState[], saidBye = false) => judge('source', channels, saidBye).is;
  it('goes on until all is carried', () => {
    assert.equal(source([]), 'going on');
    assert.equal(source([AT_WORK]), 'going on');
    assert.equal(source([DONE, AT_WORK]), 'going on');
  });
  it('says so first, once', () => {
    assert.equal(source([DONE, DONE]), 'carried');
    assert.equal(source([DONE, DONE], true), 'going on');
  });
  it('does not call it done when the destination has all of the stream and not the guest', () => {
    const notTaken = 'QEMU said SHUT 1';
    assert.deepEqual(judge('source', [{ ...DONE, notTaken }, DONE], false), { is: 'not taken', why: notTaken });
    assert.equal(source([{ ...DONE, notTaken }, AT_WORK]), 'going on');
  });
  it('is over when the destination has answered on every channel', () => {
    assert.equal(source([SAID, DONE], true), 'going on');
    assert.equal(source([SAID, SAID], true), 'over');
  });
  it('does not take a BYE that it has not asked for as an end', () => {
    assert.equal(source([{ ...AT_WORK, peerBye: true }]), 'going on');
  });
  it('hears why the destination gave up, though the stream broke for it', () => {
    const verdict = judge('source', [AT_WORK, { ...AT_WORK, peerAbort: 'QEMU closed', failure: 'gone' }], false);
    assert.deepEqual(verdict, { is: 'given up', why: 'QEMU closed' });
  });
  it('knows when the daemon behind the destination is gone, unless the destination says more', () => {
    assert.equal(source([{ ...AT_WORK, daemonGone: true }]), 'deserted');
    assert.equal(source([{ ...AT_WORK, daemonGone: true, peerAbort: 'stopped' }]), 'given up');
    assert.equal(judge('destination', [{ ...AT_WORK, daemonGone: true }], false).is, 'going on');
  });
  it('sees what is wrong with the frames', () => {
    const verdict = judge('source', [{ ...AT_WORK, failure: 'out of order' }], false);
    assert.deepEqual(verdict, { is: 'broken', why: 'out of order' });
  });
});

describe('the destination', () => {
  it('is over when the source says so on every channel', () => {
    assert.equal(judge('destination', [SAID, DONE], false).is, 'going on');
    assert.equal(judge('destination', [SAID, SAID], false).is, 'over');
  });
  it('does not say so by itself', () => {
    assert.equal(judge('destination', [DONE, DONE], false).is, 'going on');
  });
  it('knows a cancelled migration from a failed one', () => {
    assert.equal(judge('destination', [{ ...AT_WORK, peerAbort: CANCELLED }], false).is, 'cancelled');
    // What versions that are out say and know.
    assert.equal(CANCELLED, 'the migration was cancelled at the source');
    assert.equal(judge('destination', [{ ...AT_WORK, peerAbort: 'stopped' }], false).is, 'given up');
  });
});

describe('in doubt', () => {
  it('is a session with one channel that is', () => {
    assert.ok(isInDoubt([AT_WORK, { ...AT_WORK, doubt: true }]));
    assert.ok(!isInDoubt([AT_WORK, DONE]));
  });
  it('a link that is lost for good is held, unless the operator said otherwise', () => {
    assert.equal(afterLoss({ doubt: true, policy: 'hold' }), 'hold');
    assert.equal(afterLoss({ doubt: true, policy: 'fail' }), 'fail');
  });
  it('is not any other session: it fails, whatever the policy', () => {
    assert.equal(afterLoss({ doubt: false, policy: 'hold' }), 'fail');
    assert.equal(afterLoss({ doubt: false, policy: 'fail' }), 'fail');
  });
  it('takes a second signal', () => {
    assert.equal(afterStop({ doubt: true, requests: 1 }), 'warn');
    assert.equal(afterStop({ doubt: true, requests: 2 }), 'fail');
    assert.equal(afterStop({ doubt: false, requests: 1 }), 'fail');
  });

  const why = new Error('the link is lost');
  const texts = (held: Held): string[] => [inDoubtText(why, held), stopInDoubtText(held)];
  it('has one of the two ended before the proxy is', () => {
    for (const text of texts({ libvirt: false, postcopy: false })) {
      const steps = [
        'if it runs, end the QEMU here first',
        'end the QEMU there first',
        /process \d+, twice|second signal/,
      ];
      const at = steps.map((step) => text.search(step));
      assert.ok(!at.includes(-1), text);
      assert.deepEqual(
        at,
        at.toSorted((a, b) => a - b),
        text,
      );
    }
  });
  it('speaks of libvirt, where libvirt ends the QEMUs', () => {
    for (const text of texts({ libvirt: true, postcopy: false })) {
      assert.match(text, /end it here \(virsh destroy\) first.*end it there \(virsh destroy\) first/);
      assert.doesNotMatch(text, /QEMU/);
    }
  });
  it('has nobody end the QEMU that has the pages of a guest in postcopy, and promises nothing', () => {
    for (const text of texts({ libvirt: false, postcopy: true })) {
      assert.match(text, /leave both QEMUs as they are/);
      assert.doesNotMatch(text, /end the QEMU|runs on here|SIGTERM/);
    }
  });
});

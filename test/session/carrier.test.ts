// The processes that wait for a session: when they are started. (What they do: source-processes.test.ts, listener.test.ts.)
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Spare } from '#src/session/carrier.js';

/** Of carriers that are their numbers; which have been started, and which were ended. */
function spares(): { spare: Spare<number>; started: () => number; ended: number[] } {
  let count = 0;
  const ended: number[] = [];
  const spare = new Spare(
    () => ++count,
    (carrier) => ended.push(carrier),
  );
  return { spare, started: () => count, ended };
}

describe('Spare', () => {
  it('has one for the next session as soon as all have ended', () => {
    const { spare, started } = spares();
    assert.equal(spare.take(), 1);
    assert.deepEqual([started(), spare.size], [1, 0], 'none is started beside a session that has just begun');
    spare.lost(1);
    assert.deepEqual([started(), spare.size], [2, 1]);
    assert.equal(spare.take(), 2);
    assert.equal(spare.take(), 3, 'started for the session that needs it');
    spare.lost(2);
    assert.deepEqual([started(), spare.size], [3, 0], 'the other may have just begun');
    spare.lost(3);
    assert.deepEqual([started(), spare.size], [4, 1]);
  });

  it('counts one whose connections came to nothing as no session', () => {
    const { spare, started } = spares();
    const [one, other] = [spare.take(), spare.take()];
    spare.back(one);
    spare.lost(other);
    assert.deepEqual([started(), spare.size], [2, 1], 'one waits already');
    assert.equal(spare.take(), one);
    spare.lost(one);
    assert.deepEqual([started(), spare.size], [3, 1]);
    spare.close();
  });

  it('starts one in the place of one that ended while it waited, but not at once: that may end, too', (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const { spare, started } = spares();
    for (const [lost, then] of [
      [1, 2],
      [2, 3],
    ] as const) {
      spare.lost(lost);
      assert.deepEqual([started(), spare.size], [lost, 0]);
      t.mock.timers.tick(10_000);
      assert.deepEqual([started(), spare.size], [then, 1]);
    }
    assert.equal(spare.take(), 3);
    spare.close();
  });

  it('starts none once it is closed', () => {
    const { spare, started, ended } = spares();
    assert.equal(spare.take(), 1);
    spare.close();
    spare.lost(1);
    spare.back(7);
    assert.deepEqual([started(), spare.size, ended], [1, 0, [7]]);
  });
});

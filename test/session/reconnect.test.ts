import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { PagewireError } from '#src/errors.js';
import { backoff } from '#src/session/backoff.js';
import { type Dialled, type Dialler, Refusal } from '#src/session/dial.js';
import { PROTOCOL } from '#src/session/hello.js';
import { attemptMs, isFinal, reconnect } from '#src/session/reconnect.js';

describe('the pause before an attempt', () => {
  it('is none before the first, then 50 ms, twice as long each time, at most 2 s', () => {
    const most = [0, 1, 2, 3, 4, 5, 6, 7, 20].map((attempt) => backoff(attempt, 1));
    assert.deepEqual(most, [0, 50, 100, 200, 400, 800, 1600, 2000, 2000]);
  });
  it('is spread over its upper half', () => {
    for (const attempt of [1, 4, 9]) assert.equal(backoff(attempt, 0), backoff(attempt, 1) / 2);
  });
});

describe('the time for an attempt', () => {
  it('grows to 10 s', () => {
    assert.deepEqual([0, 1, 2, 3, 9].map(attemptMs), [2000, 4000, 8000, 10_000, 10_000]);
  });
});

const lost = new PagewireError('CONNECT_FAILED', 'cannot connect');
const busy = new Refusal('tcp:a:1', { code: 'BUSY', message: 'later' });
const unknown = new Refusal('tcp:a:1', { code: 'UNKNOWN_SESSION', message: 'never heard of it' });

/** A dialler that answers with these, one after the other. */
function dialler(
  size: number,
  answers: readonly (Error | 'link')[],
  isOnce = false,
): { dialler: Dialler; turns: number[] } {
  const turns: number[] = [];
  const join = (_: unknown, turn: number): Promise<Dialled> => {
    const answer = answers[turns.push(turn) - 1] ?? lost;
    return answer === 'link' ? Promise.resolve(LINK) : Promise.reject(answer);
  };
  return { dialler: { size, isOnce, join } as unknown as Dialler, turns };
}

const LINK = { welcome: Buffer.alloc(0) } as unknown as Dialled;
const hello = () => ({
  kind: 'join' as const,
  protocol: PROTOCOL,
  program: '1',
  token: 'ab'.repeat(32),
  channel: 0,
  received: 0,
});
const signal = new AbortController().signal;
const failed = (): void => undefined;

describe('a lost link', () => {
  it('is looked for at every address in turn', async () => {
    const { dialler: dial, turns } = dialler(3, [lost, lost, lost, lost, 'link']);
    assert.equal(await reconnect({ dialler: dial, hello, deadline: () => Infinity, failed, signal }), LINK);
    assert.deepEqual(turns, [0, 1, 2, 3, 4]);
  });
  it('is looked for again where the peer is busy', async () => {
    const { dialler: dial, turns } = dialler(1, [busy, 'link']);
    await reconnect({ dialler: dial, hello, deadline: () => Infinity, failed, signal });
    assert.equal(turns.length, 2);
  });
  it('is given up at once where the peer does not know it', async () => {
    const { dialler: dial, turns } = dialler(2, [unknown, 'link']);
    const way = reconnect({ dialler: dial, hello, deadline: () => Infinity, failed, signal });
    await assert.rejects(way, unknown);
    assert.equal(turns.length, 1);
  });
  it('is looked for on where only another address does not know it', async () => {
    const { dialler: dial, turns } = dialler(2, [lost, unknown, 'link']);
    await reconnect({ dialler: dial, hello, deadline: () => Infinity, failed, signal });
    assert.deepEqual(turns, [0, 1, 2]);
  });
  it('is given up when time is up, with the last reason', async () => {
    let calls = 0;
    const { dialler: dial, turns } = dialler(1, []);
    const way = reconnect({ dialler: dial, hello, deadline: () => (++calls > 2 ? 0 : Infinity), failed, signal });
    await assert.rejects(way, lost);
    assert.equal(turns.length, 3);
  });
  it('is not looked for where it cannot be made a second time', async () => {
    const { dialler: dial, turns } = dialler(1, [lost, 'link'], true);
    await assert.rejects(reconnect({ dialler: dial, hello, deadline: () => Infinity, failed, signal }), lost);
    assert.equal(turns.length, 1);
  });
  it('is not looked for any more when the session is over', async () => {
    const over = new AbortController();
    const { dialler: dial } = dialler(1, []);
    const way = reconnect({ dialler: dial, hello, deadline: () => Infinity, failed, signal: over.signal });
    over.abort();
    await assert.rejects(way, { name: 'AbortError' });
  });
});

describe('what is final', () => {
  it('is a refusal, but not that the peer is busy, nor that nobody answers', () => {
    assert.ok(isFinal(unknown));
    assert.ok(isFinal(new Refusal('tcp:a:1', { code: 'A_CODE_OF_THE_FUTURE', message: '' })));
    assert.ok(isFinal(new PagewireError('INCOMPATIBLE', '')));
    assert.ok(!isFinal(busy));
    assert.ok(!isFinal(lost));
  });
});

/** A channel's way back to its peer, after its link was lost or before it had its first one. */
import { setTimeout as sleep } from 'node:timers/promises';
import { PagewireError } from '../errors.js';
import { backoff } from './backoff.js';
import { type Dialled, type Dialler, Refusal } from './dial.js';
import type { JoinHello } from './hello.js';

/** How long one attempt may take, in milliseconds. Short at first: a new SYN comes sooner than the kernel's repeats. */
const FIRST_ATTEMPT_MS = 2000;
const LONGEST_ATTEMPT_MS = 10_000;

export interface ReconnectOptions {
  readonly dialler: Dialler;
  /** What to say now: what we have received does not change while there is no link. */
  readonly hello: () => JoinHello;
  /** When to give up, in milliseconds of `performance.now()`; asked again each time, since an operator may change it. */
  readonly deadline: () => number;
  /** Each attempt that failed. */
  readonly failed: (error: PagewireError, attempt: number) => void;
  readonly signal: AbortSignal;
}

/** Resolves with a link whose handshake is done; rejects with the last error once it is over. */
export async function reconnect({ dialler, hello, deadline, failed, signal }: ReconnectOptions): Promise<Dialled> {
  for (let attempt = 0; ; attempt++) {
    const round = Math.floor(attempt / dialler.size);
    if (attempt % dialler.size === 0) await sleep(backoff(round, Math.random()), undefined, { signal });
    signal.throwIfAborted();
    try {
      const dialled = await dialler.join(hello(), attempt, attemptMs(round));
      if (!signal.aborted) return dialled;
      dialled.link.close();
    } catch (error) {
      const failure = PagewireError.from(error);
      // Another address may lead to another destination, which never had the session.
      const isElsewhere = attempt % dialler.size > 0 && isUnknown(failure);
      if ((isFinal(failure) && !isElsewhere) || dialler.isOnce || performance.now() > deadline()) throw failure;
      failed(failure, attempt);
    }
    signal.throwIfAborted();
  }
}

export function attemptMs(round: number): number {
  return Math.min(FIRST_ATTEMPT_MS * 2 ** round, LONGEST_ATTEMPT_MS);
}

/** A peer that has no memory of the session. */
export function isUnknown(error: PagewireError): boolean {
  return error instanceof Refusal && error.refuse.code === 'UNKNOWN_SESSION';
}

/** A peer that is who it should be and says no will say so again, unless it is only busy. */
export function isFinal(error: PagewireError): boolean {
  return error instanceof Refusal ? error.refuse.code !== 'BUSY' : error.code === 'INCOMPATIBLE';
}

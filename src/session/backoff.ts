/** How long to wait before trying again, in milliseconds: short at first, since most cuts are. */
const FIRST_MS = 50;
const MOST_MS = 2000;

/**
 * The pause before an attempt, counted from 0, which comes at once. `random` (0 to 1) spreads over its upper half, so
 * that the channels of many sessions do not come back in one moment.
 */
export function backoff(attempt: number, random: number): number {
  if (attempt === 0) return 0;
  const pause = Math.min(FIRST_MS * 2 ** (attempt - 1), MOST_MS);
  return pause * (0.5 + random / 2);
}

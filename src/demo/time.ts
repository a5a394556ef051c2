// Waiting with a limit, always with a word about what was waited for.
import { setTimeout as sleep } from 'node:timers/promises';

export { sleep };

/** Asks every 20 ms until `condition` answers something other than undefined or false; fails after `seconds`. */
export async function until<T>(
  condition: () => T | Promise<T>,
  seconds: number,
  what: string | (() => string),
): Promise<Exclude<T, undefined | false>> {
  const end = performance.now() + seconds * 1000;
  for (;;) {
    const answer = await condition();
    if (answer !== undefined && answer !== false) return answer as Exclude<T, undefined | false>;
    if (performance.now() > end) {
      throw new Error(`timed out after ${seconds} s: ${typeof what === 'string' ? what : what()}`);
    }
    await sleep(20);
  }
}

/** `promise`, or a failure after `seconds`. */
export async function within<T>(promise: Promise<T>, seconds: number, what: () => string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`timed out after ${seconds} s: ${what()}`));
    }, seconds * 1000);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}

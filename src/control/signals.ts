import type { Signal } from './exit.js';

/** Calls `stop` at each signal that asks for an end. */
export function onStop(stop: (signal: Signal) => void): void {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      stop(signal);
    });
  }
}

/** Calls `reload` at each SIGHUP: a proxy outlives the terminal that it was started from. */
export function onReload(reload: () => void): void {
  process.on('SIGHUP', reload);
}

import { PagewireError } from '../errors.js';
import { exitCode, type Signal, SIGNALS, signalExit } from '../control/exit.js';
import { plain, tell } from '../control/standard-streams.js';

/** How long a command has to end by itself after a signal, in milliseconds. */
const GRACE_MS = 700;

/**
 * Runs a command to its end and leaves its exit code: one line on stderr for what went wrong, never a stack trace.
 * The first signal ends it cleanly, a second one, or too long a time, at once.
 */
export async function run(name: string, command: (signal: AbortSignal) => Promise<number>): Promise<never> {
  const abort = new AbortController();
  let signalled: Signal | undefined;
  for (const signal of Object.keys(SIGNALS) as Signal[]) {
    process.on(signal, () => {
      if (signalled) process.exit(signalExit(signal));
      signalled = signal;
      abort.abort();
      setTimeout(() => process.exit(signalExit(signal)), GRACE_MS);
    });
  }
  let code: number;
  try {
    code = await command(abort.signal);
  } catch (error) {
    const failure = PagewireError.from(error);
    code = exitCode(failure.code);
    if (!signalled) say(name, plain(failure.message));
  }
  process.exit(signalled ? signalExit(signalled) : code);
}

/** One line on stderr, with the command's name before it, where it has one. */
export function say(name: string, message: string): void {
  tell(`pagewire${name && ` ${name}`}: ${message}\n`);
}

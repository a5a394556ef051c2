import { writeSync } from 'node:fs';
import { Writable } from 'node:stream';
import { isatty } from 'node:tty';
import { PagewireError } from '../errors.js';
import { exitCode, type Signal, SIGNALS, signalExit } from './exit.js';

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

/** Writes to standard output, which is nobody's stream here. */
export function print(text: string): void {
  writeAll(1, Buffer.from(text));
}

/** All of it, however little the descriptor takes at a time. */
export function writeAll(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
}

/**
 * A message for a terminal: a system's error without its number, as the words before it say the same, and nothing of a
 * name in it that would be a command.
 */
export function plain(message: string): string {
  return message.replace(/ \(os error \d+\)/g, '').replaceAll(/[^\P{Cc}\n]/gu, '?');
}

/** How often, and how long, a full pipe that is non-blocking is tried again, in milliseconds. */
const RETRY_MS = 5;
const RETRY_FOR_MS = 200;

/**
 * Writes to stderr. Not by `process.stderr`: for that Node makes a pipe non-blocking, for all who share it, and under
 * QEMU's exec: that is QEMU's own log. Whoever reads our notes may go before us: what we carry does not end for that.
 */
export function tell(text: string | Uint8Array): void {
  const bytes = Buffer.from(text);
  const until = performance.now() + RETRY_FOR_MS;
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(2, bytes, at);
    } catch (error) {
      const again = error instanceof Error && 'code' in error && (error.code === 'EAGAIN' || error.code === 'EINTR');
      if (!again || performance.now() > until) return;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RETRY_MS);
    }
  }
}

/**
 * Puts streams in the place of Node's own, which would make what they write to non-blocking. Worker threads ask for
 * both when they start, to print there; ours print nothing.
 */
export function replaceStandardStreams(...names: ('stdout' | 'stderr')[]): void {
  for (const name of names) {
    if (isatty(name === 'stdout' ? 1 : 2)) continue;
    const value = new Writable({
      write: (chunk: Uint8Array, _encoding, done) => {
        tell(chunk);
        done();
      },
    });
    Object.defineProperty(process, name, { value, configurable: true, enumerable: true });
  }
}

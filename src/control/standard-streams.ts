import { writeSync } from 'node:fs';
import { Writable } from 'node:stream';
import { isatty } from 'node:tty';
import { hasCode } from '../errors.js';

/** Writes to standard output, which is nobody's stream here. That a reader such as `head` has gone is no fault. */
export function print(text: string): void {
  try {
    writeAll(1, Buffer.from(text));
  } catch (error) {
    if (!hasCode(error, 'EPIPE')) throw error;
  }
}

/** All of it, however little the descriptor takes at a time. */
export function writeAll(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(fd, bytes, at);
    } catch (error) {
      if (!hasCode(error, ...AGAIN)) throw error;
      pause();
    }
  }
}

/** What is no failure: a descriptor that is non-blocking, as whoever shares it may have made it, has no room now. */
const AGAIN = ['EAGAIN', 'EINTR'];

function pause(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RETRY_MS);
}

/**
 * A message for a terminal: a system's error without its number, as the words before it say the same, and nothing of a
 * name in it that would be a command.
 */
export function plain(message: string): string {
  return message.replace(/ \(os error \d+\)/g, '').replaceAll(/[^\P{Cc}\n]/gu, '?');
}

/** How often a full pipe that is non-blocking is tried again, and for how long with a note, in milliseconds. */
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
      if (!hasCode(error, ...AGAIN) || performance.now() > until) return;
      pause();
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

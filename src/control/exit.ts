import type { ErrorCode } from '../errors.js';

/** The exit codes; docs/cli.md has the table for users. */
export const EXIT = {
  ok: 0,
  /** Reading, writing or something of our own failed. */
  failed: 1,
  /** What was asked for cannot be done as it was asked: an option, or a file that cannot be opened. */
  usage: 2,
  /** The QEMU stream ended in the middle; all its bytes were carried. */
  truncated: 3,
  /** The frames are damaged, cut off, or of a later version; of inspect: or the QEMU stream is not understood. */
  frames: 4,
  /** The memory limit is too small for what was asked. */
  memory: 5,
  /** There is no link to the peer, or none any more; it refuses, or the two do not fit together. */
  link: 6,
} as const;

const BY_ERROR: Partial<Record<ErrorCode, number>> = {
  BAD_OPTION: EXIT.usage,
  BAD_DESCRIPTOR: EXIT.usage,
  OPEN_FAILED: EXIT.usage,
  FRAMES_DAMAGED: EXIT.frames,
  FRAMES_TRUNCATED: EXIT.frames,
  FRAMES_UNSUPPORTED: EXIT.frames,
  SENDER_STOPPED: EXIT.frames,
  CACHE_TOO_LARGE: EXIT.memory,
  OUT_OF_MEMORY: EXIT.memory,
  BAD_IDENTITY: EXIT.usage,
  BASE_MISSING: EXIT.usage,
  NOT_IN_FILE: EXIT.usage,
  NO_INDEX: EXIT.usage,
  WRONG_BASE: EXIT.usage,
  LISTEN_FAILED: EXIT.usage,
  CONNECT_FAILED: EXIT.link,
  CONNECTION_LOST: EXIT.link,
  INCOMPATIBLE: EXIT.link,
  LINK_LOST: EXIT.link,
  PEER_REFUSED: EXIT.link,
  PROTOCOL_ERROR: EXIT.link,
  SESSION_FAILED: EXIT.link,
  TIMED_OUT: EXIT.link,
};

export function exitCode(code: ErrorCode): number {
  return BY_ERROR[code] ?? EXIT.failed;
}

/** What a shell reports for a program that a signal ended. */
export function signalExit(signal: Signal): number {
  return 128 + SIGNALS[signal];
}

/** The signals that end us cleanly, with their numbers. */
export const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

export type Signal = keyof typeof SIGNALS;

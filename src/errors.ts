/** What went wrong, for programs. Stable: a code is never given another meaning. */
export const ERROR_CODES = [
  'BAD_DESCRIPTOR',
  'BAD_IDENTITY',
  'BAD_OPTION',
  'BASE_MISSING',
  'CACHE_TOO_LARGE',
  'CONNECTION_LOST',
  'CONNECT_FAILED',
  'FRAMES_DAMAGED',
  'FRAMES_TRUNCATED',
  'FRAMES_UNSUPPORTED',
  'INCOMPATIBLE',
  'INTERNAL',
  'LINK_LOST',
  'LISTEN_FAILED',
  'MIGRATION_FAILED',
  'NOT_IN_FILE',
  'NO_INDEX',
  'OPEN_FAILED',
  'OUTPUT_CLOSED',
  'OUT_OF_MEMORY',
  'PEER_FAILED',
  'PEER_REFUSED',
  'PROTOCOL_ERROR',
  'READ_FAILED',
  'SENDER_STOPPED',
  'SESSION_FAILED',
  'STOPPED',
  'TIMED_OUT',
  'WRITE_FAILED',
  'WRONG_BASE',
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

/** An error of pagewire's own: a stable `code`, and where in the stream it is, as far as that is known. */
export class PagewireError extends Error {
  override readonly name = 'PagewireError';
  readonly code: ErrorCode;
  /** The number of the frame that the error is about, from 0. */
  readonly frame: number | undefined;
  /** Where in the input, or in the output for WRITE_FAILED and OUTPUT_CLOSED, in bytes. */
  readonly offset: number | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    details: { frame?: number | undefined; offset?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? {} : { cause: details.cause });
    this.code = code;
    this.frame = details.frame;
    this.offset = details.offset;
  }

  /** Any thrown value as an error of ours; the native core's errors carry their code already. */
  static from(value: unknown): PagewireError {
    if (value instanceof PagewireError) return value;
    if (value instanceof Error) {
      const code =
        'code' in value && typeof value.code === 'string' && isErrorCode(value.code) ? value.code : 'INTERNAL';
      return new PagewireError(code, value.message, { cause: value });
    }
    return new PagewireError('INTERNAL', String(value));
  }
}

export function isErrorCode(code: string): code is ErrorCode {
  return (ERROR_CODES as readonly string[]).includes(code);
}

/** The code that Node gives to an error (`ENOENT`, …); empty where it has none. */
export function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}

export function hasCode(error: unknown, ...codes: string[]): boolean {
  return codes.includes(codeOf(error));
}

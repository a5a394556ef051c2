/** What went wrong, for programs. Stable: a code is never given another meaning. */
export const ERROR_CODES = [
  'BAD_DESCRIPTOR',
  'BAD_OPTION',
  'CACHE_TOO_LARGE',
  'FRAMES_DAMAGED',
  'FRAMES_TRUNCATED',
  'FRAMES_UNSUPPORTED',
  'INTERNAL',
  'OPEN_FAILED',
  'OUTPUT_CLOSED',
  'OUT_OF_MEMORY',
  'READ_FAILED',
  'SENDER_STOPPED',
  'STOPPED',
  'WRITE_FAILED',
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

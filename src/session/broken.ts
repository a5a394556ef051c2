/** Where a connection is that one side of a flow broke: the link's address, which a log has anyway, is not it. */
import { PagewireError } from '../errors.js';

/** What is read from, and what is written to, as in `QEMU's connection at unix:/run/vm1.sock`. */
export interface Sides {
  readonly from: string;
  readonly to: string;
}

/** The error of a flow with the connection that broke in it; unchanged where it is about neither. */
export function broken(error: PagewireError, { from, to }: Sides): PagewireError {
  const { code, message, offset } = error;
  if (code === 'READ_FAILED') return new PagewireError(code, `${from} broke: ${message}`, { offset, cause: error });
  if (code !== 'WRITE_FAILED' && code !== 'OUTPUT_CLOSED') return error;
  return new PagewireError(code, `${to} broke: ${message}`, { offset, cause: error });
}

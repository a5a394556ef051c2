/**
 * The routing preamble: 32 bytes in the clear before anything else, from the end that connects. It says which process
 * is to have the connection, since TLS cannot be moved between processes once it has begun, and grants nothing.
 *
 *     f3 50 57 50 · version 1 · kind · 2 zero bytes · 16 bytes session id · 8 zero bytes
 */
const MAGIC = Buffer.from([0xf3, 0x50, 0x57, 0x50]);

const VERSION = 1;

export const PREAMBLE_BYTES = 32;

const KINDS = { open: 1, join: 2, check: 3 } as const;

/** OPEN a session, JOIN one (a further channel, or a link that was lost), or CHECK whether one would do. */
export type Kind = keyof typeof KINDS;

export interface Preamble {
  readonly kind: Kind;
  /** 16 bytes in hex, chosen by the source. */
  readonly session: string;
}

export function writePreamble({ kind, session }: Preamble): Buffer {
  const bytes = Buffer.alloc(PREAMBLE_BYTES);
  MAGIC.copy(bytes);
  bytes[4] = VERSION;
  bytes[5] = KINDS[kind];
  bytes.write(session, 8, 'hex');
  return bytes;
}

/** Undefined where it is none: whoever connects knows no pagewire, or a later one. */
export function readPreamble(bytes: Uint8Array): Preamble | undefined {
  const given = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kind = (Object.keys(KINDS) as Kind[]).find((name) => KINDS[name] === given[5]);
  if (given.length !== PREAMBLE_BYTES || kind === undefined) return undefined;
  const preamble = { kind, session: given.toString('hex', 8, 24) };
  // Whatever differs from what we would have written is not known to us, reserved bytes among it.
  return writePreamble(preamble).equals(given) ? preamble : undefined;
}

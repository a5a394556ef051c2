/**
 * What two ends tell each other before the first byte of a stream. Nothing of it is read before the peer is who it has
 * to be.
 *
 *     connector ──HELLO──▶ acceptor        JSON, at most 64 KiB; fields that an end does not know are ignored
 *     connector ◀─WELCOME─ acceptor        or REFUSE, and the connection ends
 */
import { z } from 'zod';
import { PagewireError } from '../errors.js';
import { FRAME_SIZES, MATCH_SIZES } from '../pipeline/settings.js';
import { isGuestName } from '../transport/endpoint.js';

/** The frames' types on the wire (docs/format.md). */
export const FRAME = { hello: 0x10, welcome: 0x11, refuse: 0x12 } as const;

/** The versions of the session's protocol that this pagewire speaks. */
export const PROTOCOL = { oldest: 1, newest: 1 } as const;

/** The most connections of QEMU's in a session. */
export const MOST_CHANNELS = 256;

/** The most characters of a reason. */
export const MOST_REASON = 4096;

const count = (most: number): z.ZodNumber => z.int().min(0).max(most);

/** Anything but control characters: it is shown to people. */
const shown = (most: number): z.ZodString =>
  z
    .string()
    .max(most)
    // eslint-disable-next-line no-control-regex -- these are what it is about
    .regex(/^[^\u0000-\u001f\u007f-\u009f]*$/);

/** What every version's HELLO and WELCOME have. */
const versions = z.object({
  protocol: z.object({ oldest: count(65535), newest: count(65535) }),
  /** The program's version, for people. */
  program: shown(64),
});
export type Versions = z.infer<typeof versions>;

const capabilities = z.object({
  /** What it can unpack. A later pagewire may name codecs that this one does not know. */
  codecs: z.array(shown(32)).max(64),
  /** Whether pages may come as differences to what was sent before. */
  delta: z.boolean(),
  /** What is carried is libvirt's tunnel, not a QEMU's stream; without it, it is not. */
  libvirt: z.boolean().optional(),
  /** The major versions of the frame format. */
  formats: z.array(count(65535)).max(64),
});
export type Capabilities = z.infer<typeof capabilities>;

/** Milliseconds of silence after which a link is lost. */
export const SILENCE = { least: 100, most: 86_400_000 };

const parameters = z.object({
  silenceMs: count(SILENCE.most).min(SILENCE.least),
  /** The most bytes of the stream in a frame. */
  frameSize: count(FRAME_SIZES.most).min(FRAME_SIZES.least),
  /** How far back references may lead, in bytes: the source wants that much, the destination has room for that much. */
  match: count(MATCH_SIZES.most).optional(),
});
export type Parameters = z.infer<typeof parameters>;

const guestName = z.string().refine(isGuestName);

const token = z.string().regex(/^[0-9a-f]{64}$/);

const openHello = versions.extend({
  kind: z.literal('open'),
  /** 32 random bytes: who has it, and is the same peer, may join. */
  token,
  name: guestName,
  port: count(65535).optional(),
  capabilities,
  parameters,
  /** What the session may not be without. */
  require: z.array(shown(32)).max(64),
});
export type OpenHello = z.infer<typeof openHello>;

const joinHello = versions.extend({
  kind: z.literal('join'),
  token,
  /** 0: QEMU's main connection; its further ones in the order in which they were made. */
  channel: count(MOST_CHANNELS - 1),
  /** Frames of the acceptor's direction that the connector has whole. */
  received: count(Number.MAX_SAFE_INTEGER),
  /** Why the source gives the session up, which its link could not carry: nothing goes over this one. */
  gaveUp: shown(MOST_REASON).optional(),
});
export type JoinHello = z.infer<typeof joinHello>;

const checkHello = versions.extend({ kind: z.literal('check'), capabilities, parameters });
export type CheckHello = z.infer<typeof checkHello>;

export type Hello = OpenHello | JoinHello | CheckHello;

const hello = z.discriminatedUnion('kind', [openHello, joinHello, checkHello]);

const openWelcome = versions.extend({ capabilities, parameters });
/** The answer to OPEN and CHECK: what the acceptor can. Both ends make the same agreement of it. */
export type OpenWelcome = z.infer<typeof openWelcome>;

const joinWelcome = versions.extend({ received: count(Number.MAX_SAFE_INTEGER) });
export type JoinWelcome = z.infer<typeof joinWelcome>;

const checkWelcome = openWelcome.extend({
  /** Bytes that the acceptor could give to a session, the limit that was set, if one was, and what a session takes there. */
  memory: z.object({
    free: count(Number.MAX_SAFE_INTEGER),
    limit: count(Number.MAX_SAFE_INTEGER).optional(),
    needed: count(Number.MAX_SAFE_INTEGER).optional(),
  }),
  /** Sessions that it carries now, and the most that it would. */
  sessions: z.object({ now: count(1_000_000), most: count(1_000_000) }),
});
export type CheckWelcome = z.infer<typeof checkWelcome>;

/** Why a HELLO is refused. */
export const REFUSALS = [
  /** No protocol version in common. */
  'VERSION',
  /** An end lacks what the other one requires. */
  'REQUIRED',
  /** The peer may not do this. */
  'DENIED',
  /** Another session has this guest's name, or all places are taken: later it may work. */
  'BUSY',
  /** The acceptor has no memory of such a session, or the token is another one's. */
  'UNKNOWN_SESSION',
  /** There is no memory left for it. */
  'OUT_OF_MEMORY',
  /** What was said cannot be understood. */
  'BAD_HELLO',
] as const;

const refuse = z.object({ code: shown(32), message: shown(MOST_REASON), program: shown(64).optional() });
/** Codes of a later pagewire are as good as any: a refusal is final, unless it is BUSY. */
export type Refuse = z.infer<typeof refuse>;

export function writeMessage(message: Hello | OpenWelcome | JoinWelcome | CheckWelcome | Refuse): Buffer {
  return Buffer.from(JSON.stringify(message));
}

/** A HELLO, or the refusal that it gets. */
export function readHello(payload: Uint8Array, program: string): Hello | Refuse {
  const said = json(payload);
  const theirs = versions.safeParse(said);
  if (!theirs.success) return { code: 'BAD_HELLO', message: `the HELLO cannot be read: ${what(theirs.error)}` };
  const mismatch = versionMismatch(theirs.data, { protocol: PROTOCOL, program });
  if (mismatch !== undefined) return { code: 'VERSION', message: mismatch };
  const result = hello.safeParse(said);
  return result.success
    ? result.data
    : { code: 'BAD_HELLO', message: `the HELLO cannot be read: ${what(result.error)}` };
}

export const isRefusal = (answer: object): answer is Refuse => 'code' in answer && 'message' in answer;

export const readOpenWelcome = (payload: Uint8Array): OpenWelcome => read(openWelcome, payload, 'WELCOME');
export const readJoinWelcome = (payload: Uint8Array): JoinWelcome => read(joinWelcome, payload, 'WELCOME');
export const readCheckWelcome = (payload: Uint8Array): CheckWelcome => read(checkWelcome, payload, 'WELCOME');
export const readRefuse = (payload: Uint8Array): Refuse => read(refuse, payload, 'REFUSE');

/** Undefined where the two have a version in common; else a sentence for both ends. */
export function versionMismatch(theirs: Versions, mine: Versions): string | undefined {
  if (common(theirs, mine) !== undefined) return undefined;
  const older = theirs.protocol.newest < mine.protocol.oldest ? theirs : mine;
  return (
    `pagewire ${theirs.program} speaks ${spoken(theirs)} and pagewire ${mine.program} ${spoken(mine)}, ` +
    `which have no version in common: update pagewire ${older.program}`
  );
}

/** The newest version that both speak. */
export function common(theirs: Versions, mine: Versions): number | undefined {
  const newest = Math.min(theirs.protocol.newest, mine.protocol.newest);
  return newest >= Math.max(theirs.protocol.oldest, mine.protocol.oldest) ? newest : undefined;
}

function spoken({ protocol: { oldest, newest } }: Versions): string {
  return oldest === newest ? `session protocol ${newest}` : `session protocols ${oldest} to ${newest}`;
}

function read<T>(schema: z.ZodType<T>, payload: Uint8Array, name: string): T {
  const result = schema.safeParse(json(payload));
  if (result.success) return result.data;
  throw new PagewireError('INCOMPATIBLE', `the peer's ${name} cannot be read: ${what(result.error)}`);
}

function json(payload: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(payload).toString()) as unknown;
  } catch {
    return undefined;
  }
}

/** The first thing that is wrong, without what was said: that may be anything. */
function what(error: z.ZodError): string {
  const [issue] = error.issues;
  const where = issue?.path.join('.') ?? '';
  return `${where === '' ? 'it' : where} is not what it should be`;
}

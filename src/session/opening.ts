/** How a source's session begins: the destination is dialled, and what both ends have becomes what this one does. */
import { setTimeout as sleep } from 'node:timers/promises';
import { PagewireError } from '../errors.js';
import { type CheckedSettings, checkEncoder, DEFAULT_LEVEL, type EncoderSettings } from '../pipeline/settings.js';
import { bytes } from '../telemetry/amounts.js';
import type { Log } from '../telemetry/log.js';
import { endpointText } from '../transport/endpoint.js';
import { backoff } from './backoff.js';
import type { Dialled, Dialler } from './dial.js';
import { type OpenHello, PROTOCOL, readOpenWelcome } from './hello.js';
import { type Agreement, agree, choose, type End, refusal } from './negotiate.js';
import { isFinal } from './reconnect.js';

export interface OpeningOptions {
  /** The guest's name, as the destination is to know it. */
  readonly name: string;
  /** For a destination whose QEMU listens on one of a range of ports. */
  readonly port?: number | undefined;
  readonly dialler: Dialler;
  readonly encoder: EncoderSettings;
  /** What this end can and wants. */
  readonly end: End;
  /** Bytes that are kept until the peer has acknowledged them. */
  readonly replayBytes: number;
  readonly log: Log;
}

interface Opening extends OpeningOptions {
  readonly token: string;
  /** What is wanted. */
  readonly settings: CheckedSettings;
  readonly signal: AbortSignal;
}

/** A session that stands. */
interface Opened {
  readonly dialled: Dialled;
  readonly agreement: Agreement;
  /** What was wanted, as far as both ends have it. */
  readonly settings: CheckedSettings;
}

/** How long one address may take, in milliseconds, and how often a link may break meanwhile. */
const OPEN_MS = 10_000;
const OPEN_ROUNDS = 6;

export async function openSession(opening: Opening): Promise<Opened> {
  const dialled = await dial(opening);
  try {
    return { dialled, ...settle(opening, dialled) };
  } catch (error) {
    dialled.link.close();
    throw error;
  }
}

/** Each address once; again where a link broke before all was said, which is no answer. */
async function dial({ name, port, end, dialler, token, log, signal }: Opening): Promise<Dialled> {
  const { program, capabilities, parameters, require } = end;
  const hello: OpenHello = {
    ...{ kind: 'open', protocol: PROTOCOL, program, token, name, port },
    ...{ capabilities, parameters, require: [...require] },
  };
  let rounds = 1;
  for (let turn = 0; ; turn++) {
    if (turn % dialler.size === 0) await sleep(backoff(turn / dialler.size, Math.random()), undefined, { signal });
    try {
      const dialled = await dialler.open(hello, turn, OPEN_MS);
      if (!signal.aborted) return dialled;
      dialled.link.close();
      throw new PagewireError('STOPPED', 'stopped');
    } catch (error) {
      const failure = PagewireError.from(error);
      if (failure.code === 'CONNECTION_LOST' && !dialler.isOnce) rounds = OPEN_ROUNDS;
      if (isFinal(failure) || turn + 1 >= rounds * dialler.size || signal.aborted) throw failure;
      log.warn(`${failure.message}; trying ${dialler.size > 1 ? 'the next address' : 'again'}`);
    }
  }
}

function settle(opening: Opening, { link, welcome, endpoint }: Dialled): Omit<Opened, 'dialled'> {
  const { end, encoder, replayBytes, settings: wanted, log } = opening;
  const theirs = readOpenWelcome(welcome);
  const refuse = refusal({ ...theirs, require: [] }, end);
  if (refuse) throw new PagewireError('INCOMPATIBLE', refuse.message);
  const agreement = agree(theirs, end);
  // Nobody need hear of a default that the destination has no room for.
  const hopes = { codec: wanted.codec, delta: wanted.native.delta !== undefined, match: encoder.match ?? 0 };
  const { codec, delta, notes } = choose(hopes, agreement, theirs.program);
  for (const note of notes) log.warn(note);
  const settings = checkEncoder(
    {
      ...encoder,
      ...(!delta && { delta, cacheSize: undefined }),
      ...(codec !== wanted.codec && { codec, level: codec === 'none' ? 0 : DEFAULT_LEVEL }),
      match: agreement.match,
      frameSize: Math.min(wanted.native.frameSize, agreement.frameSize),
    },
    replayBytes,
  );
  const { fingerprint } = link.peer();
  const key = fingerprint === undefined ? '' : `, key ${fingerprint}`;
  log.info(
    `connected to ${endpointText(endpoint)} (pagewire ${theirs.program}${key}): ` +
      `codec ${codec}, ${delta ? 'with' : 'without'} delta` +
      (agreement.match > 0 ? `, match of ${bytes(agreement.match)}` : ''),
  );
  return { agreement, settings };
}

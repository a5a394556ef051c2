/** What two ends agree on. Pure: both make the same of the same HELLO and WELCOME. */
import { type Codec, CODECS } from '../codecs.js';
import { MATCH_SIZES } from '../pipeline/settings.js';
import { bytes } from '../telemetry/amounts.js';
import type { Capabilities, OpenHello, OpenWelcome, Parameters, Refuse } from './hello.js';

/** What one end can and wants. */
export interface End {
  readonly program: string;
  readonly capabilities: Capabilities;
  readonly parameters: Parameters;
  /** What the session may not be without: `delta`, or a codec. */
  readonly require: readonly string[];
}

export interface Agreement {
  readonly codecs: readonly Codec[];
  readonly delta: boolean;
  readonly silenceMs: number;
  readonly heartbeatMs: number;
  readonly frameSize: number;
  /** How far back references may lead, in bytes; 0: there are none. */
  readonly match: number;
}

/** Heartbeats for each time of silence: one or two may be late on a full link. */
const HEARTBEATS = 5;

export function agree(
  a: Pick<OpenHello | OpenWelcome, 'capabilities' | 'parameters'>,
  b: Pick<End, 'capabilities' | 'parameters'>,
): Agreement {
  // Whoever set the longer one knows of a link that needs it.
  const silenceMs = Math.max(a.parameters.silenceMs, b.parameters.silenceMs);
  // An older pagewire says nothing of it.
  const match = Math.min(a.parameters.match ?? 0, b.parameters.match ?? 0);
  return {
    codecs: CODECS.filter((codec) => [a, b].every(({ capabilities }) => has(capabilities, codec))),
    delta: a.capabilities.delta && b.capabilities.delta,
    silenceMs,
    heartbeatMs: Math.max(Math.floor(silenceMs / HEARTBEATS), 20),
    frameSize: Math.min(a.parameters.frameSize, b.parameters.frameSize),
    match: match < MATCH_SIZES.least ? 0 : match,
  };
}

/** Why the two cannot work together, told so that both ends can show it; undefined where they can. */
export function refusal(hello: Pick<OpenHello, 'capabilities' | 'program' | 'require'>, mine: End): Refuse | undefined {
  const formats = hello.capabilities.formats.filter((format) => mine.capabilities.formats.includes(format));
  if (formats.length === 0) {
    const [theirs, ours] = [hello, mine].map(({ capabilities }) => capabilities.formats.join(', '));
    return {
      code: 'VERSION',
      message:
        `pagewire ${hello.program} at the source writes frame format ${theirs ?? ''} and pagewire ${mine.program} at the ` +
        `destination reads ${ours ?? ''}: update the older one`,
    };
  }
  const isLibvirts = ({ capabilities: { libvirt = false } }: Pick<End, 'capabilities'>): boolean => libvirt;
  if (isLibvirts(hello) !== isLibvirts(mine)) {
    const message =
      "one end carries libvirt's tunnel and the other QEMU's streams: give --libvirt to both proxies or none";
    return { code: 'REQUIRED', message };
  }
  const lacking = (required: readonly string[], by: Capabilities): string =>
    required.filter((name) => !has(by, name)).join(', ');
  const here = lacking(hello.require, mine.capabilities);
  if (here !== '') {
    return { code: 'REQUIRED', message: lacks('source', 'destination', mine.program, here) };
  }
  const there = lacking(mine.require, hello.capabilities);
  if (there === '') return undefined;
  return { code: 'REQUIRED', message: lacks('destination', 'source', hello.program, there) };
}

function lacks(by: string, at: string, program: string, what: string): string {
  return `the ${by} requires what pagewire ${program} at the ${at} lacks, or has switched off: ${what} (--require)`;
}

function has({ codecs, delta }: Capabilities, name: string): boolean {
  return name === 'delta' ? delta : codecs.includes(name);
}

/** What comes in the place of a codec that the other end lacks: the lighter ones first, zlib only before none. */
const INSTEAD: readonly Codec[] = ['lz4', 'zlib', 'zstd', 'none'];

export interface Choice {
  readonly codec: Codec;
  readonly delta: boolean;
  /** What was wanted and cannot be, for people. */
  readonly notes: readonly string[];
}

/** What the source does of what it wanted. */
export function choose(
  wanted: { codec: Codec; delta: boolean; match: number },
  { codecs, delta, match }: Agreement,
  program: string,
): Choice {
  const notes: string[] = [];
  let { codec } = wanted;
  if (!codecs.includes(codec)) {
    codec = INSTEAD.find((other) => codecs.includes(other)) ?? 'none';
    notes.push(`pagewire ${program} at the destination lacks ${wanted.codec}: frames are packed with ${codec}`);
  }
  if (wanted.delta && !delta) {
    notes.push(`pagewire ${program} at the destination takes no delta: every page is sent whole`);
  }
  if (match < wanted.match) {
    const instead = match === 0 ? 'frames have no references' : `references lead back ${bytes(match)}`;
    notes.push(
      `pagewire ${program} at the destination has no room for a match of ${bytes(wanted.match)}, or does not know it: ${instead}`,
    );
  }
  return { codec, delta: wanted.delta && delta, notes };
}

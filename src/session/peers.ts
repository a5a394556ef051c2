/** Who may come, and which guests and ports they may reach. */
import { timingSafeEqual } from 'node:crypto';
import { PagewireError } from '../errors.js';
import type { NativePeer } from '../native.js';

/** A line of `--peer`: a key or a name, and the guests that it may reach; without any, all. */
export interface PeerRule {
  readonly pin?: string;
  readonly name?: string;
  readonly guests: readonly string[];
}

const PIN = /^SHA256:[A-Za-z0-9+/]{43}$/;
const NAME = /^[A-Za-z0-9.*_:-]{1,253}$/;
const GUESTS = /^[A-Za-z0-9._*-]{1,64}$/;

/** `NAME|SHA256:…[=guest,guest*]` */
export function parsePeer(text: string): PeerRule {
  // A pin in base64 without padding has no =.
  const [who = '', guests, ...more] = text.split('=');
  const names = guests === undefined ? [] : guests.split(',');
  const isPin = who.startsWith('SHA256:');
  if (more.length > 0 || !(isPin ? PIN : NAME).test(who) || !names.every((name) => GUESTS.test(name))) {
    throw new PagewireError(
      'BAD_OPTION',
      `--peer ${text}: NAME or SHA256:… (43 characters), and perhaps =guest,guest*`,
    );
  }
  return { ...(isPin ? { pin: who } : { name: who }), guests: names };
}

/** Whether a peer that was let in may reach a guest. Without rules every one may. */
export function mayReach(rules: readonly PeerRule[], peer: NativePeer, guest: string): boolean {
  if (rules.length === 0) return true;
  return rules
    .filter((rule) => isAbout(rule, peer))
    .some(({ guests }) => guests.length === 0 || guests.some((pattern) => matches(pattern, guest)));
}

function isAbout({ pin, name = '' }: PeerRule, { fingerprint, names }: NativePeer): boolean {
  if (pin !== undefined) return pin === fingerprint;
  return name === '*' || names.some((theirs) => matchesHost(name, theirs));
}

/** `*.example` is any one label below, as in certificates. */
function matchesHost(pattern: string, name: string): boolean {
  const [a, b] = [pattern.toLowerCase(), name.toLowerCase()];
  return a === b || (a.startsWith('*.') && b.includes('.') && b.slice(b.indexOf('.')) === a.slice(1));
}

function matches(pattern: string, name: string): boolean {
  const [first = '', ...rest] = pattern.split('*').map((part) => part.replace(/[.\\+?^${}()|[\]]/g, '\\$&'));
  return new RegExp(`^${[first, ...rest].join('.*')}$`).test(name);
}

/** Who a peer is: only the same one may join its session. */
export function identity({ fingerprint }: NativePeer): string {
  return fingerprint ?? 'unauthenticated';
}

/** Compares tokens in a time that does not tell how much of them is right. */
export function isSameToken(a: string, b: string): boolean {
  const [x, y] = [Buffer.from(a), Buffer.from(b)];
  return x.length === y.length && timingSafeEqual(x, y);
}

export interface Ports {
  readonly least: number;
  readonly most: number;
}

/** libvirt's own range. */
export const DEFAULT_PORTS: Ports = { least: 49152, most: 49215 };

/** `49152-49215`, or one port. */
export function parsePorts(text: string): Ports {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text);
  const least = Number(match?.[1]);
  const most = Number(match?.[2] ?? match?.[1]);
  if (!match || least < 1 || most > 65535 || least > most) {
    throw new PagewireError('BAD_OPTION', `--ports ${text}: a port or a range such as 49152-49215`);
  }
  return { least, most };
}

/** Whether a source may name this port; undefined if so. */
export function refusesPort(port: number | undefined, { least, most }: Ports): string | undefined {
  if (port === undefined || (port >= least && port <= most)) return undefined;
  return `port ${port} is not among those that the destination allows, ${least}-${most} (--ports there)`;
}

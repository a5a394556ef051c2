/** A session for people and programs: the progress line, the line at its end, and the lines that `--stats` writes. */
import type { PagewireError } from '../errors.js';
import type { SessionSnapshot } from '../session/snapshot.js';
import type { SessionEnd } from '../session/outcome.js';
import { bytes, count, ratio } from './amounts.js';

/** Makes the progress line anew each time that it is asked for; the rates are those since the last time. */
export function sessionProgress(look: () => SessionSnapshot): (perSecond: number) => string {
  let last = { at: performance.now(), bytes: 0 };
  return (perSecond) => {
    const s = look();
    const now = { at: performance.now(), bytes: wireBytes(s) };
    const wirePerSecond = ((now.bytes - last.bytes) / (now.at - last.at)) * 1000;
    last = now;
    return sessionLine(s, perSecond, wirePerSecond);
  };
}

/** `perSecond`: bytes of QEMU's stream; `wirePerSecond`: of what it became. */
export function sessionLine(s: SessionSnapshot, perSecond: number, wirePerSecond: number): string {
  const parts = [
    `${bytes(s.streamBytes)} · ${bytes(perSecond)}/s in`,
    `${bytes(wirePerSecond)}/s on the wire`,
    ratio(s.streamBytes, wireBytes(s)),
  ];
  if (s.pages) {
    const { raw, delta, skipped, fill } = s.pages;
    parts.push(`pass ${s.passes}`, `pages ${raw} raw ${delta} delta ${skipped} skipped ${fill} zero`);
  }
  const hits = hitRate(s);
  if (hits !== null) parts.push(`cache ${Math.round(hits * 100)}%`);
  parts.push(`queue ${Math.round(s.queue.ms)} ms`, `rtt ${s.wire.roundTripMs.toFixed(1)} ms`);
  if (s.state !== 'running') parts.unshift(s.state);
  return parts.join(' · ');
}

/** How a session ended that did not fail. */
export function sessionEnd({ role, tunnel }: SessionSnapshot, cancelled: boolean): string {
  if (tunnel) return `libvirt's connection has ended${migrations(tunnel)}`;
  if (cancelled) return 'cancelled';
  return role === 'source' ? 'migrated' : 'arrived';
}

function migrations({ complete, givenUp, refused }: NonNullable<SessionSnapshot['tunnel']>): string {
  const parts = [
    complete > 0 ? `${count(complete, 'stream')} complete` : '',
    givenUp > 0 ? `${givenUp} given up` : '',
    refused > 0 ? `${count(refused, 'call')} refused` : '',
  ].filter((part) => part !== '');
  return parts.length > 0 ? ` (${parts.join(', ')})` : '';
}

/** What a session has done, at its end. */
export function sessionSummary(s: SessionSnapshot): string {
  const losses = s.linkLosses > 0 ? `, ${count(s.linkLosses, 'lost link')}` : '';
  return (
    `${bytes(s.streamBytes)} in ${s.seconds.toFixed(1)} s, ${bytes(wireBytes(s))} on the wire ` +
    `(${ratio(s.streamBytes, wireBytes(s))})${losses}`
  );
}

/** The direction of the guest. */
function wireBytes({ role, wire }: SessionSnapshot): number {
  return role === 'source' ? wire.out : wire.in;
}

function hitRate({ cache }: SessionSnapshot): number | null {
  const looked = cache ? cache.hits + cache.misses : 0;
  return cache && looked > 0 ? cache.hits / looked : null;
}

export type SessionOutcome =
  | { state: 'complete' }
  | { state: 'cancelled'; within: string | null }
  | { state: 'failed'; code: string; message: string };

/** Of a session that did not fail. */
export function endedSession({ cancelled, within }: SessionEnd): SessionOutcome {
  return cancelled ? { state: 'cancelled', within: within ?? null } : { state: 'complete' };
}

export function failedSession({ code, message }: PagewireError): SessionOutcome {
  return { state: 'failed', code, message };
}

/** Grows when a field is removed or gets another meaning; new fields alone do not change it. */
export const SESSION_STATS_VERSION = 1;

/** One line of `--stats`; the last one of a session has an outcome. */
export function statsLine(s: SessionSnapshot, outcome: SessionOutcome | null): string {
  const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage();
  const line = {
    version: SESSION_STATS_VERSION,
    command: `proxy ${s.role}`,
    time: new Date().toISOString(),
    outcome,
    ...s,
    ratio: wireBytes(s) > 0 ? s.streamBytes / wireBytes(s) : null,
    cacheHitRate: hitRate(s),
    cpuSeconds: { total: (userCPUTime + systemCPUTime) / 1e6, ...s.cpuSeconds },
    peakMemoryBytes: maxRSS * 1024,
  };
  return `${JSON.stringify(line)}\n`;
}

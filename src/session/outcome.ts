/** What a session does next, as pure functions of how its channels stand. */
import type { WireStatus } from '../native.js';

/** How one channel stands, from either end. */
export type ChannelState = Pick<
  WireStatus,
  'confirmed' | 'ended' | 'notTaken' | 'doubt' | 'peerBye' | 'peerAbort' | 'daemonGone' | 'settled' | 'failure'
>;

/** Both halves of every connection have ended, and nothing of them is missing anywhere. */
export function isCarried(channels: readonly ChannelState[]): boolean {
  return channels.length > 0 && channels.every(({ confirmed, ended }) => confirmed && ended);
}

/** The destination's guest may run, and the source's QEMU does not know it. */
export function isInDoubt(channels: readonly ChannelState[]): boolean {
  return channels.some(({ doubt }) => doubt);
}

/** The migration in libvirt's tunnel, which has one channel, is over for both daemons: they only take their leave. */
export function isSettled(channels: readonly ChannelState[]): boolean {
  return channels.some(({ settled }) => settled);
}

/** What is said in place of a failure then. */
export function settledText(why: Error): string {
  return `${why.message}. That came behind the last answer of libvirt's migration, and takes nothing from it`;
}

/** How long the last words of a session may take that are owed to nobody's guest, in milliseconds. */
const LINGER_MS = 30_000;

/** How long a link that is lost is waited or looked for; `isDone`: all that matters is carried. */
export function patienceMs(reconnectMs: number, isDone: boolean): number {
  return isDone ? Math.min(reconnectMs, LINGER_MS) : reconnectMs;
}

/** What a source whose QEMU has cancelled says as it gives up. Destinations of other versions know it by these very words. */
export const CANCELLED = 'the migration was cancelled at the source';

/** How a session ended, where nothing failed. */
export interface SessionEnd {
  /** QEMU ended its stream in the middle: the migration was cancelled. */
  readonly cancelled: boolean;
  readonly within: string | undefined;
}

/** What an end makes of its channels. */
export type Verdict =
  | { readonly is: 'going on' }
  /** All is carried, and the peer has not been told yet. */
  | { readonly is: 'carried' }
  /** The peer says so too. */
  | { readonly is: 'over' }
  /** All is carried, and the destination's QEMU does not run the guest. */
  | { readonly is: 'not taken'; readonly why: string }
  /** The destination's daemon is gone, and the source's still waits for it. */
  | { readonly is: 'deserted' }
  /** The source's QEMU has cancelled the migration. */
  | { readonly is: 'cancelled' }
  /** The peer gave up, or what it says is wrong. */
  | { readonly is: 'given up' | 'broken'; readonly why: string };

/**
 * `saidBye` is whether this end has said that all is done. The source says so first, since it alone knows when all is
 * carried in both directions; the destination answers.
 */
export function judge(side: 'source' | 'destination', channels: readonly ChannelState[], saidBye: boolean): Verdict {
  const all = channels.length > 0;
  if (all && channels.every(({ peerBye }) => peerBye) && (saidBye || side === 'destination')) return { is: 'over' };
  const gaveUp = channels.find(({ peerAbort }) => peerAbort !== undefined);
  if (gaveUp?.peerAbort === CANCELLED) return { is: 'cancelled' };
  if (gaveUp?.peerAbort !== undefined) return { is: 'given up', why: gaveUp.peerAbort };
  const broken = channels.find(({ failure }) => failure !== undefined);
  if (broken?.failure !== undefined) return { is: 'broken', why: broken.failure };
  if (side === 'source' && channels.some(({ daemonGone }) => daemonGone)) return { is: 'deserted' };
  if (side === 'destination' || saidBye || !isCarried(channels)) return { is: 'going on' };
  const why = channels.find(({ notTaken }) => notTaken !== undefined)?.notTaken;
  return why === undefined ? { is: 'carried' } : { is: 'not taken', why };
}

/** What to do where the far guest may run and its answer cannot come: hold QEMU's socket open, or fail. */
export type InDoubt = 'hold' | 'fail';

/**
 * What becomes of a session whose link did not come back in time, or whose peer does not know it.
 *
 * - `fail`: QEMU's socket is closed; the migration fails, and the source's guest runs on.
 * - `hold`: it stays open and the source's guest paused, since the far one may run: a person decides.
 */
export function afterLoss({ doubt, policy }: { doubt: boolean; policy: InDoubt }): 'fail' | 'hold' {
  return doubt && policy === 'hold' ? 'hold' : 'fail';
}

/** What the n-th request to stop does, from 1. In doubt only a second one is taken for a decision. */
export function afterStop({ doubt, requests }: { doubt: boolean; requests: number }): 'fail' | 'warn' {
  return doubt && requests < 2 ? 'warn' : 'fail';
}

/** What is held in doubt. */
export interface Held {
  /** It came through libvirt's tunnel: libvirt ends its QEMU. */
  readonly libvirt: boolean;
  /** Its pages are not at the destination yet. */
  readonly postcopy: boolean;
}

/** What a first request to stop is answered with, in doubt. */
export function stopInDoubtText(held: Held): string {
  const whose = held.libvirt ? 'libvirt there' : 'its QEMU';
  return (
    `the guest may be running at the destination already, and ${whose} has not said so yet: the session goes on. ` +
    `${beforeTheEnd(held)}. A second signal ends the session`
  );
}

/** How often a session that is held in doubt says so, in milliseconds. */
export const DOUBT_NOTE_MS = 10_000;

/** What a person has to decide, where a session is held. */
export function inDoubtText(why: Error, held: Held): string {
  const begin = `IN DOUBT: ${why.message}. The guest may be running at the destination, so it is held here, paused. `;
  if (held.postcopy) return begin + beforeTheEnd(held);
  return (
    `${begin}${beforeTheEnd(held)}. Then stop this proxy: SIGTERM to process ${process.pid}, twice (or SIGHUP with ` +
    'in-doubt = fail in the --config file)'
  );
}

/**
 * What comes before the end of a session that is held: one of the two guests goes first, or both may run. Not in
 * postcopy, where a guest that runs at the destination is lost without the source's QEMU.
 */
function beforeTheEnd({ libvirt, postcopy }: Held): string {
  if (postcopy) {
    return (
      'It is in postcopy, and needs the QEMU here for its pages: leave both QEMUs as they are while the link may come ' +
      'back. What to do where it does not stands in docs/proxy.md, "In doubt"'
    );
  }
  const [here, there] = libvirt
    ? ['it here (virsh destroy)', 'it there (virsh destroy)']
    : ['the QEMU here', 'the QEMU there'];
  return `Look there: if it runs, end ${here} first; if it does not, but is waited for still, end ${there} first`;
}

/** What fits into the memory that a session may take at the destination. */
import { PagewireError } from '../errors.js';
import { FRAME_SIZES, framesInFlight, MATCH_SIZES, windowBytes } from '../pipeline/settings.js';
import { BASE_BYTES, defaultMemoryLimit, WORKER_BYTES } from '../policy/memory.js';
import { bytes } from '../telemetry/amounts.js';
import { FURTHER_IN_FLIGHT, furtherPackers } from './channel.js';
import { MOST_CHANNELS } from './hello.js';
import type { Agreement } from './negotiate.js';

/** What comes back from a guest is a few bytes a page; only a recovered postcopy says more at once. */
export const RETURN_REPLAY = 8 << 20;

/** Smaller frames would cost more in packing than they save in memory. */
const LEAST_FRAME_SIZE = 64 << 10;

/** What a session may take for references where nobody has set a limit, with all else: there may be many sessions. */
const MOST_MEMORY = 1 << 30;

/** Bytes beside frames and window. */
const fixedBytes = (threads: number): number => BASE_BYTES + RETURN_REPLAY + threads * WORKER_BYTES;

/** Frames of a further connection that there may be at once. */
const furtherFrames = (threads: number): number => FURTHER_IN_FLIGHT + furtherPackers(threads);

/** Frames of the main connection and of one further connection: that for postcopy's urgent pages. */
const frames = (threads: number): number => framesInFlight(threads) + threads + 1 + furtherFrames(threads);

/** The largest frames that a session within the memory limit can take; the source makes none that are larger. */
export function frameSizeFor(threads: number, memoryLimit = Infinity): number {
  const size = (memoryLimit - fixedBytes(threads)) / frames(threads);
  if (size >= LEAST_FRAME_SIZE) return Math.min(Math.floor(size), FRAME_SIZES.most);
  const needed = fixedBytes(threads) + LEAST_FRAME_SIZE * frames(threads);
  throw new PagewireError(
    'OUT_OF_MEMORY',
    `a session needs ${bytes(needed)} of memory, over the limit of ${bytes(memoryLimit)} (--memory-limit): ` +
      'take fewer --threads or a higher limit',
  );
}

/** How far back the references of a session may lead, in bytes: for what else there is in the memory limit. */
export function matchRoom(
  threads: number,
  frameSize: number,
  memoryLimit = Math.min(defaultMemoryLimit(), MOST_MEMORY),
): number {
  const room = memoryLimit - fixedBytes(threads) - frames(threads) * frameSize;
  const overhead = windowBytes(MATCH_SIZES.least, framesInFlight(threads) * frameSize);
  // A window takes some hundredths more than it reaches back.
  return Math.max(Math.floor((room - overhead) * 0.9), 0);
}

/** What a session takes at the most, with one further connection of QEMU's, in bytes. */
export function sessionBytes(threads: number, { frameSize, match }: Pick<Agreement, 'frameSize' | 'match'>): number {
  const window = match > 0 ? windowBytes(match, framesInFlight(threads) * frameSize) : 0;
  return fixedBytes(threads) + frames(threads) * frameSize + window;
}

/** How many further connections of QEMU's there is room for, one at least. Without a limit as many as there may be. */
export function furtherRoom(
  threads: number,
  { frameSize, match }: Pick<Agreement, 'frameSize' | 'match'>,
  memoryLimit = Infinity,
): number {
  const room = memoryLimit - sessionBytes(threads, { frameSize, match });
  const more = Math.max(Math.floor(room / (furtherFrames(threads) * frameSize)), 0);
  return Math.min(1 + more, MOST_CHANNELS);
}

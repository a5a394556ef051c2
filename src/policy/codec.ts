import type { Codec } from '../codecs.js';

/** What frames are packed with. */
export interface Packing {
  readonly codec: Codec;
  readonly level: number;
}

/** What is looked at before each frame is packed. */
export interface Load {
  /** Every worker has a frame: this one will wait for one of them. */
  readonly workersBusy: boolean;
  /** No packed frame is left, and the link takes at once what it gets: the wire is about to run dry. */
  readonly wireDry: boolean;
  /** The link is what holds the stream up: both its ends wait for it most of the time. */
  readonly linkFull: boolean;
  /** The other end is, or the QEMU behind it. */
  readonly peerBusy: boolean;
}

/** Where a stream stands between what it was told to pack with and what costs nothing. */
export interface Stand {
  /** How far down the {@link ladder}; 0: as it was told. */
  readonly step: number;
  /** Frames in a row for which our workers or those of the other end held the stream up; below 0: frames that do not count yet. */
  readonly late: number;
  /** Frames in a row for which the link did. */
  readonly easy: number;
  /** How many easy frames it takes to try the step above; doubled each time that it proves too much. */
  readonly patience: number;
  /** Frames since the last step up; a step down soon after it says that the step was too much. */
  readonly sinceUp: number;
}

/**
 * So many late frames in a row are too many. Right behind a step up two are: it is taken back before it costs anything.
 * Later a few are chance, or a stretch that packs very small (at 200 Mbit/s, 2 instead of 10 cost a fifth more bytes).
 */
const LATE = { trial: 2, settled: 10 };

/** So many frames may be with the workers still as they were packed before a step down: they say nothing of it. */
const BEFORE = 6;

/** Trying a heavier codec costs a dry wire for a frame or two if it is too much, so it is tried ever more seldom. */
const PATIENCE = { least: 2, most: 1024 };

/** A step up that is taken back within so many frames was too much. */
const TRIAL = 16;

/** Before anything is known of the link nothing is packed: on a slow one that costs the first frames only. */
export function start(steps: number): Stand {
  return { step: steps - 1, late: 0, easy: 0, patience: PATIENCE.least, sinceUp: Infinity };
}

/**
 * From what was asked for to what costs nothing: each step takes a fraction of the time of the one before. On the last one a
 * frame goes as it is: `matches` says whether others are looked through for what comes again, even where no codec packs them.
 */
export function ladder(asked: Packing, matches = false): readonly Packing[] {
  const steps = [asked];
  // Strong levels have the fast one of their own codec on the way.
  if (asked.codec === 'zlib' || (asked.codec === 'zstd' && (asked.level > 1 || asked.level === 0))) {
    steps.push({ codec: 'zstd', level: 1 });
  }
  if (asked.codec === 'zlib' || asked.codec === 'zstd') steps.push({ codec: 'lz4', level: 1 });
  if (asked.codec !== 'none' || matches) steps.push({ codec: 'none', level: 0 });
  return steps;
}

/**
 * Does no harm: while workers hold the stream up, ours or those of the other end, each next step is lighter; while the link
 * does, it goes back up.
 * A pure function of what was and what is; `steps` is the length of the ladder.
 */
export function next(stand: Stand, { workersBusy, wireDry, linkFull, peerBusy }: Load, steps: number): Stand {
  const sinceUp = stand.sinceUp + 1;
  if ((workersBusy && wireDry) || peerBusy) {
    const late = stand.late + 1;
    const tooMuch = sinceUp <= TRIAL;
    if (late < (tooMuch ? LATE.trial : LATE.settled) || stand.step === steps - 1) {
      return { ...stand, late, easy: 0, sinceUp };
    }
    const patience = tooMuch ? Math.min(stand.patience * 2, PATIENCE.most) : stand.patience;
    return { step: stand.step + 1, late: -BEFORE, easy: 0, patience, sinceUp: Infinity };
  }
  const late = Math.min(stand.late + 1, 0);
  if (!linkFull) return { ...stand, late, sinceUp };
  const easy = stand.easy + 1;
  if (easy < stand.patience || stand.step === 0) return { ...stand, late, easy, sinceUp };
  return { ...stand, step: stand.step - 1, late: 0, easy: 0, sinceUp: 0 };
}

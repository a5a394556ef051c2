import { codecNumber } from '../codecs.js';
import { type ErrorCode, PagewireError } from '../errors.js';
import { Guard } from './guard.js';
import { LINKS, secondsOver } from '../measuring/links.js';
import { native } from '../native.js';
import type { VariantReport } from './report/schema.js';
import { risingBy } from './memory.js';
import type { Sample } from './sample.js';
import { type Spread, spreadOf } from './statistics.js';
import { blockBatch, deltaBatch } from './trials/batch.js';
import { ChainTrial } from './trials/chain.js';
import { PieceTrial, type Room } from './trials/pieces.js';
import type { Timing, Trial, Turn } from './trials/trial.js';
import { BLOCK_SIZE, isScripted, type PresentVariant, type Variant } from './variant.js';

export interface Method {
  /** Measured runs of each variant, after one that warms up. */
  runs: number;
  /** About how long a run over blocks or pages may take; slower variants get fewer of them. */
  seconds: number;
}

/** What trials need beside the sample. */
export interface Workshop {
  /** Where chains may write. */
  folder: string;
  room: Room;
  signal: AbortSignal;
  note: (text: string) => void;
}

/**
 * Measures the variants on a sample: each once to warm up, then all of them in turn, run after run, so that what
 * disturbs the machine meets all of them alike. What cannot be measured is told with its reason.
 */
export async function measure(
  variants: readonly Variant[],
  sample: Sample,
  method: Method,
  workshop: Workshop,
): Promise<VariantReport[]> {
  const guard = variants.some(isScripted) ? new Guard(sample) : undefined;
  const entries = variants.map((variant) => new Entry(variant, sample, guard));
  const trials: [Entry, Trial][] = [];
  for (const [index, entry] of entries.entries()) {
    const trial = await entry.prepare(workshop);
    if (!trial) continue;
    workshop.note(`${sample.name}: warming up ${index + 1} of ${entries.length}: ${entry.variant.name}`);
    await entry.attempt(workshop, async () => {
      const { result, bytes } = await risingBy(() => trial.warm(method.seconds));
      entry.first = result;
      entry.memoryBytes = result.memoryBytes ?? contextBytes(entry.variant) ?? bytes;
    });
    trials.push([entry, trial]);
  }
  for (let run = 1; run <= method.runs; run++) {
    for (const [entry, trial] of trials) {
      if (entry.hasFailed) continue;
      workshop.note(`${sample.name}: run ${run} of ${method.runs}: ${entry.variant.name}`);
      await entry.attempt(workshop, async () => {
        entry.turns.push(await trial.turn());
      });
    }
  }
  return entries.map((entry) => entry.report());
}

/** What the stream asks for and this machine cannot do, whoever's the variant is. */
const BEYOND_IT: readonly ErrorCode[] = ['CACHE_TOO_LARGE'];

/** A variant and what has become of it. */
class Entry {
  readonly variant: Variant;
  /** The turn that warmed up: over all of the input. */
  first: Turn | undefined;
  readonly turns: Turn[] = [];
  memoryBytes: number | undefined;
  readonly #sample: Sample;
  readonly #guard: Guard | undefined;
  #failure: { status: 'failed' | 'not applicable'; reason: string } | undefined;

  constructor(variant: Variant, sample: Sample, guard: Guard | undefined) {
    this.variant = variant;
    this.#sample = sample;
    this.#guard = guard;
  }

  get hasFailed(): boolean {
    return this.#failure !== undefined;
  }

  /** Undefined where there is nothing to measure. */
  async prepare(workshop: Workshop): Promise<Trial | undefined> {
    const { variant } = this;
    if ('missing' in variant || this.#whyNot() !== undefined) return undefined;
    let trial: Trial | undefined;
    await this.attempt(workshop, () => {
      trial = trialOf(variant, this.#sample, workshop);
      return Promise.resolve();
    });
    return trial;
  }

  /** A variant that fails is told so and left out; the others go on. */
  async attempt({ signal }: Workshop, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (signal.aborted) throw error;
      const { code, message } = PagewireError.from(error);
      this.#failure = { status: BEYOND_IT.includes(code) ? 'not applicable' : 'failed', reason: message };
    }
    if (isScripted(this.variant) && this.#guard?.restore()) {
      this.#failure = { status: 'failed', reason: 'it changed its input' };
    }
    if (signal.aborted) throw new PagewireError('STOPPED', 'stopped');
  }

  report(): VariantReport {
    const { variant } = this;
    const known = { stream: this.#sample.name, kind: variant.kind, name: variant.name };
    if ('missing' in variant) {
      return { ...known, status: 'not installed', reason: `npm install ${variant.missing}` };
    }
    const whyNot = this.#whyNot();
    if (whyNot !== undefined) return { ...known, status: 'not applicable', reason: whyNot };
    if (this.#failure) return { ...known, ...this.#failure };
    return { ...known, status: 'measured', memoryBytes: this.memoryBytes ?? null, ...figures(this.first, this.turns) };
  }

  #whyNot(): string | undefined {
    const { variant } = this;
    if (variant.kind === 'delta' && this.#sample.pairs.new.length === 0) return 'no page comes twice';
    if (variant.kind === 'chain' && 'cachePercent' in variant && this.#sample.facts.again === 0) {
      return 'no page comes twice';
    }
    return undefined;
  }
}

function trialOf(variant: PresentVariant, sample: Sample, { folder, room, signal }: Workshop): Trial {
  switch (variant.kind) {
    case 'chain':
      return new ChainTrial(variant, sample, folder, signal);
    case 'block':
      return new PieceTrial(variant, blockBatch(variant, sample.blocks), room, signal);
    case 'delta':
      return new PieceTrial(variant, deltaBatch(variant, sample.pairs, sample.facts.pageSize), room, signal);
  }
}

/** What is known of a native codec; it takes memory that the process has already, so that nothing would be seen to rise. */
function contextBytes(variant: Variant): number | undefined {
  if (variant.kind !== 'block' || !('codec' in variant)) return undefined;
  const { codec, level, blockSize = BLOCK_SIZE } = variant;
  return native.packerBytes(codecNumber(codec), level, blockSize);
}

/** What the runs of a variant come to. */
function figures(all: Turn | undefined, turns: readonly Turn[]): Partial<VariantReport> {
  const [first] = turns;
  if (!all || !first) throw new PagewireError('INTERNAL', 'a variant was not run');
  const over = (value: (turn: Turn) => number): Spread => spreadOf(turns.map(value));
  const speed = (side: 'encode' | 'decode'): Spread | null =>
    first[side] ? over((turn) => turn.rawBytes / 1e6 / Math.max(of(turn, side).seconds, 1e-9)) : null;
  const cpu = (side: 'encode' | 'decode'): number | null =>
    first[side] ? over((turn) => of(turn, side).cpuSeconds / (turn.rawBytes / 1e9)).median : null;
  const sizes = [all, ...turns].filter(({ rawBytes }) => rawBytes === all.rawBytes);
  const ratio = spreadOf(sizes.map(({ rawBytes, packedBytes }) => rawBytes / Math.max(packedBytes, 1)));
  const [encode, decode] = [speed('encode'), speed('decode')];
  return {
    rawBytes: all.rawBytes,
    packedBytes: all.packedBytes,
    timedBytes: first.rawBytes,
    ratio: ratio.median,
    ratioSpread: ratio,
    encodeMBps: encode?.median ?? null,
    decodeMBps: decode?.median ?? null,
    encodeSpread: encode,
    decodeSpread: decode,
    encodeCpuSecondsPerGB: cpu('encode'),
    decodeCpuSecondsPerGB: cpu('decode'),
    links: LINKS.map(({ name, bytesPerSecond }) => ({
      name,
      MBps: effectiveMBps(bytesPerSecond, ratio.median, encode?.median, decode?.median),
    })),
    ...(first.cache && {
      cacheBytes: first.cache.bytes,
      hitRate: over((turn) => turn.cache?.hitRate ?? 0).median,
    }),
  };
}

function of(turn: Turn, side: 'encode' | 'decode'): Timing {
  return turn[side] ?? { seconds: NaN, cpuSeconds: NaN };
}

/** MB a second that come through a link; a side that a variant leaves to others holds nothing up. */
export function effectiveMBps(
  bytesPerSecond: number,
  ratio: number,
  encodeMBps = Infinity,
  decodeMBps = Infinity,
): number {
  const seconds = secondsOver(bytesPerSecond, {
    rawBytes: 1e6,
    wireBytes: 1e6 / ratio,
    encodeBytesPerSecond: encodeMBps * 1e6,
    decodeBytesPerSecond: decodeMBps * 1e6,
  });
  return 1 / seconds;
}

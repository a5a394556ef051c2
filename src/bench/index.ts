/** The benchmark as a library: what `pagewire bench` runs. */
import type { BenchReport } from './report/schema.js';
import type { Variant } from './variant.js';

export type { BenchReport } from './report/schema.js';
export type { BlockVariant, ChainVariant, DeltaVariant, Variant } from './variant.js';

export interface BenchOptions {
  /** Files with streams; default: a guest under QEMU where there is one, else the simulator. */
  streams?: readonly string[] | undefined;
  /** Without streams: the simulator, also where there is a QEMU. */
  simulate?: boolean | undefined;
  /** Variants beside those that pagewire brings. */
  variants?: readonly Variant[] | undefined;
  /** Our block codecs at every level, not at chosen ones. */
  everyLevel?: boolean | undefined;
  /** Only variants with one of these texts in their name. */
  filter?: readonly string[] | undefined;
  /** Measured runs of each variant, after one that warms up; default: 3. */
  runs?: number | undefined;
  /** About how long a run over blocks or pages may take, in seconds; default: 0.25. */
  seconds?: number | undefined;
  /** Bytes of a stream that are measured on, at the most; default: 256 MiB. */
  sampleBytes?: number | undefined;
  /** A small sample and short runs, where nothing else is said. */
  quick?: boolean | undefined;
  /** Called with what is being done. */
  onNote?: ((text: string) => void) | undefined;
  signal?: AbortSignal | undefined;
}

/**
 * Compares variants on streams.
 *
 * @throws PagewireError with the code BAD_OPTION, OPEN_FAILED or STOPPED. A variant that fails is in the report, with
 * the reason.
 */
export async function bench(options: BenchOptions = {}): Promise<BenchReport> {
  const [{ Registry }, { DEFAULTS, QUICK, runBench }] = await Promise.all([
    import('./registry.js'),
    import('./run.js'),
  ]);
  const { streams = [], simulate = false, everyLevel = false, variants = [], filter = [] } = options;
  const registry = (await Registry.builtIn({ everyLevel })).add(...variants);
  const preset = options.quick ? QUICK : DEFAULTS;
  const { runs = preset.runs, seconds = preset.seconds, sampleBytes = preset.sampleBytes } = options;
  return runBench({
    streams,
    simulate,
    variants: registry.variants(filter),
    runs,
    seconds,
    sampleBytes,
    note: options.onNote ?? (() => undefined),
    signal: options.signal ?? new AbortController().signal,
  });
}

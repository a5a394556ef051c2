/** The report as JSON; docs/bench.md describes it for users. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { PagewireError } from '../../errors.js';

/** Counts up where a field changes its meaning or goes; new fields do not change it. */
export const VERSION = 1;

const amount = z.number().nonnegative();
const spread = z.object({ median: amount, least: amount, most: amount });

const variant = z.object({
  /** The stream that it was measured on, by its name in `streams`. */
  stream: z.string(),
  kind: z.enum(['block', 'delta', 'chain']),
  name: z.string(),
  status: z.enum(['measured', 'not installed', 'not applicable', 'failed']),
  /** Why it was not measured. */
  reason: z.string().optional(),
  /** Bytes that went in and came out, in the first run. */
  rawBytes: amount.optional(),
  packedBytes: amount.optional(),
  /** Bytes that went in in each run that was timed: fewer where the variant is slow. */
  timedBytes: amount.optional(),
  /** The first by the second. */
  ratio: amount.optional(),
  /** MB (10^6 bytes) of what went in, a second; the median of the runs. Null where it does not do that itself. */
  encodeMBps: amount.nullable().optional(),
  decodeMBps: amount.nullable().optional(),
  encodeSpread: spread.nullable().optional(),
  decodeSpread: spread.nullable().optional(),
  ratioSpread: spread.optional(),
  /** CPU seconds for 10^9 bytes of what goes in, to encode and to decode them; medians. */
  encodeCpuSecondsPerGB: amount.nullable().optional(),
  decodeCpuSecondsPerGB: amount.nullable().optional(),
  /**
   * Native block codecs: what a packing context takes, at the most. Chains: what the encoder reckons to take, with its page
   * cache. All others: how far resident memory rose in the first run; null where the kernel does not say. Bytes.
   */
  memoryBytes: amount.nullable().optional(),
  /** MB of what goes in that reach the other end of a link each second. */
  links: z.array(z.object({ name: z.string(), MBps: amount })).optional(),
  /** Of the page cache: what it took at the end, in bytes, and the share of pages that it had. */
  cacheBytes: amount.optional(),
  hitRate: z.number().min(0).max(1).optional(),
});

const schema = z.object({
  version: z.literal(VERSION),
  /** When it began, as RFC 3339 has it. */
  date: z.string(),
  machine: z.object({
    processor: z.string(),
    cores: z.int().positive(),
    memoryBytes: amount,
    kernel: z.string(),
    node: z.string(),
    pagewire: z.string(),
    tier: z.string(),
    load: amount,
  }),
  method: z.object({
    runs: z.int().positive(),
    /** What a run over pieces may take, about; slower variants get fewer pieces. */
    seconds: amount,
  }),
  streams: z.array(
    z.object({
      name: z.string(),
      /** The stream, and what of it was measured on. */
      bytes: amount,
      sampleBytes: amount,
      /** SHA-256 of the sample. */
      sampleDigest: z.string(),
      /** Bytes of the sample for block codecs, and of new pages for deltas. */
      blockBytes: amount,
      deltaBytes: amount,
      machine: z.string(),
      ramBytes: amount,
      pageSize: amount,
      pages: amount,
      pagesAgain: amount,
      /** From where on, and why, it is not understood: delta leaves the rest as it is. */
      notUnderstood: z.string().optional(),
    }),
  ),
  variants: z.array(variant),
});

export type BenchReport = z.infer<typeof schema>;
export type VariantReport = z.infer<typeof variant>;
export type StreamReport = BenchReport['streams'][number];

/** A report that was measured: all figures are there. */
export type Measured = VariantReport & {
  status: 'measured';
  rawBytes: number;
  packedBytes: number;
  ratio: number;
  encodeMBps: number | null;
  decodeMBps: number | null;
  encodeSpread: Spread | null;
  decodeSpread: Spread | null;
  ratioSpread: Spread;
  links: { name: string; MBps: number }[];
};
type Spread = z.infer<typeof spread>;

export function isMeasured(variant: VariantReport): variant is Measured {
  return variant.status === 'measured' && variant.ratio !== undefined && variant.links !== undefined;
}

/** @throws PagewireError with the code BAD_OPTION where it is none. */
export function checkReport(value: unknown, name: string): BenchReport {
  const { data, error } = schema.safeParse(value);
  if (data) return data;
  const [issue] = error.issues;
  const where = issue?.path.join('.') ?? '';
  throw new PagewireError(
    'BAD_OPTION',
    `${name} is no report of pagewire bench: ${where && `${where}: `}${issue?.message ?? ''}`,
  );
}

export function readReport(path: string): BenchReport {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new PagewireError('OPEN_FAILED', `cannot read ${path}: ${error instanceof Error ? error.message : '?'}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new PagewireError('BAD_OPTION', `${path} is no report of pagewire bench: it is not JSON`);
  }
  return checkReport(value, path);
}

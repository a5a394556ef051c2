/** The report as JSON: docs/inspect.md says what each field means. */
import { z } from 'zod';

/** Grows when a field is removed or gets another meaning; new fields alone do not change it. */
export const VERSION = 1;

const count = z.int().nonnegative();
const tally = z.strictObject({
  raw: count,
  zero: count,
  fill: count,
  xbzrle: count,
  compressed: count,
  bytes: count,
});
const rate = z.number().positive();

const variant = z.strictObject({
  name: z.string(),
  measuredOn: z.enum(['sample', 'stream']),
  measuredBytes: count,
  wireBytes: count,
  ratio: z.number().positive(),
  encodeBytesPerSecond: rate,
  decodeBytesPerSecond: rate.nullable(),
  links: z.array(z.strictObject({ name: z.string(), seconds: z.number().nonnegative() })),
});

const forecast = z.strictObject({
  threads: count,
  sample: z.strictObject({ bytes: count, oneIn: count }),
  variants: z.array(variant),
  best: z.array(z.strictObject({ link: z.string(), bytesPerSecond: rate, variant: z.string() })),
  notes: z.array(z.string()),
});

const section = z.strictObject({
  type: z.enum(['configuration', 'ram', 'device', 'opaque', 'description']),
  offset: count,
  bytes: count,
  name: z.string().nullable(),
  id: count.nullable(),
  /** Of RAM: start, part, end. */
  kind: z.enum(['start', 'part', 'end']).nullable(),
  pages: count.nullable(),
  /** How many sections it is. */
  count,
  instance: count.nullable(),
  version: count.nullable(),
});

export const inspection = z.strictObject({
  version: z.literal(VERSION),
  file: z.string(),
  container: z.strictObject({
    libvirt: z.strictObject({ format: z.string(), payload: count }).nullable(),
    pagewire: z.boolean(),
    fileBytes: count.nullable(),
  }),
  stream: z.strictObject({
    bytes: count,
    understood: count,
    state: z.enum(['complete', 'unsure', 'truncated', 'unknown', 'failed']),
    within: z.string().nullable(),
    reason: z.string().nullable(),
  }),
  error: z.strictObject({ code: z.string(), message: z.string(), offset: count.nullable() }).nullable(),
  machine: z.string(),
  uuid: z.string().nullable(),
  pageSize: count.nullable(),
  pagesElsewhere: z.boolean(),
  blocks: z.array(z.strictObject({ name: z.string(), bytes: count, pages: tally })),
  sections: z.array(section),
  commands: z.strictObject({
    count,
    first: z.array(z.strictObject({ code: count, name: z.string().nullable(), offset: count, payload: z.string() })),
  }),
  pages: z
    .strictObject({
      total: tally,
      passes: z.array(z.strictObject({ offset: count, pages: tally })),
      passesMerged: z.boolean(),
      resent: z.strictObject({ sent: count, moreThanOnce: count, records: count, most: count }).nullable(),
      contents: z.strictObject({ lookedAt: count, equal: count, oneIn: count }),
      deltas: z.strictObject({
        sizes: z.array(z.strictObject({ upTo: count, pages: count })),
        tooLarge: count,
        bytes: count,
        withoutBase: count,
      }),
    })
    .nullable(),
  forecast: forecast.nullable(),
});

export type Inspection = z.infer<typeof inspection>;
export type Forecast = z.infer<typeof forecast>;
export type Variant = z.infer<typeof variant>;
export type Section = z.infer<typeof section>;
export type Tally = z.infer<typeof tally>;

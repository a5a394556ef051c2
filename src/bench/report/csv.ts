import { LINKS } from '../../measuring/links.js';
import type { BenchReport, VariantReport } from './schema.js';

const FIELDS = [
  'stream',
  'kind',
  'name',
  'status',
  'rawBytes',
  'packedBytes',
  'ratio',
  'encodeMBps',
  'decodeMBps',
  'encodeCpuSecondsPerGB',
  'decodeCpuSecondsPerGB',
  'memoryBytes',
  'cacheBytes',
  'hitRate',
] as const satisfies readonly (keyof VariantReport)[];

/** A line for each variant, with a head (RFC 4180); what is not known is empty. */
export function csv({ variants }: BenchReport): string {
  const head = [...FIELDS, ...LINKS.map(({ name }) => `MBps at ${name}`)];
  const rows = variants.map((variant) => [
    ...FIELDS.map((field) => variant[field]),
    ...LINKS.map(({ name }) => variant.links?.find((link) => link.name === name)?.MBps),
  ]);
  return [head, ...rows].map((row) => `${row.map(cell).join(',')}\r\n`).join('');
}

function cell(value: string | number | null | undefined): string {
  const text = String(value ?? '');
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

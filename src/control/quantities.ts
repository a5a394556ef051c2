import { parseBytes } from '../telemetry/amounts.js';

const MS: Record<string, number> = { ms: 1, s: 1000, sec: 1000, min: 60_000, h: 3_600_000 };

/** `500ms`, `5s`, `5min`, `1h`: milliseconds; undefined where it is none of these. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]+)$/.exec(text.trim());
  const factor = MS[match?.[2] ?? ''];
  if (!match?.[1] || factor === undefined) return undefined;
  return Math.round(Number(match[1]) * factor);
}

const BITS: Record<string, number> = { '': 1, k: 1e3, m: 1e6, g: 1e9 };

/**
 * `200Mbit` (a second, decimal as links are sold), `25MiB` (a second, binary as everywhere here): bytes a second; 0 is
 * no limit; undefined where it is none of these.
 */
export function parseRate(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([kmg]?)bit(?:\/s)?$/i.exec(text.trim());
  const factor = BITS[match?.[2]?.toLowerCase() ?? ''];
  if (!match?.[1]) return parseBytes(text.trim().replace(/\/s$/, ''));
  return factor === undefined ? undefined : Math.round((Number(match[1]) * factor) / 8);
}

/** A span of time for people. */
export function duration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${Number((ms / 1000).toFixed(1))} s`;
  return `${Number((ms / 60_000).toFixed(1))} min`;
}

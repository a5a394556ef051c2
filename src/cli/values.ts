/** What options take, as commander's argument parsers. */
import { InvalidArgumentError } from 'commander';
import { parseDuration, parseRate } from '../control/quantities.js';
import type { CacheSize } from '../pipeline/settings.js';
import { parseBytes } from '../telemetry/amounts.js';

export function each(text: string, before: string[] = []): string[] {
  return [...before, text];
}

export function list(text: string, before: string[] = []): string[] {
  return [...before, ...text.split(',')];
}

export function rate(text: string): number {
  const value = parseRate(text);
  if (value === undefined) throw new InvalidArgumentError('a rate such as 200Mbit or 25MiB is needed');
  return value;
}

export function time(text: string): number {
  const ms = parseDuration(text);
  if (ms === undefined) throw new InvalidArgumentError('a time such as 500ms, 5s or 5min is needed');
  return ms;
}

export function mode(text: string): number {
  if (!/^0?[0-7]{3}$/.test(text)) throw new InvalidArgumentError('a mode such as 0660 is needed');
  return Number.parseInt(text, 8);
}

export function integer(text: string): number {
  if (!/^-?\d+$/.test(text)) throw new InvalidArgumentError('a whole number is needed');
  return Number(text);
}

export function seconds(text: string): number {
  if (!/^\d+(\.\d+)?$|^\.\d+$/.test(text)) throw new InvalidArgumentError('seconds such as 2 or 0.5 are needed');
  return Number(text);
}

export function size(text: string): number {
  const bytes = parseBytes(text);
  if (bytes === undefined) throw new InvalidArgumentError('a size such as 512M or 2G is needed');
  return bytes;
}

export function cache(text: string): CacheSize {
  const percent = /^(\d+)%$/.exec(text)?.[1];
  return percent === undefined ? { bytes: size(text) } : { percent: Number(percent) };
}

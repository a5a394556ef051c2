/**
 * `--config FILE`: what an operator may change while a proxy runs. It is read at the start and again at SIGHUP, and what
 * it names counts before the command line.
 *
 *     # comment
 *     max-bandwidth = 200Mbit
 *     in-doubt = fail
 *     reconnect = 10min
 */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { PagewireError } from '../errors.js';
import { parseDuration, parseRate } from './quantities.js';

const quantity = (parse: (text: string) => number | undefined, what: string): z.ZodType<number, string> =>
  z.string().transform((text, context) => {
    const value = parse(text);
    if (value !== undefined) return value;
    context.addIssue({ code: 'custom', message: `${what} is needed, not ${text}` });
    return z.NEVER;
  });

const config = z.strictObject({
  'max-bandwidth': quantity(parseRate, 'a rate such as 200Mbit or 25MiB').optional(),
  'in-doubt': z.enum(['hold', 'fail']).optional(),
  reconnect: quantity(parseDuration, 'a time such as 30s or 5min').optional(),
});

export interface Config {
  maxBandwidth?: number;
  inDoubt?: 'hold' | 'fail';
  reconnectMs?: number;
}

export function readConfig(path: string): Config {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new PagewireError('OPEN_FAILED', `cannot read --config ${path}: ${(error as Error).message}`, {
      cause: error,
    });
  }
  return parseConfig(text, path);
}

export function parseConfig(text: string, path: string): Config {
  const settings: Record<string, string> = {};
  for (const [index, line] of text.split('\n').entries()) {
    if (/^\s*(#|$)/.test(line)) continue;
    const match = /^\s*([a-z-]+)\s*=\s*(\S.*?)\s*$/.exec(line);
    if (!match?.[1] || match[2] === undefined) {
      throw new PagewireError('BAD_OPTION', `${path}, line ${index + 1}: name = value is needed`);
    }
    settings[match[1]] = match[2];
  }
  const result = config.safeParse(settings);
  if (!result.success) {
    const [issue] = result.error.issues;
    const names = Object.keys(config.shape).join(', ');
    const what =
      issue?.code === 'unrecognized_keys'
        ? `${issue.keys.join(', ')} is no setting (${names})`
        : `${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`;
    throw new PagewireError('BAD_OPTION', `${path}: ${what}`);
  }
  const { 'max-bandwidth': maxBandwidth, 'in-doubt': inDoubt, reconnect: reconnectMs } = result.data;
  return {
    ...(maxBandwidth !== undefined && { maxBandwidth }),
    ...(inDoubt !== undefined && { inDoubt }),
    ...(reconnectMs !== undefined && { reconnectMs }),
  };
}

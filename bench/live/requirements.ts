// What these benchmarks need of the machine, told in one line before anything is started.
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import type { ParseArgsConfig } from 'node:util';

/** Programs and the Debian packages that they come in. */
const PACKAGES = {
  ip: 'iproute2',
  tc: 'iproute2',
  setpriv: 'util-linux',
  python3: 'python3',
  zstd: 'zstd',
  lzop: 'lzop',
  lz4: 'lz4',
  gzip: 'gzip',
  pigz: 'pigz',
  socat: 'socat',
  openssl: 'openssl',
} as const;
export type Program = keyof typeof PACKAGES;

/** Ends the benchmark with a word to its user. */
export function refuse(message: string): never {
  console.error(`bench: ${message}`);
  process.exit(2);
}

export function requirePrograms(...programs: readonly Program[]): void {
  const missing = programs.filter((program) => spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0);
  if (missing.length === 0) return;
  const packages = [...new Set(missing.map((program) => PACKAGES[program]))];
  refuse(`${missing.join(', ')} missing: apt-get install ${packages.join(' ')}`);
}

export function requireRoot(why: string): void {
  if (process.getuid?.() !== 0) refuse(`root is needed (${why}): sudo npm run …`);
}

/** The options of the command line, or a word about what is wrong with them. */
export function readOptions<const T extends NonNullable<ParseArgsConfig['options']>>(
  options: T,
): ReturnType<typeof parseArgs<{ options: T }>>['values'] {
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    refuse(error instanceof Error ? error.message : String(error));
  }
}

/** A list of words, each one of those that are known. */
export function choose<T extends string>(option: string, list: string, known: readonly T[]): T[] {
  return list.split(',').map((word) => {
    const found = known.find((name) => name === word);
    return found ?? refuse(`--${option} is a list of ${known.join(', ')}, not '${word}'`);
  });
}

/** A number of at least `least`. */
export function atLeast(least: number, option: string, text: string): number {
  const value = Number(text);
  return Number.isFinite(value) && value >= least
    ? value
    : refuse(`--${option} is a number from ${least}, not '${text}'`);
}

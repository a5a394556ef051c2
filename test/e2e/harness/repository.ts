// Where the repository and the product stand.
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

function findRoot(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder;
    if (folder === dirname(folder)) throw new Error('the tests stand outside the repository');
  }
}

/** The folder of package.json. */
export const root = findRoot();

/** The command under test. */
export const pagewire = process.env['PAGEWIRE_BIN'] ?? join(root, 'bin/pagewire');

/** Whether everything is to run, and not a pairwise choice. */
export const full = process.env['PAGEWIRE_TEST_FULL'] === '1';

/** Whether what is missing on this machine is a failure. */
export const inCi = /^(1|true)$/i.test(process.env['CI'] ?? '');

/** `word` as one word of a POSIX shell. */
export function shellWord(word: string): string {
  return /^[\w./:=,+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A command line for `sh -c`. */
export function shellCommand(...words: string[]): string {
  return words.map(shellWord).join(' ');
}

/** How many migrations run at once: each keeps two cores busy for half of its time. */
export const atOnce = Math.max(2, Math.min(4, Math.floor(availableParallelism() / 2)));

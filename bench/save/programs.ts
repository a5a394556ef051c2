// The filter programs, each as a shell's command: standard input to standard output.
import { join } from 'node:path';
import { root, shellCommand, shellWord } from '../../test/e2e/harness/repository.js';
import type { Program } from '../live/requirements.js';

/** A way to save and the way back. */
export interface Filter {
  readonly name: string;
  readonly save: string;
  readonly restore: string;
  /** What must be installed. */
  readonly needs?: Program;
}

const pagewire = process.env['PAGEWIRE_BIN'] ?? shellCommand(process.execPath, join(root, 'bin/pagewire'));

function ours(options = ''): Filter {
  return { name: `pagewire ${options}`.trim(), save: `${pagewire} -qc ${options}`, restore: `${pagewire} -qdc` };
}

function peer(needs: Program, options: string, restoring = ''): Filter {
  return {
    name: `${needs} ${options}`.trim(),
    save: `${needs} -qc ${options}`,
    restore: `${needs} -qdc ${restoring}`,
    needs,
  };
}

export const DEFAULT = ours();

export const OURS: readonly Filter[] = [DEFAULT, ours('--fast'), ours('-1'), ours('-5'), ours('-9')];

/** All threads for those that can use them: the stronger peers. */
export const PEERS: readonly Filter[] = [
  { ...peer('lzop', ''), name: 'lzop' },
  { ...peer('lz4', ''), name: 'lz4' },
  peer('zstd', '-1 -T0'),
  peer('zstd', '-3 -T0'),
  peer('zstd', '-1 --long=27 -T0', '--long=27'),
  peer('zstd', '-3 --long=27 -T0', '--long=27'),
  peer('gzip', '-1'),
  peer('pigz', '-1'),
];

/** A save that refers to what `base`, a file of ours, has; and the way back. */
export function incremental(base: string): Filter {
  return {
    name: 'pagewire --base',
    save: `${pagewire} -qc --base ${shellWord(base)}`,
    restore: `${pagewire} -qdc --base ${shellWord(base)}`,
  };
}

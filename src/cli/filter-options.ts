/** The options of `pagewire [options] [FILE…]`, named as gzip, lzop and zstd name them. */
import { availableParallelism } from 'node:os';
import { type Command, Option } from 'commander';
import { DEFAULT_SAVE_LEVEL, type SaveLevel } from '../pipeline/save.js';
import { MOST_THREADS } from '../pipeline/workers.js';
import type { FilterFlags } from './filter.js';
import { run } from './run.js';
import { each, integer, size } from './values.js';

const EXAMPLES = `
Examples:
  pagewire guest.stream              makes guest.stream.pw, and keeps guest.stream
  pagewire -d guest.stream.pw        makes guest.stream of it again
  (qemu) migrate "exec:pagewire -c > guest.pw"
  qemu-system-x86_64 … -incoming "exec:pagewire -dc guest.pw"`;

/** What chooses a level; what comes last on the command line counts. */
const LEVELS: [flag: string, level: SaveLevel, description?: string][] = [
  ['-1', 1, `to -9: from fast to small (default: -${DEFAULT_SAVE_LEVEL})`],
  ...([2, 3, 4, 5, 6, 7, 8, 9] as const).map((level): [string, SaveLevel] => [`-${level}`, level]),
  ['--fast', 'fast', 'faster than -1 (lz4)'],
  ['--best', 9, 'as -9'],
  ['--ultra', 'ultra', 'smaller than -9, and very slow'],
];

/** Makes `command` the filter. */
export function filterOptions(command: Command): Command {
  command
    .usage('[options] [FILE...]\n       pagewire COMMAND ...')
    .argument('[FILE...]', 'FILE becomes FILE.pw; without one, or for -, standard input goes to standard output')
    .option('-c, --stdout', 'write to standard output')
    .option('-d, --decompress', 'restore: FILE.pw becomes FILE')
    .option('-t, --test', 'check all of it, write nothing')
    .option('-l, --list', 'tell what each FILE is')
    .option('-o, --output <FILE>', 'write to FILE')
    .option('--base <FILE>', 'refer to what FILE has; restoring: it is there. May be repeated', each)
    .option('--salvage', 'tell what is whole of a damaged FILE.pw; with -o, write it');
  for (const [flag, level, description] of LEVELS) {
    const option = new Option(flag, description);
    command.addOption(description === undefined ? option.hideHelp() : option);
    command.on(`option:${option.name()}`, () => command.setOptionValue('level', level));
  }
  return command
    .option('-T, --threads <N>', 'threads (default: one for each processor, up to 8; 0: for all)', threads)
    .option('--memory-limit <SIZE>', 'for all of it', size)
    .option('-k, --keep', 'keep FILE (default)')
    .option('--rm', 'remove FILE when all is well')
    .option('-f, --force', 'replace files, follow links, write to a terminal')
    .option('--direct', 'past the page cache')
    .option('--fsync', 'all is well only when it is durable')
    .option('--stats <FILE>', 'write a report in JSON at the end, to a file or fd:N (docs/stats.md)')
    .option('-v, --verbose', 'tell of each file')
    .option('-q, --quiet', 'no progress, no notes; errors only')
    .addHelpText('after', EXAMPLES)
    .action(async (files: string[], flags: Partial<FilterFlags>) => {
      const { filter } = await import('./filter.js');
      await run('', (signal) => filter(files, { quiet: false, ...flags }, signal));
    });
}

/** 0 stands for all processors. */
function threads(text: string): number {
  return integer(text) || Math.min(availableParallelism(), MOST_THREADS);
}

/** The command line: `pagewire COMMAND …`, or the filter, `pagewire [options] [FILE…]`. */
import type { Command } from 'commander';
import { filterOptions } from './filter-options.js';
import { program } from './program.js';
import { replaceStandardStreams } from '../control/standard-streams.js';

/** `pagewire [options] [FILE…]`: whatever does not begin with a command's name. */
function filter(commands: readonly Command[]): Command {
  return filterOptions(program()).configureHelp({ visibleCommands: () => [...commands] });
}

// Neither standard output, which may be the stream's, nor standard error is touched here: to be Node's, they would
// become non-blocking for all who share them.
replaceStandardStreams('stderr');

const args = process.argv.slice(2);
const asksForHelp = args[0] === 'help';
/** A filter that a guest waits for does without the commands: nothing but their help tells of them. */
const isFilter = args.length === 0 || (args[0]?.startsWith('-') === true && !args.some(isHelp));
const commanded = isFilter ? undefined : (await import('./commands.js')).commands();
const isCommand = (name?: string): boolean => commanded?.commands.some((command) => command.name() === name) === true;
if (commanded && (isCommand(args[0]) || (asksForHelp && isCommand(args[1])))) await commanded.parseAsync();
else await filter(commanded?.commands ?? []).parseAsync(asksForHelp ? ['--help'] : args, { from: 'user' });

/** `--help`, or a group of letters with an `h` in it. */
function isHelp(argument: string): boolean {
  return argument === '--help' || /^-\w*h/.test(argument);
}

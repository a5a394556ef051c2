/** The command line: `pagewire COMMAND …`, or the filter where only its files are named, or help is asked for. */
import { commands } from './commands.js';
import { filterOptions } from './filter-options.js';
import { program } from './program.js';
import { replaceStandardStreams } from '../control/standard-streams.js';

// Neither standard output, which may be the stream's, nor standard error is touched here: to be Node's, they would
// become non-blocking for all who share them.
replaceStandardStreams('stderr');

const args = process.argv.slice(2);
const asksForHelp = args[0] === 'help';
const commanded = commands();
const isCommand = (name?: string): boolean => commanded.commands.some((command) => command.name() === name);
if (isCommand(args[0]) || (asksForHelp && isCommand(args[1]))) await commanded.parseAsync();
else {
  const filter = filterOptions(program()).configureHelp({ visibleCommands: () => [...commanded.commands] });
  await filter.parseAsync(asksForHelp ? ['--help'] : args, { from: 'user' });
}

/** The filter, `pagewire [options] [FILE…]`, where no command can be meant: scripts/bundle.mjs makes one script of it. */
import { filterOptions } from './filter-options.js';
import { program } from './program.js';
import { replaceStandardStreams } from '../control/standard-streams.js';

// Neither standard output, which may be the stream's, nor standard error is touched here: to be Node's, they would
// become non-blocking for all who share them.
replaceStandardStreams('stderr');

void filterOptions(program()).parseAsync(process.argv.slice(2), { from: 'user' });

/** What all ways to call pagewire have in common. */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { EXIT } from '../control/exit.js';
import { tell } from '../control/standard-streams.js';

export const EXIT_CODES = `
Exit codes:
  0  all well
  1  reading or writing failed
  2  wrong usage, or a file that cannot be opened
  3  the QEMU stream ended in the middle (all its bytes were carried)
  4  the frames are damaged, cut off, or of a later version; inspect: or the stream
  5  the memory limit is too small for what was asked
  6  no link to the peer, or none any more; or the two do not fit together
  128 + N  ended by signal N`;

/** `pagewire`, with nothing of what it can be told yet. */
export function program(): Command {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  return new Command('pagewire')
    .description("A filter for virtual machines' memory streams: QEMU's stream in, far fewer bytes out, and back.")
    .version(version, '-V, --version')
    .helpOption('-h, --help')
    .addHelpText('after', EXIT_CODES)
    .exitOverride((error) => {
      process.exit(error.exitCode === 0 ? EXIT.ok : EXIT.usage);
    })
    .configureHelp({ showGlobalOptions: false })
    .configureOutput({
      writeErr: tell,
      getErrHelpWidth: () => 80,
      getErrHasColors: () => false,
      outputError: (message, write) => {
        write(message.replace(/^error: /, 'pagewire: '));
      },
    })
    .showSuggestionAfterError(false);
}

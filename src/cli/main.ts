/** The command line. Each command's own code is loaded only when it runs. */
import { readFileSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import { CODECS } from '../codecs.js';
import type { CacheSize } from '../pipeline/settings.js';
import { parseBytes } from '../telemetry/amounts.js';
import type { DecodeFlags } from './decode.js';
import type { DemoFlags } from './demo.js';
import type { EncodeFlags } from './encode.js';
import { EXIT } from './exit.js';
import { replaceStandardStreams, run, tell } from './run.js';

const EXIT_CODES = `
Exit codes:
  0  all well
  1  reading or writing failed
  2  wrong usage, or a file that cannot be opened
  3  the QEMU stream ended in the middle (all its bytes were carried)
  4  the frames are damaged, cut off, or of a later version
  5  the memory limit is too small for what was asked
  128 + N  ended by signal N`;

const ENDPOINTS = `
IN and OUT are - (standard input and output, the default), a path, or fd:N (a descriptor that was passed on).
A file gets its name only when all is well.`;

const ENCODE_EXAMPLES = `
Examples:
  (qemu) migrate "exec:pagewire encode | ssh dst pagewire decode -o fifo"
  pagewire encode --no-delta -i disk.img -o disk.pw      any bytes, exact
  pagewire encode --stock -i guest.qemu -o smaller.qemu  a QEMU stream that any QEMU loads`;

function program(): Command {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  const command = new Command('pagewire')
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

  command
    .command('encode')
    .description('stream → frames')
    .option('-i, --input <IN>', 'where the stream comes from', '-')
    .option('-o, --output <OUT>', 'where the frames go', '-')
    .option('--delta', 'send pages of a QEMU stream as differences (default)')
    .option('--no-delta', 'carry every byte as it is')
    .addOption(new Option('-c, --codec <NAME>', 'what packs the frames (default: zstd)').choices(CODECS))
    .option('-l, --level <N>', "the codec's level; 0 is its own default (default: 1)", integer)
    .option('-T, --threads <N>', 'threads that pack (default: one for each processor, up to 8)', integer)
    .option('--cache-size <SIZE>', "page cache: bytes (512M, 2G) or percent of the guest's RAM (default: 100%)", cache)
    .option('--memory-limit <SIZE>', 'for all of it (default: half of what is free)', size)
    .option('--stock', 'delta only: the output is a QEMU stream for a destination without pagewire', false)
    .option('--stats <FILE>', 'write a report in JSON at the end, to a file or fd:N (docs/stats.md)')
    .option('-q, --quiet', 'no progress, no notes; errors only', false)
    .addHelpText('after', `${ENDPOINTS}\n${ENCODE_EXAMPLES}\n${EXIT_CODES}`)
    .action(async (flags: EncodeFlags) => {
      const { encode } = await import('./encode.js');
      await run('encode', (signal) => encode(flags, signal));
    });

  command
    .command('decode')
    .description('frames → stream')
    .option('-i, --input <IN>', 'where the frames come from', '-')
    .option('-o, --output <OUT>', 'where the stream goes', '-')
    .option('-T, --threads <N>', 'threads that unpack (default: one for each processor, up to 8)', integer)
    .option('--stats <FILE>', 'write a report in JSON at the end, to a file or fd:N (docs/stats.md)')
    .option('-q, --quiet', 'no progress, no notes; errors only', false)
    .addHelpText('after', `${ENDPOINTS}\n${EXIT_CODES}`)
    .action(async (flags: DecodeFlags) => {
      const { decode } = await import('./decode.js');
      await run('decode', (signal) => decode(flags, signal));
    });

  command
    .command('demo')
    .description("a guest's migration through both ends over a local link, compared with what was sent")
    .option('--qemu', 'a real guest under QEMU instead of the simulated one', false)
    .option('--json', 'the report as JSON', false)
    .addHelpText('after', EXIT_CODES)
    .action(async (flags: DemoFlags) => {
      const { demo } = await import('./demo.js');
      await run('demo', (signal) => demo(flags, signal));
    });
  return command;
}

function integer(text: string): number {
  if (!/^-?\d+$/.test(text)) throw new InvalidArgumentError('a whole number is needed');
  return Number(text);
}

function size(text: string): number {
  const bytes = parseBytes(text);
  if (bytes === undefined) throw new InvalidArgumentError('a size such as 512M or 2G is needed');
  return bytes;
}

function cache(text: string): CacheSize {
  const percent = /^(\d+)%$/.exec(text)?.[1];
  return percent === undefined ? { bytes: size(text) } : { percent: Number(percent) };
}

// Neither standard output, which may be the stream's, nor standard error is touched here: to be Node's, they would
// become non-blocking for all who share them.
replaceStandardStreams('stderr');

await program().parseAsync();

import { dirname } from 'node:path';
import { isatty } from 'node:tty';
import { PagewireError } from '../errors.js';
import { Decoder } from '../pipeline/decoder.js';
import { checkThreads } from '../pipeline/settings.js';
import { decodeLine } from '../telemetry/progress.js';
import { decodeStats } from '../telemetry/stats.js';
import { descriptor, openSource, openTarget } from './places.js';
import { type FileFlags, fileOptions, transfer, type TransferFlags } from './transfer.js';

export interface DecodeFlags extends TransferFlags, FileFlags {
  input: string;
  output: string;
  base?: string[];
  threads?: number;
  memoryLimit?: number;
}

/** `pagewire decode` */
export async function decode(flags: DecodeFlags, signal: AbortSignal): Promise<number> {
  if (isatty(flags.input === '-' ? 0 : (descriptor(flags.input) ?? -1))) {
    throw new PagewireError('BAD_OPTION', 'standard input is a terminal: give -i FILE, or a pipe before it');
  }
  // Before a file is touched.
  checkThreads(flags.threads);
  const files = fileOptions('decode', flags);
  const source = openSource(flags.input, files);
  const target = await openTarget(flags.output, signal, files);
  return transfer(source, target, flags, () => {
    const decoder = new Decoder({
      ...flags,
      bases: flags.base,
      baseFolder: dirname(source.name),
      input: source.fd,
      output: target.fd,
      signal,
    });
    return {
      name: 'decode',
      done: decoder.done,
      streamBytes: () => decoder.snapshot().totals.bytesIn,
      line: (perSecond) => decodeLine(decoder.snapshot().totals, perSecond),
      stats: (outcome, seconds) => decodeStats(decoder.snapshot(), outcome, seconds),
    };
  });
}

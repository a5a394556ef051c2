import { isatty } from 'node:tty';
import type { Codec } from '../codecs.js';
import { PagewireError } from '../errors.js';
import { Encoder } from '../pipeline/encoder.js';
import type { Guest } from '../native.js';
import { type CacheSize, checkEncoder } from '../pipeline/settings.js';
import { bytes } from '../telemetry/amounts.js';
import { encodeLine } from '../telemetry/progress.js';
import { encodeStats } from '../telemetry/stats.js';
import { descriptor, openSource, openTarget } from './places.js';
import { say } from './run.js';
import { type FileFlags, fileOptions, transfer, type TransferFlags } from './transfer.js';

export interface EncodeFlags extends TransferFlags, FileFlags {
  input: string;
  output: string;
  delta: boolean;
  codec?: Codec;
  level?: number;
  threads?: number;
  cacheSize?: CacheSize;
  match?: number;
  memoryLimit?: number;
  stock: boolean;
}

/** `pagewire encode` */
export async function encode(flags: EncodeFlags, signal: AbortSignal): Promise<number> {
  if (isatty(flags.output === '-' ? 1 : (descriptor(flags.output) ?? -1))) {
    throw new PagewireError('BAD_OPTION', 'standard output is a terminal: give -o FILE, or a pipe behind it');
  }
  // Before a file is touched.
  checkEncoder(flags);
  const files = fileOptions('encode', flags);
  const source = openSource(flags.input, files);
  const target = await openTarget(flags.output, signal, files);
  return transfer(source, target, flags, () => {
    const encoder = new Encoder({
      ...flags,
      input: source.fd,
      output: target.fd,
      signal,
      onGuest: (guest) => {
        if (!flags.quiet) say('encode', memory(guest));
      },
    });
    return {
      name: 'encode',
      done: encoder.done,
      streamBytes: () => encoder.snapshot().totals.bytesIn,
      line: (perSecond) => encodeLine(encoder.snapshot(), perSecond),
      stats: (outcome, seconds) => encodeStats(encoder.snapshot(), outcome, seconds),
    };
  });
}

/** What the settings will need, told before the cache is made. */
function memory(guest: Guest): string {
  const needed = guest.cacheGranted + guest.fixedMemory;
  const cut =
    guest.cacheGranted < guest.cacheWanted
      ? `; the page cache wanted ${bytes(guest.cacheWanted)}, and pages that do not fit are sent whole`
      : '';
  return (
    `guest ${guest.machine || 'of unknown machine type'}, ${bytes(guest.ramBytes)} of RAM in ${guest.blocks} ${guest.blocks === 1 ? 'block' : 'blocks'}: ` +
    `needs up to ${bytes(needed)} of memory (page cache ${bytes(guest.cacheGranted)}), ` +
    `limit ${bytes(guest.memoryLimit)}${cut}`
  );
}

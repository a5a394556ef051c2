import { resolve } from 'node:path';
import { native, type NativeTotals } from '../native.js';
import type { Input, Output } from './descriptors.js';
import type { StreamEnd } from './lane.js';
import { checkThreads, framesInFlight, windowLimit } from './settings.js';
import { Transfer } from './transfer.js';

export interface DecoderOptions {
  /** The frames. */
  input: Input;
  /** Where the original stream goes. */
  output: Output;
  /** Worker threads that decompress; default: one for each processor, up to 8. */
  threads?: number | undefined;
  /**
   * Bytes of memory for all of it; default: half of what the host or the cgroup has free. A stream whose references lead
   * back further than there is room for is refused (OUT_OF_MEMORY).
   */
  memoryLimit?: number | undefined;
  /** Files that may be the base of an incremental save, if it is not where it was. */
  bases?: readonly string[] | undefined;
  /** A folder where bases are looked for besides: that of the file which is decoded. */
  baseFolder?: string | undefined;
  /** The file that the input is, from its first byte on: what is decoded is held against its index, see {@link Decoder.indexLeft}. */
  file?: string | undefined;
  /** Ends the decoder when it is aborted. */
  signal?: AbortSignal | undefined;
}

/** What has happened so far. */
export interface DecoderSnapshot {
  totals: NativeTotals;
}

/** A stream on its way from frames to QEMU. */
export class Decoder {
  readonly #transfer: Transfer;
  #last: DecoderSnapshot | undefined;
  #indexLeft = false;

  constructor(options: DecoderOptions) {
    const threads = checkThreads(options.threads);
    const settings = {
      inFlight: framesInFlight(threads),
      unpackers: threads + 1,
      threads,
      windowLimit: windowLimit(threads, options.memoryLimit),
      bases: (options.bases ?? []).map((base) => resolve(base)),
      ...(options.baseFolder !== undefined && { beside: resolve(options.baseFolder) }),
      ...(options.file !== undefined && { file: resolve(options.file) }),
    };
    this.#transfer = new Transfer({
      input: options.input,
      output: options.output,
      signal: options.signal,
      start: (input, output, listener) => native.NativeFlow.decode(input, output, settings, listener),
      closing: () => {
        this.#last = this.snapshot();
        this.#indexLeft = this.#transfer.flow.indexLeft();
      },
    });
  }

  /** Resolves once all is written and has proved right; rejects with a PagewireError. */
  get done(): Promise<StreamEnd> {
    return this.#transfer.done;
  }

  /**
   * Once {@link done} is resolved: whether an index went by that nothing was held against. `verifyFile` does it then. That of one
   * stream is found by the file's last bytes; where a stream before it begins, only a look at all of the frames tells.
   */
  get indexLeft(): boolean {
    return this.#indexLeft;
  }

  /** What has happened so far, or in all once {@link done} is settled. */
  snapshot(): DecoderSnapshot {
    return this.#last ?? { totals: this.#transfer.flow.totals() };
  }

  /** Ends at once; {@link done} rejects with the code STOPPED. */
  stop(): void {
    this.#transfer.stop();
  }
}

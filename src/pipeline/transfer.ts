import { PagewireError } from '../errors.js';
import type { Listener, NativeFlow } from '../native.js';
import { type Input, inputDescriptor, type Output, outputDescriptor } from './descriptors.js';
import { Lane, type StreamEnd, type Work } from './lane.js';
import { Workers } from './workers.js';

export interface TransferOptions {
  input: Input;
  output: Output;
  threads: number;
  signal: AbortSignal | undefined;
  /** Starts the native threads between the two descriptors. */
  start: (input: number, output: number, listener: Listener) => NativeFlow;
  work: Work;
  /** The last look at the flow's counters, before its memory goes. */
  closing: () => void;
}

/** One flow with its lane and its workers, from its start to the moment when all of it is gone. */
export class Transfer {
  /** Resolves once all is written; rejects with a {@link PagewireError}. Nothing runs any more then. */
  readonly done: Promise<StreamEnd>;
  readonly flow: NativeFlow;
  readonly workers: Workers;
  readonly #lane: Lane;
  #closed = false;

  constructor(options: TransferOptions) {
    this.workers = new Workers(options.threads);
    this.#lane = new Lane(() => this.flow, options.work);
    const input = inputDescriptor(options.input);
    const output = outputDescriptor(options.output);
    try {
      this.flow = options.start(input.fd, output.fd, this.#lane.listen);
    } catch (error) {
      throw PagewireError.from(error);
    } finally {
      // The flow has its own duplicates, and the ends of a pipe must close when those do.
      input.release();
      output.release();
    }
    this.done = this.#run(options, output.copied);
  }

  /** Ends as soon as the native threads can notice; `done` rejects with the code STOPPED. */
  stop(): void {
    if (!this.#closed) this.#lane.stop();
  }

  async #run({ signal, closing }: TransferOptions, copied: Promise<void>): Promise<StreamEnd> {
    const stop = (): void => {
      this.stop();
    };
    signal?.addEventListener('abort', stop, { once: true });
    if (signal?.aborted) stop();
    try {
      const [end] = await Promise.all([this.#lane.ended, copied]);
      return end;
    } catch (error) {
      // A Node stream that failed leaves nobody to read what the flow writes.
      stop();
      await this.#lane.ended.catch(() => undefined);
      throw PagewireError.from(error);
    } finally {
      signal?.removeEventListener('abort', stop);
      closing();
      this.#closed = true;
      await this.workers.close();
      this.flow.close();
    }
  }
}

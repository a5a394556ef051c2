import { PagewireError } from '../errors.js';
import type { Listener, NativeFlow } from '../native.js';
import { type Descriptor, type Input, inputDescriptor, type Output, outputDescriptor } from './descriptors.js';
import { Lane, type StreamEnd } from './lane.js';

export interface TransferOptions {
  input: Input;
  output: Output;
  signal: AbortSignal | undefined;
  /** Starts the native threads between the two descriptors. */
  start: (input: number, output: number, listener: Listener) => NativeFlow;
  /** The last look at the flow's counters, before its memory goes. */
  closing: () => void;
}

/** One flow with threads of its own, from its start to the moment when all of it is gone. */
export class Transfer {
  /** Resolves once all is written; rejects with a {@link PagewireError}. Nothing runs any more then. */
  readonly done: Promise<StreamEnd>;
  readonly flow: NativeFlow;
  readonly #lane: Lane;
  readonly #stopped: Promise<void>;
  #stop!: () => void;
  #closed = false;

  constructor(options: TransferOptions) {
    this.#lane = new Lane(() => this.flow);
    this.#stopped = new Promise((resolve) => {
      this.#stop = resolve;
    });
    const ends: Descriptor[] = [];
    try {
      const input = inputDescriptor(options.input);
      ends.push(input);
      const output = outputDescriptor(options.output);
      ends.push(output);
      this.flow = options.start(input.fd, output.fd, this.#lane.listen);
      this.done = this.#run(options, input, output);
    } catch (error) {
      const failure = PagewireError.from(error);
      for (const end of ends) end.destroy(failure);
      throw failure;
    } finally {
      // The flow has its own duplicates, and the ends of a pipe must close when those do.
      for (const end of ends) end.release();
    }
  }

  /** Ends as soon as the native threads can notice; `done` rejects with the code STOPPED. */
  stop(): void {
    this.#stop();
    if (!this.#closed) this.#lane.stop();
  }

  async #run({ signal, closing }: TransferOptions, input: Descriptor, output: Descriptor): Promise<StreamEnd> {
    const stop = (): void => {
      this.stop();
    };
    signal?.addEventListener('abort', stop, { once: true });
    if (signal?.aborted) stop();
    try {
      const [end] = await Promise.all([this.#lane.ended, input.copied, output.copied]);
      await output.end();
      return end;
    } catch (error) {
      const failure = PagewireError.from(error);
      // A Node stream that failed leaves nobody to write what the flow reads, or to read what it writes.
      this.#lane.stop();
      await this.#lane.ended.catch(() => undefined);
      // What came out before the failure is right, and its reader's, unless nobody wants to wait for that.
      await Promise.race([output.copied.catch(() => undefined), this.#stopped]);
      input.destroy(failure);
      output.destroy(failure);
      throw failure;
    } finally {
      signal?.removeEventListener('abort', stop);
      closing();
      this.#closed = true;
      this.flow.close();
    }
  }
}

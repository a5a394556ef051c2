// Pipes between a test and a pipeline, as descriptors.
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { native } from '#src/native.js';

/** The two ends of a pipe; what is still open of it when the test ends is closed. */
export class Pipe {
  readonly readEnd: number;
  readonly writeEnd: number;
  readonly #open = new Set<number>();
  readonly #sockets: Socket[] = [];

  constructor(t: TestContext) {
    [this.readEnd, this.writeEnd] = native.pipe();
    this.#open.add(this.readEnd).add(this.writeEnd);
    t.after(() => {
      this.close();
    });
  }

  /** Hands the end to a socket of Node's: to write to. */
  writer(): Socket {
    this.#open.delete(this.writeEnd);
    return this.#keep(new Socket({ fd: this.writeEnd, readable: false }));
  }

  /** Hands the end to a reader. */
  reader(): PipeReader {
    this.#open.delete(this.readEnd);
    return new PipeReader(this.#keep(new Socket({ fd: this.readEnd, writable: false })));
  }

  /** Closes one end, or both, as far as they are open and ours. */
  close(...ends: number[]): void {
    for (const end of ends.length > 0 ? ends : [...this.#open]) {
      if (this.#open.delete(end)) closeSync(end);
    }
    if (ends.length === 0) for (const socket of this.#sockets) socket.destroy();
  }

  #keep(socket: Socket): Socket {
    socket.on('error', () => undefined);
    this.#sockets.push(socket);
    return socket;
  }
}

/** Reads from a stream that need not end. */
export class PipeReader {
  #bytes = Buffer.alloc(0);
  #ended = false;
  #notify = (): void => undefined;

  constructor(socket: Socket) {
    socket.on('data', (chunk: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      this.#notify();
    });
    socket.on('close', () => {
      this.#ended = true;
      this.#notify();
    });
  }

  /** All that has come. */
  get bytes(): Buffer {
    return this.#bytes;
  }

  /** Waits until `count` bytes have come in all, or the stream has ended. */
  async has(count: number): Promise<Buffer> {
    await this.#until(() => this.#bytes.length >= count);
    return this.#bytes;
  }

  async end(): Promise<Buffer> {
    await this.#until(() => false);
    return this.#bytes;
  }

  async #until(enough: () => boolean): Promise<void> {
    while (!enough() && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#notify = resolve;
      });
    }
  }
}

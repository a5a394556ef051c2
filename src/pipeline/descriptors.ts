import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { finished, type Readable, type Writable } from 'node:stream';
import { PagewireError } from '../errors.js';
import { native } from '../native.js';

/** An end of a pipeline: a file descriptor, which stays the caller's, or a Node stream, whose bytes are copied. */
export type Input = number | Readable;
export type Output = number | Writable;

/** A descriptor for the native core, and what there is to wait for beside it. */
export interface Descriptor {
  readonly fd: number;
  /** Closes the descriptor if it is ours; to be called once the core has its own duplicate. */
  release(): void;
  /** Settles when a Node stream has been copied; at once for a descriptor. */
  readonly copied: Promise<void>;
  /** All is well: a Node output ends. */
  end(): Promise<void>;
  /** It is not: a Node stream is destroyed with the error, so that none takes it for whole. */
  destroy(error: Error): void;
}

export function inputDescriptor(input: Input): Descriptor {
  if (typeof input === 'number') return given(input);
  const [read, write] = native.pipe();
  const pipe = new Socket({ fd: write, readable: false });
  return { ...ours(read, input, pipe), copied: quiet(copyIn(input, pipe)), end: () => Promise.resolve() };
}

export function outputDescriptor(output: Output): Descriptor {
  if (typeof output === 'number') return given(output);
  const [read, write] = native.pipe();
  const pipe = new Socket({ fd: read, writable: false });
  return { ...ours(write, output, pipe), copied: quiet(copyOut(pipe, output)), end: () => end(output) };
}

function given(fd: number): Descriptor {
  if (!Number.isInteger(fd) || Math.abs(fd) > 0x7fff_ffff) {
    throw new PagewireError('BAD_DESCRIPTOR', `file descriptor ${fd}: a whole number is needed`);
  }
  const nothing = (): void => undefined;
  return { fd, release: nothing, copied: Promise.resolve(), end: () => Promise.resolve(), destroy: nothing };
}

function ours(fd: number, stream: Readable | Writable, pipe: Socket): Pick<Descriptor, 'fd' | 'release' | 'destroy'> {
  return {
    fd,
    release: () => {
      closeSync(fd);
    },
    destroy: (error) => {
      pipe.destroy();
      if (isStandard(stream)) return;
      // The error is told by `done`; a stream without a listener for it must not end the process.
      stream.on('error', () => undefined);
      stream.destroy(error);
    },
  };
}

/** The pipe stays open where the input fails: to the core its end would be the stream's. */
async function copyIn(input: Readable, pipe: Socket): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    // Not input.pipe(): what is no bytes would be thrown where nobody can catch it.
    const copy = (chunk: unknown): void => {
      if (typeof chunk !== 'string' && !(chunk instanceof Uint8Array)) {
        input.off('data', copy).pause();
        const what = `the stream gives ${chunk === null ? 'null' : `values of type ${typeof chunk}`}, not bytes`;
        reject(new PagewireError('READ_FAILED', `cannot read the input: ${what}`));
      } else if (!pipe.write(chunk, input.readableEncoding ?? 'utf8')) {
        input.pause();
      }
    };
    pipe.on('drain', () => input.resume());
    pipe.once('close', () => input.off('data', copy).pause());
    input.on('data', copy).resume();
    finished(input, { writable: false }, (error) => {
      if (error) reject(new PagewireError('READ_FAILED', `cannot read the input: ${error.message}`, { cause: error }));
      else resolve();
    });
    // The core takes no more; why, it tells itself.
    pipe.on('error', () => undefined).once('close', resolve);
  });
  pipe.end();
}

/** The output stays open: whether the stream is whole is known only when the core has ended. */
async function copyOut(pipe: Socket, output: Writable): Promise<void> {
  pipe.pipe(output, { end: false });
  await new Promise<void>((resolve, reject) => {
    const forget = finished(output, { readable: false }, (error) => {
      reject(
        !error || error.code === 'ERR_STREAM_PREMATURE_CLOSE'
          ? new PagewireError('OUTPUT_CLOSED', 'the output was closed by its reader', { cause: error })
          : new PagewireError('WRITE_FAILED', `cannot write the output: ${error.message}`, { cause: error }),
      );
    });
    pipe.once('close', () => {
      forget();
      resolve();
    });
  });
}

async function end(output: Writable): Promise<void> {
  if (isStandard(output)) return;
  await new Promise<void>((resolve, reject) => {
    finished(output, { readable: false }, (error) => {
      if (error)
        reject(new PagewireError('WRITE_FAILED', `cannot write the output: ${error.message}`, { cause: error }));
      else resolve();
    });
    output.end();
  });
}

/** Standard streams are the process's: they are neither ended nor destroyed. */
function isStandard(stream: Readable | Writable): boolean {
  return stream === process.stdin || stream === process.stdout || stream === process.stderr;
}

/** Whoever waits for it hears of a failure; that nobody does yet is no unhandled one. */
function quiet(copied: Promise<void>): Promise<void> {
  copied.catch(() => undefined);
  return copied;
}

import { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { closeSync } from 'node:fs';
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
}

export function inputDescriptor(input: Input): Descriptor {
  if (typeof input === 'number') return given(input);
  const [read, write] = native.pipe();
  return {
    fd: read,
    release: once(read),
    copied: quietly(pipeline(input, new Socket({ fd: write, readable: false }))),
  };
}

export function outputDescriptor(output: Output): Descriptor {
  if (typeof output === 'number') return given(output);
  const [read, write] = native.pipe();
  return { fd: write, release: once(write), copied: pipeline(new Socket({ fd: read, writable: false }), output) };
}

function given(fd: number): Descriptor {
  return { fd, release: () => undefined, copied: Promise.resolve() };
}

function once(fd: number): () => void {
  return () => {
    closeSync(fd);
  };
}

/** An input stream that breaks off ends the pipe: what becomes of that is told by whoever reads the pipe's other end. */
async function quietly(copied: Promise<void>): Promise<void> {
  await copied.catch(() => undefined);
}

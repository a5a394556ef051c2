/** A file that is there whole, as it was or as it is to be. */
import { renameSync, rmSync } from 'node:fs';

/**
 * The name of a file beside `path` while it is written. Not by the process's number: in a container that is the same every time,
 * and what a killed one left is in the way. Whoever makes the file refuses one that is there, so chance is enough, and
 * node:crypto need not be loaded: that takes a save 1 ms.
 */
export function partialName(path: string): string {
  const chance = Math.floor(Math.random() * 2 ** 32);
  return `${path}.${chance.toString(16).padStart(8, '0')}.part`;
}

/** `write` makes what gets the name `path`, under another name in the same folder. What it throws leaves nothing. */
export function replaceFile(path: string, write: (partial: string) => void): void {
  const partial = partialName(path);
  try {
    write(partial);
    renameSync(partial, path);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  }
}

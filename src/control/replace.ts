/** A file that is there whole, as it was or as it is to be. */
import { randomBytes } from 'node:crypto';
import { renameSync, rmSync } from 'node:fs';

/** `write` makes what gets the name `path`, under another name in the same folder. What it throws leaves nothing. */
export function replaceFile(path: string, write: (partial: string) => void): void {
  const partial = `${path}.${randomBytes(4).toString('hex')}.part`;
  try {
    write(partial);
    renameSync(partial, path);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  }
}

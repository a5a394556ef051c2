import { existsSync, readFileSync } from 'node:fs';

/** Whether somebody listens on a TCP port, as seen by a process: it may live in a network namespace of its own. */
export function listens(pid: number, port: number): boolean {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  return ['tcp', 'tcp6'].some((table) => {
    const path = `/proc/${pid}/net/${table}`;
    if (!existsSync(path)) return false;
    return readFileSync(path, 'utf8')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .some(([, local, , state]) => local?.endsWith(suffix) === true && state === '0A');
  });
}

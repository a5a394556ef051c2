import { readFileSync, writeFileSync } from 'node:fs';

/**
 * Runs `work` and tells how far the process's resident memory rose over what it was, in bytes; undefined where the
 * kernel does not say.
 */
export async function risingBy<T>(work: () => Promise<T>): Promise<{ result: T; bytes: number | undefined }> {
  const before = resetPeak();
  const result = await work();
  const peak = before === undefined ? undefined : field('VmHWM');
  return { result, bytes: before === undefined || peak === undefined ? undefined : Math.max(peak - before, 0) };
}

/** Makes the peak what is resident now, and tells that. */
function resetPeak(): number | undefined {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
    return field('VmRSS');
  } catch {
    return undefined;
  }
}

function field(name: 'VmHWM' | 'VmRSS'): number | undefined {
  const kib = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return kib === undefined ? undefined : Number(kib) * 1024;
}

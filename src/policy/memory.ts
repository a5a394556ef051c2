import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';

const MiB = 2 ** 20;

/** What Node itself and our code take before the first frame, in bytes: measured 62 MiB, rounded up. */
export const BASE_BYTES = 64 * MiB;

/** What a worker thread's own JavaScript engine takes, in bytes: measured 9 to 11 MiB. */
export const WORKER_BYTES = 12 * MiB;

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** Memory that the host could still give to a program, in bytes (MemAvailable of /proc/meminfo). */
function hostFree(): number {
  const line = /^MemAvailable:\s+(\d+) kB$/m.exec(read('/proc/meminfo') ?? '');
  return line ? Number(line[1]) * 1024 : freemem();
}

/** What our cgroup, and each one above it, leaves to its processes, in bytes; Infinity where none has a limit. */
function cgroupFree(): number {
  const path = /^0::(.*)$/m.exec(read('/proc/self/cgroup') ?? '')?.[1];
  if (path === undefined) return cgroup1Free();
  let free = Infinity;
  for (let group = path; ; group = group.slice(0, group.lastIndexOf('/'))) {
    const folder = `/sys/fs/cgroup${group === '/' ? '' : group}`;
    const limit = Number(read(`${folder}/memory.max`));
    if (limit > 0) free = Math.min(free, limit - Number(read(`${folder}/memory.current`) ?? 0));
    if (group === '' || group === '/') return Math.max(free, 0);
  }
}

function cgroup1Free(): number {
  const limit = Number(read('/sys/fs/cgroup/memory/memory.limit_in_bytes'));
  const used = Number(read('/sys/fs/cgroup/memory/memory.usage_in_bytes'));
  // Without a limit the kernel says 2^63, to the page.
  return limit > 0 && limit < 2 ** 60 && used >= 0 ? Math.max(limit - used, 0) : Infinity;
}

/** The memory limit where none is given: half of what the host or the cgroup has free now, in bytes. */
export function defaultMemoryLimit(): number {
  return Math.floor(Math.min(hostFree(), cgroupFree()) / 2);
}

import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';

const MiB = 2 ** 20;

/** What Node itself and our code take before the first frame, in bytes: measured 62 MiB, rounded up. */
export const BASE_BYTES = 64 * MiB;

/** What the JavaScript engine of a session's worker takes, in bytes: measured 9 to 11 MiB. */
export const WORKER_BYTES = 12 * MiB;

/**
 * What a thread of a flow's own takes beside its frames and its codec's memory to pack, in bytes: measured up to 40 KiB where
 * it packs, 90 where it unpacks.
 */
export const THREAD_BYTES = 2 ** 17;

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

/** A cgroup's files as they were read, undefined where there is none. */
export interface GroupFiles {
  /** memory.max, or memory.limit_in_bytes of version 1. */
  limit: string | undefined;
  /** memory.current, or memory.usage_in_bytes. */
  used: string | undefined;
  /** memory.stat. */
  stat: string | undefined;
}

/**
 * What a cgroup leaves to its processes, in bytes; Infinity where it has no limit. What the kernel can take back from
 * the cache of files at once counts as free, as it does in MemAvailable.
 */
export function groupFree({ limit, used, stat }: GroupFiles): number {
  const most = amount(limit);
  // Without a limit version 2 says "max", and version 1 2^63, to the page.
  if (most === undefined || most >= 2 ** 60) return Infinity;
  // Version 1 counts the groups below only in total_inactive_file.
  const line = /^total_inactive_file (\d+)$/m.exec(stat ?? '') ?? /^inactive_file (\d+)$/m.exec(stat ?? '');
  return Math.max(most - Math.max((amount(used) ?? 0) - Number(line?.[1] ?? 0), 0), 0);
}

function amount(text: string | undefined): number | undefined {
  return /^\d+$/.test(text?.trim() ?? '') ? Number(text) : undefined;
}

/** What our cgroup, and each one above it, leaves to its processes, in bytes; Infinity where none has a limit. */
function cgroupFree(): number {
  const path = /^0::(.*)$/m.exec(read('/proc/self/cgroup') ?? '')?.[1];
  if (path === undefined) return cgroup1Free();
  let free = Infinity;
  for (let group = path; ; group = group.slice(0, group.lastIndexOf('/'))) {
    const folder = `/sys/fs/cgroup${group === '/' ? '' : group}`;
    const [limit, used, stat] = ['max', 'current', 'stat'].map((name) => read(`${folder}/memory.${name}`));
    free = Math.min(free, groupFree({ limit, used, stat }));
    if (group === '' || group === '/') return free;
  }
}

function cgroup1Free(): number {
  const names = ['limit_in_bytes', 'usage_in_bytes', 'stat'];
  const [limit, used, stat] = names.map((name) => read(`/sys/fs/cgroup/memory/memory.${name}`));
  return groupFree({ limit, used, stat });
}

/**
 * How far back a session's references lead where nobody says, in bytes: a working set's worth, as the pages that a process has
 * copied to write to them resemble those that it had before. At 200 Mbit/s, a guest of 512 MB with 128 MiB of such pages: 96 MB on
 * the wire without, 94 with 64 MiB, 85 with 128, 73 with this (docs/performance.md).
 */
const SESSION_MATCH = 256 * MiB;

/** Of the memory that a page cache could have, so much at the most. */
const SESSION_MATCH_SHARE = 1 / 8;

/** A smaller window finds too little for what it costs. */
const LEAST_SESSION_MATCH = 16 * MiB;

/** The same within what a memory limit leaves beside everything but the page cache, in bytes; 0: no references. */
export function sessionMatch(room: number): number {
  const match = Math.min(SESSION_MATCH, Math.floor(room * SESSION_MATCH_SHARE));
  return match < LEAST_SESSION_MATCH ? 0 : match;
}

/** The memory limit where none is given: half of what the host or the cgroup has free now, in bytes. */
export function defaultMemoryLimit(): number {
  return Math.floor(Math.min(hostFree(), cgroupFree()) / 2);
}

// CPU seconds, user and system, from /proc.
import { readFileSync, readdirSync } from 'node:fs';

/** What the kernel counts in for programs: hundredths of a second, on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

/** The fields of a stat file from the third on: what stands before may hold spaces. Undefined if the process is gone. */
function statFields(path: string): string[] | undefined {
  try {
    const line = readFileSync(path, 'utf8');
    return line.slice(line.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

function sum(fields: readonly string[], from: number, to: number): number {
  return fields.slice(from, to).reduce((total, ticks) => total + Number(ticks), 0) / TICKS_PER_SECOND;
}

/** Of one process with all its threads. */
export function cpuOfProcess(pid: number): number {
  return sum(statFields(`/proc/${pid}/stat`) ?? [], 11, 13);
}

/** Of all processes of a session, and of those that they started and that have ended. */
export function cpuOfSession(leader: number): number {
  let total = 0;
  for (const pid of readdirSync('/proc')) {
    const fields = /^\d+$/.test(pid) ? statFields(`/proc/${pid}/stat`) : undefined;
    if (fields !== undefined && Number(fields[3]) === leader) total += sum(fields, 11, 15);
  }
  return total;
}

/** Of the threads in which a QEMU with debug-threads=on runs its guest. */
export function cpuOfVcpus(pid: number): number {
  let total = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    try {
      if (!readFileSync(`/proc/${pid}/task/${thread}/comm`, 'utf8').startsWith('CPU ')) continue;
    } catch {
      continue; // it ended at this moment
    }
    total += sum(statFields(`/proc/${pid}/task/${thread}/stat`) ?? [], 11, 13);
  }
  return total;
}

/** Of everything on this machine since it booted. */
export function cpuOfMachine(): number {
  const [user, nice, system, , , irq, softirq] = (/^cpu +(.*)/.exec(readFileSync('/proc/stat', 'utf8'))?.[1] ?? '')
    .split(' ')
    .map((ticks) => Number(ticks) / TICKS_PER_SECOND);
  return [user, nice, system, irq, softirq].reduce<number>((total, seconds) => total + (seconds ?? 0), 0);
}

import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import { native } from '../native.js';

/** Where it was measured, and with what. */
export interface Machine {
  processor: string;
  /** Processors that this process may run on. */
  cores: number;
  memoryBytes: number;
  kernel: string;
  node: string;
  pagewire: string;
  /** The tier of the XBZRLE kernels. */
  tier: string;
  /** Processes that wanted to run, on average over the minute before. */
  load: number;
}

export function thisMachine(): Machine {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  return {
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    pagewire: version,
    tier: native.simd().tier,
    load: loadavg()[0] ?? 0,
  };
}

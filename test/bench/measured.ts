// Reports of real measurements, on little: the figures are of no worth, everything else is as it will be.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { bench, type BenchOptions, type BenchReport } from '#src/index.js';
import { SimulatedGuest } from '#src/simulator/guest.js';
import { folder } from '../cli/command.js';

/** A guest of 4 MiB, and the small blocks of its machine; pages come again. */
export function smallStream(): Buffer {
  return Buffer.concat([...new SimulatedGuest({ ramBytes: 4 << 20, passes: 2 }).stream()]);
}

export function measured(t: TestContext, options: BenchOptions = {}): Promise<BenchReport> {
  return measuredIn(folder(t)('.'), options);
}

/** Writes to a folder that is there. */
export function measuredIn(path: string, options: BenchOptions = {}): Promise<BenchReport> {
  const stream = join(path, 'guest.qemu');
  writeFileSync(stream, smallStream());
  return bench({ streams: [stream], runs: 2, seconds: 0.01, sampleBytes: 2 << 20, ...options });
}

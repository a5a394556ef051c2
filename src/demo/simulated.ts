import { Readable, Writable } from 'node:stream';
import { createDecoder, createEncoder } from '../index.js';
import type { EncoderSettings } from '../pipeline/settings.js';
import { SimulatedDestination } from '../simulator/destination.js';
import { SimulatedGuest } from '../simulator/guest.js';
import { bytes } from '../telemetry/amounts.js';
import { connectLink, pipeTo } from './link.js';
import type { DemoReport, DemoRun } from './report.js';
import { VARIANTS } from './variants.js';

/** A guest that dirties half of its working set between passes, in all the ways that the simulator knows. */
const GUEST = { seed: 1, ramBytes: 128 << 20, passes: 6 };

/** Migrates the simulated guest once for each variant, over TCP on the loopback interface. */
export async function simulatedDemo(note: (text: string) => void, signal: AbortSignal): Promise<DemoReport> {
  const runs: DemoRun[] = [];
  for (const { name, options, settings } of VARIANTS) {
    note(`migrating: ${name}`);
    runs.push({ name, options, ...(await migrate(settings, signal)) });
  }
  const guest = new SimulatedGuest(GUEST);
  const ram = guest.blocks.reduce((sum, block) => sum + block.bytes.length, 0);
  return {
    guest: `A simulated guest (${guest.machine}): ${bytes(ram)} of RAM in ${guest.blocks.length} blocks, ${GUEST.passes + 1} passes.`,
    runs,
  };
}

/** source → encode → TCP → decode → destination; without frames, the stream itself crosses the link. */
async function migrate(settings: EncoderSettings, signal: AbortSignal): Promise<Omit<DemoRun, 'name' | 'options'>> {
  const guest = new SimulatedGuest(GUEST);
  const destination = new SimulatedDestination();
  const loading = new Writable({
    write(chunk: Buffer, _encoding, done) {
      destination.push(chunk);
      done();
    },
    final(done) {
      destination.end();
      done();
    },
  });
  const link = await connectLink();
  const began = performance.now();
  const source = Readable.from(guest.stream(), { highWaterMark: 1 });
  const encoder = createEncoder({ ...settings, input: source, output: link.near, signal });
  const arrived = settings.stock
    ? pipeTo(link.far, loading, signal)
    : createDecoder({ input: link.far, output: loading, signal }).done;
  await Promise.all([encoder.done, arrived]);
  const seconds = (performance.now() - began) / 1000;
  const { totals, delta } = encoder.snapshot();
  const loaded = destination.digests();
  return {
    streamBytes: guest.sent.bytes,
    wireBytes: totals.bytesOut,
    seconds,
    sameRam: [...guest.digests()].every(([name, digest]) => loaded.get(name) === digest),
    pages: delta?.pages,
  };
}

import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, Socket } from 'node:net';
import { Readable, Writable } from 'node:stream';
import { createDecoder, createEncoder } from '../index.js';
import type { EncoderSettings } from '../pipeline/settings.js';
import { SimulatedDestination } from '../simulator/destination.js';
import { SimulatedGuest } from '../simulator/guest.js';
import { bytes } from '../telemetry/amounts.js';
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
  const link = await connect();
  const began = performance.now();
  const source = Readable.from(guest.stream(), { highWaterMark: 1 });
  const encoder = createEncoder({ ...settings, input: source, output: link.near, signal });
  const arrived = settings.stock
    ? pipe(link.far, loading)
    : createDecoder({ input: link.far, output: loading, signal }).done;
  await Promise.all([encoder.done, arrived]);
  const seconds = (performance.now() - began) / 1000;
  link.server.close();
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

async function pipe(from: Socket, to: Writable): Promise<void> {
  from.pipe(to);
  await once(to, 'finish');
}

/** Both ends of a TCP connection on the loopback interface. */
async function connect(): Promise<{ server: Server; near: Socket; far: Socket }> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const near = new Socket().connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [far] = (await once(server, 'connection')) as [Socket];
  return { server, near, far };
}

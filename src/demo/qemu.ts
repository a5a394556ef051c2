import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  createReadStream,
  createWriteStream,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { PagewireError } from '../errors.js';
import { createDecoder, createEncoder } from '../index.js';
import type { EncoderSettings } from '../pipeline/settings.js';
import { bytes } from '../telemetry/amounts.js';
import { guestImage } from './guest.js';
import { connectLink, pipeTo } from './link.js';
import { Qmp, text } from './qmp.js';
import type { DemoReport, DemoRun } from './report.js';
import { until } from './time.js';
import { VARIANTS } from './variants.js';

const MEGABYTES = 128;
const MIB = 2 ** 20;

/** RAM below 1 MiB is interrupted by the VGA's window, which is no RAM. */
const RANGES = [
  { start: 0, size: 0xa0000 },
  { start: 0x100000, size: MEGABYTES * MIB - 0x100000 },
];

/** What the link is thought to carry while the guest is migrated; slow enough for several passes, in bytes/s. */
const BANDWIDTH = 60 * MIB;

/** How long QEMU may go on until it is told to stop the guest for as long as it takes, in milliseconds. */
const CAP_MS = 6000;

/**
 * A real guest that dirties its memory is migrated by a real QEMU. Its stream then goes through each variant over TCP
 * on the loopback interface into a QEMU of its own, and the RAM of that guest is held against the RAM of one that
 * loaded the stream as it was. The last one runs on.
 */
export async function qemuDemo(note: (text: string) => void, signal: AbortSignal): Promise<DemoReport> {
  const qemu = findQemu();
  if (!qemu) {
    throw new PagewireError(
      'OPEN_FAILED',
      'no QEMU for x86 found: install qemu-system-x86 (Debian, Ubuntu) or qemu-kvm, or name one in PAGEWIRE_QEMU',
    );
  }
  const folder = mkdtempSync(join(tmpdir(), 'pagewire-demo-'));
  const machines: Machine[] = [];
  const start = async (name: string, incoming: boolean): Promise<Machine> => {
    const machine = await Machine.start(qemu.command, folder, name, incoming);
    machines.push(machine);
    return machine;
  };
  try {
    note(`${qemu.version}: a guest of ${MEGABYTES} MiB dirties its memory and is migrated`);
    const stream = join(folder, 'stream');
    const source = await start('source', false);
    await source.migrateTo(stream);
    const lastTick = source.lastTick();
    await source.end();

    const plain = await start('plain', true);
    await plain.load(createReadStream(stream), signal);
    const expected = await plain.ramDigest();
    await plain.end();

    const runs: DemoRun[] = [];
    for (const { name, options, settings } of VARIANTS) {
      note(`through ${name} into another QEMU`);
      const destination = await start(`destination-${runs.length}`, true);
      const run = await migrate(stream, settings, destination, signal);
      runs.push({ name, options, ...run, sameRam: (await destination.ramDigest()) === expected });
      if (runs.length === VARIANTS.length) await destination.runsOnFrom(lastTick);
      await destination.end();
    }
    return {
      guest:
        `A guest under ${qemu.version} (${bytes(MEGABYTES * MIB)} of RAM), migrated while it dirtied its memory; ` +
        'each stream was loaded by another QEMU, and the last guest runs on.',
      runs,
    };
  } finally {
    await Promise.all(machines.map((machine) => machine.end()));
    rmSync(folder, { recursive: true, force: true });
  }
}

async function migrate(
  stream: string,
  settings: EncoderSettings,
  destination: Machine,
  signal: AbortSignal,
): Promise<Omit<DemoRun, 'name' | 'options' | 'sameRam'>> {
  const link = await connectLink();
  const began = performance.now();
  const encoder = createEncoder({ ...settings, input: createReadStream(stream), output: link.near, signal });
  const far = settings.stock ? link.far : undefined;
  const loading = far
    ? destination.load(far, signal)
    : destination.loadBy((socket) =>
        createDecoder({ input: link.far, output: socket, signal }).done.then(() => undefined),
      );
  await Promise.all([encoder.done, loading]);
  const { totals, delta } = encoder.snapshot();
  return {
    streamBytes: statSync(stream).size,
    wireBytes: totals.bytesOut,
    seconds: (performance.now() - began) / 1000,
    pages: delta?.pages,
  };
}

/** Migrates the demo's guest into `file`, while it dirties its memory; `folder` is for what QEMU needs. */
export async function captureGuest(command: string, file: string, folder: string, signal: AbortSignal): Promise<void> {
  const machine = await Machine.start(command, folder, 'source', false);
  const end = (): void => {
    void machine.end();
  };
  signal.addEventListener('abort', end, { once: true });
  try {
    signal.throwIfAborted();
    await machine.migrateTo(file);
  } finally {
    signal.removeEventListener('abort', end);
    await machine.end();
  }
}

/** The first QEMU for x86 that runs here: of PAGEWIRE_QEMU, or of the path. */
export function findQemu(): { command: string; version: string } | undefined {
  const named = process.env['PAGEWIRE_QEMU']?.split(':')[0];
  for (const command of named === undefined ? ['qemu-system-x86_64', 'qemu-system-i386'] : [named]) {
    const { status, stdout } = spawnSync(command, ['--version'], { encoding: 'utf8' });
    const version = /version (\S+)/.exec(status === 0 ? stdout : '')?.[1];
    if (version !== undefined) return { command, version: `QEMU ${version}` };
  }
  return undefined;
}

/** One QEMU with the demo's guest in it. */
class Machine {
  readonly #process: ChildProcess;
  readonly #qmp: Qmp;
  readonly #path: (extension: string) => string;

  private constructor(process: ChildProcess, qmp: Qmp, path: (extension: string) => string) {
    this.#process = process;
    this.#qmp = qmp;
    this.#path = path;
  }

  static async start(command: string, folder: string, name: string, incoming: boolean): Promise<Machine> {
    const path = (extension: string): string => join(folder, `${name}.${extension}`);
    const image = join(folder, 'guest.bin');
    if (!existsSync(image)) writeFileSync(image, guestImage);
    const child = spawn(
      command,
      [
        ...['-no-user-config', '-nodefaults', '-display', 'none', '-monitor', 'none', '-accel', 'tcg'],
        ...['-machine', 'q35', '-m', `${MEGABYTES}`, '-serial', `file:${path('serial')}`],
        ...['-kernel', image, '-append', 'mode=mixed mb=64 rate=6000'],
        ...['-qmp', `unix:${path('qmp')},server=on,wait=off`],
        ...(incoming ? ['-S', '-incoming', 'defer'] : []),
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    let complaint = '';
    child.stderr.on('data', (chunk: Buffer) => (complaint = `${complaint}${chunk.toString()}`.slice(-500)));
    const ended = new Promise<never>((_, reject) => {
      child.once('error', reject);
      child.once('exit', () => {
        reject(new PagewireError('OPEN_FAILED', `QEMU did not start: ${complaint.trim()}`));
      });
    });
    ended.catch(() => undefined);
    await Promise.race([
      ended,
      until(
        () => existsSync(path('qmp')),
        20,
        () => `QEMU opens no monitor: ${complaint}`,
      ),
    ]);
    const socket = new Socket().connect(path('qmp'));
    await Promise.race([ended, once(socket, 'connect')]);
    const machine = new Machine(child, await Qmp.open(socket, () => complaint), path);
    if (!incoming)
      await until(
        () => machine.#printed().includes('READY'),
        30,
        () => 'the guest does not boot',
      );
    return machine;
  }

  /** Migrates the guest into a file, over a socket that is read as fast as it comes. */
  async migrateTo(file: string): Promise<void> {
    const server = createServer();
    server.listen(this.#path('out'));
    await once(server, 'listening');
    const saved = once(server, 'connection').then(([socket]) => pipeline(socket as Socket, createWriteStream(file)));
    await this.#qmp.execute('migrate-set-parameters', { 'max-bandwidth': BANDWIDTH, 'downtime-limit': 50 });
    await this.#qmp.execute('migrate', { uri: `unix:${this.#path('out')}` });
    const cap = performance.now() + CAP_MS;
    const completed = async (): Promise<boolean> => {
      const status = text(await this.#qmp.query('query-migrate'), 'status');
      if (status === 'failed') throw new PagewireError('INTERNAL', 'QEMU says that the migration failed');
      if (performance.now() > cap) await this.#qmp.execute('migrate-set-parameters', { 'downtime-limit': 60_000 });
      return status === 'completed';
    };
    await until(completed, 60, () => 'the migration does not end');
    await saved;
    server.close();
  }

  /** Has QEMU load a stream; resolves when it says that it has. */
  load(stream: NodeJS.ReadableStream, signal: AbortSignal): Promise<void> {
    return this.loadBy((socket) => pipeTo(stream, socket, signal));
  }

  async loadBy(feed: (socket: Socket) => Promise<void>): Promise<void> {
    const path = this.#path('in');
    await this.#qmp.execute('migrate-incoming', { uri: `unix:${path}` });
    // QEMU closes as soon as it has the guest, and must not cut us off in our last bytes.
    const socket = new Socket({ allowHalfOpen: true }).connect(path);
    socket.resume();
    await once(socket, 'connect');
    await feed(socket);
    const status = async (): Promise<string | undefined> => text(await this.#qmp.query('query-migrate'), 'status');
    await until(
      async () => (await status()) === 'completed',
      30,
      () => 'the destination QEMU does not say that it has loaded the guest',
    );
  }

  /** A digest of the guest's RAM; the guest must be stopped. */
  async ramDigest(): Promise<string> {
    const hash = createHash('sha256');
    for (const { start, size } of RANGES) {
      const file = this.#path(`ram-${start}`);
      await this.#qmp.execute('pmemsave', { val: start, size, filename: file });
      hash.update(readFileSync(file));
      rmSync(file);
    }
    return hash.digest('hex');
  }

  /** The guest's own count of time in the last line that it printed. */
  lastTick(): number {
    return Number([...this.#printed().matchAll(/^T (\d+) /gm)].at(-1)?.[1] ?? NaN);
  }

  async runsOnFrom(tick: number): Promise<void> {
    await this.#qmp.execute('cont');
    await until(
      () => this.lastTick() > tick + 4,
      20,
      () => 'the guest does not run on',
    );
  }

  /** Ends QEMU; resolves when it is gone, and writes no more files. */
  async end(): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const gone = once(this.#process, 'exit');
    this.#process.kill('SIGKILL');
    await gone;
  }

  #printed(): string {
    return existsSync(this.#path('serial')) ? readFileSync(this.#path('serial'), 'latin1') : '';
  }
}

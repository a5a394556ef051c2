/**
 * Whole programs on a real stream: `npm run bench:pipeline`.
 *
 * Every figure has its peers of the same run; runs are interleaved and medians count. What each of ours writes is
 * decoded and compared first, so a case is a test too. Timings never fail it.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SimulatedDestination } from '#src/simulator/destination.js';
import type { EncodeStats } from '#src/telemetry/stats.js';
import { root, shellCommand, shellWord } from '../test/e2e/harness/repository.js';
import { captureStream } from './capture-stream.js';
import { Report, median, spread, verdict } from './live/report.js';
import { atLeast, readOptions, requirePrograms } from './live/requirements.js';
import { timed } from './timed.js';
import type { Timed } from './timed.js';

const flags = readOptions({
  runs: { type: 'string', default: '5' },
  /** A QEMU stream to measure on, instead of a capture of the sparse guest. */
  stream: { type: 'string' },
  /** Where to write the result besides the terminal. */
  out: { type: 'string' },
});
const runs = atLeast(1, 'runs', flags.runs);
requirePrograms('lz4', 'zstd');

const pagewire = shellCommand(process.execPath, join(root, 'bin/pagewire'));
const decode = `${pagewire} decode -q`;

function encode(options: string): string {
  return `${pagewire} encode -q ${options}`;
}

/** A shell's command from standard input to standard output. */
interface Way {
  readonly name: string;
  readonly command: string;
  /** Of ours: makes of its output a QEMU stream, */
  readonly back?: string;
  /** which is the same, byte by byte, or one of another length that loads the same guest. */
  readonly exact?: boolean;
}

const PASS_THROUGH = encode('--no-delta --codec none');
const STOCK = encode('--stock');

/** What is compared with each other, beside all else. */
const ZSTD = { name: 'pagewire: zstd -1', command: encode('--no-delta'), back: decode, exact: true } as const;
const ZSTD_PEER = { name: 'zstd -1 -T2', command: 'zstd -qc -1 -T2' };
const THROUGH = {
  name: 'pagewire: pass-through, encode | decode',
  command: `${PASS_THROUGH} | ${decode}`,
  back: 'cat',
  exact: true,
} as const;
const THROUGH_PEER = { name: 'cat | cat | cat', command: 'cat | cat | cat' };

const WAYS: readonly Way[] = [
  { name: 'pagewire: delta, zstd -1 (the default)', command: encode(''), back: decode },
  { name: 'pagewire: delta alone (--stock)', command: STOCK, back: 'cat' },
  ZSTD,
  { name: 'pagewire: lz4', command: encode('--no-delta --codec lz4'), back: decode, exact: true },
  { name: 'pagewire: pass-through, encode alone', command: PASS_THROUGH, back: decode, exact: true },
  THROUGH,
  { name: 'cat', command: 'cat' },
  THROUGH_PEER,
  { name: 'lz4', command: 'lz4 -qc' },
  { name: 'zstd -1', command: 'zstd -qc -1' },
  ZSTD_PEER,
];

const work = mkdtempSync(join(tmpdir(), 'pagewire-bench-'));
process.once('exit', () => {
  rmSync(work, { recursive: true, force: true });
});
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
const stream = flags.stream ?? (await captureStream());
const streamBytes = statSync(stream).size;
const gigabytes = streamBytes / 1e9;

/** What a QEMU stream makes of a destination: its memory and its device states. */
async function loadedFrom(pipeline: string): Promise<string> {
  const destination = new SimulatedDestination();
  const child = spawn('bash', ['-o', 'pipefail', '-c', pipeline], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise((done) => child.once('close', done));
  for await (const chunk of child.stdout) destination.push(chunk as Buffer);
  if ((await ended) !== 0) throw new Error(`failed: ${pipeline}`);
  destination.end();
  return JSON.stringify([...destination.digests(), destination.deviceDigest()]);
}

/** Fails unless what comes out of our ways is what went in, or loads the same guest. */
async function verify(): Promise<void> {
  const from = `<${shellWord(stream)}`;
  const guest = await loadedFrom(`cat ${from}`);
  for (const { name, command, back, exact } of WAYS) {
    if (back === undefined) continue;
    const pipeline = `{ ${command}; } ${from} | ${back}`;
    if (exact === true) {
      const { status } = spawnSync('bash', ['-o', 'pipefail', '-c', `${pipeline} | cmp - ${shellWord(stream)}`], {
        stdio: ['ignore', 'inherit', 'inherit'],
      });
      if (status !== 0) throw new Error(`${name}: other bytes come out than went in`);
    } else if ((await loadedFrom(pipeline)) !== guest) {
      throw new Error(`${name}: another guest comes out`);
    }
  }
}

async function sizeBy(command: string): Promise<number> {
  const file = join(work, 'packed');
  await timed(command, stream, file);
  const { size } = statSync(file);
  rmSync(file);
  return size;
}

function statsOf(file: string): EncodeStats {
  return JSON.parse(readFileSync(file, 'utf8')) as EncodeStats;
}

/** What Node takes for a program that does nothing, in bytes. */
async function residentOfNode(): Promise<number> {
  const file = join(work, 'resident');
  const script = 'process.stdout.write(String(process.resourceUsage().maxRSS * 1024))';
  await timed(shellCommand(process.execPath, '-e', script), '/dev/null', file);
  return Number(readFileSync(file, 'utf8'));
}

/** All ways in turn, `times` times, beginning with another one each time. */
async function inTurn(input: string, times: number): Promise<Map<Way, Timed[]>> {
  const measured = new Map(WAYS.map((way): [Way, Timed[]] => [way, []]));
  for (let run = 0; run < times; run++) {
    for (let turn = 0; turn < WAYS.length; turn++) {
      const way = WAYS[(run + turn) % WAYS.length];
      if (way !== undefined) measured.get(way)?.push(await timed(way.command, input, '/dev/null'));
    }
  }
  return measured;
}

const walls = (of: readonly Timed[] | undefined): number[] => (of ?? []).map(({ wall }) => wall);
const cpus = (of: readonly Timed[] | undefined): number[] => (of ?? []).map(({ cpu }) => cpu);
const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

const report = new Report('npm run bench:pipeline');
report.say(
  `stream: ${(streamBytes / 1e6).toFixed(0)} MB, in the system's page cache; ${runs} interleaved runs after one`,
);
report.say('that does not count, from the file to /dev/null, medians (least–most); MB are 10^6 bytes');
await verify();
report.say();

const packed = await sizeBy(encode(`--stats ${shellWord(join(work, 'stats.json'))}`));
const { guest, cache, peakMemoryBytes } = statsOf(join(work, 'stats.json'));
const zstd = await sizeBy('zstd -qc -1 -T2');
report.say(`delta + zstd -1: ${(packed / 1e6).toFixed(1)} MB, ${(streamBytes / packed).toFixed(1)} x smaller`);
report.say(`zstd -1 alone:   ${(zstd / 1e6).toFixed(1)} MB, ${(streamBytes / zstd).toFixed(1)} x smaller`);
const nodeBytes = await residentOfNode();
const cacheBytes = cache?.bytes ?? 0;
report.say(
  `memory: ${mebibytes(peakMemoryBytes)} resident at the most, of it ${mebibytes(cacheBytes)} cache for a guest of ` +
    `${mebibytes(guest?.ramBytes ?? 0)} and ${mebibytes(nodeBytes)} of Node's own: ` +
    `${mebibytes(peakMemoryBytes - cacheBytes - nodeBytes)} besides`,
);
report.say();

await inTurn(stream, 1);
const idle = await inTurn('/dev/null', runs);
const measured = await inTurn(stream, runs);
report.table([
  ['', 'MB/s', 'without start-up', 'CPU s/GB', 'without start-up'],
  ...WAYS.map((way) => {
    const of = measured.get(way);
    const start = { wall: median(walls(idle.get(way))), cpu: median(cpus(idle.get(way))) };
    const speeds = walls(of).map((wall) => streamBytes / 1e6 / wall);
    const shares = cpus(of).map((cpu) => cpu / gigabytes);
    return [
      way.name,
      spread(speeds, 0),
      (streamBytes / 1e6 / (median(walls(of)) - start.wall)).toFixed(0),
      spread(shares, 2),
      (median(shares) - start.cpu / gigabytes).toFixed(2),
    ];
  }),
]);
report.say('(CPU: user and system, of all processes of a way together)');
report.say();

/** How many times as fast one is as the other, run by run. */
function ratios(ours: Way, peer: Way): number[] {
  const peers = walls(measured.get(peer));
  return walls(measured.get(ours)).map((wall, run) => (peers[run] ?? NaN) / wall);
}

const through = ratios(THROUGH, THROUGH_PEER);
report.say(`encode | decode, of cat | cat | cat's speed: ${spread(through, 2)}`);
report.say(`    the median: ${verdict(median(through), { atLeast: 1 })}`);
report.say(`zstd -1 on two workers, of zstd -1 -T2's speed: ${spread(ratios(ZSTD, ZSTD_PEER), 2)}`);

// Delta, on one core: the source's thread reads, parses, makes differences and fills slots.
const stages: number[] = [];
for (let run = 0; run < runs; run++) {
  const stats = join(work, 'stock.json');
  await timed(`${STOCK} --stats ${shellWord(stats)}`, stream, '/dev/null');
  stages.push(gigabytes / statsOf(stats).cpuSeconds.source);
}
report.say(
  `delta stage (read, parse, cache, delta, fill): ${spread(stages, 2)} GB of stream per CPU second of one core`,
);
report.writeTo(flags.out);

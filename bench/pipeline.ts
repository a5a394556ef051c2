/**
 * Whole programs on a real stream: `npm run bench:pipeline`.
 *
 * Every figure has its peer of the same run; runs are interleaved and the median counts. What each case wrote is
 * decoded and compared, so a case is a test too. Results of machines of ours stand in bench/results.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { EncodeStats } from '#src/telemetry/stats.js';
import { captureStream } from './capture-stream.js';
import { median } from './live/report.js';

const { values: flags } = parseArgs({
  options: {
    runs: { type: 'string', default: '5' },
    /** A stream to measure on, instead of a capture of the sparse guest. */
    stream: { type: 'string' },
    /** Where to write the result besides the terminal. */
    out: { type: 'string' },
  },
});

const root = fileURLToPath(new URL('../../', import.meta.url));
const pagewire = `${process.execPath} ${join(root, 'bin/pagewire')}`;
const work = mkdtempSync(join(tmpdir(), 'pagewire-bench-'));
const stream = flags.stream ?? (await captureStream());
const streamBytes = statSync(stream).size;
const runs = Number(flags.runs);
const lines: string[] = [];

/** Runs a shell command with $IN and $DIR set; seconds of wall time. */
async function time(command: string): Promise<number> {
  const began = performance.now();
  const child = spawn('bash', ['-o', 'pipefail', '-c', command], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, IN: stream, DIR: work },
  });
  const code = await new Promise((resolve) => child.once('close', resolve));
  if (code !== 0) throw new Error(`exit ${String(code)}: ${command}`);
  return (performance.now() - began) / 1000;
}

function say(line = ''): void {
  lines.push(line);
  console.log(line);
}

function spread(values: number[]): string {
  return `${median(values).toFixed(2)} (${Math.min(...values).toFixed(2)}–${Math.max(...values).toFixed(2)})`;
}

/** Two commands in turn, after one warm-up each: the ratio of their times, pair by pair. */
async function pair(title: string, ours: string, peer: string, peerName: string): Promise<{ seconds: number }> {
  const [a, b]: [number[], number[]] = [[], []];
  await time(ours);
  await time(peer);
  for (let run = 0; run < runs; run++) {
    a.push(await time(ours));
    b.push(await time(peer));
  }
  const speed = (seconds: number): string => `${(streamBytes / 1e6 / seconds).toFixed(0)} MB/s`;
  const ratios = b.map((peerSeconds, i) => peerSeconds / (a[i] ?? NaN));
  const net = ratios.map((_, i) => (b[i] ?? NaN) / ((a[i] ?? NaN) - startUp));
  say(`${title}: ${speed(median(a))}, ${peerName} ${speed(median(b))}: ${spread(ratios)} x its speed`);
  say(`    without start-up: ${speed(median(a) - startUp)}, ${spread(net)} x`);
  return { seconds: median(a) };
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

function readStats(name: string): EncodeStats {
  return JSON.parse(readFileSync(join(work, name), 'utf8')) as EncodeStats;
}

const empties: number[] = [];
for (let run = 0; run < runs; run++) empties.push(await time(`${pagewire} encode < /dev/null`));
const startUp = median(empties);
const node: number[] = [];
for (let run = 0; run < runs; run++) node.push(await time(`${process.execPath} -e 0`));

try {
  say(
    `${new Date().toISOString().slice(0, 10)}, ${cpus()[0]?.model ?? '?'}, ${cpus().length} processors, Node ${process.version}`,
  );
  say(`command: npm run bench:pipeline${process.argv.length > 2 ? ` -- ${process.argv.slice(2).join(' ')}` : ''}`);
  say(`stream: ${(streamBytes / 1e6).toFixed(0)} MB; ${runs} runs after a warm-up, medians (least–most)`);
  say(`start-up of pagewire: ${(startUp * 1000).toFixed(0)} ms (node -e 0: ${(median(node) * 1000).toFixed(0)} ms)`);
  say();

  // Size
  const quiet = '-q --stats $DIR/stats.json';
  await time(`${pagewire} encode ${quiet} -i $IN -o $DIR/delta.pw`);
  await time(`zstd -q -1 -T2 -f $IN -o $DIR/plain.zst`);
  const packed = statSync(join(work, 'delta.pw')).size;
  const zstd = statSync(join(work, 'plain.zst')).size;
  say(`delta + zstd -1: ${(packed / 1e6).toFixed(1)} MB, ${(streamBytes / packed).toFixed(1)} x smaller`);
  say(`zstd -1 alone:   ${(zstd / 1e6).toFixed(1)} MB, ${(streamBytes / zstd).toFixed(1)} x smaller`);
  const { guest, cache, peakMemoryBytes } = readStats('stats.json');
  const nodeBytes = await residentOfNode();
  const own = peakMemoryBytes - (cache?.bytes ?? 0) - nodeBytes;
  say(
    `memory: ${(peakMemoryBytes / 2 ** 20).toFixed(0)} MiB resident at the most, of it ${((cache?.bytes ?? 0) / 2 ** 20).toFixed(0)} MiB ` +
      `cache for a guest of ${((guest?.ramBytes ?? 0) / 2 ** 20).toFixed(0)} MiB and ${(nodeBytes / 2 ** 20).toFixed(0)} MiB of Node's own: ` +
      `${(own / 2 ** 20).toFixed(0)} MiB besides`,
  );
  await time(`${pagewire} decode -q -i $DIR/delta.pw -o $DIR/delta.qemu`);
  await time(`${pagewire} encode -q --no-delta -i $IN | ${pagewire} decode -q -o $DIR/exact.qemu`);
  if ((await sha256(join(work, 'exact.qemu'))) !== (await sha256(stream))) throw new Error('--no-delta was not exact');
  say();

  // Delta, on one core: the source thread reads, parses, deltas and fills slots.
  const stages: number[] = [];
  for (let run = 0; run < runs; run++) {
    await time(`${pagewire} encode --stock ${quiet} -i $IN > /dev/null`);
    const { cpuSeconds } = readStats('stats.json');
    stages.push(streamBytes / 1e9 / cpuSeconds.source);
  }
  say(`delta stage (read, parse, cache, delta, fill): ${spread(stages)} GB of stream per CPU second of one core`);

  await pair(
    'zstd -1, two workers',
    `${pagewire} encode -q --no-delta --codec zstd --level 1 --threads 2 -i $IN > /dev/null`,
    `zstd -q -1 -T2 -c $IN > /dev/null`,
    'zstd -1 -T2',
  );
  await pair(
    'pass-through, encode | decode',
    `${pagewire} encode -q --no-delta --codec none < $IN | ${pagewire} decode -q > /dev/null`,
    'cat $IN | cat | cat > /dev/null',
    'cat | cat | cat',
  );
  const alone = await pair(
    'pass-through, encode alone, file to /dev/null',
    `${pagewire} encode -q --no-delta --codec none -i $IN > /dev/null`,
    'cat $IN > /dev/null',
    'cat',
  );
  say(`    ${(streamBytes / 1e9 / (alone.seconds - startUp)).toFixed(1)} GB/s without start-up`);
} finally {
  rmSync(work, { recursive: true, force: true });
}
if (flags.out !== undefined) {
  mkdirSync(dirname(flags.out), { recursive: true });
  writeFileSync(flags.out, `${lines.join('\n')}\n`);
}

/** What Node takes for a program that does nothing, in bytes. */
async function residentOfNode(): Promise<number> {
  const script = 'require("fs").writeFileSync(process.env.DIR + "/rss", String(process.resourceUsage().maxRSS * 1024))';
  await time(`${process.execPath} -e '${script}'`);
  return Number(readFileSync(join(work, 'rss'), 'utf8'));
}

/**
 * Saves and restores of real guests, beside the programs that are used for them: `npm run bench:save`.
 *
 * The streams are those of guests that run real software (see capture.ts). Every figure has its peers of the same run;
 * runs are interleaved and medians count. What each program wrote is restored and compared, so a case is a test too.
 * Timings never fail it.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Report, median, spread, verdict } from '../live/report.js';
import { atLeast, choose, readOptions, requirePrograms } from '../live/requirements.js';
import { CHANGED, SOFTWARE, changingStreams, streamOf } from './capture.js';
import { DEFAULT, OURS, PEERS, incremental } from './programs.js';
import type { Filter } from './programs.js';
import { timed } from '../timed.js';
import type { Timed } from '../timed.js';

const flags = readOptions({
  runs: { type: 'string', default: '3' },
  /** Of which guests. */
  guest: { type: 'string', default: SOFTWARE.join(',') },
  /** Another stream, or several, instead of the guests'. */
  stream: { type: 'string', multiple: true },
  /** Only these programs, by their names in the tables. */
  only: { type: 'string' },
  /** Touches memory before each run, see {@link warmUp}. */
  warm: { type: 'boolean', default: false },
  /** Where packed files are written, for a time: a folder with room for one of them. */
  folder: { type: 'string', default: tmpdir() },
  /** Where to write the result besides the terminal. */
  out: { type: 'string' },
});
const runs = atLeast(1, 'runs', flags.runs);
const guests = choose('guest', flags.guest, SOFTWARE);
const all = [...OURS, ...PEERS];
const names = all.map(({ name }) => name);
const wanted = flags.only === undefined ? names : choose('only', flags.only, names);
const filters = all.filter(({ name }) => wanted.includes(name));
requirePrograms(...new Set(filters.map(({ needs }) => needs).filter((needs) => needs !== undefined)));

/** Goals, beside the peers of the same run. */
const GOALS = { speedOfLzop: 1.5, restoreMBs: 1500, incremental: CHANGED };

const work = mkdtempSync(join(flags.folder, 'pagewire-bench-'));
const packed = join(work, 'packed');
process.once('exit', () => {
  rmSync(work, { recursive: true, force: true });
});
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

/** What is known of a program on a stream. */
interface Measured {
  readonly filter: Filter;
  bytes: number;
  readonly save: Timed[];
  readonly restore: Timed[];
}

/** Restores once more, and fails unless what comes out is the stream. */
function verify(restore: string, file: string, stream: string): void {
  const command = `${restore} <"$PACKED" | cmp - "$STREAM"`;
  const { status, stderr } = spawnSync('bash', ['-o', 'pipefail', '-c', command], {
    env: { ...process.env, PACKED: file, STREAM: stream },
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`${restore}: not what was saved: ${stderr}`);
}

/** More than any of the programs takes, its output in the page cache included. */
const WARM_BYTES = 2 ** 30;

/**
 * Touches memory and frees it, so that every program finds memory that is there. A virtual machine with free page
 * reporting gives what was freed back to its host some seconds later, and a page's first touch then takes 13 µs instead
 * of 0.4: who runs behind a program that took long pays for that, and who takes more memory pays more. A host that
 * runs guests is seldom a virtual machine itself.
 */
function warmUp(): void {
  spawnSync(process.execPath, ['-e', `Buffer.alloc(${WARM_BYTES}, 1)`], { stdio: 'ignore' });
}

/** One save and restore of a file. */
async function measure(stream: string, into: Measured): Promise<void> {
  const { filter } = into;
  if (flags.warm && stream !== '/dev/null') warmUp();
  into.save.push(await timed(filter.save, stream, packed));
  if (flags.warm && stream !== '/dev/null') warmUp();
  into.restore.push(await timed(filter.restore, packed, '/dev/null'));
  into.bytes = statSync(packed).size;
  if (into.save.length === 1 && stream !== '/dev/null') verify(filter.restore, packed, stream);
  rmSync(packed);
}

/** Programs in turn, `runs` times. */
async function measureAll(stream: string, programs = filters): Promise<Measured[]> {
  const measured = programs.map((filter): Measured => ({ filter, bytes: 0, save: [], restore: [] }));
  for (let run = 0; run < runs; run++) {
    for (const one of measured) await measure(stream, one);
  }
  return measured;
}

const walls = (times: readonly Timed[]): number[] => times.map(({ wall }) => wall);
const cpus = (times: readonly Timed[]): number[] => times.map(({ cpu }) => cpu);

function milliseconds(times: readonly Timed[]): string {
  return spread(
    walls(times).map((wall) => wall * 1000),
    0,
  );
}

const report = new Report('npm run bench:save');
report.say(`${runs} interleaved runs, medians (least–most); file to file, files in the page cache; MB are 10^6 bytes`);
if (flags.warm) report.say(`before each run ${WARM_BYTES / 2 ** 20} MiB of memory were touched and freed`);

const idle = await measureAll('/dev/null');
report.say();
report.say('An empty stream: start-up');
report.table([
  ['', 'save ms', 'restore ms'],
  ...idle.map(({ filter, save, restore }) => [filter.name, milliseconds(save), milliseconds(restore)]),
]);

const HEADING = ['', 'MB', 'save MB/s', 'without start-up', 'CPU s/GB', 'restore MB/s', 'without start-up', 'CPU s/GB'];

/** The same program with an empty stream; an incremental save starts as a full one does. */
function startOf({ filter }: Measured): Measured | undefined {
  return idle.find((one) => one.filter === filter) ?? idle.find((one) => one.filter === DEFAULT);
}

/** Seconds on the clock beyond what the program takes for an empty stream. */
function withoutStart(measured: Measured, way: 'save' | 'restore'): number[] {
  const start = median(walls(startOf(measured)?.[way] ?? []));
  return walls(measured[way]).map((wall) => wall - start);
}

function row(measured: Measured, streamBytes: number): string[] {
  const { filter, bytes, save, restore } = measured;
  const started = startOf(measured);
  const figures = (times: readonly Timed[], starts: readonly Timed[]): string[] => {
    const start = { wall: median(walls(starts)), cpu: median(cpus(starts)) };
    return [
      spread(
        walls(times).map((wall) => streamBytes / 1e6 / wall),
        0,
      ),
      (streamBytes / 1e6 / (median(walls(times)) - start.wall)).toFixed(0),
      spread(
        cpus(times).map((cpu) => (cpu - start.cpu) / (streamBytes / 1e9)),
        2,
      ),
    ];
  };
  const saving = figures(save, started?.save ?? []);
  return [filter.name, (bytes / 1e6).toFixed(1), ...saving, ...figures(restore, started?.restore ?? [])];
}

/** What was wanted of the default beside its peers, as far as they were measured. */
function judge(measured: readonly Measured[], streamBytes: number): void {
  const named = (name: string): Measured | undefined => measured.find(({ filter }) => filter.name === name);
  const ours = measured.filter(({ filter }) => OURS.includes(filter));
  const [byDefault, lzop] = [named(DEFAULT.name), named('lzop')];
  if (byDefault === undefined) return;
  if (lzop !== undefined) {
    const tell = (what: string, [theirs, own]: readonly [readonly number[], readonly number[]]): void => {
      const ratio = median(theirs.map((wall, run) => wall / (own[run] ?? NaN)));
      report.say(`save's speed beside lzop's, run by run, ${what}: ${verdict(ratio, { atLeast: GOALS.speedOfLzop })}`);
    };
    tell('with start-up', [walls(lzop.save), walls(byDefault.save)]);
    tell('without start-up', [withoutStart(lzop, 'save'), withoutStart(byDefault, 'save')]);
  }
  const [z3, z3long] = [named('zstd -3 -T0')?.bytes, named('zstd -3 --long=27 -T0')?.bytes];
  if (z3 !== undefined) report.say(`size beside zstd -3's: ${verdict(byDefault.bytes / z3, { atMost: 1 })}`);
  if (z3long !== undefined) {
    const least = Math.min(...ours.map(({ bytes }) => bytes));
    report.say(`the smallest level's size beside zstd -3 --long=27's: ${verdict(least / z3long, { atMost: 1 })}`);
  }
  const speed = streamBytes / 1e6 / median(walls(byDefault.restore));
  report.say(`restore, MB/s with start-up: ${verdict(speed, { atLeast: GOALS.restoreMBs })}`);
  const carried = streamBytes / 1e6 / median(withoutStart(byDefault, 'restore'));
  report.say(`restore, MB/s without start-up: ${verdict(carried, { atLeast: GOALS.restoreMBs })}`);
}

async function compareOn(title: string, stream: string): Promise<void> {
  const bytes = statSync(stream).size;
  const measured = await measureAll(stream);
  report.say();
  report.say(`${title}: ${(bytes / 1e6).toFixed(0)} MB`);
  report.table([HEADING, ...measured.map((one) => row(one, bytes))]);
  judge(measured, bytes);
  report.writeTo(flags.out); // after each table: what was measured is not lost with the next one
}

/** A guest that changed a little: its second save in full, and with the first one's file as base, in turn. */
async function compareIncremental(): Promise<void> {
  const { before, after } = await changingStreams();
  const base = join(work, 'base.pw');
  await timed(DEFAULT.save, before, base);
  const measured = await measureAll(after, [DEFAULT, incremental(base)]);
  const bytes = statSync(after).size;
  report.say();
  report.say(
    `A guest that changed 32 bytes in each of ${CHANGED * 100} % of its pages: ${(bytes / 1e6).toFixed(0)} MB`,
  );
  report.table([HEADING, ...measured.map((one) => row(one, bytes))]);
  const [full, changes] = measured;
  const part = (changes?.bytes ?? NaN) / (full?.bytes ?? NaN);
  report.say(`size beside a full save: ${verdict(part, { atMost: GOALS.incremental })}`);
}

if (flags.stream !== undefined) {
  for (const stream of flags.stream) await compareOn(stream, stream);
} else {
  for (const software of guests) await compareOn(`A guest that runs ${software}`, await streamOf(software));
  if (wanted.includes(DEFAULT.name) && guests.includes('sqlite')) await compareIncremental();
}
report.writeTo(flags.out);

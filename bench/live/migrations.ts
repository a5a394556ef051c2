/**
 * Live migrations of a real guest over a shaped link, beside their peers: `npm run bench:live`, as root.
 *
 * A guest of 512 MB under TCG that works on 128 MiB of text-like rows, QEMU's own bandwidth limit out of the way, a
 * downtime limit of 300 ms. Runs are interleaved, medians count. Every run is a test too: the guest must run on at the
 * destination, with --compare after its RAM was found to be the source's. Timings never fail it.
 */
import { appendFileSync } from 'node:fs';
import { howToInstall, qemus } from '../../test/e2e/harness/qemus.js';
import { linuxGuestLacks } from '../../test/e2e/harness/guests.js';
import { WORKLOADS, measure } from './migration.js';
import type { Measurement, Workload } from './migration.js';
import { MODES } from './modes.js';
import type { Mode } from './modes.js';
import { Report, median, spread, verdict } from './report.js';
import { atLeast, choose, readOptions, refuse, requirePrograms, requireRoot } from './requirements.js';

const flags = readOptions({
  /** Links, in Mbit/s each way; 0: unlimited. */
  bw: { type: 'string', default: '200,1000,0' },
  workload: { type: 'string', default: WORKLOADS.join(',') },
  mode: { type: 'string', default: MODES.join(',') },
  runs: { type: 'string', default: '3' },
  /** The QEMU on both sides: 7.2, 10 or 11. */
  qemu: { type: 'string', default: '11' },
  /** The proxies speak TLS to each other. */
  tls: { type: 'boolean', default: false },
  /** Compare the RAM of both guests, which the destination's has to stand still for. */
  compare: { type: 'boolean', default: false },
  /** Seconds until a migration that does not converge is forced to end. */
  cap: { type: 'string', default: '60' },
  /** Where to append each run's figures, one JSON object a line. */
  json: { type: 'string' },
  /** Where to write what is printed. */
  out: { type: 'string' },
});

/** The peer that counts, and what is wanted of pagewire beside it on the link that the goals were set for. */
const PEER: Mode = 'zstd';
const GOAL_LINK = 200;
const GOALS: Partial<Record<Workload, { wallSeconds: number; wireBytes: number; blackoutMs: number }>> = {
  sparse: { wallSeconds: 0.5, wireBytes: 0.5, blackoutMs: 0.25 },
  mid: { wallSeconds: 0.65, wireBytes: 0.65, blackoutMs: 0.4 },
};
/** Doing no harm: the default's time beside that of bytes that go through as they are, on every link. */
const NO_HARM = 1.05;

const links = flags.bw.split(',').map((text) => atLeast(0, 'bw', text));
const workloads = choose('workload', flags.workload, WORKLOADS);
const modes = choose('mode', flags.mode, MODES);
const runs = atLeast(1, 'runs', flags.runs);
const cap = atLeast(1, 'cap', flags.cap);

requireRoot('it makes network namespaces');
requirePrograms('ip', 'tc', 'setpriv', 'python3', ...(modes.includes('zstd') ? (['zstd'] as const) : []));
const lacks = linuxGuestLacks();
if (lacks !== undefined) refuse(lacks);
const build =
  qemus.find(({ version }) => version === flags.qemu || version.startsWith(`${flags.qemu}.`)) ??
  refuse(`no QEMU ${flags.qemu} here: ${howToInstall}`);

const nameOf = (mbit: number): string => (mbit === 0 ? 'unlimited link' : `${mbit} Mbit/s`);

type Figure = 'wallSeconds' | 'wireBytes' | 'blackoutMs' | 'downtimeMs' | 'passes' | 'foreignCores';

/** The figure of all runs that have it. */
function all(measured: readonly Measurement[], figure: (one: Measurement) => number | undefined): number[] {
  return measured.map(figure).filter((value) => value !== undefined);
}

function perGigabyte(seconds: number | undefined, bytes: number | undefined): number | undefined {
  return seconds === undefined || bytes === undefined || bytes === 0 ? undefined : seconds / (bytes / 1e9);
}

function row(mode: Mode, measured: readonly Measurement[]): string[] {
  const forced = measured.filter(({ outcome }) => outcome === 'forced').length;
  const failed = measured.filter(({ outcome }) => outcome === 'failed').length;
  const ended =
    failed > 0 ? `${failed}/${measured.length} FAILED` : forced > 0 ? `${forced}/${measured.length} no` : 'yes';
  const figure = (name: Figure, digits: number): string =>
    spread(
      all(measured, (one) => one[name]),
      digits,
    );
  const hasFilters = mode === 'zstd' || mode === 'pagewire' || mode === 'pass-through';
  return [
    mode,
    ended,
    figure('wallSeconds', 1),
    spread(
      all(measured, ({ wireBytes }) => (wireBytes === undefined ? undefined : wireBytes / 1e6)),
      1,
    ),
    figure('blackoutMs', 0),
    figure('downtimeMs', 0),
    figure('passes', 0),
    hasFilters
      ? spread(
          all(measured, ({ filterCpu, pageBytes }) => perGigabyte(filterCpu, pageBytes)),
          1,
        )
      : '-',
    spread(
      all(measured, ({ sourceCpu, pageBytes }) => perGigabyte(sourceCpu, pageBytes)),
      1,
    ),
    [...new Set(measured.map(({ guest }) => guest ?? '-'))].join('/'),
    figure('foreignCores', 1),
  ];
}

const HEADING = [
  ...['', 'converged', 'wall s', 'wire MB', 'blackout ms', 'QEMU says ms', 'passes'],
  ...['filters CPU s/GB', 'QEMU CPU s/GB', 'guest', 'others’ cores'],
];

/** The median of a figure of `ours` beside that of `theirs`, run by run. */
function ratio(ours: readonly Measurement[], theirs: readonly Measurement[], figure: Figure): number {
  const ratios = ours.map((one, run) => (one[figure] ?? NaN) / (theirs[run]?.[figure] ?? NaN));
  return median(ratios.filter((value) => !Number.isNaN(value)));
}

function compareWithPeers(measured: ReadonlyMap<Mode, Measurement[]>, mbit: number, workload: Workload): void {
  const [ours, peer, through] = [measured.get('pagewire'), measured.get(PEER), measured.get('pass-through')];
  if (ours === undefined) return;
  if (peer !== undefined) {
    const goals = mbit === GOAL_LINK ? GOALS[workload] : undefined;
    const figures = { wallSeconds: 'time', wireBytes: 'bytes', blackoutMs: 'blackout' } as const;
    const words = (Object.keys(figures) as (keyof typeof figures)[]).map((figure) => {
      const value = ratio(ours, peer, figure);
      return `${figures[figure]} ${goals === undefined ? value.toFixed(2) : verdict(value, { atMost: goals[figure] })}`;
    });
    report.say(`pagewire beside the zstd pipe: ${words.join(', ')}`);
  }
  if (through !== undefined) {
    const value = ratio(ours, through, 'wallSeconds');
    report.say(`pagewire beside pass-through: time ${verdict(value, { atMost: NO_HARM })}`);
  }
}

const report = new Report('npm run bench:live');
report.say(
  `QEMU ${build.version} on both sides, ${build.machines.pc[0] ?? 'pc'}, TCG; guest of 512 MB working on 128 MiB; downtime limit ` +
    `300 ms; ${runs} interleaved runs, medians (least–most); forced to end after ${cap} s; proxies over ${flags.tls ? 'TLS' : 'TCP'}`,
);
if (flags.compare)
  report.say('--compare: the guest is held at the destination, so blackout ends where QEMU has completed');

// so that the link goes too, and with us all that we started
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

let wrong = 0;
for (const mbit of links) {
  for (const workload of workloads) {
    const measured = new Map<Mode, Measurement[]>(modes.map((mode) => [mode, []]));
    for (let run = 1; run <= runs; run++) {
      for (const mode of modes) {
        const one = await measure({ build, mode, workload, mbit, tls: flags.tls, compare: flags.compare, cap });
        measured.get(mode)?.push(one);
        const told = one.wallSeconds === undefined ? '' : ` in ${one.wallSeconds.toFixed(1)} s`;
        console.error(`${nameOf(mbit)}, ${workload}, run ${run}, ${mode}: ${one.outcome}${told}`);
        if (flags.json !== undefined) {
          const record = { time: new Date().toISOString(), run, tls: flags.tls, compare: flags.compare, ...one };
          appendFileSync(flags.json, `${JSON.stringify(record)}\n`);
        }
      }
    }
    report.say();
    report.say(`${nameOf(mbit)}, ${workload}`);
    report.table([HEADING, ...[...measured].map(([mode, runsOfMode]) => row(mode, runsOfMode))]);
    compareWithPeers(measured, mbit, workload);
    for (const { mode, error, note } of [...measured.values()].flat()) {
      if (error !== undefined) wrong += 1;
      if (error !== undefined || note !== undefined) report.say(`${mode}: ${error ?? note ?? ''}`);
    }
    report.writeTo(flags.out); // after each table: an evening's work is not lost with its last run
  }
}
if (wrong > 0) {
  report.say(`${wrong} runs went wrong`);
  process.exitCode = 1;
}
report.writeTo(flags.out);

/**
 * libvirt's tunnel through the proxies beside libvirt's own ways: `npm run bench:libvirt`, as root.
 *
 * Two hosts with a libvirt of their own in namespaces, as the tests have them, and a shaped link between. A guest of
 * 512 MB under TCG that works on 128 MiB (`sparse`: 20,000 pages a second, 32 bytes each). Runs are interleaved, every
 * second one the other way round; medians count, and of what is held against each other the median of the runs' quotients.
 * Every run is a test too: the guest must run on at the destination. Timings never fail it.
 *
 * `-tls`: the same with certificates or keys at both ends, as between hosts on a network that others use, too.
 *
 * `relay` is the least that programs in this place can cost: two socats, which only copy. What the proxies take beyond that is
 * theirs; what it takes beyond libvirt's own tunnel, the two hops cost by themselves.
 *
 * Before each migration so much memory is taken and given back that what the destination's QEMU gets is there. Where this
 * machine is a guest itself, its host takes back what is not in use, and brings it anew at the first touch: that took
 * between a twentieth and a half of a whole migration, by chance.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { sleep } from '#src/demo/time.js';
import { boot, forget, furnish, lastTick, runs as runsOn } from '../../test/e2e/libvirt/guest.js';
import { Hosts, libvirtLacks } from '../../test/e2e/libvirt/host.js';
import type { Host } from '../../test/e2e/libvirt/host.js';
import {
  endTunnel,
  exchangeKeys,
  PORT,
  SOCKET,
  startTunnel,
  TUNNEL_URI,
} from '../../test/e2e/libvirt/tunnel-proxies.js';
import type { TunnelProxies } from '../../test/e2e/libvirt/tunnel-proxies.js';
import { says } from '../../test/e2e/harness/proxies.js';
import { Authority } from '../../test/transport/pki.js';
import { onStage } from '../../test/e2e/harness/stage.js';
import type { Running, Stage } from '../../test/e2e/harness/stage.js';
import { cpuOfMachine } from '../live/cpu.js';
import { Report, median, spread, verdict } from '../live/report.js';
import { atLeast, choose, readOptions, refuse, requirePrograms, requireRoot } from '../live/requirements.js';
import { Shaper } from '../live/shaper.js';
import { Lifecycle } from './lifecycle.js';

const flags = readOptions({
  /** Links, in Mbit/s each way; 0: unlimited. */
  bw: { type: 'string', default: '200,0' },
  way: { type: 'string', default: 'pagewire,relay,tunnelled,pagewire-tls,tunnelled-tls,p2p,compressed' },
  runs: { type: 'string', default: '3' },
  /** Seconds until a migration that does not converge is forced to end. */
  cap: { type: 'string', default: '60' },
  /** MiB that are taken and given back before each migration: more than a guest's RAM; 0: none. */
  warm: { type: 'string', default: '768' },
  /** Where to write what is printed. */
  out: { type: 'string' },
});

const FAR = 'qemu+tcp://dst/system';
const FAR_TLS = 'qemu+tls://dst/system';

/** What virsh is told. */
const WAYS = {
  pagewire: ['--p2p', '--tunnelled', 'vm1', TUNNEL_URI],
  relay: ['--p2p', '--tunnelled', 'vm1', TUNNEL_URI],
  tunnelled: ['--p2p', '--tunnelled', 'vm1', FAR],
  'pagewire-tls': ['--p2p', '--tunnelled', 'vm1', TUNNEL_URI],
  'tunnelled-tls': ['--p2p', '--tunnelled', 'vm1', FAR_TLS],
  p2p: ['--p2p', 'vm1', FAR],
  compressed: ['--p2p', '--compressed', 'vm1', FAR],
} as const;
type Way = keyof typeof WAYS;

const GUEST = { megabytes: 512, workingSet: 128, workload: 'sparse', rate: 20_000 } as const;
/** How long the guest works before it is migrated, in milliseconds. */
const SETTLE_MS = 1500;
/** The link that the goal was set for, and the goal beside the best of libvirt's own ways. */
const GOAL = { mbit: 200, share: 0.5 };
/** On an unlimited link: beside libvirt's own tunnel. */
const NO_HARM = 1;

interface Measured {
  readonly wallSeconds: number;
  /** Of the whole machine. */
  readonly cpuSeconds: number;
  readonly wireBytes: number;
  readonly blackoutMs: number;
  readonly forced: boolean;
}

const links = flags.bw.split(',').map((text) => atLeast(0, 'bw', text));
const ways = choose('way', flags.way, Object.keys(WAYS) as Way[]);
const runs = atLeast(1, 'runs', flags.runs);
const cap = atLeast(1, 'cap', flags.cap);
const warmMib = atLeast(0, 'warm', flags.warm);

requireRoot('it makes network namespaces');
requirePrograms('ip', 'tc', 'python3');
if (ways.includes('relay')) requirePrograms('socat');
const lacks = libvirtLacks();
if (lacks !== undefined) refuse(lacks);

async function migrate(stage: Stage, hosts: Hosts, way: Way, mbit: number): Promise<Measured> {
  const { a, b } = hosts;
  for (const host of [a, b]) forget(host);
  // Before the guest: a service has long been up when it is needed.
  const tunnel = await BETWEEN[way]?.(hosts, stage);
  await boot(a, GUEST);
  const shapers = [a, b].map((host) => new Shaper(['nsenter', '-t', `${host.pid}`, '-n'], 'mig0', mbit));
  const [left, came] = await Promise.all([Lifecycle.of(a), Lifecycle.of(b)]);
  try {
    await sleep(SETTLE_MS);
    warm();
    const before = lastTick(a);
    const sent = shapers[0]?.sent() ?? NaN;
    const cpuBefore = cpuOfMachine();
    const began = performance.now();
    const virsh = a.startVirsh('migrate', '--live', ...WAYS[way]);
    const forced = await untilDone(a, virsh);
    const wallSeconds = (performance.now() - began) / 1000;
    const cpuSeconds = cpuOfMachine() - cpuBefore;
    const wireBytes = (shapers[0]?.sent() ?? NaN) - sent;
    await runsOn(b, 'vm1', before);
    const blackoutMs = (await came.timeOf('Resumed')) - (await left.timeOf('Suspended'));
    return { wallSeconds, cpuSeconds, wireBytes, blackoutMs, forced };
  } finally {
    await Promise.all([left.end(), came.end(), tunnel && endTunnel(tunnel)]);
    for (const shaper of shapers) shaper.remove();
    for (const host of [a, b]) await host.virsh('destroy', 'vm1').catch(() => undefined);
  }
}

/** What stands between the daemons. */
const BETWEEN: Readonly<Partial<Record<Way, (hosts: Hosts, stage: Stage) => Promise<TunnelProxies>>>> = {
  pagewire: async ({ a, b }) => startTunnel(a, b),
  'pagewire-tls': async ({ a, b }) => startTunnel(a, b, [], [], await keys(a, b)),
  relay: async ({ a, b }, stage) => {
    mkdirSync(a.path('/run/pagewire'), { recursive: true });
    const listening = `TCP-LISTEN:${PORT},reuseaddr,fork,nodelay`;
    const destination = socat(stage, b, listening, `UNIX-CONNECT:${b.path('/run/libvirt/libvirt-sock')}`);
    await says(destination, /listening on/);
    const socket = `UNIX-LISTEN:${a.path(SOCKET)},unlink-early,fork`;
    const source = socat(stage, a, socket, `TCP:${b.address}:${PORT},nodelay`);
    await says(source, /listening on/);
    return { source, destination };
  },
};

/** Made once. */
function keys(a: Host, b: Host): ReturnType<typeof exchangeKeys> {
  return (exchanged ??= exchangeKeys(a, b));
}
let exchanged: ReturnType<typeof exchangeKeys> | undefined;

/** One in a host's network, with this machine's files. Pieces of up to 256 KiB: what a proxy makes of a daemon's 64 KiB. */
const socat = (stage: Stage, host: Host, ...ends: string[]): Running =>
  stage.start(
    'socat',
    ['nsenter', '-t', `${host.pid}`, '-n', 'socat', '-d', '-d', '-b', `${256 << 10}`, ...ends],
    [undefined],
  );

/**
 * Takes huge pages, as QEMU does for a guest, and touches each; with the process that has them they go back, and are what the next
 * one gets. (Node itself takes small ones, of which others may be left that the host has to bring.)
 */
const TAKE = `
import mmap, sys
taken = mmap.mmap(-1, int(sys.argv[1]) << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
taken.madvise(mmap.MADV_HUGEPAGE)
for at in range(0, len(taken), mmap.PAGESIZE): taken[at] = 1
`;

function warm(): void {
  if (warmMib === 0) return;
  const { status } = spawnSync('python3', ['-c', TAKE, String(warmMib)]);
  if (status !== 0) throw new Error(`${warmMib} MiB of huge pages could not be had (--warm)`);
}

/** Waits until virsh has ended well. A migration that does not come to its end by itself is made to. */
async function untilDone(host: Host, virsh: Running): Promise<boolean> {
  const force = setTimeout(() => {
    void host.virsh('migrate-setmaxdowntime', 'vm1', '2000000').catch(() => undefined);
    forced = true;
  }, cap * 1000);
  let forced = false;
  const code = await virsh.exitCode(cap + 120);
  clearTimeout(force);
  if (code !== 0) throw new Error(`virsh migrate: ${virsh.said()}`);
  return forced;
}

const FIGURES = { wallSeconds: 'time', cpuSeconds: 'CPU', wireBytes: 'bytes', blackoutMs: 'blackout' } as const;
type Figure = keyof typeof FIGURES;

const of = (measured: readonly Measured[], figure: Figure): number[] => measured.map((one) => one[figure]);

function row(way: Way, measured: readonly Measured[]): string[] {
  const converged = measured.every(({ forced }) => !forced) ? 'yes' : 'no';
  const wire = of(measured, 'wireBytes').map((bytes) => bytes / 1e6);
  const [wall, cpu] = [of(measured, 'wallSeconds'), of(measured, 'cpuSeconds')];
  const blackout = of(measured, 'blackoutMs');
  return [way, converged, spread(wall, 2), spread(cpu, 2), spread(wire, 1), spread(blackout, 0)];
}

/** What is held against each other on an unlimited link, run by run: ours, another, and whether that one is libvirt's own. */
const PAIRS = [
  ['pagewire', 'relay', 'two relays that only copy', false],
  ['pagewire', 'tunnelled', "libvirt's own tunnel", true],
  ['pagewire-tls', 'tunnelled-tls', "libvirt's own tunnel, both with TLS", true],
] as const;

/** Ours beside the best of libvirt's own, figure by figure. */
function compare(measured: ReadonlyMap<Way, Measured[]>, mbit: number): void {
  const middle = (figure: Figure, way: Way): number => median(of(measured.get(way) ?? [], figure));
  const theirs = [...measured.keys()].filter((way) => !(way in BETWEEN));
  if (mbit === GOAL.mbit && measured.has('pagewire') && theirs.length > 0) {
    const words = (Object.keys(FIGURES) as Figure[]).map((figure) => {
      const best = Math.min(...theirs.map((way) => middle(figure, way)));
      const value = middle(figure, 'pagewire') / best;
      const goal =
        figure === 'blackoutMs' || figure === 'cpuSeconds' ? value.toFixed(2) : verdict(value, { atMost: GOAL.share });
      return `${FIGURES[figure]} ${goal}`;
    });
    report.say(`pagewire beside the best of libvirt's own ways, each figure's: ${words.join(', ')}`);
  }
  if (mbit !== 0) return;
  for (const [way, other, name, isLibvirts] of PAIRS) {
    const [ours, others] = [measured.get(way), measured.get(other)];
    if (!ours || !others) continue;
    const quotient = (figure: Figure): number =>
      median(ours.map((one, run) => one[figure] / (others[run]?.[figure] ?? NaN)));
    const time = quotient('wallSeconds');
    report.say(
      `${way} beside ${name}, run by run: ` +
        `time ${isLibvirts ? verdict(time, { atMost: NO_HARM }) : time.toFixed(2)}, CPU ${quotient('cpuSeconds').toFixed(2)}`,
    );
  }
}

const report = new Report('npm run bench:libvirt');
report.say(
  `guest of 512 MB working on 128 MiB, sparse, TCG; ${runs} interleaved runs, medians (least–most); ` +
    `forced to end after ${cap} s; ${warmMib} MiB of memory made ready before each`,
);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

await onStage(async (stage) => {
  const authority = ways.includes('tunnelled-tls') ? new Authority(stage.path('authority')) : undefined;
  const hosts = await Hosts.start(stage, authority && { authority });
  furnish(hosts.a, hosts.b);
  const versions = await hosts.a.virsh('version');
  report.say(versions.split('\n').slice(1).join('; '));
  for (const mbit of links) {
    // Over a slow link a relay is as libvirt's own, and TLS costs nothing.
    const here = mbit === 0 ? ways : ways.filter((way) => way !== 'relay' && !way.endsWith('-tls'));
    const measured = new Map<Way, Measured[]>(here.map((way) => [way, []]));
    const name = mbit === 0 ? 'unlimited link' : `${mbit} Mbit/s`;
    for (let run = 1; run <= runs; run++) {
      for (const way of run % 2 === 1 ? here : here.toReversed()) {
        const one = await migrate(stage, hosts, way, mbit);
        measured.get(way)?.push(one);
        console.error(`${name}, run ${run}, ${way}: ${one.wallSeconds.toFixed(2)} s`);
      }
    }
    report.say();
    report.say(name);
    report.table([
      ['', 'converged', 'wall s', 'CPU s', 'wire MB', 'blackout ms'],
      ...[...measured].map(([way, all]) => row(way, all)),
    ]);
    compare(measured, mbit);
    report.writeTo(flags.out);
  }
});

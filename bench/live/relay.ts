/**
 * Bytes that only go through: `npm run bench:relay`. A QEMU stream of 2 GB from a unix socket over TCP to a unix socket,
 * through two proxies that change nothing, and through two socats. Runs are interleaved, medians count. Every run counts
 * the bytes that arrive, the first of each also what they are.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, existsSync, readFileSync, statSync } from 'node:fs';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SimulatedGuest } from '#src/simulator/guest.js';
import { freePort } from '../../test/transport/port.js';
import { listens } from './listens.js';
import { onStage } from '../../test/e2e/harness/stage.js';
import type { Stage } from '../../test/e2e/harness/stage.js';
import { Filter } from './filter.js';
import { PASS_THROUGH } from './modes.js';
import { farSocket, startProxies } from './proxies.js';
import type { Proxies } from './proxies.js';
import { Report, median, spread, verdict } from './report.js';
import { atLeast, choose, readOptions, requirePrograms } from './requirements.js';

const flags = readOptions({
  runs: { type: 'string', default: '5' },
  /** Some of the ways, by name. */
  only: { type: 'string' },
  /** A stream to carry, instead of a simulated guest's. */
  stream: { type: 'string' },
  out: { type: 'string' },
});
const runs = atLeast(1, 'runs', flags.runs);
requirePrograms('setpriv', 'python3', 'socat', 'openssl');

/** How many times as fast as socat. */
const GOAL = 1.5;

const work = mkdtempSync(join(tmpdir(), 'pagewire-bench-'));

/** What lies between two unix sockets, started. */
type Start = (stage: Stage, far: string) => Promise<Proxies>;

function proxies(tls: boolean): Start {
  return async (stage, far) => {
    const wire = { host: '127.0.0.1', port: await freePort() };
    return startProxies(stage, { ...wire, tls, options: PASS_THROUGH, far });
  };
}

/** Both have a certificate of their own and know the other's, as our proxies do. */
function makeCertificates(): void {
  for (const name of ['source', 'destination']) {
    const files = ['-keyout', join(work, `${name}.key`), '-out', join(work, `${name}.crt`)];
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
    execFileSync('openssl', ['req', '-x509', ...key, '-subj', `/CN=${name}`, ...files], { stdio: 'pipe' });
  }
}

function socats(tls: boolean, ...options: string[]): Start {
  return async (stage, far) => {
    const [near, port] = [stage.path('near.sock'), await freePort()];
    const trust = (own: string, peer: string): string =>
      `cert=${work}/${own}.crt,key=${work}/${own}.key,cafile=${work}/${peer}.crt`;
    const [listening, connecting] = tls
      ? [
          `OPENSSL-LISTEN:${port},bind=127.0.0.1,${trust('destination', 'source')}`,
          `OPENSSL:127.0.0.1:${port},commonname=destination,${trust('source', 'destination')}`,
        ]
      : [`TCP-LISTEN:${port},bind=127.0.0.1`, `TCP:127.0.0.1:${port}`];
    const start = (from: string, to: string, isListening: (pid: number) => boolean): Promise<Filter> =>
      Filter.listening(stage, 'socat', ['socat', ...options, from, to], isListening);
    const destination = await start(listening, `UNIX-CONNECT:${far}`, (pid) => listens(pid, port));
    const source = await start(`UNIX-LISTEN:${near}`, connecting, () => existsSync(near));
    const filters = [source, destination];
    return {
      near,
      filters,
      end: async () => {
        for (const filter of filters) await filter.stop();
      },
    };
  };
}

const nothing: Start = (_, far) => Promise.resolve({ near: far, filters: [], end: () => Promise.resolve() });

/**
 * The two ends: one sends a file, one takes it. They tell the time when the first began and when the second had all.
 * Not in Node, whose sockets would be slower than what is measured.
 */
const END = `
import hashlib, os, socket, sys, time
role, path, file, check = sys.argv[1:]
unix = socket.socket(socket.AF_UNIX)
if role == 'send':
    with open(file, 'rb') as stream:
        size, at = os.fstat(stream.fileno()).st_size, 0
        began = time.monotonic()
        unix.connect(path)
        while at < size: at += os.sendfile(unix.fileno(), stream.fileno(), at, size - at)
    unix.shutdown(socket.SHUT_WR)
    while unix.recv(4096): pass
    print(began)
else:
    unix.bind(path)
    unix.listen()
    stream = unix.accept()[0]
    buffer, count, hash = memoryview(bytearray(1 << 20)), 0, hashlib.sha256()
    while got := stream.recv_into(buffer):
        count += got
        ended = time.monotonic()
        if check == 'yes': hash.update(buffer[:got])
    print(ended, count, hash.hexdigest())
`;

interface Run {
  readonly seconds: number;
  readonly cpuSeconds: number;
}

function carry(stream: string, start: Start, sha256?: string): Promise<Run> {
  return onStage(async (stage) => {
    const [far, bytes] = [farSocket(stage), statSync(stream).size];
    const end = (role: string, path: string): { told: () => string[]; ended: () => Promise<number> } => {
      const file = stage.path(`${role}.out`);
      const script = 'exec python3 -c "$@" >"$OUT"';
      const more = [END, role, path, stream, sha256 === undefined ? 'no' : 'yes'];
      const running = stage.start(role, ['sh', '-c', script, 'sh', ...more], [], { OUT: file });
      return { told: () => readFileSync(file, 'utf8').split(' '), ended: () => running.exitCode(120) };
    };
    const taker = end('take', far);
    while (!existsSync(far)) await new Promise((done) => setTimeout(done, 5));
    const relay = await start(stage, far);
    const before = relay.filters.reduce((total, filter) => total + filter.cpu(), 0);
    const sender = end('send', relay.near);
    if ((await taker.ended()) !== 0 || (await sender.ended()) !== 0) throw new Error('an end of the relay failed');
    await relay.end();
    const [ended, count, hash] = taker.told();
    if (Number(count) !== bytes) throw new Error(`${count ?? 'none'} of ${bytes} bytes arrived`);
    if (sha256 !== undefined && hash?.trim() !== sha256) throw new Error('other bytes arrived than were sent');
    const cpu = relay.filters.reduce((total, filter) => total + filter.cpu(), 0) - before;
    return { seconds: Number(ended) - Number(sender.told()[0]), cpuSeconds: cpu };
  });
}

const CASES = {
  'no relay': nothing,
  pagewire: proxies(false),
  socat: socats(false),
  'socat -b 1 MiB': socats(false, '-b', `${1 << 20}`),
  'pagewire TLS': proxies(true),
  'socat OpenSSL': socats(true),
  'socat -b 1 MiB OpenSSL': socats(true, '-b', `${1 << 20}`),
} as const;
type Case = keyof typeof CASES;

const GOALS: readonly (readonly [what: string, ours: Case, theirs: Case])[] = [
  ['pagewire beside socat', 'pagewire', 'socat'],
  ['with TLS, beside socat with OpenSSL', 'pagewire TLS', 'socat OpenSSL'],
];

async function makeStream(): Promise<string> {
  const file = join(work, 'stream.qemu');
  // 1 GiB of RAM, a quarter of it zero, and five more passes over what the guest dirties
  const guest = new SimulatedGuest({ ramBytes: 1 << 30, workload: 'full', passes: 5 });
  await guest.writeTo(createWriteStream(file));
  return file;
}

try {
  makeCertificates();
  const stream = flags.stream ?? (await makeStream());
  const bytes = statSync(stream).size;
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(stream)) hash.update(chunk as Buffer);
  const sha256 = hash.digest('hex');

  const report = new Report('npm run bench:relay');
  report.say(`stream: ${(bytes / 1e6).toFixed(0)} MB; ${runs} interleaved runs after a warm-up, medians (least–most)`);
  const all = Object.keys(CASES) as Case[];
  const names = flags.only === undefined ? all : choose('only', flags.only, all);
  const measured = new Map<Case, Run[]>(names.map((name) => [name, []]));
  for (const name of names) await carry(stream, CASES[name], sha256);
  for (let run = 0; run < runs; run++) {
    for (const name of names) measured.get(name)?.push(await carry(stream, CASES[name]));
  }
  const figures = (name: Case, figure: (run: Run) => number): number[] => (measured.get(name) ?? []).map(figure);
  report.say();
  report.table([
    ['', 'MB/s', 'relays CPU s/GB'],
    ...names.map((name) => [
      name,
      spread(
        figures(name, ({ seconds }) => bytes / 1e6 / seconds),
        0,
      ),
      name === 'no relay'
        ? '-'
        : spread(
            figures(name, ({ cpuSeconds }) => cpuSeconds / (bytes / 1e9)),
            2,
          ),
    ]),
  ]);
  const speed = (name: Case): number[] => figures(name, ({ seconds }) => 1 / seconds);
  const beside = (ours: Case, theirs: Case): number =>
    median(speed(ours).map((value, run) => value / (speed(theirs)[run] ?? NaN)));
  for (const [what, ours, theirs] of GOALS) {
    if (names.includes(ours) && names.includes(theirs))
      report.say(`${what}: ${verdict(beside(ours, theirs), { atLeast: GOAL })} x its speed`);
  }
  report.writeTo(flags.out);
} finally {
  rmSync(work, { recursive: true, force: true });
}

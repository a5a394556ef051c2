// `npm run fuzz`: runs the fuzz targets of native/fuzz.
//
//   node scripts/fuzz.mjs [--seconds N] [TARGET…]        default: all targets, 10 seconds each,
//                                                     as many at once as there are processors
//
// libFuzzer on stable Rust: no cargo-fuzz, no sanitizer; the flags below have the compiler count edges and compares, as
// cargo-fuzz's do. Corpora grow in native/fuzz/corpus/TARGET, from seeds made here; an input that crashes a target is
// left in native/fuzz/artifacts/TARGET, and `native/fuzz/target/…/release/TARGET FILE` runs it again. For a long run:
// `npm run fuzz -- --seconds 3600 qemu_stream`.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { availableParallelism, constants } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const folder = fileURLToPath(new URL('../native/fuzz', import.meta.url));

/** Each target's longest input, and the inputs to begin with. */
const targets = {
  xbzrle_decode: {
    maxLength: 4097,
    seeds: () => [
      [1, 0, 1, 97],
      [2, 5, 2, 97, 98, 0x80, 1, 1, 99],
      [3, 0x80, 0x10, 0x80, 1, ...Array(128).fill(7)],
    ],
  },
  xbzrle_encode: {
    maxLength: 1026,
    seeds: () => [
      [0, 16, 0, 1, 1, 1, 2, 1, 3, 1],
      [0, 16, 9, 63, 2, 63, 200, 255, 1, 2],
    ],
  },
  qemu_stream: { maxLength: 64 << 10, seeds: () => [qemuStream(0), qemuStream(255)] },
  inspect: { maxLength: 64 << 10, seeds: () => [qemuStream(0), qemuStream(255)] },
  switchover: {
    maxLength: 64 << 10,
    seeds: () => [qemuStream(255), postcopyStream(0), postcopyStream(255), recoveredStream(9)],
  },
  return_path: { maxLength: 4 << 10, seeds: () => [returnPath(0), returnPath(255)] },
  libvirt_packets: { maxLength: 64 << 10, seeds: () => [conversation(0), conversation(255)] },
  frame_reader: { maxLength: 16 << 10, seeds: () => [frames()] },
  references: { maxLength: 4 << 10, seeds: () => [copies(0), copies(1), bodies()] },
  index: { maxLength: 4 << 10, seeds: () => [[1, 64, 0, 100, 0x80, 0x20, 1, 0, 3, 9]] },
};

const big = (bytes, value) => {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64BE(BigInt(value));
  return buffer.subarray(8 - bytes);
};
const named = (text) => Buffer.concat([big(1, text.length), Buffer.from(text)]);

/** A guest of four pages: sent, sent again with few changes, and as QEMU's own deltas. */
function qemuStream(cut) {
  const [PAGE, MEM_SIZE, FILL, EOS, CONTINUE, XBZRLE] = [8, 4, 2, 0x10, 0x20, 0x40];
  const page = (change) => Buffer.from({ length: 4096 }, (_, at) => (at % 7) + (at % 1000 === change ? 9 : 0));
  const footer = [big(1, 0x7e), big(4, 2)];
  const part = (type, ...records) => [big(1, type), big(4, 2), ...records, big(8, EOS), ...footer];
  return Buffer.concat([
    Buffer.of(cut),
    Buffer.from('QEVM'),
    big(4, 3),
    ...[big(1, 7), big(4, 6), Buffer.from('pc-9.0')],
    ...[big(1, 1), big(4, 2), named('ram'), big(4, 0), big(4, 4)],
    ...[big(8, 0x4000 + MEM_SIZE), named('pc.ram'), big(8, 0x4000), big(8, EOS), ...footer],
    ...part(2, big(8, PAGE), named('pc.ram'), page(0), big(8, 0x1000 | PAGE | CONTINUE), page(1)),
    ...part(2, big(8, PAGE), named('pc.ram'), page(2), big(8, 0x1000 | FILL | CONTINUE), big(1, 0)),
    ...part(2, big(8, XBZRLE), named('pc.ram'), big(1, 1), big(2, 3), Buffer.of(5, 1, 42)),
    ...part(3, big(8, PAGE), named('pc.ram'), page(3)),
    ...[big(1, 0)],
  ]);
}

/** The same, and then postcopy as QEMU 11 does it. */
function postcopyStream(cut) {
  const command = (code, ...data) => [big(1, 8), big(2, code), big(2, Buffer.concat(data).length), ...data];
  const packaged = Buffer.concat([
    ...command(4),
    ...[big(1, 4), big(4, 3), named('timer'), big(4, 0), big(4, 2), Buffer.alloc(40, 4), big(1, 0x7e), big(4, 3)],
    ...command(2, big(4, 3)),
    ...command(2, big(4, 0x42)),
    ...command(5),
  ]);
  return Buffer.concat([
    qemuStream(cut).subarray(0, -1),
    ...command(6, big(1, 0), named('pc.ram'), big(1, 0), big(8, 0), big(8, 0x1000)),
    ...command(7, big(4, packaged.length)),
    packaged,
    ...command(2, big(4, 4)),
    ...[big(1, 2), big(4, 2), big(8, 8), named('pc.ram'), Buffer.alloc(4096, 1), big(8, 0x1022), big(1, 0)],
    ...[big(8, 0x10), big(1, 0x7e), big(4, 2)],
    ...[big(1, 3), big(4, 2), big(8, 0x10), big(1, 0x7e), big(4, 2), big(1, 0)],
  ]);
}

/** The commands by which a paused postcopy goes on. */
function recoveredStream(cut) {
  return Buffer.concat([
    big(1, cut),
    big(1, 8),
    big(2, 10),
    big(2, 7),
    named('pc.ram'),
    big(1, 8),
    big(2, 9),
    big(2, 0),
  ]);
}

/** Bytes that the target repeats, for either effort. */
function copies(effort) {
  return Buffer.from({ length: 1200 }, (_, at) => (at === 0 ? effort : (at * at * 31) >> (at % 5)));
}

/** Bodies of frames with references, good and bad ones: the length of the list, the list, literals. */
function bodies() {
  const body = (...numbers) => [numbers.length, ...numbers, ...Array(40).fill(7), 0xff];
  return Buffer.of(2, ...body(8, 0, 0x91, 3), ...body(4, 10, 0x91, 3, 0, 0, 0), ...body(0x80, 0x80), ...body(0, 0, 2));
}

/** One message of each type. */
function returnPath(cut) {
  const message = (type, ...data) => [big(2, type), big(2, Buffer.concat(data).length), ...data];
  return Buffer.concat([
    big(1, cut),
    ...message(7),
    ...message(2, big(4, 0x42)),
    ...message(3, big(8, 0x1000), big(4, 0x1000), named('pc.ram')),
    ...message(4, big(8, 0x2000), big(4, 0x1000)),
    ...message(5, named('pc.ram')),
    ...[big(8, 8), Buffer.alloc(8, 0xff), big(8, 0x0123456789abcdefn)],
    ...message(6, big(4, 1)),
    ...message(9, Buffer.alloc(20)),
    ...message(1, big(4, 0)),
  ]);
}

/** START, DATA and END, without their checksums: the target puts those right. */
function conversation(cut) {
  const packet = (procedure, type, serial, status, body = Buffer.alloc(0)) =>
    Buffer.concat([
      big(4, 28 + body.length),
      ...[0x20008086, 1, procedure, type, serial, status].map((word) => big(4, word)),
      body,
    ]);
  const guest = qemuStream(0).subarray(1);
  const [call, stream, tunnel, finish] = [0, 3, 304, 306];
  return Buffer.concat([
    Buffer.of(cut),
    packet(66, call, 0, 0),
    packet(tunnel, call, 2, 0, Buffer.alloc(8)),
    packet(tunnel, stream, 2, 2, guest.subarray(0, 5000)),
    packet(tunnel, stream, 2, 2, guest.subarray(5000)),
    packet(tunnel, stream, 2, 0),
    packet(finish, call, 3, 0, Buffer.alloc(8)),
  ]);
}

function frames() {
  const frame = (type, length) => {
    const header = Buffer.alloc(48);
    header[4] = type;
    header.writeUInt32LE(length, 24);
    header.writeUInt32LE(length, 28);
    return Buffer.concat([header, Buffer.alloc(length)]);
  };
  const start = frame(1, 16);
  start.set([1, 0, 0, 0, 0, 0, 16, 0], 48);
  return Buffer.concat([start, frame(2, 100), frame(3, 48)]);
}

function build(names) {
  const host = /^host: (.*)$/m.exec(spawnSync('rustc', ['-vV'], { encoding: 'utf8' }).stdout ?? '')?.[1];
  if (!host) fail('rustc is missing: install Rust (rustup.rs)');
  const flags = [
    '-Cpasses=sancov-module',
    '-Cllvm-args=-sanitizer-coverage-level=4',
    '-Cllvm-args=-sanitizer-coverage-inline-8bit-counters',
    '-Cllvm-args=-sanitizer-coverage-pc-table',
    '-Cllvm-args=-sanitizer-coverage-trace-compares',
    '--cfg=fuzzing',
    '-Ccodegen-units=1', // more would need the coverage tables of all
  ];
  // With --target the flags are not those of build scripts.
  const args = ['build', '--release', '--quiet', '--locked', '--target', host];
  const environment = { ...process.env, CARGO_ENCODED_RUSTFLAGS: flags.join('\x1f') };
  delete environment.MAKEFLAGS;
  const built = spawnSync('cargo', [...args, ...names.flatMap((name) => ['--bin', name])], {
    cwd: folder,
    env: environment,
    stdio: 'inherit',
  });
  if (built.status !== 0) fail('the fuzz targets do not build');
  return join(process.env.CARGO_TARGET_DIR ?? join(folder, 'target'), host, 'release');
}

/** The exit code of libFuzzer that was told to stop. */
const INTERRUPTED = 72;

/** Runs a target; false if it crashed. */
async function fuzz(programs, name, seconds) {
  const { maxLength, seeds } = targets[name];
  const [corpus, artifacts] = [join(folder, 'corpus', name), join(folder, 'artifacts', name)];
  for (const made of [corpus, artifacts]) mkdirSync(made, { recursive: true });
  for (const seed of seeds()) {
    const bytes = Buffer.from(seed);
    writeFileSync(join(corpus, createHash('sha1').update(bytes).digest('hex')), bytes);
  }
  const known = new Set(readdirSync(artifacts));
  const started = performance.now();
  const child = spawn(
    join(programs, name),
    [
      `-max_total_time=${seconds}`,
      `-max_len=${maxLength}`,
      '-rss_limit_mb=2048',
      '-timeout=10',
      '-print_final_stats=1',
      `-artifact_prefix=${artifacts}/`,
      corpus,
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  running.add(child);
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text) => (log = (log + text).slice(-(1 << 20))));
  const status = await new Promise((resolve, reject) => {
    child.once('error', reject).once('close', (code, signal) => resolve(signal ?? code));
  });
  running.delete(child);
  const runs = /^stat::number_of_executed_units:\s*(\d+)/m.exec(log)?.[1] ?? '?';
  console.log(`fuzz ${name}: ${runs} runs in ${Math.round((performance.now() - started) / 1000)} s`);
  if (status === 0 || (stopped && (status === INTERRUPTED || status === 'SIGTERM'))) return true;
  const artifact = readdirSync(artifacts).find((file) => !known.has(file));
  const where = artifact ? `the input is ${join(artifacts, artifact)}` : 'an input that it left before did it again';
  console.error(`${log.split('\n').slice(-60).join('\n')}\nfuzz ${name}: crashed (${status}); ${where}`);
  return false;
}

function fail(why) {
  console.error(`fuzz: ${why}`);
  process.exit(1);
}

const { values, positionals } = parseArgs({
  options: { seconds: { type: 'string', default: '10' } },
  allowPositionals: true,
});
const seconds = Number(values.seconds);
if (!(Number.isInteger(seconds) && seconds > 0)) fail(`--seconds takes a number of seconds, not ${values.seconds}`);
const names = positionals.length > 0 ? positionals : Object.keys(targets);
const unknown = names.find((name) => !Object.hasOwn(targets, name));
if (unknown) fail(`no target ${unknown}; there are ${Object.keys(targets).join(', ')}`);

const programs = build(names);
let crashed = 0;
let stopped = 0;
const left = [...names];
const running = new Set();
const stop = () => {
  left.length = 0;
  for (const child of running) child.kill('SIGTERM');
};
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    stopped = 128 + constants.signals[signal];
    stop();
  });
}
const oneByOne = async () => {
  for (let name = left.shift(); name !== undefined; name = left.shift()) {
    if (!(await fuzz(programs, name, seconds))) crashed += 1;
  }
};
try {
  await Promise.all(Array.from({ length: availableParallelism() }, oneByOne));
} finally {
  stop();
}
process.exitCode = crashed > 0 ? 1 : stopped;

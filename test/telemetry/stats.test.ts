// What --stats writes is what docs/stats.md describes: every field, and no other.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { DecodeStats, EncodeStats } from '#src/telemetry/stats.js';
import { folder, pagewire, Running } from '../cli/command.js';
import { mixed, noise, qemuElements, simulated, text } from '../pipeline/content.js';

/** Fields are told as they are in the document: `a.b`, `list[].c`. */
function fieldsOf(value: unknown, path = ''): string[] {
  if (Array.isArray(value)) return [path, ...value.flatMap((element) => fieldsOf(element, `${path}[]`))];
  if (typeof value !== 'object' || value === null) return [path];
  const inner = Object.entries(value).flatMap(([name, field]) =>
    fieldsOf(field, path === '' ? name : `${path}.${name}`),
  );
  return path === '' ? inner : [path, ...inner];
}

interface Report<Stats> {
  stats: Stats;
  code: number | null;
  stdout: Buffer;
}

async function run<Stats>(t: TestContext, args: string[], input: Uint8Array): Promise<Report<Stats>> {
  const path = folder(t);
  const { code, stdout } = await pagewire(t, [...args, '--quiet', '--stats', path('stats')], { input });
  return { stats: JSON.parse(readFileSync(path('stats'), 'utf8')) as Stats, code, stdout };
}
const encode = (t: TestContext, input: Uint8Array, ...args: string[]): Promise<Report<EncodeStats>> =>
  run(t, ['encode', ...args], input);
const decode = (t: TestContext, input: Uint8Array, ...args: string[]): Promise<Report<DecodeStats>> =>
  run(t, ['decode', ...args], input);

describe('the report', () => {
  it('has the fields that docs/stats.md describes, and no other', async (t) => {
    const document = readFileSync(fileURLToPath(new URL('../../../docs/stats.md', import.meta.url)), 'utf8');
    const [, common = '', ofEncode = ''] = document.split(/^## .*$/m);
    const described = (section: string): string[] =>
      [...section.matchAll(/^\| `([^`]+)` \|/gm)].map(([, name = '']) => name);

    const { stream } = simulated();
    const whole = await encode(t, stream);
    const cut = await encode(t, stream.subarray(0, 100_000));
    const damaged = Buffer.from(whole.stdout);
    damaged[damaged.length - 1]! ^= 1;
    const encodes = [whole, cut, await encode(t, text(100)), await encode(t, stream, '--no-delta')];
    const decodes = [await decode(t, whole.stdout), await decode(t, cut.stdout), await decode(t, damaged)];
    assert.deepEqual(
      decodes.map(({ code }) => code),
      [0, 3, 4],
    );
    const seen = (reports: Report<object>[]): Set<string> => new Set(reports.flatMap(({ stats }) => fieldsOf(stats)));
    const leaves = (names: Iterable<string>): string[] => {
      // An object that is never null is described by its fields alone.
      const all = [...names];
      return all
        .filter((name) => !['outcome', 'input', 'output', 'frames', 'cpuSeconds', 'passes[]'].includes(name))
        .sort();
    };
    assert.deepEqual(leaves(seen(decodes)), described(common).sort());
    const failing = ['outcome.code', 'outcome.message', 'outcome.frame', 'outcome.offset'];
    assert.deepEqual(leaves([...seen(encodes), ...failing]), [...described(common), ...described(ofEncode)].sort());
  });

  it("tells the numbers of a guest's stream", async (t) => {
    const { guest, stream } = simulated();
    const { stats, stdout } = await encode(t, stream, '--codec', 'lz4', '--level', '3', '--threads', '2');
    assert.deepEqual(stats.outcome, { state: 'complete' });
    assert.deepEqual([stats.version, stats.command, stats.codec, stats.level], [1, 'encode', 'lz4', 3]);
    assert.deepEqual([stats.input.bytes, stats.output.bytes], [stream.length, stdout.length]);
    assert.equal(stats.ratio, stream.length / stdout.length);
    const { pages, passes, bulkPass, cache } = stats;
    assert.ok(pages !== null && bulkPass !== null && cache !== null);
    assert.equal(pages.raw + pages.delta + pages.skipped, guest.sent.pages);
    assert.equal(pages.fill, guest.sent.zeroPages);
    assert.equal(passes.length, guest.sent.passes);
    for (const kind of ['raw', 'delta', 'skipped', 'fill'] as const) {
      assert.equal(
        passes.reduce((sum, pass) => sum + pass.pages[kind], 0),
        pages[kind],
        kind,
      );
    }
    // Behind the guest's RAM stand its devices' states, which are copied without being counted.
    const sum = (of: 'bytesIn' | 'bytesOut'): number => passes.reduce((total, pass) => total + pass[of], 0);
    const rest = stream.length - sum('bytesIn');
    assert.ok(rest >= 0 && rest < 100_000, `${rest} bytes were in no pass`);
    assert.equal(sum('bytesOut') + rest, stats.frames.rawBytes);
    assert.equal(bulkPass.bytes, passes[0]?.bytesIn);
    assert.equal(bulkPass.endSeconds, passes[1]?.startSeconds);
    assert.ok(stats.elapsedSeconds >= bulkPass.endSeconds && bulkPass.bytesPerSecond > 0);
    assert.equal(cache.hitRate, cache.hits / (cache.hits + cache.misses));
    assert.ok(cache.hits >= pages.delta + pages.skipped && cache.bytes <= cache.budget);
    assert.deepEqual([stats.stream?.qemu, stats.passesCut], [true, false]);
    const { total, source, codec, sink } = stats.cpuSeconds;
    assert.ok(source > 0 && codec > 0 && sink > 0 && total >= source + codec + sink);
    assert.ok(stats.peakMemoryBytes > 10 << 20);
    const frameBytes = 48 * stats.frames.count + 16 + 48;
    assert.equal(stats.output.bytes, stats.frames.packedBytes + frameBytes);

    const back = (await decode(t, stdout)).stats;
    assert.deepEqual([back.input.bytes, back.output.bytes], [stats.output.bytes, stats.frames.rawBytes]);
    assert.deepEqual(back.frames, stats.frames);
    assert.equal(back.ratio, back.output.bytes / back.input.bytes);
  });

  it('says what a stream is that is carried byte for byte', async (t) => {
    const { stats } = await encode(t, mixed(100_000));
    assert.deepEqual(stats.stream, { qemu: false, note: 'not a QEMU stream: carried byte for byte', verbatimFrom: 0 });
    assert.deepEqual([stats.pages, stats.guest, stats.passes, stats.bulkPass], [null, null, [], null]);
    const exact = (await encode(t, simulated().stream, '--no-delta')).stats;
    assert.deepEqual([exact.stream, exact.pages, exact.guest, exact.cache], [null, null, null, null]);
    assert.equal(exact.frames.rawBytes, exact.input.bytes);
  });

  it('says that delta ended where the stream is not understood any more', async (t) => {
    const known = Buffer.concat(qemuElements());
    const { stats, stdout } = await encode(t, Buffer.concat([known, Buffer.from([0x55]), noise(5000)]));
    assert.equal(stats.stream?.verbatimFrom, known.length);
    assert.match(stats.stream.note ?? '', new RegExp(`^carried byte for byte from byte ${known.length} on: .+`));
    assert.equal((await decode(t, stdout)).stats.output.bytes, known.length + 5001);
  });

  it('of nothing is one without a ratio', async (t) => {
    const { stats, stdout } = await encode(t, Buffer.alloc(0));
    assert.deepEqual([stats.outcome.state, stats.input.bytes, stats.frames.count], ['complete', 0, 2]);
    assert.equal(stats.ratio, 0);
    assert.equal((await decode(t, stdout)).stats.ratio, 0);
  });

  it('tells how it failed', async (t) => {
    const { stdout } = await encode(t, text(1000));
    const { stats } = await decode(t, stdout.subarray(0, -1));
    assert.equal(stats.outcome.state, 'failed');
    assert.deepEqual(
      { ...stats.outcome, message: '' },
      {
        ...{ state: 'failed', code: 'FRAMES_TRUNCATED', message: '', frame: 2, offset: stdout.length - 96 },
      },
    );
    const truncated = await encode(t, simulated().stream.subarray(0, 50_000));
    assert.equal(truncated.code, 3);
    assert.ok(truncated.stats.outcome.state === 'truncated' && truncated.stats.outcome.within !== null);
  });

  it('is written after a signal too', async (t) => {
    const path = folder(t);
    const running = new Running(t, ['encode', '--stats', path('stats')]);
    running.child.stdin?.write(text(100_000));
    await new Promise((resolve) => running.child.stdout?.once('data', resolve));
    running.child.kill('SIGTERM');
    assert.equal((await running.ended).code, 143);
    const stats = JSON.parse(readFileSync(path('stats'), 'utf8')) as EncodeStats;
    assert.ok(stats.outcome.state === 'failed' && stats.outcome.code === 'STOPPED');
    assert.equal(stats.input.bytes, 100_000);
  });
});

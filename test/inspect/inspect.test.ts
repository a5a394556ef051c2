// `pagewire inspect` on the simulator's streams, whole, cut off, damaged, and packed in various ways.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { look } from '#src/inspect/inspect.js';
import { type Inspection, inspection as schema } from '#src/inspect/schema.js';
import { LINKS } from '#src/measuring/links.js';
import { folder, pagewire, Running } from '../cli/command.js';
import { image } from '../measuring/image.js';
import { simulated } from '../pipeline/content.js';

const { guest, stream } = simulated({ workload: 'sparse' });

function packed(at: (name: string) => string, t: Parameters<typeof pagewire>[0]): Promise<Buffer> {
  return pagewire(t, ['-qc', '-'], { input: stream }).then(({ stdout }) => {
    writeFileSync(at('guest.pw'), stdout);
    return stdout;
  });
}

/** What is in the simulator's stream, whatever it is packed in. */
function isTheGuest({ machine, pageSize, blocks, pages, stream: its, error }: Inspection): void {
  assert.equal(error, null);
  assert.deepEqual([machine, pageSize], [guest.machine, 4096]);
  assert.deepEqual([its.bytes, its.state], [stream.length, 'complete']);
  assert.deepEqual(
    blocks.map(({ name, bytes }) => [name, bytes]),
    guest.blocks.map(({ name, bytes }) => [name, bytes.length]),
  );
  assert.deepEqual([pages?.total.raw, pages?.total.zero], [guest.sent.pages, guest.sent.zeroPages]);
}

describe('inspect', () => {
  it('tells what the guest sent', async (t) => {
    const at = folder(t);
    writeFileSync(at('guest'), stream);
    const { inspection } = await look(at('guest'));
    schema.parse(inspection);
    isTheGuest(inspection);
    const { pages, sections, commands } = inspection;
    assert.ok(pages?.resent);
    assert.equal(pages.passes.length, guest.sent.passes);
    const all = guest.blocks.reduce((sum, { bytes }) => sum + bytes.length / 4096, 0);
    const sent = guest.sent.pages + guest.sent.zeroPages;
    assert.deepEqual([pages.resent.sent, pages.resent.records], [all, sent - all]);
    // Each page that was sent again is compared with what it was; the guest changes little of each.
    const compared = pages.deltas.sizes.reduce((sum, size) => sum + size.pages, pages.deltas.tooLarge);
    assert.equal(compared + pages.deltas.withoutBase, sent - all);
    const small = pages.deltas.sizes.filter(({ upTo }) => upTo <= 256).reduce((sum, size) => sum + size.pages, 0);
    assert.ok(small > 0.9 * compared, JSON.stringify(pages.deltas));

    // One behind the other, to the end; commands and the end mark stand between.
    let end = 8;
    let gaps = 0;
    for (const { offset, bytes } of sections) {
      assert.ok(offset >= end);
      gaps += offset - end;
      end = offset + bytes;
    }
    assert.deepEqual([end, gaps], [stream.length, 5 + 1]);
    assert.deepEqual(commands.first, [
      { code: 11, name: 'SWITCHOVER_START', offset: commands.first[0]?.offset ?? 0, payload: '' },
    ]);
    assert.equal(stream[commands.first[0]?.offset ?? 0], 8);
    assert.equal(
      sections.reduce((sum, section) => sum + (section.pages ?? 0), 0),
      sent,
    );
  });

  it('sees the same in a file of pagewire, in an image of libvirt, and on standard input', async (t) => {
    const at = folder(t);
    const frames = await packed(at, t);
    writeFileSync(at('raw.save'), image(0, stream));
    writeFileSync(at('lzop.save'), image(4, frames));
    for (const [name, libvirt, isPagewire] of [
      ['guest.pw', null, true],
      ['raw.save', { format: 'raw', payload: 5092 }, false],
      ['lzop.save', { format: 'lzop', payload: 5092 }, true],
    ] as const) {
      const { inspection } = await look(at(name));
      schema.parse(inspection);
      isTheGuest(inspection);
      assert.deepEqual([inspection.container.libvirt, inspection.container.pagewire], [libvirt, isPagewire]);
      if (name === 'raw.save') continue;
      const input = readFileSync(at(name));
      const { code, stdout, stderr } = await pagewire(t, ['inspect', '-', '--no-forecast', '--json', '-'], { input });
      assert.deepEqual([code, stderr], [0, '']);
      const piped = schema.parse(JSON.parse(stdout.toString()));
      isTheGuest(piped);
      assert.deepEqual(piped.pages, inspection.pages);
    }
  });

  it('tells of what is cut off anywhere what there is, and where it ends', async (t) => {
    const at = folder(t);
    const whole = (await write(at('guest'), stream)).sections;
    const ends = whole.flatMap(({ offset, bytes }) => [offset, offset + 1, offset + bytes - 1]);
    const places = [
      ...ends,
      4,
      7,
      8,
      9,
      12,
      ...Array.from({ length: 40 }, (_, i) => Math.floor((stream.length * i) / 40)),
    ];
    // There a stream ends that has no description.
    const endMark = whole.find(({ type }) => type === 'description')?.offset;
    const lengths = new Set(places.filter((place) => place >= 4 && place !== endMark));
    for (const length of [...lengths].sort((a, b) => b - a)) {
      truncateSync(at('guest'), length);
      const { inspection } = await look(at('guest'));
      schema.parse(inspection);
      const { code, offset } = inspection.error ?? {};
      assert.deepEqual([code, offset], ['STREAM_TRUNCATED', length], `${length} bytes`);
      assert.ok(inspection.stream.understood <= length);
      const seen = inspection.sections.filter(({ type }) => type === 'ram');
      const ram = whole.filter((section) => section.type === 'ram' && section.offset + section.bytes <= length);
      assert.deepEqual(seen.slice(0, ram.length), ram);
    }
  });

  it('tells of what is damaged where, and of bytes at random no less than before them', async (t) => {
    const at = folder(t);
    const { sections } = await write(at('guest'), stream);
    const ram = sections.filter(({ type }) => type === 'ram');
    for (const { offset } of ram) {
      const damaged = Buffer.from(stream);
      damaged[offset] = 0x55;
      const { error, stream: its } = await write(at('guest'), damaged);
      assert.deepEqual([error?.code, error?.offset], ['STREAM_UNKNOWN', offset]);
      assert.deepEqual([its.understood, its.reason, its.bytes], [offset, 'unknown section type', stream.length]);
    }
    for (let seed = 1; seed <= 40; seed++) {
      const damaged = Buffer.from(stream);
      for (let i = 0; i < 4; i++) damaged[(seed * 2_654_435_761 * (i + 1)) % stream.length] = seed * 37 + i;
      const inspection = await write(at('guest'), damaged);
      assert.ok(inspection.stream.understood <= stream.length);
    }
  });

  it('says which program something else was packed with, and what to do', async (t) => {
    const at = folder(t);
    const gzip = gzipSync(stream.subarray(0, 10_000));
    for (const [name, content, message] of [
      ['a', gzip, /a was packed with gzip: unpack it first \(gzip -dc .*a \| pagewire inspect -\)/],
      ['b', image(1, gzip), /b was packed with gzip: .*tail -c \+5093 .*b \| gzip -dc \| pagewire inspect -/],
      ['c', image(0, Buffer.from('something else')), /c, behind the header of libvirt, is neither/],
      ['d', image(6, stream), /d is of libvirt's format sparse/],
      ['e', Buffer.from('LibvirtQemudPart'.padEnd(200)), /e is no whole libvirt save image: .*never finished/],
      ['f', image(0, stream).subarray(0, 1000), /f ends within libvirt's own header/],
      ['g', Buffer.from('no stream at all'), /g is neither a QEMU stream nor a file of pagewire/],
      ['h', Buffer.alloc(0), /h is empty/],
    ] as const) {
      writeFileSync(at(name), content);
      await assert.rejects(look(at(name)), { code: 'BAD_OPTION', message });
    }
    await assert.rejects(look(at('nowhere')), { code: 'OPEN_FAILED' });
    await assert.rejects(look(at('a'), { memoryLimit: 64 << 20 }), {
      code: 'OUT_OF_MEMORY',
      message: /--memory-limit/,
    });
  });

  it('ends with one line and the exit code for what is wrong', async (t) => {
    const at = folder(t);
    const { stdout: frames } = await pagewire(t, ['-qc', '-'], { input: stream });
    for (const [content, exitCode, said] of [
      [gzipSync(stream.subarray(0, 10_000)), 2, /x was packed with gzip/],
      [
        Buffer.concat([stream.subarray(0, 50), stream]),
        4,
        /x: byte 49 of the stream: inconsistent list of RAM blocks; nothing/,
      ],
      [stream.subarray(0, 1 << 20), 3, /x: the QEMU stream ends at byte 1048576, before its end \(within /],
      [frames.subarray(0, -100), 4, /x: .*cut off/],
    ] as const) {
      writeFileSync(at('x'), content);
      const { code, stderr, stdout } = await pagewire(t, ['inspect', at('x'), '--json', at('json')]);
      assert.match(stderr, said);
      assert.match(stderr, /^pagewire inspect: [^\n]*\n$/);
      assert.equal(code, exitCode);
      assert.equal(existsSync(at('json')), exitCode !== 2);
      if (exitCode === 2) continue;
      const { error, forecast, stream: its } = schema.parse(JSON.parse(readFileSync(at('json'), 'utf8')));
      assert.ok(error !== null && forecast === null && its.bytes > 0 && stdout.toString().includes(guest.machine));
    }
  });

  it('reports nothing where nothing was read: without the base, or of what is cut off behind the header', async (t) => {
    const at = folder(t);
    const save = async (name: string, ...options: string[]): Promise<void> => {
      const { code } = await pagewire(t, ['-q', ...options, '-o', at(name), '-'], { input: stream });
      assert.equal(code, 0);
    };
    await save('base.pw');
    await save('inc.pw', '--base', at('base.pw'));
    rmSync(at('base.pw'));
    writeFileSync(at('header'), image(0, Buffer.alloc(0)));
    for (const [name, exitCode, said] of [
      ['inc.pw', 2, /inc\.pw: .*base/],
      ['header', 3, /header: the QEMU stream ends at byte 0, before its end/],
    ] as const) {
      const { code, stdout, stderr } = await pagewire(t, ['inspect', at(name), '--json', at('json')]);
      assert.deepEqual([code, stdout.toString()], [exitCode, '']);
      assert.match(stderr, said);
      assert.match(stderr, /^pagewire inspect: [^\n]*\n$/);
    }
    assert.deepEqual(readdirSync(at('.')).sort(), ['header', 'inc.pw']);
    writeFileSync(at('cut'), 'QE');
    assert.equal((await look(at('cut'))).inspection.error?.code, 'STREAM_TRUNCATED');
  });

  it('does not write where it reads, nor where it cannot, and says so before it looks', async (t) => {
    const at = folder(t);
    writeFileSync(at('guest'), stream);
    const input = openSync(at('guest'), 'r');
    t.after(() => {
      closeSync(input);
    });
    for (const [args, said] of [
      [['-', '--json', at('guest')], /is the file to inspect/],
      [[at('nothing'), '--base', at('guest'), '--json', at('guest')], /is a base of what to inspect/],
      [[at('guest'), '--json', 'fd:3'], /is the file to inspect/],
      [[at('nothing'), '--json', 'fd:3'], /fd:3 is not open for writing/],
    ] as const) {
      const { ended } = new Running(t, ['inspect', ...args], { stdio: [input, 'pipe', 'pipe', input] });
      const { code, stderr } = await ended;
      assert.equal(code, 2);
      assert.match(stderr, said);
    }
    assert.ok(readFileSync(at('guest')).equals(stream));
  });

  it('lets nothing of a name get to the terminal as a command', async (t) => {
    const at = folder(t);
    const name = 'guest\x1b[31m\x07';
    assert.match((await pagewire(t, ['inspect', at(name)])).stderr, /guest\?\[31m\?/);
    writeFileSync(at(name), stream.subarray(0, 10_000));
    const { stdout, stderr } = await pagewire(t, ['inspect', at(name)]);
    for (const text of [stdout.toString(), stderr]) {
      assert.match(text, /guest\?\[31m\?/);
      assert.doesNotMatch(text, /[^\P{Cc}\n]/u);
    }
  });

  it('ends at once when it is told to, whatever it waits for', async (t) => {
    const at = folder(t);
    execFileSync('mkfifo', [at('fifo')]);
    const frames = await packed(at, t);
    for (const begin of ['', 'QE', stream.subarray(0, 50_000), frames.subarray(0, 2000)]) {
      // Whoever has both ends open waits for nobody.
      const fifo = openSync(at('fifo'), 'r+');
      writeFileSync(fifo, begin);
      const abort = new AbortController();
      const looking = assert.rejects(look(at('fifo'), { signal: abort.signal }), { code: 'STOPPED' });
      await sleep(50);
      abort.abort();
      await looking;
      closeSync(fifo);
    }
    await assert.rejects(look(at('fifo'), { signal: AbortSignal.abort() }), { code: 'STOPPED' });

    execFileSync('mkfifo', [at('other')]);
    const running = new Running(t, ['inspect', at('other')]);
    const fifo = openSync(at('other'), 'w'); // waits until it is open for reading
    running.child.kill('SIGINT');
    assert.deepEqual([(await running.ended).code, (await running.ended).stderr], [130, '']);
    closeSync(fifo);
  });

  it('reports in lines of 80 columns, and forecasts by what was measured', async (t) => {
    const at = folder(t);
    writeFileSync(at('guest'), stream);
    const { code, stdout, stderr } = await pagewire(t, ['inspect', 'guest', '--json', 'json'], { cwd: at('.') });
    assert.deepEqual([code, stderr], [0, '']);
    const text = stdout.toString();
    for (const line of text.split('\n')) assert.ok(line.length <= 80, line);
    assert.match(text, /^guest\n {2}stream .* bytes .*, complete\n/);
    const { forecast } = schema.parse(JSON.parse(readFileSync(at('json'), 'utf8')));
    assert.ok(forecast);
    const { variants, best } = forecast;
    assert.deepEqual(
      variants.map(({ name }) => name),
      [
        ...['stored', 'lz4', 'zstd -3', 'zstd 1', 'zstd 3', 'zstd 9', 'zlib 1', 'zlib 6'],
        ...['delta alone', 'delta + lz4', 'delta + zstd 1', 'match + zstd 1'],
      ],
    );
    const ratio = (name: string): number => variants.find((variant) => variant.name === name)?.ratio ?? 0;
    assert.equal(ratio('stored'), 1);
    // The encoder itself, told to do the same, comes to the same but for where its frames begin.
    const encoded = await pagewire(t, ['encode', '-q', '-c', 'lz4', '-T', '1'], { input: stream });
    const lz4 = stream.length / encoded.stdout.length;
    assert.ok(Math.abs(ratio('delta + lz4') / lz4 - 1) < 0.1, `${ratio('delta + lz4')}, not ${lz4}`);
    assert.ok(ratio('delta + lz4') > ratio('lz4') && ratio('zstd 3') > ratio('lz4'));
    assert.deepEqual(
      best.map(({ link }) => link),
      LINKS.map(({ name }) => name),
    );
    for (const { link, variant } of best) {
      const seconds = (name: string): number =>
        variants.find((its) => its.name === name)?.links.find(({ name: its }) => its === link)?.seconds ?? NaN;
      // How fast QEMU decodes is not known.
      for (const { name } of variants.filter((its) => its.decodeBytesPerSecond !== null)) {
        assert.ok(seconds(variant) <= seconds(name), `${link}: ${variant}, not ${name}`);
      }
      assert.notEqual(variant, 'delta alone');
    }
    assert.match(text, /delta alone is not among the fastest/);
  });

  it('of a pipe leaves out what needs a second look, and of a save what has nothing to do', async (t) => {
    const { stream: once } = simulated({ passes: 0 });
    const { code, stdout } = await pagewire(t, ['inspect', '-'], { input: once });
    assert.equal(code, 0);
    const text = stdout.toString();
    assert.match(text, /each of them once/);
    assert.match(text, /No page was sent twice/);
    assert.match(text, /need a second look, which only a file allows/);
    assert.match(text, /Nor was what reads and writes beside a codec/);
    assert.doesNotMatch(text, /^ {2}delta|^ {2}match/m);
  });
});

async function write(path: string, content: Buffer): Promise<Inspection> {
  writeFileSync(path, content);
  const { inspection } = await look(path);
  return schema.parse(inspection);
}

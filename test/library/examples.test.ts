// The examples of README.md and docs/library.md run as they stand, one after the other, each document in a folder of its
// own with a stream to work on.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { delimiter } from 'node:path';
import { it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { SimulatedDestination } from '#src/simulator/destination.js';
import { folder, Running } from '../cli/command.js';
import { simulated } from '../pipeline/content.js';
import { arrives, destinationProxy, leaves } from '../session/qemus.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** What each example must print, and leave behind. */
const EXPECTED: Record<string, { prints: RegExp; leaves: string[]; beside?: typeof migration }[]> = {
  'README.md': [
    {
      prints: /^guest\.stream\n {2}stream .*complete\n {2}machine +pc-q35-10\.0\n[\s\S]*\nForecast/,
      leaves: ['guest.stream.pw', 'guest.pw', 'again.stream', 'smaller.stream'],
    },
    { prints: /^guest\.stream\.pw\n[\s\S]*pc-q35-10\.0/, leaves: ['later.stream.pw'] },
    { prints: /^zstd 3 +\d[\s\S]*^delta \+ zstd 1 +\d/m, leaves: ['report.html'] },
    { prints: /^\d+ bytes became \d+\n$/, leaves: ['guest.pw'] },
  ],
  'docs/bench.md': [
    { prints: /^zstd 3 +\d[\s\S]*Compared with report\.json: /m, leaves: ['report.html', 'report.json'] },
    { prints: /^zstd 3 true\nraw deflate true\n$/, leaves: [] },
  ],
  'docs/library.md': [
    { prints: /^all of it\n$/, leaves: ['guest.pw', 'again.stream'] },
    { prints: /^arrived\n$/, leaves: ['arrived.stream'] },
    {
      prints: /^pc-q35-10.0 has \d+ bytes of RAM, the page cache gets \d+\n(\d+ → \d+, pass \d+\n)*\d+ pages whole, /,
      leaves: ['watched.pw'],
    },
    { prints: /^migrated\n$/, leaves: ['migrated.stream'], beside: migration },
    { prints: /^FRAMES_DAMAGED, frame 0, byte 0: frame 0 at byte 0: expected a frame/, leaves: [] },
    { prints: /^pc-q35-10.0: \d+ pages; the second of pc.ram has 4096 bytes\n$/, leaves: ['saved.pw'] },
  ],
};

/** A destination's proxy, and both QEMUs. */
async function migration(t: TestContext, path: (name: string) => string, stream: Buffer): Promise<void> {
  await destinationProxy(t, `unix:${path('destination.sock')}`, `unix:${path('qemu.sock')}`);
  void arrives(t, path('qemu.sock')).then((bytes) => {
    writeFileSync(path('migrated.stream'), bytes);
  });
  // What becomes of it is seen at the other end.
  leaves(t, path('vm1.sock'), stream).catch(() => undefined);
}

for (const [document, expected] of Object.entries(EXPECTED)) {
  it(`the examples of ${document} run`, async (t) => {
    const path = folder(t);
    const { guest, stream } = simulated();
    writeFileSync(path('guest.stream'), stream);
    mkdirSync(path('node_modules/.bin'), { recursive: true });
    symlinkSync(ROOT, path('node_modules/pagewire'));
    symlinkSync(`${ROOT}bin/pagewire`, path('node_modules/.bin/pagewire'));

    const text = readFileSync(`${ROOT}${document}`, 'utf8');
    const examples = [...text.matchAll(/^```(js|sh)\n([\s\S]*?)^```$/gm)];
    assert.equal(examples.length, expected.length, 'every example has its expectation');
    for (const [i, [, language, code = '']] of examples.entries()) {
      const { prints, leaves, beside } = expected[i]!;
      await beside?.(t, path, stream);
      const [program, args] =
        language === 'sh' ? ['bash', ['-ec', code]] : [process.execPath, ['--input-type=module', '--eval', code]];
      const env = { PATH: [path('node_modules/.bin'), process.env['PATH']].join(delimiter) };
      const running = new Running(t, args, { program, cwd: path(''), env });
      running.child.stdin?.end();
      const ended = await running.ended;
      assert.equal(ended.code, 0, `${code}\n${ended.stderr}`);
      assert.match(ended.stdout.toString(), prints);
      for (const name of leaves) assert.ok(existsSync(path(name)), name);
    }
    for (const name of ['again.stream', 'smaller.stream', 'arrived.stream', 'migrated.stream']) {
      if (!existsSync(path(name))) continue;
      const destination = new SimulatedDestination();
      destination.push(readFileSync(path(name)));
      destination.end();
      assert.deepEqual(destination.digests(), guest.digests(), name);
      // Over a session it is smaller only if the link held it up, and that example lifts its limit.
      assert.ok(name === 'migrated.stream' || statSync(path(name)).size < stream.length, name);
    }
  });
}

const DOCUMENTS = [
  ...['README.md', 'ARCHITECTURE.md', 'CHANGELOG.md', 'contrib/README.md'],
  ...['bench', 'cli', 'format', 'inspect', 'library', 'libvirt', 'libvirt-tunnel', 'proxy', 'stats'].map(
    (name) => `docs/${name}.md`,
  ),
];

it('the documents link to what there is', () => {
  for (const document of DOCUMENTS) {
    const text = readFileSync(`${ROOT}${document}`, 'utf8');
    const base = new URL(document, `file://${ROOT}`);
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      const { pathname, hash } = new URL(target, base);
      assert.ok(existsSync(pathname), `${document}: ${target}`);
      if (hash === '') continue;
      const headings = [...readFileSync(pathname, 'utf8').matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
        heading
          .toLowerCase()
          .replaceAll(/[^\w\s-]/g, '')
          .replaceAll(' ', '-'),
      );
      assert.ok(headings.includes(hash.slice(1)), `${document}: ${target}`);
    }
  }
});

// docs/proxy.md and docs/stats.md tell of the options, metrics and fields that there are, and of no other.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { SessionSnapshot } from '#src/session/snapshot.js';
import { Metrics } from '#src/telemetry/metrics.js';
import { statsLine } from '#src/telemetry/session.js';
import { freePort } from '../transport/port.js';
import { pagewire } from './command.js';

const read = (path: string): string =>
  readFileSync(fileURLToPath(new URL(`../../../${path}`, import.meta.url)), 'utf8');
const proxy = read('docs/proxy.md');

/** What stands in the first column of a section's tables. */
function firstColumn(document: string, heading: string): string[] {
  const [, rest = ''] = document.split(new RegExp(`^#+ ${heading}$`, 'm'));
  const [section = ''] = rest.split(/^#/m);
  return [...section.matchAll(/^\| `([^`]+)`/gm)].map(([, cell = '']) => cell);
}

const longName = (option: string): string => /--[\w-]+/.exec(option)?.[0] ?? option;

describe('docs/proxy.md', () => {
  const commands: [command: string, ...sections: string[]][] = [
    ['proxy source', 'pagewire proxy source', 'Both proxies'],
    ['proxy destination', 'pagewire proxy destination', 'Both proxies'],
    ['keygen', 'pagewire keygen'],
    ['check', 'pagewire check'],
  ];
  for (const [command, ...sections] of commands) {
    it(`names every option of pagewire ${command}, and no other`, async (t) => {
      const { stdout } = await pagewire(t, [...command.split(' '), '--help']);
      const options = /Options:\n([\s\S]*?)\n\n/.exec(stdout.toString())?.[1] ?? '';
      const told = [...options.matchAll(/^ {2}(?:-\w, )?(--[\w-]+)/gm)].map(([, name]) => name);
      const documented = sections.flatMap((section) => firstColumn(proxy, section)).map(longName);
      assert.ok(told.length > 2);
      assert.deepEqual(documented.sort(), told.sort());
    });
  }

  it('names every metric, and no other', async (t) => {
    const port = await freePort();
    const metrics = await Metrics.serve(`127.0.0.1:${port}`);
    t.after(() => {
      metrics.close();
    });
    metrics.update(SNAPSHOT);
    metrics.end({ ...SNAPSHOT, name: 'vm2' }, 'complete');
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    const names = [...text.matchAll(/^# TYPE (pagewire_\w+) /gm)].map(([, name = '']) => name);
    const ours = names.filter((name) => !/^pagewire_(process|nodejs)_/.test(name));
    assert.deepEqual(firstColumn(proxy, 'Seeing it').sort(), ours.sort());
    // Each has a value for a session that runs, or has ended.
    for (const name of ours) assert.match(text, new RegExp(`^${name}\\{role="source"`, 'm'), name);
  });
});

describe('docs/stats.md', () => {
  it('describes every field of a session, and no other', () => {
    const outcomes = [
      { state: 'cancelled', within: 'ram' },
      { state: 'failed', code: 'LINK_LOST', message: '' },
    ] as const;
    const lines = outcomes.map((outcome) => JSON.parse(statsLine(SNAPSHOT, outcome)) as object);
    const fields = new Set(lines.flatMap((line) => fieldsOf(line)));
    assert.deepEqual(
      firstColumn(read('docs/stats.md'), 'proxy source and proxy destination').sort(),
      [...fields].sort(),
    );
  });
});

/** Those that are described with the report of `encode`, and those that are told with their fields. */
const ELSEWHERE = ['guest', 'pages', 'cache'];
const NEVER_NULL = ['wire', 'queue', 'cpuSeconds'];

function fieldsOf(value: object, path = ''): string[] {
  return Object.entries(value).flatMap(([name, field]: [string, unknown]) => {
    const full = `${path}${name}`;
    if (typeof field !== 'object' || field === null || ELSEWHERE.includes(full)) return [full];
    return [...(NEVER_NULL.includes(full) ? [] : [full]), ...fieldsOf(field, `${full}.`)];
  });
}

const SNAPSHOT: SessionSnapshot = {
  role: 'source',
  name: 'vm1',
  state: 'running',
  seconds: 1,
  peer: 'tls:dst:7777',
  codec: 'zstd',
  guest: {
    machine: 'pc-q35-10.0',
    ramBytes: 1,
    blocks: 1,
    pageSize: 4096,
    cacheForAll: 1,
    cacheWanted: 1,
    cacheGranted: 1,
    fixedMemory: 1,
    memoryLimit: 1,
  },
  channels: 1,
  linked: 1,
  linkLosses: 0,
  doubt: false,
  streamBytes: 1,
  wire: { out: 1, in: 1, bytesPerSecond: 1, roundTripMs: 1 },
  queue: { bytes: 1, ms: 1 },
  unackedBytes: 1,
  returnBytes: 1,
  pages: { raw: 1, delta: 1, skipped: 1, fill: 1, xbzrle: 1, compressed: 1, deltaBytes: 1 },
  passes: 1,
  cache: { bytes: 1, budget: 1, pages: 1, hits: 1, misses: 1, evictions: 1 },
  cpuSeconds: { source: 1, codec: 1, sink: 1 },
  tunnel: { guest: 'vm1', begun: 1, complete: 1, givenUp: 1, refused: 1 },
};

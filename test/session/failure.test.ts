// What an operator is told of a session that failed: in the log and in the file of --last-error.
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ERROR_CODES, PagewireError } from '#src/errors.js';
import { type Failed, type LastError, tellFailure } from '#src/session/failure.js';
import { REMEDIES } from '#src/session/remedy.js';
import { createLog, type LogFormat } from '#src/telemetry/log.js';
import { folder } from '../cli/command.js';

const SESSION: Failed = { role: 'source', name: 'vm1', peer: 'tls:dst:7777', tunnel: null };
const LOST = new PagewireError('LINK_LOST', 'the link is\nlost for good (os error 32)');

/** What is told of a failure, line by line. */
function told(of: Failed, error: PagewireError, file?: string, format: LogFormat = 'text', exit?: number): string[] {
  const lines: string[] = [];
  const write = (line: string): number => lines.push(line);
  const log = createLog({ name: 'proxy source', format, quiet: false, write });
  tellFailure(log.child({ guest: of.name }), of, error, file, exit);
  return lines;
}

const read = (path: string): LastError => JSON.parse(readFileSync(path, 'utf8')) as LastError;

describe('the remedies', () => {
  /** What a migration is made of, without what belongs to files alone. */
  const PARTS = ['src/session', 'src/transport', 'src/pipeline', 'native/core/src/net', 'native/core/src/session'];

  it('are there for every code that a session can end with', () => {
    assert.deepEqual(Object.keys(REMEDIES).sort(), [...ERROR_CODES].sort());
    const root = fileURLToPath(new URL('../../../', import.meta.url));
    const sources = PARTS.flatMap((part) =>
      readdirSync(`${root}${part}`, { recursive: true, encoding: 'utf8' })
        .filter((name) => /\.(c?ts|rs)$/.test(name) && name !== 'remedy.ts')
        .map((name) => readFileSync(`${root}${part}/${name}`, 'utf8')),
    ).join('\n');
    const thrown = ERROR_CODES.filter((code) => new RegExp(`['"]${code}['"]`).test(sources));
    assert.ok(thrown.length > 12, thrown.join());
    for (const code of thrown) assert.notEqual(REMEDIES[code], null, code);
  });

  it('are one sentence each, to stand behind another', () => {
    for (const [code, remedy] of Object.entries(REMEDIES)) {
      if (remedy !== null) assert.match(remedy, /^(?:[a-z]|--)[^\n]{20,150}[^.\s]$/, code);
    }
  });
});

describe('a session that failed', () => {
  it('is told in the log and in the file with the same words', (t) => {
    const file = folder(t)('last-error');
    const [line, ...more] = told(SESSION, LOST, file);
    assert.deepEqual(more, []);
    const { time, ...rest } = read(file);
    assert.ok(Math.abs(Date.parse(time) - Date.now()) < 60_000, time);
    const remedy = REMEDIES.LINK_LOST;
    assert.deepEqual(rest, {
      ...{ role: 'source', guest: 'vm1', session: 'vm1', connection: 'tls:dst:7777' },
      ...{ code: 'LINK_LOST', exitCode: 6, message: 'the link is\nlost for good', remedy },
    });
    assert.equal(
      line,
      `pagewire proxy source: vm1: the link is lost for good (tls:dst:7777); what to do: ${remedy ?? ''}\n`,
    );
    const entry = JSON.parse(told(SESSION, LOST, undefined, 'json')[0] ?? '') as LastError;
    assert.deepEqual(
      [entry.message, entry.connection, entry.code, entry.remedy],
      [rest.message, rest.connection, rest.code, rest.remedy],
    );
  });

  it('is the only one in the file, which keeps its mode and leaves nothing beside it', (t) => {
    const file = folder(t)('last-error');
    const before = process.umask(0o077);
    try {
      told(SESSION, LOST, file);
      told(SESSION, new PagewireError('STOPPED', 'stopped'), file, 'text', 143);
    } finally {
      process.umask(before);
    }
    assert.deepEqual([read(file).code, read(file).exitCode], ['STOPPED', 143]);
    assert.equal(statSync(file).mode & 0o777, 0o640);
    assert.deepEqual(readdirSync(dirname(file)), ['last-error']);
  });

  it('has a file by the name of its guest, and of nothing else', (t) => {
    const path = folder(t);
    const counts = { begun: 1, complete: 0, givenUp: 0, refused: 0 };
    for (const [guest, name] of [
      ['vm1', 'vm1'],
      ['../../etc/vm1', 'session'],
      ['..', 'session'],
      [null, 'session'],
    ] as const) {
      const tunnel = { ...counts, guest };
      const [line = ''] = told({ ...SESSION, name: 'libvirt-01234567', tunnel }, LOST, path('{name}.json'));
      const { guest: ofGuest, session } = read(path(`${name}.json`));
      assert.deepEqual([ofGuest, session], [guest ?? 'libvirt-01234567', 'libvirt-01234567']);
      assert.equal(line.includes(`(guest ${guest ?? ''}, tls:dst:7777)`), guest !== null, line);
    }
    assert.deepEqual(readdirSync(path('')).sort(), ['session.json', 'vm1.json']);
  });

  it('is told though the file cannot be written', (t) => {
    const path = folder(t);
    mkdirSync(path('folder'));
    for (const file of [path('none/last-error'), path('folder')]) {
      const [line = '', warning = '', ...more] = told(SESSION, LOST, file);
      assert.match(line, /lost for good/);
      assert.match(warning, /^pagewire proxy source: vm1: warning: --last-error: .*(none\/last-error|folder)/);
      assert.deepEqual(more, []);
    }
    assert.deepEqual(readdirSync(path('')), ['folder']);
  });
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createLog, type LogFormat } from '#src/telemetry/log.js';

function logged(format: LogFormat, { quiet = false, verbose = false } = {}): string[] {
  const lines: string[] = [];
  const log = createLog({ name: 'proxy source', format, quiet, verbose, write: (line) => lines.push(line) });
  const child = log.child({ guest: 'vm1' });
  log.debug('a detail');
  log.info('begun');
  child.warn({ code: 'LINK_LOST' }, 'the link is lost');
  child.error('"quoted"\nand broken');
  return lines;
}

describe('the log', () => {
  it('is lines for people', () => {
    assert.deepEqual(logged('text'), [
      'pagewire proxy source: begun\n',
      'pagewire proxy source: vm1: warning: the link is lost\n',
      'pagewire proxy source: vm1: "quoted" and broken\n',
    ]);
  });
  it('or JSON for programs', () => {
    const entries = logged('json').map((line) => JSON.parse(line) as Record<string, unknown>);
    assert.deepEqual(
      entries.map(({ level, message, guest, code, name }) => ({ level, message, guest, code, name })),
      [
        { level: 'info', message: 'begun', guest: undefined, code: undefined, name: 'proxy source' },
        { level: 'warn', message: 'the link is lost', guest: 'vm1', code: 'LINK_LOST', name: 'proxy source' },
        { level: 'error', message: '"quoted"\nand broken', guest: 'vm1', code: undefined, name: 'proxy source' },
      ],
    );
    for (const { time } of entries) assert.ok(!Number.isNaN(Date.parse(String(time))));
  });
  it('tells less, or more', () => {
    assert.equal(logged('text', { quiet: true }).length, 2);
    assert.match(logged('text', { verbose: true })[0] ?? '', /debug: a detail/);
  });
});

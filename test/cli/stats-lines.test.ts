// What the proxies append to --stats, where it cannot be written for a while.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { it } from 'node:test';
import { openStats } from '#src/cli/proxy.js';
import { createLog } from '#src/telemetry/log.js';
import { folder } from './command.js';

/** Longer than what a pipe takes as a whole. */
const WORD = 'x'.repeat(10_000);
const LEAST_LINES = 10;

function drain(fd: number): string {
  const buffer = Buffer.alloc(1 << 20);
  return buffer.toString('utf8', 0, readSync(fd, buffer));
}

it('lines of --stats that nobody takes are left out, and told of once; those behind them come whole', (t) => {
  const fifo = folder(t)('fifo');
  assert.equal(spawnSync('mkfifo', [fifo]).status, 0);
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  t.after(() => {
    closeSync(reader);
  });
  const said: string[] = [];
  const log = createLog({ name: 'test', format: 'text', quiet: false, write: (line) => said.push(line) });
  const write = openStats(fifo, log);
  assert.ok(write);
  for (let outage = 1; outage <= 2; outage++) {
    for (let number = 0; said.length < outage || number < LEAST_LINES; number++) write(`{"${WORD}":${number}}\n`);
    assert.equal(said.length, outage);
    assert.match(said.at(-1) ?? '', /warning: --stats: cannot write .*fifo: EAGAIN/);
    const before = drain(reader).split('\n');
    assert.ok(before.length > 2 && before.slice(1, -1).every((line) => /^\{.*\}$/.test(line)));
    write('{"last":1}\n');
    assert.equal(drain(reader), before.at(-1) === '' ? '{"last":1}\n' : '\n{"last":1}\n');
  }
});

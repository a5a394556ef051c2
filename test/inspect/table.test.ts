// What goes to a terminal: columns, lines of 80, and names that a stream made up.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { columns, name, number, percent, wrapped } from '#src/inspect/table.js';

describe('the text report', () => {
  it('has columns as wide as their widest cell', () => {
    const rows = [
      ['a', '1', 'left'],
      ['bbb', '1,234', ''],
    ];
    assert.deepEqual(columns(rows, 'left', 'right', 'left'), ['a        1  left', 'bbb  1,234']);
    assert.deepEqual(columns(rows.map((row) => row.slice(0, 2))), ['a        1', 'bbb  1,234']);
  });

  it('has lines of up to 80 columns', () => {
    const lines = wrapped('word '.repeat(100).trim());
    assert.ok(lines.every((line) => line.length <= 80 && line.startsWith('  word')));
    assert.equal(lines.join(' ').split(/ +/).filter(Boolean).length, 100);
    assert.deepEqual(wrapped('x'.repeat(90)), [`  ${'x'.repeat(90)}`]);
  });

  it('shows names, whatever is in them', () => {
    assert.equal(name('pc.ram', 10), 'pc.ram');
    assert.equal(name('\x1b[31mred\x07\u202e', 20), '?[31mred??');
    assert.equal(name('0000:00:02.0/e1000e.rom', 10), '…1000e.rom');
  });

  it('shows numbers', () => {
    assert.deepEqual([number(1_234_567), percent(1, 8), percent(0, 0)], ['1,234,567', '12.5 %', '0 %']);
  });
});

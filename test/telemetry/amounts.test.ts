import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { bytes, parseBytes, ratio } from '#src/telemetry/amounts.js';

describe('amounts', () => {
  it('are written with three digits', () => {
    const written: [number, string][] = [
      [0, '0 B'],
      [999, '999 B'],
      [1000, '0.98 KiB'],
      [1024, '1.00 KiB'],
      [10 * 1024, '10.0 KiB'],
      [100 * 1024, '100 KiB'],
      [1000 * 1024, '0.98 MiB'],
      [1.5 * 2 ** 30, '1.50 GiB'],
      [2 ** 50, '1.00 PiB'],
      [2 ** 62, '4096 PiB'],
    ];
    for (const [amount, text] of written) assert.equal(bytes(amount), text);
  });

  it('are read with binary units', () => {
    const read: [string, number][] = [
      ['0', 0],
      ['4096', 4096],
      ['4096B', 4096],
      ['1k', 1024],
      ['1K', 1024],
      ['512M', 512 << 20],
      ['512MiB', 512 << 20],
      ['512mb', 512 << 20],
      ['2G', 2 ** 31],
      ['1.5GiB', 1.5 * 2 ** 30],
      [' 1 T ', 2 ** 40],
      ['0.3k', 307],
    ];
    for (const [text, amount] of read) assert.equal(parseBytes(text), amount, text);
  });

  it('are not read from anything else', () => {
    for (const text of [
      '',
      'M',
      '-1',
      '+1',
      '1e3',
      '0x10',
      '1.',
      '.5',
      '1P',
      '1MM',
      '1i',
      '5%',
      '1,5G',
      '9999999999T',
    ]) {
      assert.equal(parseBytes(text), undefined, text);
    }
  });

  it('are set in relation', () => {
    assert.deepEqual([ratio(30, 10), ratio(123, 10), ratio(1, 3), ratio(5, 0)], ['3.00x', '12.3x', '0.33x', '-']);
  });
});

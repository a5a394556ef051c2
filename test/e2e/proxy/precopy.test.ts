// Live migration of a guest that is at work, from real QEMU to real QEMU through two proxies.
import { describe, it } from 'node:test';
import { travels } from '../harness/journey.js';
import { commonMachine, qemus } from '../harness/qemus.js';
import { atOnce, full } from '../harness/repository.js';

void describe('precopy through two proxies', { concurrency: atOnce }, () => {
  for (const [index, source] of qemus.entries()) {
    // to itself, and to the next newer one
    for (const destination of qemus.slice(index, index + 2)) {
      const type = commonMachine(source, destination, index % 2 === 0 ? 'q35' : 'pc');
      if (type === undefined) continue;
      void it(`QEMU ${source.version} to ${destination.version}, ${type}, with a return path`, () =>
        travels({ source, destination, machine: { type }, capabilities: ['return-path'] }));
    }
    if (!full && index > 0 && index < qemus.length - 1) continue;
    void it(`QEMU ${source.version}, without a return path`, () => travels({ source }));
    void it(`QEMU ${source.version}, to a destination without pagewire (--stock)`, () =>
      travels({ source, plan: { stock: true }, capabilities: ['return-path'] }));
  }

  const newest = qemus.at(-1);
  if (newest === undefined) return;
  const source = newest;
  void it('as it came: --no-delta --codec none', () =>
    travels({ source, capabilities: ['return-path'], plan: { source: ['--no-delta', '--codec', 'none'] } }));
  void it('default devices', () => travels({ source, capabilities: ['return-path'], machine: { devices: 'default' } }));
});

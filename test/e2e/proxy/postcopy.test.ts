// Postcopy through two proxies: the guest runs at the destination and asks for the pages that it lacks.
import { describe, it } from 'node:test';
import { travelsByPostcopy } from '../harness/journey.js';
import { skipPostcopy } from '../harness/postcopy.js';
import { commonMachine, qemus } from '../harness/qemus.js';
import { atOnce } from '../harness/repository.js';

const skip = skipPostcopy();

void describe('postcopy through two proxies', { concurrency: atOnce, skip }, () => {
  for (const [index, source] of qemus.entries()) {
    void it(`QEMU ${source.version}`, () => travelsByPostcopy({ source }));
    void it(`QEMU ${source.version}, postcopy-preempt`, () =>
      travelsByPostcopy({ source, capabilities: ['postcopy-preempt'] }));
    const destination = qemus[index + 1];
    const type = destination === undefined ? undefined : commonMachine(source, destination, 'q35');
    if (destination !== undefined && type !== undefined) {
      void it(`QEMU ${source.version} to ${destination.version}, ${type}`, () =>
        travelsByPostcopy({ source, destination, machine: { type } }));
    }
    if (source.major >= 11) {
      void it(`QEMU ${source.version}, after multifd`, () =>
        travelsByPostcopy({ source, capabilities: ['multifd'], parameters: { 'multifd-channels': 2 } }));
    }
  }
});

// Real guests in real QEMUs, through the filter: versions, machines, transports and workloads against each other.
// `npm test` runs a choice in which every two of their values meet, `npm run test:full` all.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Filter } from './harness/carriage.js';
import { WORKING_SET, bareGuest } from './harness/guests.js';
import type { Workload } from './harness/guests.js';
import { migrate } from './harness/migrate.js';
import { allCases, chooseCases } from './harness/pairwise.js';
import type { Case } from './harness/pairwise.js';
import { commonMachine, howToInstall, missing, qemus } from './harness/qemus.js';
import type { QemuBuild } from './harness/qemus.js';
import { atOnce, full, inCi } from './harness/repository.js';
import { onStage } from './harness/stage.js';
import { bytesLeftAlone, pagesOfKind } from './harness/stats.js';

const CODECS: Readonly<Record<string, readonly string[]>> = {
  zstd: [],
  lz4: ['--codec', 'lz4'],
  zlib: ['--codec', 'zlib', '--level', '1'],
  none: ['--codec', 'none'],
  'no-delta': ['--no-delta', '--codec', 'zstd', '--level', '3'],
};

const dimensions = {
  versions: qemus.flatMap((source) => qemus.map((destination) => `${source.version} to ${destination.version}`)),
  chipset: ['pc', 'q35'],
  transport: ['exec', 'fd', 'unix'],
  workload: ['idle', 'sparse', 'half', 'full'],
  way: ['relay', 'stock'],
  codec: Object.keys(CODECS),
  devices: ['none', 'default'],
  blocks: ['1', '2'],
  cache: ['whole', 'small'],
} as const;
type Dimensions = typeof dimensions;

/** What a user looks at first. */
const MAIN = ['versions', 'chipset', 'transport', 'workload', 'way'] as const;

function buildsOf(versions: string): { source: QemuBuild; destination: QemuBuild } {
  const [source, destination] = versions.split(' to ').map((name) => qemus.find(({ version }) => version === name));
  assert.ok(source !== undefined && destination !== undefined);
  return { source, destination };
}

function isPossible({ versions, chipset, way, codec, cache }: Case<Dimensions>): boolean {
  const { source, destination } = buildsOf(versions);
  if (commonMachine(source, destination, chipset) === undefined) return false;
  if (way === 'stock') return codec === 'none'; // no frames, no codec
  return codec !== 'no-delta' || cache === 'whole'; // no cache
}

async function run(one: Case<Dimensions>): Promise<void> {
  const { source, destination } = buildsOf(one.versions);
  const stock = one.way === 'stock';
  const filter: Filter = {
    stock,
    options: [
      ...(stock ? [] : (CODECS[one.codec] ?? [])),
      ...(one.cache === 'small' ? ['--cache-size', `${WORKING_SET / 2}M`] : []),
    ],
  };
  await onStage(async (stage) => {
    const stats = await migrate(stage, {
      source,
      destination,
      transport: one.transport,
      filter,
      machine: {
        type: commonMachine(source, destination, one.chipset) ?? one.chipset,
        guest: bareGuest(stage, one.workload satisfies Workload),
        devices: one.devices,
        ramBlocks: one.blocks === '2' ? 2 : 1,
      },
    });
    if (one.codec !== 'no-delta') {
      assert.ok(bytesLeftAlone(stats) < 2e6, 'delta ended before the device state');
    }
    // Random bytes are no delta, and half a page of them only where no codec can do better.
    const deltas = pagesOfKind(stats, 'delta');
    if (one.codec === 'no-delta') assert.equal(deltas, 0);
    else if (one.workload === 'sparse' || (stock && one.workload === 'half'))
      assert.ok(deltas > 0, 'no page went as a delta');
  });
}

const cases = chooseCases(allCases(dimensions, isPossible), full ? MAIN : []);

void describe('a guest goes through the filter', { concurrency: atOnce }, () => {
  void it(
    'has QEMUs to be tried on',
    {
      skip: missing.length === 0 || inCi ? false : `PAGEWIRE-NOT-RUN real QEMU ${missing.join(', ')}: ${howToInstall}`,
    },
    () => {
      assert.deepEqual(missing, [], `no QEMU ${missing.join(', ')} here: ${howToInstall}`);
    },
  );
  for (const one of cases) {
    const { versions, chipset, transport, workload, way, codec, devices, blocks, cache } = one;
    const name =
      `QEMU ${versions}, ${chipset}, ${transport}, ${workload}, ` +
      (way === 'stock' ? 'encode --stock' : `encode | decode, ${codec}`) +
      `${cache === 'small' ? ', small cache' : ''}${blocks === '2' ? ', two RAM blocks' : ''}` +
      (devices === 'default' ? ', default devices' : '');
    void it(name, { timeout: 240_000 }, () => run(one));
  }
});

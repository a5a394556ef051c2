import { availableParallelism } from 'node:os';
import { SAVE_WINDOW } from '../../pipeline/save.js';
import type { ChainVariant } from '../variant.js';

const DELTA_ZSTD = { codec: 'zstd', level: 1 } as const;
const PACK_ZSTD = { delta: false, codec: 'zstd', level: 1 } as const;

/** The whole encoder: its parts by themselves and one behind the other, caches, threads and frames. */
export function chainVariants(): ChainVariant[] {
  return [
    chain('pass through', { delta: false, codec: 'none' }),
    chain('pack lz4 1', { delta: false, codec: 'lz4', level: 1 }),
    chain('pack zstd 1', PACK_ZSTD),
    chain('match + zstd 1', { ...PACK_ZSTD, match: SAVE_WINDOW }),
    chain('match + zstd 3', { ...PACK_ZSTD, level: 3, match: SAVE_WINDOW }),
    chain('delta (--stock)', { stock: true }),
    chain('delta + lz4 1', { codec: 'lz4', level: 1 }),
    chain('delta + zstd 1', DELTA_ZSTD),
    chain('delta + zstd 3', { codec: 'zstd', level: 3 }),
    chain('delta + match + zstd 1', { ...DELTA_ZSTD, match: SAVE_WINDOW }),
    { ...chain('zstd 1, then delta alone', DELTA_ZSTD), afterBulk: { codec: 'none', level: 0 } },
    { ...chain('zstd 1, then delta + lz4 1', DELTA_ZSTD), afterBulk: { codec: 'lz4', level: 1 } },
    ...[10, 25, 50, 75, 100].map((percent) => ({
      ...chain(`delta + zstd 1, cache ${percent}%`, DELTA_ZSTD),
      cachePercent: percent,
    })),
    ...threadCounts().map((threads) =>
      chain(`pack zstd 1, ${threads} thread${threads > 1 ? 's' : ''}`, { ...PACK_ZSTD, threads }),
    ),
    ...[16, 64, 256, 4096].map((kib) => chain(`pack zstd 1, ${kib}K frames`, { ...PACK_ZSTD, frameSize: kib << 10 })),
  ];
}

function chain(name: string, settings: ChainVariant['settings']): ChainVariant {
  return { kind: 'chain', name, settings };
}

/** Powers of two up to what the machine has, up to 8. */
function threadCounts(): number[] {
  return [1, 2, 4, 8].filter((threads) => threads <= availableParallelism());
}

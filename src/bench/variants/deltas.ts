import type { NativeDeltaVariant } from '../variant.js';

/** XBZRLE and its rivals. All but `raw` send nothing for a page that is as it was. */
export function deltaVariants(): NativeDeltaVariant[] {
  return [
    { kind: 'delta', name: 'raw page', rival: 'raw', level: 0 },
    { kind: 'delta', name: 'page, lz4 1', rival: 'page+lz4', level: 1 },
    { kind: 'delta', name: 'page, zstd 1', rival: 'page+zstd', level: 1 },
    { kind: 'delta', name: 'xbzrle', rival: 'xbzrle', level: 0 },
    { kind: 'delta', name: 'xor + lz4 1', rival: 'xor+lz4', level: 1 },
    { kind: 'delta', name: 'xor + zstd 1', rival: 'xor+zstd', level: 1 },
    { kind: 'delta', name: 'xor + zstd 3', rival: 'xor+zstd', level: 3 },
    { kind: 'delta', name: 'zstd 1, old page as prefix', rival: 'zstd-prefix', level: 1 },
    { kind: 'delta', name: 'zstd 3, old page as prefix', rival: 'zstd-prefix', level: 3 },
  ];
}

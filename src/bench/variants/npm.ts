import { deflateSync, inflateSync } from 'node:zlib';
import type { BlockVariant, MissingVariant } from '../variant.js';

const LEVELS = [1, 6, 9];

/** Codecs of Node and of npm; packages that are not installed are told as missing. */
export async function npmVariants(): Promise<(BlockVariant | MissingVariant)[]> {
  return [...LEVELS.map(nodeZlib), await lz4Napi(), await zlibSync()];
}

function nodeZlib(level: number): BlockVariant {
  return {
    kind: 'block',
    name: `node:zlib ${level}`,
    pack: (block) => deflateSync(block, { level }),
    // One chunk: the block's length is known.
    unpack: (packed, bytes) => inflateSync(packed, { chunkSize: Math.max(bytes, 64), maxOutputLength: bytes }),
  };
}

async function lz4Napi(): Promise<BlockVariant | MissingVariant> {
  const name = 'lz4-napi';
  const lz4 = (await optional(() => import('lz4-napi')))?.default;
  if (!lz4) return { kind: 'block', name, missing: 'lz4-napi' };
  return {
    kind: 'block',
    name,
    pack: (block) => lz4.compressSync(block),
    unpack: (packed) => lz4.uncompressSync(packed),
  };
}

/** It only inflates, so node:zlib packs for it. */
async function zlibSync(): Promise<BlockVariant | MissingVariant> {
  const name = 'zlib-sync inflate';
  const zlib = (await optional(() => import('zlib-sync')))?.default;
  if (!zlib) return { kind: 'block', name, missing: 'zlib-sync' };
  return {
    kind: 'block',
    name,
    unpacksOnly: true,
    pack: (block) => deflateSync(block, { level: 6 }),
    unpack: (packed, bytes) => {
      const inflate = new zlib.Inflate({ chunkSize: Math.max(bytes, 64) });
      inflate.push(packed, zlib.Z_FINISH);
      if (inflate.err < 0 || !Buffer.isBuffer(inflate.result))
        throw new Error(inflate.msg ?? `zlib-sync: ${inflate.err}`);
      return inflate.result;
    },
  };
}

/** The module, or undefined where it is not installed, or not built for this machine. */
async function optional<T>(load: () => Promise<T>): Promise<T | undefined> {
  try {
    return await load();
  } catch {
    return undefined;
  }
}

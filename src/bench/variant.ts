/** What `pagewire bench` compares: each way to make a stream smaller is a variant, ours and anybody's. */
import type { Codec } from '../codecs.js';
import type { NativeRival } from '../native.js';
import type { EncoderSettings } from '../pipeline/settings.js';

/** A block codec: blocks of a stream, each by itself. */
export interface BlockVariant {
  kind: 'block';
  name: string;
  /** Bytes of a block; default: 1 MiB. The last block of a sample may be shorter. */
  blockSize?: number | undefined;
  /** Makes a block smaller, which it leaves as it is. What is not smaller than the block is not used: the block then counts as it is. */
  pack(block: Buffer): Uint8Array;
  /** Makes the block again, which had so many bytes. */
  unpack(packed: Buffer, bytes: number): Uint8Array;
  /** Only unpacking is its own: no encoding speed is told. */
  unpacksOnly?: boolean | undefined;
}

/** A way to tell the new version of a page to one who has the old one. */
export interface DeltaVariant {
  kind: 'delta';
  name: string;
  /** What makes `fresh` of `old`, which stay as they are; both are pages. What is not smaller than the page is not used: the page then counts. */
  encode(old: Buffer, fresh: Buffer): Uint8Array;
  /** Makes the new page again. */
  decode(old: Buffer, delta: Buffer): Uint8Array;
}

/** The encoder and the decoder of pagewire, whole, with settings of a kind. */
export interface ChainVariant {
  kind: 'chain';
  name: string;
  /** What the encoder is told. */
  settings: EncoderSettings;
  /** What packs from the second pass over the guest on. */
  afterBulk?: { codec: Codec; level: number } | undefined;
  /** The page cache, in percent of what the pages of the sample need, rather than of the guest's whole RAM. */
  cachePercent?: number | undefined;
}

/** A block codec of the native core. */
export interface NativeBlockVariant {
  kind: 'block';
  name: string;
  codec: Codec;
  level: number;
  blockSize?: number | undefined;
}

/** A delta of the native core. */
export interface NativeDeltaVariant {
  kind: 'delta';
  name: string;
  rival: NativeRival;
  level: number;
}

/** One whose package is not there. */
export interface MissingVariant {
  kind: 'block' | 'delta';
  name: string;
  /** The npm package that it needs. */
  missing: string;
}

export type Kind = Variant['kind'];

export type Variant =
  BlockVariant | NativeBlockVariant | DeltaVariant | NativeDeltaVariant | ChainVariant | MissingVariant;

/** Whether it is JavaScript of somebody's that works on the sample's pieces. */
export function isScripted(variant: Variant): variant is BlockVariant | DeltaVariant {
  return 'pack' in variant || 'encode' in variant;
}

/** What can be measured. */
export type PresentVariant = Exclude<Variant, MissingVariant>;

/** A block, unless a variant says otherwise: what a frame of the encoder holds. */
export const BLOCK_SIZE = 1 << 20;

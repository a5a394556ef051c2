import type { EncoderSettings } from '../pipeline/settings.js';

/** What a demo runs side by side: what is there today first, what pagewire does by default last. */
export const VARIANTS: { name: string; options: string; settings: EncoderSettings }[] = [
  { name: 'plain', options: '--no-delta --codec none', settings: { delta: false, codec: 'none' } },
  { name: 'lz4', options: '--no-delta --codec lz4', settings: { delta: false, codec: 'lz4' } },
  { name: 'zstd', options: '--no-delta --codec zstd', settings: { delta: false, codec: 'zstd' } },
  { name: 'pagewire --stock', options: '--stock', settings: { stock: true } },
  { name: 'pagewire', options: '', settings: {} },
];

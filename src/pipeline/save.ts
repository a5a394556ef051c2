/** How a guest is saved: each of its pages comes once, so delta has nothing to work on. */
import type { EncoderSettings } from './settings.js';

/** 1 (fast) to 9 (small); `fast` and `ultra` go beyond. */
export type SaveLevel = 'fast' | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 'ultra';

/** The level that is used unless told otherwise: a guest stands still while it is saved. */
export const DEFAULT_SAVE_LEVEL: SaveLevel = 3;

/**
 * How far back content is looked for that comes again, in bytes: as much memory at both ends. 128 MiB found half as much
 * in a redis guest of 768 MiB, and what is found here no codec has to go through.
 */
export const SAVE_WINDOW = 256 << 20;

/** What each level stands for. Behind match, a larger table than that of zstd's level -1 costs more time than it saves bytes. */
const LEVELS: Record<SaveLevel, Pick<EncoderSettings, 'codec' | 'level' | 'match'>> = {
  fast: { codec: 'lz4', level: 1 },
  1: { codec: 'zstd', level: -10 },
  2: { codec: 'zstd', level: -3 },
  3: { codec: 'zstd', level: -1 },
  4: { codec: 'zstd', level: 1 },
  5: { codec: 'zstd', level: 3 },
  6: { codec: 'zstd', level: 5 },
  7: { codec: 'zstd', level: 7 },
  8: { codec: 'zstd', level: 9 },
  9: { codec: 'zstd', level: 12, match: 2 * SAVE_WINDOW },
  ultra: { codec: 'zstd', level: 19, match: 4 * SAVE_WINDOW },
};

/** The settings of an encoder that saves; every byte comes back as it was. */
export function saveProfile(level: SaveLevel = DEFAULT_SAVE_LEVEL): EncoderSettings {
  return { delta: false, match: SAVE_WINDOW, index: true, ...LEVELS[level] };
}

import type { EncoderSettings } from '../pipeline/settings.js';

/** What a guest is saved with under libvirt. Each of its pages comes once, so there is nothing for delta to do. */
export const SAVE_SETTINGS: EncoderSettings = { delta: false };

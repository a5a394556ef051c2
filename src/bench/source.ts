import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { captureGuest, findQemu } from '../demo/qemu.js';
import { SimulatedGuest, type SimulatedGuestOptions } from '../simulator/guest.js';

/** A stream to measure on. */
export interface Source {
  /** For people, and what it is known by in the report. */
  name: string;
  path: string;
}

/** A guest of the simulator: enough for every effect, little enough for a minute of measuring. */
const SIMULATED: SimulatedGuestOptions = { seed: 1, ramBytes: 48 << 20, passes: 4 };

/** The stream of a simulated guest, always the same bytes. */
export async function simulatedSource(folder: string, options = SIMULATED): Promise<Source> {
  const path = join(folder, 'simulated.qemu');
  await new SimulatedGuest(options).writeTo(createWriteStream(path));
  return { name: 'simulated guest', path };
}

/** The stream of a guest that is migrated while it dirties its memory; undefined where there is no QEMU. */
export async function guestSource(
  folder: string,
  note: (text: string) => void,
  signal: AbortSignal,
): Promise<Source | undefined> {
  const qemu = findQemu();
  if (!qemu) return undefined;
  note(`${qemu.version}: a guest dirties its memory and is migrated into a file`);
  const path = join(folder, 'guest.qemu');
  await captureGuest(qemu.command, path, folder, signal);
  return { name: `guest under ${qemu.version}`, path };
}

/** What this end of a session can and wants. */
import { readFileSync } from 'node:fs';
import { CODECS } from '../codecs.js';
import { duration } from '../control/quantities.js';
import { PagewireError } from '../errors.js';
import { FRAME_SIZES } from '../pipeline/settings.js';
import { type Capabilities, SILENCE } from './hello.js';
import type { End } from './negotiate.js';

export interface EndOptions {
  /** Whether pages may go as differences; default: true. */
  readonly delta?: boolean | undefined;
  readonly silenceMs: number;
  /** What is carried is libvirt's tunnel. */
  readonly libvirt?: boolean | undefined;
  /** How far back references may lead, in bytes; default: there are none. */
  readonly match?: number | undefined;
  /** What the session may not be without: `delta`, or a codec. */
  readonly require?: readonly string[] | undefined;
}

export function version(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

export function endOf(
  { delta = true, silenceMs, libvirt = false, match = 0, require = [] }: EndOptions,
  frameSize = FRAME_SIZES.most,
): End {
  if (!Number.isInteger(silenceMs) || silenceMs < SILENCE.least || silenceMs > SILENCE.most) {
    const [given, least] = [duration(silenceMs), duration(SILENCE.least)];
    throw new PagewireError('BAD_OPTION', `--silence ${given}: from ${least} to ${SILENCE.most / 3_600_000} h`);
  }
  for (const name of require) {
    if (name !== 'delta' && !(CODECS as readonly string[]).includes(name)) {
      throw new PagewireError('BAD_OPTION', `--require ${name}: delta, or one of ${CODECS.join(', ')}`);
    }
    if (name === 'delta' && !delta) {
      throw new PagewireError('BAD_OPTION', '--require delta and --no-delta exclude each other');
    }
  }
  const capabilities: Capabilities = { codecs: [...CODECS], delta, formats: [1], libvirt };
  return { program: version(), capabilities, parameters: { silenceMs, frameSize, match }, require };
}

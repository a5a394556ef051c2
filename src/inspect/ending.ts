/** How a stream ends: as it should, or where and why not. */
import type { PagewireError } from '../errors.js';
import type { StreamReport } from '../native.js';
import type { DeviceStates } from './devices.js';
import type { Inspection } from './schema.js';

export interface Ending extends Pick<Inspection['stream'], 'understood' | 'state' | 'within' | 'reason'> {
  error: Inspection['error'];
}

/** What is wrong with a stream counts before what its end looks like, and what is wrong around it before that. */
export function endingOf(
  name: string,
  report: StreamReport,
  behind: DeviceStates | undefined,
  failure: PagewireError | undefined,
): Ending {
  const { bytes, understood, within } = report;
  const ending = { understood, within: null, reason: null, error: null };
  if (failure) {
    const { code, message, offset = null } = failure;
    const error = { code, message: `${name}: ${message}`, offset };
    return { ...ending, state: 'failed', error };
  }
  if (report.readError !== undefined) {
    const error = { code: 'READ_FAILED', message: report.readError, offset: bytes };
    return { ...ending, state: 'failed', error };
  }
  if (report.ended === 'open') return { ...ending, ...truncated(name, bytes, within) };
  if (report.ended === 'unknown') {
    const reason = report.reason ?? null;
    const message = `${name}: byte ${understood} of the stream: ${reason}; nothing from there on was looked at`;
    const error = { code: 'STREAM_UNKNOWN', message, offset: understood };
    return { ...ending, state: 'unknown', reason, error };
  }
  if (behind?.isWhole === false) return { ...ending, ...truncated(name, bytes, 'the device states') };
  if (behind?.isWhole === undefined) return { ...ending, state: 'unsure' };
  const opaque = behind.opaque?.bytes ?? 0;
  return { ...ending, state: 'complete', understood: bytes - opaque };
}

function truncated(name: string, bytes: number, within: string): Pick<Ending, 'state' | 'within' | 'error'> {
  const message = `${name}: the QEMU stream ends at byte ${bytes}, before its end (within ${within})`;
  const error = { code: 'STREAM_TRUNCATED', message, offset: bytes };
  return { state: 'truncated', within, error };
}

/** One look at an input: what is in its QEMU stream, and how it ends. */
import { PagewireError } from '../errors.js';
import type { GuestPages, NativeInspection, StreamReport } from '../native.js';
import { decoderBytes } from '../pipeline/settings.js';
import { defaultThreads } from '../pipeline/workers.js';
import { defaultMemoryLimit } from '../policy/memory.js';
import { bytes as amount } from '../telemetry/amounts.js';
import { type DeviceStates, deviceStates } from './devices.js';
import { endingOf } from './ending.js';
import { type InputOptions, type OpenStream, openStream } from '../measuring/input.js';
import { FIXED_BYTES, shares } from './memory.js';
import { type Inspection, type Section, VERSION } from './schema.js';

/** Commands that have a name in QEMU, by number. */
const COMMANDS: Readonly<Record<number, string>> = {
  1: 'OPEN_RETURN_PATH',
  2: 'PING',
  3: 'POSTCOPY_ADVISE',
  11: 'SWITCHOVER_START',
};

/** What was found, without a forecast, and the stream's sample to make one of. */
export interface Look {
  inspection: Inspection;
  sample: NativeInspection;
}

/** Looks at an input: `-` or a path. Rejects where there is no stream to look at; what is wrong with one is told. */
export async function look(spec: string, options: InputOptions = {}): Promise<Look> {
  const limit = options.memoryLimit ?? Math.max(defaultMemoryLimit(), FIXED_BYTES);
  const decoder = decoderBytes(defaultThreads());
  const left = (isPagewire: boolean): ReturnType<typeof shares> =>
    shares(limit, { held: FIXED_BYTES, decoder, isPagewire });
  checkRoom(left(false).rest, limit);
  const stream = await openStream(spec, {
    ...options,
    memoryLimit: left(true).source,
    unpackTo: '| pagewire inspect -',
  });
  try {
    const { rest } = left(stream.container.isPagewire);
    checkRoom(rest, limit);
    const sample = await stream.reader.inspect(stream.head, rest);
    const failure = await stream.done.then(
      () => undefined,
      (error: unknown) => PagewireError.from(error),
    );
    if (options.signal?.aborted) throw new PagewireError('STOPPED', 'stopped', { cause: failure });
    return { inspection: describe(spec, stream, sample, failure), sample };
  } catch (error) {
    throw PagewireError.from(error);
  } finally {
    stream.close();
  }
}

function checkRoom(rest: number, limit: number): void {
  if (rest >= 0) return;
  const message = `this needs up to ${amount(limit - rest)} of memory, over the limit of ${amount(limit)}`;
  throw new PagewireError('OUT_OF_MEMORY', `${message} (--memory-limit)`);
}

function describe(
  spec: string,
  { container }: OpenStream,
  sample: NativeInspection,
  failure: PagewireError | undefined,
): Inspection {
  const report = sample.report();
  const behind = statesOf(report, sample);
  const ending = endingOf(spec === '-' ? 'standard input' : spec, report, behind, failure);
  return {
    version: VERSION,
    file: spec,
    container: {
      libvirt: container.libvirt ?? null,
      pagewire: container.isPagewire,
      fileBytes: container.fileBytes ?? null,
    },
    stream: {
      bytes: report.bytes,
      understood: ending.understood,
      state: ending.state,
      within: ending.within,
      reason: ending.reason,
    },
    error: ending.error,
    machine: report.machine,
    uuid: report.uuid ?? null,
    pageSize: report.guest?.pageSize ?? null,
    pagesElsewhere: report.pagesElsewhere,
    blocks: (report.guest?.blocks ?? []).map(({ name, bytes, tally }) => ({ name, bytes, pages: tally })),
    sections: sectionsOf(report, behind),
    commands: {
      count: report.commandCount,
      first: report.commands.map(({ code, ...rest }) => ({ code, name: COMMANDS[code] ?? null, ...rest })),
    },
    pages: report.guest ? pagesOf(report.guest) : null,
    forecast: null,
  };
}

/** What stands behind the RAM of a stream that was understood up to there; undefined where it is too long to look at. */
function statesOf({ ended, understood, footers }: StreamReport, sample: NativeInspection): DeviceStates | undefined {
  if (ended !== 'devices' && ended !== 'end') return undefined;
  const bytes = sample.deviceState();
  return bytes === null ? undefined : deviceStates(bytes, { offset: understood, behindEnd: ended === 'end', footers });
}

function sectionsOf(report: StreamReport, behind: DeviceStates | undefined): Section[] {
  const { configurationEnd, understood, bytes } = report;
  const sections: Section[] = [];
  // Behind the magic and the version.
  if (configurationEnd > 0) sections.push(section('configuration', { offset: 8, bytes: configurationEnd - 8 }));
  for (const its of report.sections) sections.push(section('ram', { name: 'ram', ...its }));
  for (const its of behind?.devices ?? []) sections.push(section('device', its));
  if (behind?.opaque) sections.push(section('opaque', behind.opaque));
  if (behind?.description) sections.push(section('description', behind.description));
  if (!behind && understood < bytes) {
    sections.push(section('opaque', { offset: understood, bytes: bytes - understood }));
  }
  return sections;
}

/** A section of one of the types: the fields that the others have are null. */
function section(
  type: Section['type'],
  { offset, bytes, ...its }: Pick<Section, 'offset' | 'bytes'> & Partial<Section>,
): Section {
  const none = { name: null, id: null, kind: null, pages: null, count: 1, instance: null, version: null };
  return { type, offset, bytes, ...none, ...its };
}

function pagesOf({ total, passes, passesMerged, resent, contents, deltas }: GuestPages): Inspection['pages'] {
  const { bounds, counts, tooLarge, bytes, withoutBase } = deltas;
  return {
    total,
    passes: passes.map(({ offset, tally }) => ({ offset, pages: tally })),
    passesMerged,
    resent: resent ?? null,
    contents,
    deltas: { sizes: bounds.map((upTo, at) => ({ upTo, pages: counts[at] ?? 0 })), tooLarge, bytes, withoutBase },
  };
}

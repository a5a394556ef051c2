/** What the command line does with files of frames: `-l`, `--salvage`, `page` and `flatten`. */
import { existsSync, statSync } from 'node:fs';
import { isatty } from 'node:tty';
import {
  type ArchiveInfo,
  type ArchiveIndex,
  flatten as startFlattening,
  readInfo,
  readPage,
  salvage as salvageFile,
  type SalvagedFile,
} from '../archive/index.js';
import { CODECS } from '../codecs.js';
import { PagewireError } from '../errors.js';
import { native } from '../native.js';
import { saveProfile } from '../pipeline/save.js';
import { bytes, ratio } from '../telemetry/amounts.js';
import { encodeLine } from '../telemetry/progress.js';
import { encodeStats } from '../telemetry/stats.js';
import { openSource, openTarget } from './places.js';
import { EXIT, exitCode } from '../control/exit.js';
import { plain, print, writeAll } from '../control/standard-streams.js';
import { say } from './run.js';
import { type FileFlags, fileOptions, transfer } from './transfer.js';

/** `pagewire -l FILE…`: each file by itself; the exit code is that of the first that failed. */
export async function list(files: readonly string[]): Promise<number> {
  if (files.length === 0) throw wrong('-l is for files: name one');
  let code: number = EXIT.ok;
  for (const file of files) {
    try {
      print(describe(file, await readInfo(file)));
    } catch (error) {
      const failure = PagewireError.from(error);
      say('', plain(failure.message));
      if (code === EXIT.ok) code = exitCode(failure.code);
    }
  }
  return code;
}

/** What a file is, for people. */
export function describe(file: string, info: ArchiveInfo): string {
  const { index, base } = info;
  const own = info.start > 0 ? `, the last stream of it from byte ${info.start} on` : '';
  // Each base of a chain keeps half of what the file does that refers to it.
  const ofBase = base ? `, and up to ${bytes(native.baseBytes() / 2)} for what it is based on` : '';
  const rows: [string, string][] = [
    ['size', `${bytes(info.fileBytes)} for ${bytes(info.rawBytes)} (${ratio(info.rawBytes, info.fileBytes)})${own}`],
    ['frames', frames(info)],
    ['restoring', `takes ${bytes(info.window)} of memory for references, besides its frames${ofBase}`],
    ['content', `XXH3-128 ${info.contentHash}${info.truncated ? ', of a QEMU stream that ended in the middle' : ''}`],
  ];
  if (base) rows.push(['base', `${base.path || 'a file'}: ${base.identity}`]);
  if (index) rows.push(...guest(index));
  else rows.push(['index', 'none: no page can be read by itself, and it can be no base']);
  return `${file}\n${rows.map(([what, value]) => `  ${what.padEnd(11)}${value}\n`).join('')}`;
}

function frames({ frames, frameSize, index }: ArchiveInfo): string {
  const size = `${frames}, of up to ${bytes(frameSize)}`;
  if (!index) return size;
  const codecs = CODECS.map((codec, number) => ({ codec, count: index.codecs[number] ?? 0 }));
  const packed = codecs.filter(({ count }) => count > 0).map(({ codec, count }) => `${count} with ${codec}`);
  const references = index.matched > 0 ? [`${index.matched} with references`] : [];
  return [size, ...packed, ...references].join(', ');
}

function guest(index: ArchiveIndex): [string, string][] {
  if (index.pageSize === 0) return [['guest', 'none: not a QEMU stream with RAM in it']];
  const ram = index.blocks.reduce((sum, block) => sum + block.bytes, 0);
  const machine = index.machine === '' ? 'a machine without a name' : index.machine;
  const { pagesWhole, pagesFill, pagesPacked } = index;
  const packed = pagesPacked > 0 ? `, ${pagesPacked} in QEMU's own forms` : '';
  const rows: [string, string][] = [
    ['guest', `${machine}, ${bytes(ram)} of RAM: ${index.blocks.map((block) => block.name).join(', ')}`],
    ['pages', `${pagesWhole} of ${bytes(index.pageSize)}, ${pagesFill} of one byte all over${packed}`],
  ];
  if (index.deviceState !== undefined) rows.push(['devices', `from byte ${index.deviceState} of the stream on`]);
  if (index.reason !== undefined) rows.push(['not known', `from byte ${index.understood} on: ${index.reason}`]);
  return rows;
}

/** Refuses to replace what a file is based on: nothing could restore it then. */
export async function checkNotBase(output: string, bases: readonly string[] = []): Promise<void> {
  const target = statSync(output, { throwIfNoEntry: false });
  const [first] = bases;
  if (!target?.isFile() || first === undefined) return;
  // As far as the chain is where it was: what is elsewhere is among those that were named.
  const chain = new Set(bases);
  let next: string | undefined = first;
  while (next !== undefined && existsSync(next)) {
    const { base }: ArchiveInfo = await readInfo(next);
    next = base === undefined || chain.has(base.path) ? undefined : base.path;
    if (next !== undefined) chain.add(next);
  }
  for (const base of chain) {
    const its = statSync(base, { throwIfNoEntry: false });
    if (its?.dev === target.dev && its.ino === target.ino) throw wrong(`${output} is its own base: give another -o`);
  }
}

export interface SalvageFlags {
  output?: string;
  base?: string[];
}

/** `pagewire --salvage FILE [-o OUT]`: 0 where all is whole, 4 where it is not, whatever could be saved. */
export async function salvage(files: readonly string[], { output, base }: SalvageFlags): Promise<number> {
  const [file] = files;
  if (file === undefined || files.length > 1 || file === '-') throw wrong('--salvage is for one FILE');
  if (output === '-') throw wrong('--salvage writes files: give -o OUT');
  const salvaged = await salvageFile(file, { output, bases: base });
  print(report(file, salvaged));
  return salvaged.whole ? EXIT.ok : exitCode('FRAMES_DAMAGED');
}

function report(file: string, { whole, rawBytes, pieces, faults }: SalvagedFile): string {
  const had = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const of = rawBytes === undefined ? 'of an unknown number' : `of ${rawBytes}`;
  const lines = faults.map((fault) => plain(fault));
  let at = 0;
  for (const { offset, length, path } of pieces) {
    if (offset > at) lines.push(`bytes ${at} to ${offset - 1} of the stream are lost`);
    const where = path === undefined ? '' : `: ${path}`;
    lines.push(`bytes ${offset} to ${offset + length - 1} of the stream are whole${where}`);
    at = offset + length;
  }
  if (rawBytes === undefined) lines.push(`what may have stood from byte ${at} of the stream on is lost`);
  else if (rawBytes > at) lines.push(`bytes ${at} to ${rawBytes - 1} of the stream are lost`);
  const all = whole ? 'all is whole' : `${had} bytes ${of} are whole`;
  return `${file}: ${all}\n${lines.map((line) => `  ${line}\n`).join('')}`;
}

/** `pagewire page FILE BLOCK ADDRESS` */
export async function page(file: string, block: string, address: string, base?: string[]): Promise<number> {
  if (!/^(0x[0-9a-f]+|\d+)$/i.test(address)) throw wrong(`${address}: an address such as 0x1000 or 4096 is needed`);
  if (isatty(1)) throw wrong('standard output is a terminal: give a pipe behind it, such as | xxd');
  const content = await readPage(file, { block, address: Number(address), bases: base });
  writeAll(1, content);
  return EXIT.ok;
}

export interface FlattenFlags extends FileFlags {
  output: string;
  base?: string[];
  force: boolean;
  threads?: number;
  memoryLimit?: number;
}

/** `pagewire flatten FILE -o OUT` */
export async function flatten(file: string, flags: FlattenFlags, signal: AbortSignal): Promise<number> {
  const options = fileOptions('flatten', flags);
  const source = openSource(file, options);
  const target = await openTarget(flags.output, signal, { ...options, replace: flags.force, like: source });
  return transfer(source, target, flags, () => {
    const { threads, memoryLimit, base } = flags;
    const profile = saveProfile();
    const settings = { ...profile, threads, memoryLimit, bases: base };
    const { encoder, done } = startFlattening({ ...settings, input: file, output: target.fd, signal });
    return {
      name: 'flatten',
      done,
      streamBytes: () => encoder.snapshot().totals.bytesIn,
      line: (perSecond) => encodeLine(encoder.snapshot(), perSecond),
      stats: (outcome, seconds) => encodeStats(encoder.snapshot(), outcome, seconds),
    };
  });
}

function wrong(message: string): PagewireError {
  return new PagewireError('BAD_OPTION', message);
}

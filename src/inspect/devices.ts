/**
 * Where each device's state stands behind a guest's RAM. The sections do not tell their length; the description that
 * QEMU puts at a stream's end tells the size of every field. It is believed only where the sections' own heads and footers
 * stand exactly where it says.
 */
import { z } from 'zod';

/** A device's section. */
export interface DeviceSection {
  name: string;
  id: number;
  instance: number;
  version: number;
  offset: number;
  /** With its head and its footer. */
  bytes: number;
}

/** What stands behind the RAM. */
export interface DeviceStates {
  devices: DeviceSection[];
  /** What is not known to be whose, up to the end mark or the stream's end. */
  opaque: { offset: number; bytes: number } | undefined;
  /** QEMU's description, with its head. */
  description: { offset: number; bytes: number } | undefined;
  /** Whether the stream has its end: undefined where nothing in it tells. */
  isWhole: boolean | undefined;
}

/** A field, as far as its size goes; what it holds is its device's business. */
const field = z.object({ size: z.int().nonnegative(), array_len: z.int().nonnegative().default(1) });

interface Part {
  fields: z.infer<typeof field>[];
  subsections: (Part & { vmsd_name: string })[];
}

const part: z.ZodType<Part> = z.object({
  fields: z.array(field).default([]),
  get subsections() {
    return z.array(z.intersection(part, z.object({ vmsd_name: z.string() }))).default([]);
  },
});

const device = z.intersection(part, z.object({ name: z.string(), instance_id: z.int() }));

type Described = z.infer<typeof device>;

/** Others may stand in it, which is QEMU's to extend. */
const description = z.object({ devices: z.array(device) });

/** The first bytes of what is behind the RAM, and of what is in it. */
const END_OF_STREAM = 0x00;
const FULL_SECTION = 0x04;
const DESCRIPTION = 0x06;
const COMMAND = 0x08;
const FOOTER = 0x7e;

/** A footer's type and the section's id. */
const FOOTER_BYTES = 5;

/** Type and length of a description. */
const DESCRIPTION_HEAD = 5;

/**
 * Reads what is behind the RAM. `offset` is where it stands in the stream, `behindEnd` says that the end mark was read
 * already, `footers` that sections have them.
 */
export function deviceStates(
  bytes: Buffer,
  { offset, behindEnd, footers }: { offset: number; behindEnd: boolean; footers: boolean },
): DeviceStates {
  const found = behindEnd ? descriptionAt(bytes, 0) : findDescription(bytes);
  // The end mark stands before it.
  const end = found ? found.at - (behindEnd ? 0 : 1) : bytes.length;
  const { devices, upTo } = walk(bytes.subarray(0, end), offset, footers, found?.devices ?? []);
  return {
    devices,
    opaque: upTo < end ? { offset: offset + upTo, bytes: end - upTo } : undefined,
    description: found && { offset: offset + found.at, bytes: bytes.length - found.at },
    isWhole: found !== undefined || (behindEnd ? bytes.length === 0 : endsWithout(bytes, footers)),
  };
}

/** A description, its head among it, that begins here and takes exactly the bytes that are left. */
function descriptionAt(bytes: Buffer, at: number): { at: number; devices: Described[] } | undefined {
  const text = at + DESCRIPTION_HEAD;
  if (text > bytes.length || bytes[at] !== DESCRIPTION) return undefined;
  if (bytes.readUInt32BE(at + 1) !== bytes.length - text) return undefined;
  const devices = parse(bytes.subarray(text).toString('utf8'));
  return devices && { at, devices };
}

/** The description behind an end mark. */
function findDescription(bytes: Buffer): ReturnType<typeof descriptionAt> {
  const mark = Buffer.from([END_OF_STREAM, DESCRIPTION]);
  for (let at = bytes.indexOf(mark); at >= 0; at = bytes.indexOf(mark, at + 1)) {
    const found = descriptionAt(bytes, at + 1);
    if (found) return found;
  }
  return undefined;
}

/** A stream without a description ends with the last device's footer and the end mark; without footers none can tell. */
function endsWithout(bytes: Buffer, footers: boolean): boolean | undefined {
  if (bytes.at(-1) !== END_OF_STREAM) return false;
  if (!footers) return undefined;
  return bytes.at(-1 - FOOTER_BYTES) === FOOTER;
}

function parse(text: string): Described[] | undefined {
  try {
    return description.safeParse(JSON.parse(text)).data?.devices;
  } catch {
    // What is no JSON, or nested deeper than any of QEMU's.
    return undefined;
  }
}

/** Goes from section to section, for as long as each is what the description says. */
function walk(
  bytes: Buffer,
  offset: number,
  footers: boolean,
  described: Described[],
): { devices: DeviceSection[]; upTo: number } {
  const devices: DeviceSection[] = [];
  let at = 0;
  for (const expected of described) {
    at = behindCommands(bytes, at);
    const section = sectionAt(bytes, at, expected, footers);
    if (section === undefined) break;
    devices.push({ ...section, offset: offset + at });
    at += section.bytes;
  }
  return { devices, upTo: behindCommands(bytes, at) };
}

function sectionAt(
  bytes: Buffer,
  at: number,
  { name, instance_id: instance, ...its }: Described,
  footers: boolean,
): Omit<DeviceSection, 'offset'> | undefined {
  const idstr = Buffer.from(name);
  // Type, id, length and text of the name, instance, version.
  const head = 14 + idstr.length;
  const length = head + sizeOf(its) + (footers ? FOOTER_BYTES : 0);
  if (at + length > bytes.length || bytes[at] !== FULL_SECTION) return undefined;
  const section = bytes.subarray(at, at + length);
  const id = section.readUInt32BE(1);
  const isIt =
    section[5] === idstr.length &&
    section.subarray(6, 6 + idstr.length).equals(idstr) &&
    section.readUInt32BE(head - 8) === instance >>> 0;
  if (!isIt) return undefined;
  if (footers && (section[length - FOOTER_BYTES] !== FOOTER || section.readUInt32BE(length - 4) !== id)) {
    return undefined;
  }
  return { name, id, instance, version: section.readUInt32BE(head - 4), bytes: length };
}

/** Bytes of a device's fields and subsections. A subsection begins with its type, its name and a version. */
function sizeOf({ fields, subsections }: Part): number {
  const own = fields.reduce((sum, { size, array_len: count }) => sum + size * count, 0);
  return subsections.reduce((sum, each) => sum + 6 + Buffer.byteLength(each.vmsd_name) + sizeOf(each), own);
}

function behindCommands(bytes: Buffer, at: number): number {
  while (bytes[at] === COMMAND && at + 5 <= bytes.length) {
    const next = at + 5 + bytes.readUInt16BE(at + 3);
    if (next > bytes.length) break;
    at = next;
  }
  return at;
}

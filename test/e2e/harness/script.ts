// Migrations as QEMU plays them, in small: every message of both directions, in an order in which each can be the last
// that comes through. Made after real streams of QEMU 11 (q35); a page has 4 KiB and appears once, so that a proxy must
// give back the very bytes.
import { createHash } from 'node:crypto';

/** A message of one end to the other. */
export interface Message {
  readonly from: 'source' | 'destination';
  readonly name: string;
  readonly bytes: Buffer;
}

export interface Script {
  readonly name: string;
  readonly messages: readonly Message[];
  /** Whose guest runs, where it changes on the way; else the destination's runs, and never the source's again. */
  readonly turn?: Turn;
}

/** How a guest changes hosts. */
export interface Turn {
  /** As soon as the source sends this, its guest stands. */
  readonly stops: string;
  /** As soon as the source has sent this, it never lets its guest run again, whatever comes of it. */
  readonly leaves?: string;
  /** As soon as this has come whole, the destination's guest runs. */
  readonly runs: string;
  /** Once this may have come, nobody but the destination knows whether its guest runs. */
  readonly doubtful: string;
  /** As soon as this has come, the source never lets its guest run again. */
  readonly settles: string;
}

const PAGE = 4096;
const PAGES = 48;

const be16 = (...values: number[]): Buffer => Buffer.from(values.flatMap((value) => [value >>> 8, value & 255]));
const be32 = (value: number): Buffer =>
  Buffer.from([value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255]);
const be64 = (value: number): Buffer => Buffer.concat([be32(Math.floor(value / 2 ** 32)), be32(value >>> 0)]);
const text = (value: string): Buffer => Buffer.concat([Buffer.from([value.length]), Buffer.from(value, 'latin1')]);

/** Bytes that no codec makes smaller, the same each time. */
function noise(seed: string, bytes: number): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0; parts.length * 64 < bytes; i += 1) parts.push(createHash('sha512').update(`${seed} ${i}`).digest());
  return Buffer.concat(parts).subarray(0, bytes);
}

// ---- forward

const RAM = 2;
const [START, PART, END, FULL, FOOTER] = [1, 2, 3, 4, 0x7e];
const [MEM_SIZE, PAGE_FLAG, EOS, CONTINUE] = [0x04, 0x08, 0x10, 0x20];
const BLOCK = 'pc.ram';

const footer = (id: number): Buffer => Buffer.concat([Buffer.from([FOOTER]), be32(id)]);
const named = (type: number, id: number, name: string, version: number): Buffer =>
  Buffer.concat([Buffer.from([type]), be32(id), text(name), be32(0), be32(version)]);

const header = Buffer.concat([Buffer.from('QEVM'), be32(3), Buffer.from([7]), be32(11), Buffer.from('pc-q35-11.1')]);
const setup = Buffer.concat([
  named(START, RAM, 'ram', 4),
  ...[be64((PAGES * PAGE) | MEM_SIZE), text(BLOCK), be64(PAGES * PAGE)],
  ...[be64(EOS), footer(RAM)],
]);
const endOfStream = Buffer.from([0]);

/** A section with these pages. */
function pages(type: number, from: number, to: number): Buffer {
  const records: Buffer[] = [];
  for (let page = from; page < to; page += 1) {
    records.push(
      page === from
        ? Buffer.concat([be64((page * PAGE) | PAGE_FLAG), text(BLOCK)])
        : be64((page * PAGE) | PAGE_FLAG | CONTINUE),
      noise(`page ${page}`, PAGE),
    );
  }
  return Buffer.concat([Buffer.from([type]), be32(RAM), ...records, be64(EOS), footer(RAM)]);
}

function device(id: number, name: string, bytes: number): Buffer {
  return Buffer.concat([named(FULL, id, name, 1), noise(name, bytes), footer(id)]);
}

const command = (number: number, data: Buffer = Buffer.alloc(0)): Buffer =>
  Buffer.concat([Buffer.from([8]), be16(number, data.length), data]);
const OPEN_RETURN_PATH = command(1);
const ping = (value: number): Buffer => command(2, be32(value));
const ADVISE = command(3, Buffer.concat([be64(PAGE), be64(PAGE)]));
const LISTEN = command(4);
const RUN = command(5);
const discard = (start: number, length: number): Buffer =>
  command(6, Buffer.concat([Buffer.from([0]), text(BLOCK), Buffer.from([0]), be64(start), be64(length)]));
const packaged = (bytes: Buffer): Buffer => Buffer.concat([command(7, be32(bytes.length)), bytes]);
const RESUME = command(9);
const RECV_BITMAP = command(10, text(BLOCK));
const SWITCHOVER_START = command(11);

// ---- back

const answer = (type: number, data: Buffer): Buffer => Buffer.concat([be16(type, data.length), data]);
const SHUT = answer(1, be32(0));
const pong = (value: number): Buffer => answer(2, be32(value));
const RESUME_ACK = answer(6, be32(1));
/** Of a block: a bit for each of its pages, little-endian, and what ends it, behind the message. */
const bitmap = (bits: bigint): Buffer => {
  const words = Buffer.alloc(8);
  words.writeBigUInt64LE(bits);
  return Buffer.concat([answer(5, text(BLOCK)), be64(words.length), words, Buffer.from('0123456789abcdef', 'hex')]);
};
const requestPages = (start: number, length: number): Buffer =>
  answer(3, Buffer.concat([be64(start), be32(length), text(BLOCK)]));

// ---- the scripts

const there = (name: string, bytes: Buffer): Message => ({ from: 'source', name, bytes });
const back = (name: string, bytes: Buffer): Message => ({ from: 'destination', name, bytes });

/** A message in two parts: what comes between them finds it half done. */
function halves(name: string, bytes: Buffer): Message[] {
  const middle = Math.floor(bytes.length / 2);
  return [there(`half of ${name}`, bytes.subarray(0, middle)), there(name, bytes.subarray(middle))];
}

const description = Buffer.from(JSON.stringify({ configuration: {}, devices: [], page_size: PAGE }));

export const precopy = {
  name: 'precopy',
  turn: { stops: 'SWITCHOVER_START', runs: 'end of stream', doubtful: 'half of device state', settles: 'SHUT' },
  messages: [
    there('header', header),
    there('OPEN_RETURN_PATH', OPEN_RETURN_PATH),
    there('PING 1', ping(1)),
    back('PONG 1', pong(1)),
    there('RAM setup', setup),
    there('RAM', pages(PART, 0, 32)),
    there('SWITCHOVER_START', SWITCHOVER_START),
    there('end of RAM', pages(END, 32, PAGES)),
    ...halves('device state', Buffer.concat([device(3, 'timer', 70), device(4, 'cpu', 12_000)])),
    there('end of stream', Buffer.concat([endOfStream, Buffer.from([6]), be32(description.length), description])),
    back('SHUT', SHUT),
  ],
} satisfies Script;

/** What follows where the guest runs at the destination: pages from this one on, one of them asked for, and the end. */
const rest = (from: number): Message[] => [
  back('REQ_PAGES_ID', requestPages(40 * PAGE, PAGE)),
  there('the page asked for', pages(PART, 40, 41)),
  there('pages', Buffer.concat([pages(PART, from, 40), pages(PART, 41, PAGES)])),
  there('end of RAM', pages(END, 0, 0)),
  there('end of stream', endOfStream),
  back('SHUT', SHUT),
];

/** `answers`: what the destination says of the package last. */
const postcopyMessages = (inPackage: Buffer, ...answers: Message[]): Message[] => [
  there('header', header),
  there('OPEN_RETURN_PATH', OPEN_RETURN_PATH),
  there('PING 1', ping(1)),
  back('PONG 1', pong(1)),
  there('POSTCOPY_ADVISE', ADVISE),
  there('RAM setup', setup),
  there('RAM', pages(PART, 0, 24)),
  there('SWITCHOVER_START', SWITCHOVER_START),
  there('POSTCOPY_RAM_DISCARD', discard(24 * PAGE, (PAGES - 24) * PAGE)),
  there('PING 2', ping(2)),
  back('PONG 2', pong(2)),
  ...halves('package', packaged(inPackage)),
  there('PING 4', ping(4)),
  back('PONG 4', pong(4)),
  back('PONG 3', pong(3)),
  ...answers,
  ...rest(24),
];

const loaded = Buffer.concat([LISTEN, device(3, 'timer', 70), device(4, 'cpu', 12_000), ping(3)]);

export const postcopy = {
  name: 'postcopy',
  turn: { stops: 'SWITCHOVER_START', runs: 'package', doubtful: 'package', settles: 'PONG 0x42' },
  messages: postcopyMessages(Buffer.concat([loaded, ping(0x42), RUN]), back('PONG 0x42', pong(0x42))),
} satisfies Script;

/**
 * The same of QEMU 7.2 and 10: the package asks for no word before the guest runs, and once it is sent, a fault pauses the
 * source, and it does not run again.
 */
export const postcopyBefore11 = {
  name: 'postcopy-before-11',
  turn: { stops: 'SWITCHOVER_START', leaves: 'package', runs: 'package', doubtful: 'header', settles: 'PONG 3' },
  messages: postcopyMessages(Buffer.concat([loaded, RUN])),
} satisfies Script;

/** Postcopy that was interrupted goes on over a new connection. */
export const recovery: Script = {
  name: 'recovery',
  messages: [
    there('RECV_BITMAP', RECV_BITMAP),
    back('the bitmap', bitmap((1n << 30n) - 1n)),
    ...halves('POSTCOPY_RESUME', RESUME),
    back('RESUME_ACK', RESUME_ACK),
    ...rest(30),
  ],
};

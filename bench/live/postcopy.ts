// Two scripted ends of a migration in postcopy: a destination that asks for pages, a source that answers at once.
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { MAGIC, RecordFlag, SWITCHOVER_START, Section, VERSION } from '#src/simulator/record.js';
import { within } from '#src/demo/time.js';

const PAGE = 4096;
const BLOCK = 'pc.ram';
const RAM_BYTES = 256 << 20;
const RAM_SECTION = 2;
/** Pages that go over before the guest is switched over. */
const PRECOPY_PAGES = 256;

/** Commands of the stream. */
const Command = { OPEN_RETURN_PATH: 1, PING: 2, ADVISE: 3, LISTEN: 4, RUN: 5, DISCARD: 6, PACKAGED: 7 } as const;
/** Messages of the return path. */
const Message = { SHUT: 1, PONG: 2, REQUEST_IN_BLOCK: 3, REQUEST: 4 } as const;

const be16 = (value: number): Buffer => Buffer.from([value >> 8, value & 0xff]);
function be32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
function be64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}
const u8 = (value: number): Buffer => Buffer.from([value]);
const named = (name: string): Buffer => Buffer.concat([u8(name.length), Buffer.from(name)]);

function command(number: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([u8(Section.COMMAND), be16(number), be16(data.length), data]);
}
function message(type: number, ...data: Buffer[]): Buffer {
  const body = Buffer.concat(data);
  return Buffer.concat([be16(type), be16(body.length), body]);
}
const footer = Buffer.concat([u8(Section.FOOTER), be32(RAM_SECTION)]);
const endOfSection = Buffer.concat([be64(RecordFlag.EOS), footer]);

/** What a page holds: rows as a database has them, no two pages alike. */
function makePage(index: number): Buffer {
  const noise = randomBytes(PAGE / 4).toString('latin1');
  return Buffer.alloc(PAGE, `page=${index} ${noise}|`, 'latin1');
}
/** A page's record; the first of a section names the block. */
function record(index: number, page: Buffer, first = false): Buffer {
  const flags = RecordFlag.PAGE | (first ? 0 : RecordFlag.CONTINUE);
  return Buffer.concat([be64(index * PAGE + flags), ...(first ? [named(BLOCK)] : []), page]);
}
const RECORD = 8 + PAGE;

const pages = Array.from({ length: 1024 }, (_, index) => makePage(index));
const pageAt = (index: number): Buffer => pages[index % pages.length] ?? Buffer.alloc(0);

/** All that a QEMU 11 sends until its postcopy pages, in the pieces between which it waits for nothing. */
function beginning(): Buffer {
  const machine = 'pc-q35-11.1';
  const setup = [
    ...[u8(Section.START), be32(RAM_SECTION), named('ram'), be32(0), be32(4)],
    ...[be64(RAM_BYTES + RecordFlag.MEM_SIZE), named(BLOCK), be64(RAM_BYTES), endOfSection],
  ];
  const precopy = Array.from({ length: PRECOPY_PAGES }, (_, index) => record(index, pageAt(index), index === 0));
  const discard = Buffer.concat([u8(0), named(BLOCK), u8(0), be64(0), be64(PAGE)]);
  const device = [
    u8(Section.FULL),
    be32(7),
    named('timer'),
    be32(0),
    be32(2),
    randomBytes(24),
    u8(Section.FOOTER),
    be32(7),
  ];
  const packaged = Buffer.concat([
    ...[command(Command.LISTEN), ...device, command(Command.PING, be32(3))],
    ...[command(Command.PING, be32(0x42)), command(Command.RUN)],
  ]);
  return Buffer.concat([
    ...[be32(MAGIC), be32(VERSION), u8(Section.CONFIGURATION), be32(machine.length), Buffer.from(machine)],
    ...[command(Command.OPEN_RETURN_PATH), command(Command.PING, be32(1))],
    ...[command(Command.ADVISE, Buffer.concat([be64(PAGE), be64(PAGE)])), ...setup],
    ...[u8(Section.PART), be32(RAM_SECTION), ...precopy, endOfSection],
    ...[command(SWITCHOVER_START), command(Command.DISCARD, discard), command(Command.PING, be32(2))],
    ...[command(Command.PACKAGED, be32(packaged.length)), packaged, command(Command.PING, be32(4))],
    // a section that stays open: an answer is complete without an end of section behind it
    ...[u8(Section.PART), be32(RAM_SECTION), record(PRECOPY_PAGES, pageAt(PRECOPY_PAGES), true)],
  ]);
}
const ending = Buffer.concat([...[endOfSection, u8(Section.END), be32(RAM_SECTION), endOfSection, u8(Section.EOF)]]);
const shut = message(Message.SHUT, be32(0));

/** Pages that were asked for come from here on, those that come unasked before. */
const ASKED_FROM = RAM_BYTES / PAGE / 2;

/** Bytes as they come, to be taken in pieces of a known length. */
class Incoming {
  private held: Buffer = Buffer.alloc(0);
  private wanted: { length: number; done: (bytes: Buffer) => void; failed: (error: Error) => void } | undefined;
  private error: Error | undefined;

  constructor(
    private readonly name: string,
    socket: Socket,
  ) {
    socket.on('data', (bytes) => {
      this.held = this.held.length === 0 ? bytes : Buffer.concat([this.held, bytes]);
      this.serve();
    });
    socket.once('error', (error) => {
      this.fail(error);
    });
    socket.once('end', () => {
      this.fail(new Error(`${name}: the stream ended too early`));
    });
  }

  private serve(): void {
    if (this.wanted === undefined || this.held.length < this.wanted.length) return;
    const { length, done } = this.wanted;
    this.wanted = undefined;
    const bytes = this.held.subarray(0, length);
    this.held = this.held.subarray(length);
    done(bytes);
  }

  private fail(error: Error): void {
    this.error ??= error;
    this.wanted?.failed(this.error);
  }

  take(length: number): Promise<Buffer> {
    const bytes = new Promise<Buffer>((done, failed) => {
      if (this.error !== undefined && this.held.length < length) {
        failed(this.error);
        return;
      }
      this.wanted = { length, done, failed };
      this.serve();
    });
    return within(bytes, 30, () => `${this.name} waits for ${length} bytes and has ${this.held.length}`);
  }
}

/** Answers each request with its page at once, until the destination has shut the return path. */
async function answer(socket: Socket, requests: number, pagesPerSecond: number): Promise<void> {
  const incoming = new Incoming('the source', socket);
  socket.write(beginning());
  let unasked = PRECOPY_PAGES + 1;
  let asked = 0;
  const began = performance.now();
  let sent = 0;
  const background = setInterval(() => {
    const due = ((performance.now() - began) / 1000) * pagesPerSecond;
    for (; sent < due && asked < requests; sent++, unasked++) socket.write(record(unasked, pageAt(unasked)));
  }, 1);
  try {
    for (;;) {
      const head = await incoming.take(4);
      const [type, body] = [head.readUInt16BE(0), await incoming.take(head.readUInt16BE(2))];
      if (type === Message.SHUT) return;
      if (type === Message.PONG) continue;
      const index = Number(body.readBigUInt64BE(0)) / PAGE;
      socket.write(record(index, pageAt(index)));
      asked += 1;
      if (asked === requests) socket.end(ending);
    }
  } finally {
    clearInterval(background);
  }
}

/** Asks for one page after the other; answers how long each took, in milliseconds. */
async function ask(socket: Socket, requests: number): Promise<number[]> {
  const incoming = new Incoming('the destination', socket);
  await incoming.take(beginning().length);
  socket.write(Buffer.concat([1, 2, 4, 3, 0x42].map((value) => message(Message.PONG, be32(value)))));
  const taken: number[] = [];
  for (let count = 0; count < requests; count++) {
    const index = ASKED_FROM + count;
    const request =
      count === 0
        ? message(Message.REQUEST_IN_BLOCK, be64(index * PAGE), be32(PAGE), named(BLOCK))
        : message(Message.REQUEST, be64(index * PAGE), be32(PAGE));
    const began = performance.now();
    socket.write(request);
    for (;;) {
      const got = await incoming.take(RECORD);
      const arrived = performance.now();
      const at = Number(got.readBigUInt64BE(0) >> 12n);
      if (!got.subarray(8).equals(pageAt(at))) throw new Error(`page ${at} came as another`);
      if (at !== index) continue; // one that nobody asked for
      taken.push(arrived - began);
      break;
    }
  }
  await drain(incoming);
  const ended = once(socket, 'close');
  socket.end(shut);
  await within(ended, 30, () => 'the source does not close');
  return taken;
}

/** Takes what comes unasked until the stream's end. */
async function drain(incoming: Incoming): Promise<void> {
  for (;;) {
    const word = await incoming.take(8);
    if ((Number(word.readBigUInt64BE(0)) & RecordFlag.PAGE) === 0) break;
    await incoming.take(PAGE);
  }
  const rest = await incoming.take(ending.length - 8);
  if (!rest.equals(ending.subarray(8))) throw new Error('the stream does not end as it should');
}

/**
 * Runs a migration between two sockets that are connected to each other, in whatever way; the destination's may be there
 * only after the first bytes have come. Answers how long each of the
 * destination's requests took, in milliseconds. Meanwhile the source sends pages that nobody asked for.
 */
export async function requestPages(
  source: Socket,
  destination: Promise<Socket>,
  { requests, pagesPerSecond }: { requests: number; pagesPerSecond: number },
): Promise<number[]> {
  const [taken] = await Promise.all([
    destination.then((socket) => ask(socket, requests)),
    answer(source, requests, pagesPerSecond),
  ]);
  source.destroy();
  return taken;
}

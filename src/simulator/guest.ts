import { createHash } from 'node:crypto';
import { Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Content, PAGE_SIZE, PAGE_WORDS, ROWS_PER_PAGE } from './content.js';
import { Random } from './random.js';
import { RecordFlag, Section, SWITCHOVER_START, MAGIC, VERSION } from './record.js';
import { changePage, pickChange, type Workload } from './workload.js';

export interface SimulatedGuestOptions {
  /** The same seed (and options) give the same stream, byte for byte. Default 1. */
  seed?: number;
  /** Size of `pc.ram`, a multiple of 4096; the other blocks add 17 MiB. Default 128 MiB. */
  ramBytes?: number;
  /** How the guest dirties its memory. Default `mixed`. */
  workload?: Workload;
  /** Passes over dirtied pages after the bulk pass; the last of them goes over while the guest stands. Default 5. */
  passes?: number;
  /** Pages that the guest dirties between two passes. Default: half of its working set (`idle`: at most 64). */
  dirtyPagesPerPass?: number;
  /** The machine type that the stream names. Types from 10.0 on announce the switchover. Default `pc-q35-10.0`. */
  machine?: string;
  /** Size of the chunks that `stream()` yields. Default 256 KiB. */
  chunkBytes?: number;
}

/** A block of the guest's memory. */
export interface RamBlock {
  readonly name: string;
  readonly bytes: Buffer;
}

/** What the guest has sent so far. */
export interface SentCounts {
  bytes: number;
  /** Records with a page's 4096 bytes. */
  pages: number;
  /** Records that say that a page is zero. */
  zeroPages: number;
  /** Passes begun, the bulk pass among them. */
  passes: number;
}

interface MutableBlock extends RamBlock {
  readonly words: Uint32Array;
}

/** The blocks of a q35 guest with QEMU's default devices, beside `pc.ram`, and what fills them. */
const OTHER_BLOCKS: readonly [name: string, bytes: number, content: 'screen' | 'rom'][] = [
  ['vga.vram', 16 << 20, 'screen'],
  ['/rom@etc/acpi/tables', 128 << 10, 'rom'],
  ['pc.bios', 256 << 10, 'rom'],
  ['0000:00:02.0/e1000e.rom', 256 << 10, 'rom'],
  ['pc.rom', 128 << 10, 'rom'],
  ['0000:00:01.0/vga.rom', 64 << 10, 'rom'],
  ['/rom@etc/table-loader', 4 << 10, 'rom'],
  ['/rom@etc/acpi/rsdp', 4 << 10, 'rom'],
];

/** Device states that follow the memory: name, version, bytes. Only their devices know how long each is. */
const DEVICES: readonly [name: string, version: number, bytes: number][] = [
  ['timer', 2, 24],
  ['slirp', 4, 180],
  ['cpu_common', 1, 8],
  ['cpu', 12, 7412],
  ['kvm-tpr-opt', 1, 1124],
  ['apic', 3, 181],
  ['0000:00:02.0/e1000e', 1, 50_321],
  ['0000:00:1f.2/ich9_ahci', 1, 4930],
  ['i8042', 3, 10],
  ['0000:00:01.0/vga', 2, 931],
  ['ps2kbd', 3, 290],
];

/** What `pc.ram` is filled with, in runs of pages. The rows are the working set: what the guest dirties. */
const CONTENTS: readonly (readonly ['rows' | 'program' | 'incompressible' | 'zero', number])[] = [
  ['rows', 45],
  ['program', 20],
  ['incompressible', 10],
  ['zero', 25],
];

/** Section id of RAM in a guest with default devices. */
const RAM_SECTION = 2;
const ZERO_PAGE = Buffer.alloc(PAGE_SIZE);

/**
 * A guest that is migrated without QEMU: it holds memory, dirties it between the passes as its workload says, and
 * writes the stream that a QEMU source would write. After the stream its memory is what a destination must have.
 */
export class SimulatedGuest {
  readonly blocks: readonly RamBlock[];
  readonly machine: string;
  readonly sent: SentCounts = { bytes: 0, pages: 0, zeroPages: 0, passes: 0 };

  readonly #blocks: readonly MutableBlock[];
  readonly #random: Random;
  readonly #content: Content;
  readonly #workload: Workload;
  readonly #passes: number;
  readonly #chunkBytes: number;
  readonly #dirtyPagesPerPass: number;
  /** Indexes of the pages of `pc.ram` that the guest works on. */
  readonly #workingSet: Uint32Array;
  #streamed = false;

  constructor(options: SimulatedGuestOptions = {}) {
    const { seed = 1, ramBytes = 128 << 20, workload = 'mixed', passes = 5 } = options;
    if (!Number.isSafeInteger(ramBytes) || ramBytes <= 0 || ramBytes % PAGE_SIZE !== 0) {
      throw new RangeError(`ramBytes must be a positive multiple of ${PAGE_SIZE}, not ${ramBytes}`);
    }
    this.machine = options.machine ?? 'pc-q35-10.0';
    this.#random = new Random(seed);
    this.#content = new Content(this.#random);
    this.#workload = workload;
    this.#passes = passes;
    this.#chunkBytes = options.chunkBytes ?? 256 << 10;

    const ram = makeBlock('pc.ram', ramBytes);
    this.#workingSet = this.#fillRam(ram);
    const others = OTHER_BLOCKS.map(([name, bytes, content]) => {
      const block = makeBlock(name, bytes);
      this.#fillOther(block, content);
      return block;
    });
    this.#blocks = this.blocks = [ram, ...others];

    const usual = workload === 'idle' ? 64 : Math.ceil(this.#workingSet.length / 2);
    this.#dirtyPagesPerPass = Math.min(options.dirtyPagesPerPass ?? usual, this.#workingSet.length);
  }

  /** Digest (SHA-256, hex) of each block's present content, by the block's name. */
  digests(): Map<string, string> {
    return new Map(this.blocks.map(({ name, bytes }) => [name, createHash('sha256').update(bytes).digest('hex')]));
  }

  /** The migration stream, once, in chunks that are the caller's to keep. */
  *stream(): Generator<Buffer, void, void> {
    if (this.#streamed) throw new Error('a guest is migrated once: make another one with the same seed');
    this.#streamed = true;
    const out = new ChunkWriter(this.#chunkBytes, this.sent);

    out.be32(MAGIC);
    out.be32(VERSION);
    out.u8(Section.CONFIGURATION);
    out.be32(this.machine.length);
    out.text(this.machine);
    this.#writeSetup(out);

    const everyPage = this.#blocks.map(({ bytes }) =>
      Uint32Array.from({ length: bytes.length / PAGE_SIZE }, (_, i) => i),
    );
    yield* this.#pass(out, everyPage, Section.PART);
    for (let pass = 1; pass <= this.#passes; pass++) {
      const dirty = this.#dirtyMemory();
      const isLast = pass === this.#passes;
      if (isLast && announcesSwitchover(this.machine)) {
        out.u8(Section.COMMAND);
        out.be16(SWITCHOVER_START);
        out.be16(0);
      }
      yield* this.#pass(out, dirty, isLast ? Section.END : Section.PART);
    }
    if (this.#passes === 0) yield* this.#pass(out, [], Section.END);

    this.#writeDevices(out);
    out.flush();
    yield* out.take();
  }

  /** Writes the stream to a Node stream, waiting whenever that is full, and ends it. */
  async writeTo(target: Writable): Promise<void> {
    await pipeline(Readable.from(this.stream(), { highWaterMark: 1 }), target);
  }

  #fillRam(ram: MutableBlock): Uint32Array {
    const pages = ram.bytes.length / PAGE_SIZE;
    const working: number[] = [];
    for (let index = 0; index < pages;) {
      const kind = this.#random.pick(CONTENTS);
      const end = Math.min(pages, index + 8 + this.#random.below(250));
      for (; index < end; index++) {
        const page = ram.words.subarray(index * PAGE_WORDS, (index + 1) * PAGE_WORDS);
        if (kind === 'rows') {
          this.#content.rows(page, index * ROWS_PER_PAGE, ROWS_PER_PAGE);
          working.push(index);
        } else if (kind === 'program') this.#content.program(page);
        else if (kind === 'incompressible') this.#content.incompressible(page);
      }
    }
    // A very small guest can be without rows: it then works on all that it has.
    return working.length > 0 ? Uint32Array.from(working) : Uint32Array.from({ length: pages }, (_, i) => i);
  }

  #fillOther(block: MutableBlock, content: 'screen' | 'rom'): void {
    // A text screen uses the first pages of its memory; a rom is filled for the most part.
    const pages = block.bytes.length / PAGE_SIZE;
    const used = content === 'screen' ? Math.min(16, pages) : Math.ceil(pages * 0.8);
    for (let index = 0; index < used; index++) {
      this.#content.program(block.words.subarray(index * PAGE_WORDS, (index + 1) * PAGE_WORDS));
    }
  }

  /** Lets the guest work; answers the pages that it wrote to, for each block, in ascending order. */
  #dirtyMemory(): Uint32Array[] {
    const random = this.#random;
    const [ram, screen] = this.#blocks;
    if (ram === undefined || screen === undefined) throw new Error('a guest has blocks');

    // A partial shuffle chooses distinct pages.
    const working = this.#workingSet;
    for (let i = 0; i < this.#dirtyPagesPerPass; i++) {
      const j = i + random.below(working.length - i);
      const chosen = working[j]!;
      working[j] = working[i]!;
      working[i] = chosen;
    }
    const dirty = working.slice(0, this.#dirtyPagesPerPass).sort();
    for (const index of dirty) changePage(pickChange(this.#workload, random), ram.words, index, random, this.#content);

    const onScreen = Uint32Array.of(random.below(8), 8 + random.below(8));
    for (const index of onScreen) changePage('sparse', screen.words, index, random, this.#content);
    return [dirty, onScreen];
  }

  #writeSetup(out: ChunkWriter): void {
    out.u8(Section.START);
    out.be32(RAM_SECTION);
    out.name('ram');
    out.be32(0); // instance
    out.be32(4); // version
    out.be64(
      this.#blocks.reduce((total, { bytes }) => total + bytes.length, 0),
      RecordFlag.MEM_SIZE,
    );
    for (const { name, bytes } of this.#blocks) {
      out.name(name);
      out.be64(bytes.length, 0);
    }
    endRamSection(out);
  }

  /** A pass over the pages of each block, in RAM sections of some length; the last one is of the kind `last`. */
  *#pass(out: ChunkWriter, pages: readonly Uint32Array[], last: number): Generator<Buffer, void, void> {
    this.sent.passes++;
    const beginSection = (kind: number): void => {
      out.u8(kind);
      out.be32(RAM_SECTION);
    };
    // QEMU ends a section after some 50 ms; in between stands whatever the link has taken.
    const sectionLength = (): number => (last === Section.END ? Infinity : 200 + this.#random.below(2000));
    let left = sectionLength();
    let named: MutableBlock | undefined;
    beginSection(last);
    for (const [i, indexes] of pages.entries()) {
      const block = this.#blocks[i]!;
      for (const index of indexes) {
        if (left-- <= 0) {
          endRamSection(out);
          beginSection(last);
          left = sectionLength();
        }
        this.#writePage(out, block, index, named === block);
        named = block;
        if (out.isReady) yield* out.take();
      }
    }
    endRamSection(out);
  }

  #writePage(out: ChunkWriter, block: MutableBlock, index: number, isSameBlock: boolean): void {
    const at = index * PAGE_SIZE;
    const isZero =
      block.words[index * PAGE_WORDS] === 0 && block.bytes.compare(ZERO_PAGE, 0, PAGE_SIZE, at, at + PAGE_SIZE) === 0;
    out.be64(at, (isZero ? RecordFlag.ZERO : RecordFlag.PAGE) | (isSameBlock ? RecordFlag.CONTINUE : 0));
    if (!isSameBlock) out.name(block.name);
    if (isZero) {
      out.u8(0);
      this.sent.zeroPages++;
    } else {
      out.bytes(block.bytes.subarray(at, at + PAGE_SIZE));
      this.sent.pages++;
    }
  }

  #writeDevices(out: ChunkWriter): void {
    const state = new Uint32Array((1 << 16) / 4);
    for (const [i, [name, version, bytes]] of DEVICES.entries()) {
      const id = RAM_SECTION + 1 + i;
      out.u8(Section.FULL);
      out.be32(id);
      out.name(name);
      out.be32(0);
      out.be32(version);
      state.fill(0);
      for (let at = 0; at < state.length; at += 1 + this.#random.below(8)) state[at] = this.#random.next();
      out.bytes(Buffer.from(state.buffer, 0, bytes));
      out.u8(Section.FOOTER);
      out.be32(id);
    }
    out.u8(Section.EOF);
    const description = JSON.stringify({
      configuration: { vmsd_name: 'configuration', version: 1, fields: [] },
      page_size: PAGE_SIZE,
      devices: DEVICES.map(([name, version, size]) => ({ name, instance_id: 0, vmsd_name: name, version, size })),
    });
    out.u8(Section.DESCRIPTION);
    out.be32(description.length);
    out.text(description);
  }
}

function makeBlock(name: string, size: number): MutableBlock {
  const memory = new ArrayBuffer(size);
  return { name, bytes: Buffer.from(memory), words: new Uint32Array(memory) };
}

/** `pc-q35-10.0`, `pc-i440fx-11.1`, …: from 10.0 on. */
function announcesSwitchover(machine: string): boolean {
  return Number(/-(\d+)\.\d+$/.exec(machine)?.[1] ?? 0) >= 10;
}

function endRamSection(out: ChunkWriter): void {
  out.be64(0, RecordFlag.EOS);
  out.u8(Section.FOOTER);
  out.be32(RAM_SECTION);
}

/** Collects what is written into chunks of one size, cut wherever they are full. */
class ChunkWriter {
  readonly #size: number;
  readonly #sent: SentCounts;
  #chunk: Buffer;
  #used = 0;
  #ready: Buffer[] = [];

  constructor(size: number, sent: SentCounts) {
    this.#size = size;
    this.#sent = sent;
    this.#chunk = Buffer.allocUnsafeSlow(size);
  }

  get isReady(): boolean {
    return this.#ready.length > 0;
  }

  /** The chunks that are complete. */
  take(): Buffer[] {
    const ready = this.#ready;
    this.#ready = [];
    return ready;
  }

  /** Makes what is there a chunk, full or not. */
  flush(): void {
    if (this.#used === 0) return;
    this.#ready.push(this.#chunk.subarray(0, this.#used));
    this.#sent.bytes += this.#used;
    this.#chunk = Buffer.allocUnsafeSlow(this.#size);
    this.#used = 0;
  }

  bytes(source: Buffer): void {
    let from = 0;
    while (from < source.length) {
      const copied = source.copy(this.#chunk, this.#used, from);
      from += copied;
      this.#used += copied;
      if (this.#used === this.#size) this.flush();
    }
  }

  u8(value: number): void {
    this.#chunk[this.#used++] = value;
    if (this.#used === this.#size) this.flush();
  }

  be16(value: number): void {
    this.u8(value >>> 8);
    this.u8(value & 0xff);
  }

  be32(value: number): void {
    this.be16(value >>> 16);
    this.be16(value & 0xffff);
  }

  /** A number up to 2^53 with flags in its low bits. */
  be64(value: number, flags: number): void {
    this.be32(Math.floor(value / 0x1_0000_0000));
    this.be32((value | 0 | flags) >>> 0);
  }

  text(value: string): void {
    this.bytes(Buffer.from(value, 'latin1'));
  }

  /** A name after its length in a byte. */
  name(value: string): void {
    this.u8(value.length);
    this.text(value);
  }
}

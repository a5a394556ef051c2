import { createHash, type Hash } from 'node:crypto';
import { PAGE_SIZE } from './content.js';
import { FLAG_BITS, MAGIC, RecordFlag, Section, VERSION } from './record.js';

/** What a destination has loaded. */
export interface LoadedCounts {
  bytes: number;
  pages: number;
  /** Pages that were told to be filled with one byte. */
  fillPages: number;
  /** Pages that came as the difference to what was there (XBZRLE). */
  deltaPages: number;
  /** Bytes of those differences. */
  deltaBytes: number;
}

/** The stream cannot be loaded: a destination QEMU would refuse it, or it is none that this one knows. */
export class LoadError extends Error {
  readonly code = 'ERR_SIMULATED_LOAD';
  override readonly name = 'LoadError';
}

/** A step of the parser: takes what it needs from the front of the input and says what comes next. */
type Step = () => Step | undefined;

/**
 * The other end of a simulated migration: loads a QEMU stream into memory as a destination QEMU does (raw pages, filled
 * pages, XBZRLE deltas). Written from the description of the format alone, byte by byte and in TypeScript, so that it
 * can judge what the native core writes. Device states have no length, so from the first one on the stream is only
 * hashed. Memory that was never sent is zero, as in QEMU.
 */
export class SimulatedDestination {
  machine = '';
  readonly loaded: LoadedCounts = { bytes: 0, pages: 0, fillPages: 0, deltaPages: 0, deltaBytes: 0 };

  readonly #blocks = new Map<string, Buffer>();
  readonly #devices: Hash = createHash('sha256');
  #deviceBytes = 0;
  #input: Buffer = Buffer.alloc(0);
  #at = 0;
  #offset = 0;
  #ramSection = -1;
  #section = -1;
  #block: Buffer | undefined;

  #next: Step = () => this.#header();

  /** Whether the stream has come to the device states, so that all memory is loaded. */
  get isRamComplete(): boolean {
    return this.#deviceBytes > 0;
  }

  /** Loads the next bytes of the stream, however they are cut. */
  push(chunk: Uint8Array): void {
    this.loaded.bytes += chunk.length;
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const rest = this.#input.subarray(this.#at);
    this.#offset += this.#at;
    this.#input = rest.length === 0 ? bytes : Buffer.concat([rest, bytes]);
    this.#at = 0;
    for (;;) {
      const before = this.#at;
      const next = this.#next();
      if (next === undefined) {
        // Not all of it is there yet: it begins again when more has come.
        this.#at = before;
        // The caller may use its buffer again.
        if (this.#input === bytes) this.#keepRest();
        return;
      }
      this.#next = next;
    }
  }

  /** Says that the stream has ended; throws if it may not end there. */
  end(): void {
    if (!this.isRamComplete) throw this.#error('the stream ends before the guest is whole');
  }

  /** Digest (SHA-256, hex) of each block, by its name. */
  digests(): Map<string, string> {
    return new Map([...this.#blocks].map(([name, bytes]) => [name, createHash('sha256').update(bytes).digest('hex')]));
  }

  /** Digest (SHA-256, hex) of all that came after the memory. */
  deviceDigest(): string {
    return this.#devices.copy().digest('hex');
  }

  /** The memory of a block. */
  block(name: string): Buffer {
    const block = this.#blocks.get(name);
    if (block === undefined) throw new LoadError(`the stream has no block ${JSON.stringify(name)}`);
    return block;
  }

  #keepRest(): void {
    this.#input = Buffer.from(this.#input.subarray(this.#at));
    this.#offset += this.#at;
    this.#at = 0;
  }

  #error(what: string): LoadError {
    return new LoadError(`${what} (at byte ${this.#offset + this.#at})`);
  }

  #has(count: number): boolean {
    return this.#input.length - this.#at >= count;
  }

  #u8(): number {
    return this.#input[this.#at++]!;
  }

  #be16(): number {
    this.#at += 2;
    return this.#input.readUInt16BE(this.#at - 2);
  }

  #be32(): number {
    this.#at += 4;
    return this.#input.readUInt32BE(this.#at - 4);
  }

  #be64(): number {
    return this.#be32() * 0x1_0000_0000 + this.#be32();
  }

  #text(length: number): string {
    this.#at += length;
    return this.#input.toString('latin1', this.#at - length, this.#at);
  }

  /** A name after its length, or undefined if it is not all there. */
  #name(): string | undefined {
    if (!this.#has(1) || !this.#has(1 + this.#input[this.#at]!)) return undefined;
    return this.#text(this.#u8());
  }

  readonly #header: Step = () => {
    if (!this.#has(8)) return undefined;
    if (this.#be32() !== MAGIC || this.#be32() !== VERSION) throw this.#error('not a QEMU migration stream');
    return this.#sectionStart;
  };

  readonly #sectionStart: Step = () => {
    if (!this.#has(1)) return undefined;
    switch (this.#input[this.#at]) {
      case Section.CONFIGURATION:
        return this.#configuration();
      case Section.START:
        return this.#ramStart();
      case Section.PART:
      case Section.END:
        return this.#ramPart();
      case Section.COMMAND:
        return this.#command();
      case Section.FULL:
      case Section.EOF:
        return this.#deviceStates;
      default:
        throw this.#error(`unknown section 0x${this.#input[this.#at]!.toString(16)}`);
    }
  };

  readonly #configuration: Step = () => {
    if (!this.#has(5)) return undefined;
    this.#at++;
    const length = this.#be32();
    if (!this.#has(length)) return undefined;
    this.machine = this.#text(length);
    return this.#sectionStart;
  };

  readonly #ramStart: Step = () => {
    if (!this.#has(5)) return undefined;
    this.#at++;
    const id = this.#be32();
    const name = this.#name();
    if (name === undefined || !this.#has(8)) return undefined;
    if (name !== 'ram') throw this.#error(`a section ${JSON.stringify(name)}, which this destination does not know`);
    this.#be32(); // instance
    const version = this.#be32();
    if (version !== 4) throw this.#error(`version ${version} of the RAM section`);
    this.#ramSection = this.#section = id;
    return this.#record;
  };

  readonly #ramPart: Step = () => {
    if (!this.#has(5)) return undefined;
    this.#at++;
    this.#section = this.#be32();
    if (this.#section !== this.#ramSection) throw this.#error(`a part of the unknown section ${this.#section}`);
    return this.#record;
  };

  readonly #command: Step = () => {
    if (!this.#has(5)) return undefined;
    this.#at += 3;
    const length = this.#be16();
    if (!this.#has(length)) return undefined;
    this.#at += length;
    return this.#sectionStart;
  };

  readonly #footer: Step = () => {
    if (!this.#has(1)) return undefined;
    // Old machine types have none.
    if (this.#input[this.#at] === Section.FOOTER) {
      if (!this.#has(5)) return undefined;
      this.#at++;
      if (this.#be32() !== this.#section) throw this.#error('the footer is that of another section');
    }
    return this.#sectionStart;
  };

  readonly #record: Step = () => {
    if (!this.#has(8)) return undefined;
    const word = this.#be64();
    const flags = word % (FLAG_BITS + 1);
    const address = word - flags;
    if (flags === RecordFlag.EOS) return this.#footer;
    if (flags === RecordFlag.MEM_SIZE) return () => this.#blockList(address);
    if (flags === RecordFlag.HOOK || flags === RecordFlag.MULTIFD_FLUSH) return this.#record;

    if ((flags & RecordFlag.CONTINUE) === 0) {
      const name = this.#name();
      if (name === undefined) return undefined;
      const block = this.#blocks.get(name);
      if (block === undefined) throw this.#error(`a page of the unknown block ${JSON.stringify(name)}`);
      this.#block = block;
    }
    if (this.#block === undefined) throw this.#error('a page that continues no block');
    if (address + PAGE_SIZE > this.#block.length) throw this.#error(`a page past its block's end, at ${address}`);
    return this.#page(flags & ~RecordFlag.CONTINUE, this.#block.subarray(address, address + PAGE_SIZE));
  };

  #page(kind: number, page: Buffer): Step | undefined {
    switch (kind) {
      case RecordFlag.ZERO:
        if (!this.#has(1)) return undefined;
        page.fill(this.#u8());
        this.loaded.fillPages++;
        return this.#record;
      case RecordFlag.PAGE:
        if (!this.#has(PAGE_SIZE)) return undefined;
        this.#input.copy(page, 0, this.#at, this.#at + PAGE_SIZE);
        this.#at += PAGE_SIZE;
        this.loaded.pages++;
        return this.#record;
      case RecordFlag.XBZRLE: {
        if (!this.#has(3)) return undefined;
        const marker = this.#u8();
        const length = this.#be16();
        if (marker !== 1) throw this.#error(`XBZRLE of the unknown kind ${marker}`);
        if (length > PAGE_SIZE) throw this.#error(`XBZRLE of ${length} bytes, more than a page`);
        if (!this.#has(length)) return undefined;
        this.#applyDelta(page, this.#input.subarray(this.#at, this.#at + length));
        this.#at += length;
        this.loaded.deltaPages++;
        this.loaded.deltaBytes += length;
        return this.#record;
      }
      default:
        throw this.#error(`a record of the unknown kind 0x${kind.toString(16)}`);
    }
  }

  #blockList(total: number): Step | undefined {
    const listed: [name: string, size: number][] = [];
    for (let sum = 0; sum < total;) {
      const name = this.#name();
      if (name === undefined || !this.#has(8)) return undefined;
      const size = this.#be64();
      if (size === 0 || size % PAGE_SIZE !== 0) throw this.#error(`a block of ${size} bytes`);
      listed.push([name, size]);
      sum += size;
    }
    for (const [name, size] of listed) this.#blocks.set(name, Buffer.alloc(size));
    return this.#record;
  }

  /** page = (zrun nzrun)*: how many bytes stay, how many are new, the new ones. */
  #applyDelta(page: Buffer, delta: Buffer): void {
    let from = 0;
    let to = 0;
    const byte = (): number => {
      const value = delta[from++];
      if (value === undefined) throw this.#error('XBZRLE that ends within a run');
      return value;
    };
    const length = (): number => {
      const low = byte();
      const value = low < 0x80 ? low : (low & 0x7f) | (byte() << 7);
      if (value > PAGE_SIZE) throw this.#error('XBZRLE with a bad length');
      return value;
    };
    while (from < delta.length) {
      const isFirst = from === 0;
      const same = length();
      if (same === 0 && !isFirst) throw this.#error('XBZRLE with an empty run inside');
      to += same;
      const fresh = length();
      if (fresh === 0 || to + fresh > PAGE_SIZE || from + fresh > delta.length) {
        throw this.#error('XBZRLE with a run that does not fit');
      }
      delta.copy(page, to, from, from + fresh);
      from += fresh;
      to += fresh;
    }
  }

  readonly #deviceStates: Step = () => {
    const rest = this.#input.subarray(this.#at);
    if (rest.length === 0) return undefined;
    this.#devices.update(rest);
    this.#deviceBytes += rest.length;
    this.#at = this.#input.length;
    return this.#deviceStates;
  };
}

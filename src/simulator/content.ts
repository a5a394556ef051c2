import type { Random } from './random.js';

/** The page size of the simulated guest: that of x86. */
export const PAGE_SIZE = 4096;
/** A page as 32-bit words, which is how content is made. */
export const PAGE_WORDS = PAGE_SIZE / 4;

/** A row of a text page, in words: 64 bytes. */
const ROW_WORDS = 16;
/** Distinct pages' worth of program-like content; each page takes a window of it at an odd place. */
const POOL_PAGES = 512;

const four = (text: string): number => Buffer.from(text, 'latin1').readUInt32LE();
const DIGITS = Uint32Array.from({ length: 10_000 }, (_, n) => four(String(n).padStart(4, '0')));
const STATES = Uint32Array.from(['OPEN', 'PAID', 'HELD', 'VOID'], four);
const NAMES = Uint32Array.from('anna bert carl dora emil finn gina hans iris jens kate luis'.split(' '), four);
const [ROW, ACCOUNT, BALANCE, STATE, NAME, END] = ['row=', ';ac=', ';ba=', ';st=', ';to=', '\n\0\0\0'].map(four) as [
  number,
  number,
  number,
  number,
  number,
  number,
];

/**
 * What the pages of a guest hold, made to compress as the pages of real guests do: tables of text-like rows (about four
 * times with zstd -1), program-like data (about twice), bytes that no compressor makes smaller, and zeros.
 */
export class Content {
  readonly #random: Random;
  readonly #pool: Uint32Array;

  constructor(random: Random) {
    this.#random = random;
    this.#pool = programLike(random);
  }

  /** `count` rows from the row `first` of a table on: `row=00000042;ac=00815234;ba=00000017;st=OPEN;to=anna…`. */
  rows(words: Uint32Array, first: number, count: number): void {
    const random = this.#random;
    for (let row = 0, at = 0; row < count; row++, at += ROW_WORDS) {
      const [one, two] = [random.next(), random.next()];
      const number = first + row;
      words[at] = ROW;
      words[at + 1] = DIGITS[Math.floor(number / 10_000) % 10_000]!;
      words[at + 2] = DIGITS[number % 10_000]!;
      words[at + 3] = ACCOUNT;
      words[at + 4] = DIGITS[one % 100]!;
      words[at + 5] = DIGITS[(one >>> 8) % 10_000]!;
      words[at + 6] = BALANCE;
      words[at + 7] = DIGITS[two % 1000]!;
      words[at + 8] = DIGITS[(two >>> 8) % 10_000]!;
      words[at + 9] = STATE;
      words[at + 10] = STATES[one >>> 30]!;
      words[at + 11] = NAME;
      words[at + 12] = NAMES[(two >>> 22) % NAMES.length]!;
      words[at + 13] = END;
      words[at + 14] = 0;
      words[at + 15] = 0;
    }
  }

  /** A page of program-like data: code, pointers, small numbers. */
  program(page: Uint32Array): void {
    const from = this.#random.below(this.#pool.length - PAGE_WORDS);
    page.set(this.#pool.subarray(from, from + PAGE_WORDS));
    // No two pages are quite the same, as no two are in a guest.
    for (let i = 0; i < 32; i++) page[this.#random.below(PAGE_WORDS)] = this.#random.next();
  }

  /** Bytes as those of compressed or encrypted files. */
  incompressible(words: Uint32Array): void {
    this.#random.fill(words);
  }
}

/** Rows that fit into a page. */
export const ROWS_PER_PAGE = PAGE_WORDS / ROW_WORDS;

function programLike(random: Random): Uint32Array {
  const pool = new Uint32Array(POOL_PAGES * PAGE_WORDS);
  const opcodes = Uint32Array.from({ length: 256 }, () => random.next());
  for (let i = 0; i < pool.length; i++) {
    const bits = random.next();
    const kind = bits & 15;
    if (kind < 5) pool[i] = opcodes[(bits >>> 8) & 255]!;
    else if (kind < 9) pool[i] = 0;
    else if (kind < 11) pool[i] = (bits >>> 8) & 0xff;
    else if (kind < 13) pool[i] = 0x7f3a_0000 | ((bits >>> 8) & 0xfff0);
    else pool[i] = bits;
  }
  return pool;
}

// What the RAM of the bare guest must hold: its program (test/e2e/guest/bare.S) written once more, apart from it. So the
// RAM of a guest that runs can be judged at any moment, where no other copy of it exists: after postcopy, above all.
import { readFileSync, rmSync } from 'node:fs';
import { WORKING_SET } from './guests.js';
import type { Qemu } from './qemu.js';
import type { Stage } from './stage.js';

const MIB = 1 << 20;
const PAGE = 4096;

/** Where bare.S keeps its variables and its working set. */
const VARIABLES = 0x110000;
const TOUCHED = VARIABLES + 64 + 24 + 4 * 5;
const BASE = 16 * MIB;
const SEED = 2463534242;

const ROW = Buffer.from('row=00000000 acct=000000 bal=0000000000 st=A|'.padEnd(64, '\0'), 'latin1');
const STATES = 'AIPX';

/** The working set of a `sparse` guest, as far as it has been touched. */
class SparseGuest {
  readonly ram: Buffer;
  touched = 0;
  private seed = SEED;

  constructor(readonly megabytes: number) {
    this.ram = Buffer.alloc(megabytes * MIB);
    const row = Buffer.from(ROW);
    for (let at = 0, number = 0; at < this.ram.length; at += ROW.length, number += 1) {
      row.write(String(number).padStart(8, '0'), 4, 'latin1');
      row.writeUInt32LE(this.digits(), 18);
      row.writeUInt16LE(this.digits() & 0xffff, 22);
      row.writeUInt32LE(this.digits(), 29);
      row.writeUInt32LE(this.digits(), 33);
      const last = this.digits();
      row.writeUInt16LE(last & 0xffff, 37);
      row[43] = STATES.charCodeAt((last >>> 18) & 3);
      row.copy(this.ram, at);
    }
  }

  private random(): number {
    let seed = this.seed;
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    return (this.seed = seed >>> 0);
  }

  private digits(): number {
    return ((this.random() & 0x07070707) | 0x30303030) >>> 0;
  }

  /** Touches a page: 32 bytes of it become others. Answers its number. */
  touch(): number {
    const pages = this.megabytes << 8;
    const page = Number((BigInt(this.random()) * BigInt(pages)) >> 32n);
    for (let i = 0; i < 4; i += 1) {
      const at = page * PAGE + (this.random() >>> 23) * 8;
      this.ram.writeUInt32LE(this.random(), at);
      this.ram.writeUInt32LE(this.random(), at + 4);
    }
    this.touched += 1;
    return page;
  }
}

/** Reads a part of the guest's memory. */
async function read(stage: Stage, qemu: Qemu, address: number, bytes: number): Promise<Buffer> {
  const file = stage.fresh('ram');
  await qemu.qmp.execute('pmemsave', { val: address, size: bytes, filename: file }, 60);
  const data = readFileSync(file);
  rmSync(file);
  return data;
}

/**
 * Fails unless the working set of a `sparse` bare guest holds what the guest wrote there, to the last byte. The guest
 * must be stopped; the page that it was just writing may be half done. Answers how many pages it has touched.
 */
export async function assertTouchedRam(stage: Stage, qemu: Qemu, megabytes = WORKING_SET): Promise<number> {
  if (!(await qemu.isStopped())) throw new Error(`the guest is not stopped; ${qemu.complaint()}`);
  const touched = (await read(stage, qemu, TOUCHED, 4)).readUInt32LE();
  const found = await read(stage, qemu, BASE, megabytes * MIB);
  const guest = new SparseGuest(megabytes);
  const lastWrite = new Map<number, number>();
  while (guest.touched < touched) lastWrite.set(guest.touch(), guest.touched);
  const before = Buffer.from(guest.ram);
  const inProgress = guest.touch();
  const wrong: string[] = [];
  const lost: number[] = [];
  for (let page = 0; page < found.length / PAGE; page += 1) {
    const at = page * PAGE;
    if (page === inProgress || found.compare(before, at, at + PAGE, at, at + PAGE) === 0) continue;
    const bytes = found.subarray(at, at + PAGE).filter((byte, i) => byte !== before[at + i]).length;
    lost.push(lastWrite.get(page) ?? 0);
    wrong.push(`${(BASE + at).toString(16)} (${bytes} bytes)`);
  }
  if (wrong.length > 0) {
    // Those of one short time: the QEMU that sent did not know of them. Others: nobody does yet.
    const [first, last] = [Math.min(...lost), Math.max(...lost)];
    const between = [...lastWrite.values()].filter((write) => first <= write && write <= last).length;
    throw new Error(
      `${qemu.name}: ${wrong.length} of ${found.length / PAGE} pages do not hold what the guest wrote there ` +
        `(${touched} touched): ${wrong.slice(0, 5).join(', ')}; their last writes are ${first} to ${last}, as of ${between} pages`,
    );
  }
  return touched;
}

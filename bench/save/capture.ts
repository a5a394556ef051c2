// Captures what a save of a guest writes: the stream of a guest that runs real software, stopped, by a QEMU that has no
// limit to its bandwidth, as libvirt does it.
//
//   node build/bench/save/capture.js
import { existsSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { linuxGuestLacks } from '../../test/e2e/harness/guests.js';
import { Qemu } from '../../test/e2e/harness/qemu.js';
import { cache } from '../../test/e2e/harness/qemus.js';
import { shellWord } from '../../test/e2e/harness/repository.js';
import { onStage } from '../../test/e2e/harness/stage.js';
import type { Stage } from '../../test/e2e/harness/stage.js';
import { chooseQemu } from '../capture-stream.js';
import { refuse } from '../live/requirements.js';
import { userlandLacks, writeInitramfs } from './initramfs.js';

/** A guest's software, and its memory in MiB. */
const GUESTS = { sqlite: 512, redis: 768 } as const;
export type Software = keyof typeof GUESTS;
export const SOFTWARE = Object.keys(GUESTS) as Software[];

/** Which part of its pages the sqlite guest changes between two saves, and how many bytes in each (see guest/init). */
export const CHANGED = 0.05;

/** Where streams are kept for the next time. */
const folder = join(cache, 'bench/save');
const fileOf = (name: string): string => join(folder, `${name}.qemu`);

/** A guest that is up and whose second serial line takes orders. */
class Guest {
  private constructor(
    private readonly qemu: Qemu,
    private readonly order: (line: string) => void,
  ) {}

  static async boot(stage: Stage, software: Software): Promise<Guest> {
    const [initramfs, orders] = [stage.path('initramfs'), stage.path('orders')];
    writeInitramfs(initramfs);
    const guest = {
      arguments: [
        ...['-kernel', join(cache, 'kernel/vmlinuz'), '-initrd', initramfs],
        // ramfs: a tmpfs as root would take half of the memory and no more
        ...['-append', `console=ttyS0 quiet panic=-1 rootfstype=ramfs work=${software}`, '-no-reboot'],
        ...['-serial', `unix:${orders},server=on,wait=off`],
      ],
      // The harness waits a minute for this; a database takes longer to fill.
      ready: '',
    };
    const qemu = await Qemu.start(stage, { type: 'pc', guest, megabytes: GUESTS[software] }, { build: chooseQemu() });
    const socket = await stage.connect(orders);
    await qemu.waitForText('READY', 900);
    return new Guest(qemu, (line) => socket.write(`${line}\n`));
  }

  async obey(order: string, answer: string): Promise<void> {
    this.order(order);
    await this.qemu.waitForText(answer, 300);
  }

  /** Stops the guest, writes its stream to the file, and lets it go on. */
  async save(name: string): Promise<void> {
    const unfinished = `${fileOf(name)}.${process.pid}`;
    try {
      await this.qemu.qmp.execute('stop');
      await this.qemu.speedUp();
      await this.qemu.qmp.execute('migrate', { uri: `exec:cat > ${shellWord(unfinished)}` });
      await this.qemu.waitForMigration('completed', 300);
      await this.qemu.qmp.execute('cont');
      renameSync(unfinished, fileOf(name));
    } finally {
      rmSync(unfinished, { force: true });
    }
  }
}

/** The streams of a guest: under load, and of sqlite two more, before and after it changed some of its pages. */
async function capture(software: Software): Promise<void> {
  const lacks = linuxGuestLacks() ?? userlandLacks();
  if (lacks !== undefined) throw new Error(lacks);
  mkdirSync(folder, { recursive: true });
  await onStage(async (stage) => {
    const guest = await Guest.boot(stage, software);
    if (!existsSync(fileOf(software))) await guest.save(software);
    if (software !== 'sqlite') return;
    await guest.obey('quiet', 'QUIET');
    await guest.save('before');
    await guest.obey(`change ${Math.ceil(GUESTS.sqlite * 256 * CHANGED)}`, 'CHANGED');
    await guest.save('after');
  });
}

/** The stream of a guest under load; captured now if it is not there. */
export async function streamOf(software: Software): Promise<string> {
  if (!existsSync(fileOf(software))) await capture(software);
  return fileOf(software);
}

/** Streams of one guest, before and after it changed 32 bytes in each of 5 % of its pages. */
export async function changingStreams(): Promise<{ before: string; after: string }> {
  const streams = { before: fileOf('before'), after: fileOf('after') };
  if (!existsSync(streams.before) || !existsSync(streams.after)) await capture('sqlite');
  return streams;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    for (const software of SOFTWARE) {
      const file = await streamOf(software);
      console.log(`${file}: ${(statSync(file).size / 1e6).toFixed(1)} MB`);
    }
    for (const file of Object.values(await changingStreams())) console.log(file);
  } catch (error) {
    refuse(error instanceof Error ? error.message : String(error));
  }
}

// Captures the migration stream that `npm run bench:pipeline` measures on: a Linux guest of 512 MB that writes 32 bytes
// into each of 20,000 pages a second, over 128 MB of text-like rows, while the link carries 60 MB/s for 20 s.
//
//   node build/bench/capture-stream.js [FILE]
import { once } from 'node:events';
import { createWriteStream, existsSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { finished } from 'node:stream/promises';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { linuxGuest, linuxGuestLacks } from '../test/e2e/harness/guests.js';
import { Qemu } from '../test/e2e/harness/qemu.js';
import { cache, howToInstall, qemus } from '../test/e2e/harness/qemus.js';
import type { QemuBuild } from '../test/e2e/harness/qemus.js';
import { onStage } from '../test/e2e/harness/stage.js';

/** The link: what a second carries, and for how long it does not end. */
const BYTES_PER_SECOND = 60e6;
const SECONDS = 20;
/** The guest's memory, its working set (MiB) and the pages that it touches in a second. */
const GUEST = { megabytes: 512, workingSet: 128, rate: 20_000 };

/** Where the stream is kept for the next time. */
export const capturedStream = join(cache, 'bench', 'sparse.qemu');

/** QEMU 10 where it is there (as the figures in the documentation), else the newest that keeps track of dirty pages. */
export function chooseQemu(): QemuBuild {
  const able = qemus.filter(({ major }) => major >= 9);
  const build = able.find(({ major }) => major === 10) ?? able.at(-1) ?? qemus.at(-1);
  if (build === undefined) throw new Error(`no QEMU here: ${howToInstall}`);
  return build;
}

/** Writes what comes out of the socket to the file, at the link's pace. Answers how much it was, at the end. */
async function record(socket: Socket, file: string, afterSeconds: () => Promise<void>): Promise<number> {
  const output = createWriteStream(file);
  const begin = performance.now();
  let bytes = 0;
  let ending: Promise<void> | undefined;
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (!output.write(chunk)) await once(output, 'drain');
    if (bytes >= BYTES_PER_SECOND * SECONDS) ending ??= afterSeconds();
    const ahead = (bytes / BYTES_PER_SECOND) * 1000 - (performance.now() - begin);
    if (ahead > 1) await sleep(ahead);
  }
  await ending;
  output.end();
  await finished(output);
  return bytes;
}

/**
 * Captures the stream into `file`, unless it is there already. Needs QEMU, its kernel and a C compiler, or says what to
 * install.
 */
export async function captureStream(file = capturedStream): Promise<string> {
  if (existsSync(file)) return file;
  const lacks = linuxGuestLacks();
  if (lacks !== undefined) throw new Error(lacks);
  const build = chooseQemu();
  await onStage(async (stage) => {
    const { megabytes, workingSet, rate } = GUEST;
    const guest = linuxGuest('sparse', { megabytes: workingSet, rate });
    const qemu = await Qemu.start(stage, { type: 'pc', guest, megabytes }, { build });
    await sleep(1500);
    await qemu.setParameters({ 'max-bandwidth': 10 << 30, 'downtime-limit': 1 });
    mkdirSync(dirname(file), { recursive: true });
    const unfinished = `${file}.${process.pid}`;
    stage.onEnd(() => {
      rmSync(unfinished, { force: true });
    });
    const path = stage.path('out.sock');
    const recorded = new Promise<number>((done, failed) => {
      stage
        .listen(path, (socket) => {
          record(socket, unfinished, () => qemu.speedUp()).then(done, failed);
        })
        .then(() => qemu.qmp.execute('migrate', { uri: `unix:${path}` }))
        .catch(failed);
    });
    await Promise.all([recorded, qemu.waitForMigration('completed', 180)]);
    renameSync(unfinished, file);
  });
  return file;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const file = await captureStream(process.argv[2]);
  console.log(`${file}: ${(statSync(file).size / 1e6).toFixed(1)} MB`);
}

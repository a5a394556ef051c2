// virsh save, restore, managedsave, dump and snapshots through the installed filter, and how it fails under libvirt.
import assert from 'node:assert/strict';
import { closeSync, existsSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { until } from '#src/demo/time.js';
import { readImage } from '#src/libvirt/image.js';
import { look } from '#src/inspect/inspect.js';
import { dropIn, FILTER, FOLDER } from '#src/libvirt/install.js';
import { root as repository } from '../harness/repository.js';
import { onStage, type Stage } from '../harness/stage.js';
import { boot, domainXml, lastTick, runs, stateOf } from './guest.js';
import { Host, libvirtVersion, skipLibvirt } from './host.js';

const PAGEWIRE = join(repository, 'bin/pagewire');

/** What a fault is to be, told to each Node that the daemon starts. */
const FAULT = '/run/fault';

/** Loaded by each of them; test/libvirt/filter.test.ts kills one in the middle. */
const PRELOAD = `
const { existsSync, readFileSync } = require('node:fs');
const fault = existsSync('${FAULT}') ? readFileSync('${FAULT}', 'utf8') : '';
if (fault === 'memory') for (const all = []; ; ) all.push(Array(10000).fill({}));
if (fault === 'killed') process.kill(process.pid, 'SIGKILL');
`;

/** A host whose libvirtd has the folder of the filter first in its PATH, and whose /usr is its own. */
async function hostWithFilter(stage: Stage, ...as: string[]): Promise<Host> {
  const preload = stage.path('preload.cjs');
  writeFileSync(preload, PRELOAD);
  const host = await Host.start(stage, 'a', {
    path: [FOLDER],
    qemuConf: ['save_image_format = "lzop"', 'dump_image_format = "lzop"', 'snapshot_image_format = "lzop"'],
    environment: { NODE_OPTIONS: `--require ${preload} --max-old-space-size=64` },
  });
  await host.ownUsr();
  if (as.length > 0) await install(host, ...as);
  return host;
}

/** What the command said. */
async function install(host: Host, ...as: string[]): Promise<string> {
  return host.run(['node', PAGEWIRE, 'install-libvirt-filter', ...as.flatMap((name) => ['--as', name])]);
}

/** Writes a file of the host's /usr anew. */
async function change(host: Host, path: string, from: RegExp, to: string): Promise<void> {
  const upper = host.path(path.replace(/^\/usr/, '/var/usr/upper'));
  const copy = host.path('/var/tmp/changed');
  const text = readFileSync(upper, 'utf8');
  assert.match(text, from);
  writeFileSync(copy, text.replace(from, to), { mode: 0o755 });
  // Not in the layer itself, behind the back of the mount.
  await host.run(['cp', '/var/tmp/changed', path]);
}

/** virsh fails; what it says. */
async function virshFails(host: Host, ...words: string[]): Promise<string> {
  const virsh = host.startVirsh(...words);
  assert.notEqual(await virsh.exitCode(60), 0, `virsh ${words.join(' ')} should fail`);
  return virsh.said();
}

const IMAGE = '/var/tmp/vm1.save';

/** Saves, restores, and sees that the guest goes on where it was. */
async function thereAndBack(host: Host, ...options: string[]): Promise<void> {
  const before = lastTick(host);
  await host.virsh('save', ...options, 'vm1', IMAGE);
  assert.equal(await stateOf(host), undefined);
  const image = readImage(host.path(IMAGE));
  assert.deepEqual([image?.format, image?.isPagewire], ['lzop', true]);
  await inspects(host.path(IMAGE), image?.payload);
  await host.virsh('restore', ...options, IMAGE);
  await runs(host);
  assert.ok(lastTick(host) > before);
}

/** `pagewire inspect` sees libvirt's header, our frames behind it, and QEMU's stream in them. */
async function inspects(path: string, payload: number | undefined): Promise<void> {
  const { container, stream, blocks, sections, error } = (await look(path)).inspection;
  assert.deepEqual([error, stream.state], [null, 'complete']);
  assert.deepEqual([container.libvirt, container.pagewire], [{ format: 'lzop', payload }, true]);
  assert.ok(blocks.some(({ name }) => name === 'pc.ram'));
  assert.ok(sections.some(({ type, name }) => type === 'device' && name === 'cpu'));
}

/** The host's daemon lives, and its guest runs on: after a save that failed. */
async function wentOn(host: Host): Promise<void> {
  await host.daemonLives();
  await runs(host);
}

void describe('libvirt with the filter', { skip: skipLibvirt() }, () => {
  void it('virsh save and restore, also past the page cache; managedsave; dump; an external snapshot', () =>
    onStage(async (stage) => {
      const host = await hostWithFilter(stage, 'lzop');
      await boot(host);
      await thereAndBack(host);
      await thereAndBack(host, '--bypass-cache');

      // A dump has no header: it is what the filter wrote.
      await host.virsh('dump', '--live', 'vm1', '/var/tmp/vm1.dump');
      await runs(host);
      await host.run(['node', PAGEWIRE, 'decode', '-i', '/var/tmp/vm1.dump', '-o', '/var/tmp/vm1.stream']);
      assert.deepEqual(firstBytes(host.path('/var/tmp/vm1.stream'), 4), Buffer.from('QEVM'));

      await host.virsh('snapshot-create-as', 'vm1', 's1', '--live', '--memspec', '/var/tmp/vm1.snapshot');
      assert.equal(readImage(host.path('/var/tmp/vm1.snapshot'))?.isPagewire, true);
      await runs(host);
      await host.virsh('destroy', 'vm1');

      // Only a guest that is defined can be saved where libvirt itself keeps it.
      writeFileSync(host.path('/run/vm2.xml'), domainXml({ name: 'vm2' }));
      await host.virsh('define', '/run/vm2.xml');
      await host.virsh('start', 'vm2');
      await runs(host, 'vm2');
      const before = lastTick(host, 'vm2');
      await host.virsh('managedsave', 'vm2');
      assert.equal(readImage(host.path('/var/lib/libvirt/qemu/save/vm2.save'))?.isPagewire, true);
      await host.virsh('start', 'vm2');
      await runs(host, 'vm2');
      assert.ok(lastTick(host, 'vm2') > before);
    }));

  // libvirt 9.0 knows no zstd.
  const formats = ['gzip', ...(libvirtVersion === '9.0' ? [] : ['zstd']), 'lzop'];
  void it(`images of the real ${formats.join(', ')} from before the install restore after it, and after the undo`, () =>
    onStage(async (stage) => {
      const host = await hostWithFilter(stage);
      for (const format of formats) {
        useFormat(host, format);
        await host.restartDaemon();
        await boot(host, { name: format });
        await host.virsh('save', format, `/var/tmp/${format}.save`);
        const image = readImage(host.path(`/var/tmp/${format}.save`));
        assert.deepEqual([image?.format, image?.isPagewire], [format, false]);
        const message = new RegExp(`was packed with ${format}: .* \\| ${format} -dc \\| pagewire inspect -`);
        await assert.rejects(look(host.path(`/var/tmp/${format}.save`)), { code: 'BAD_OPTION', message });
      }
      assert.match(await install(host, ...formats), /made .*\/lzop\n/);
      for (const format of formats) {
        await host.virsh('restore', `/var/tmp/${format}.save`);
        await runs(host, format);
      }

      // Saved anew, by the filter, where libvirt keeps images itself, for the undo to find it.
      const image = '/var/lib/libvirt/qemu/save/lzop.save';
      await host.virsh('save', 'lzop', image);
      assert.equal(readImage(host.path(image))?.isPagewire, true);
      const said = await host.run(['node', PAGEWIRE, 'install-libvirt-filter', '--uninstall']);
      for (const path of [FILTER, `${FOLDER}/gzip`, dropIn('libvirtd')])
        assert.ok(said.includes(`removed ${path}`), said);
      assert.ok(said.includes(`${image} (format lzop)`), said);
      await host.virsh('save', 'gzip', '/var/tmp/gzip.save');
      assert.equal(readImage(host.path('/var/tmp/gzip.save'))?.isPagewire, false);

      // The undo's own words, for an image that the real lzop is to read.
      const [recipe] = /^ {2}at=[^]*>NEW$/m.exec(said) ?? [''];
      const script = recipe.replaceAll('IMAGE', image).replace('NEW', '/var/tmp/new.save');
      await host.run(['sh', '-euc', `pagewire() { node ${PAGEWIRE} "$@"; }\n${script}`]);
      assert.equal(readImage(host.path('/var/tmp/new.save'))?.isPagewire, false);
      await host.virsh('restore', '/var/tmp/new.save');
      await runs(host, 'lzop');
      // And with the filter again, as it is.
      await host.virsh('destroy', 'lzop');
      await install(host);
      await host.virsh('restore', image);
      await runs(host, 'lzop');
    }));

  void it('a save that fails: virsh has our line, the guest runs on, the daemon lives', () =>
    onStage(async (stage) => {
      const host = await hostWithFilter(stage, 'lzop');
      await boot(host, { workload: 'full' });
      const fails = async (why: RegExp, image = IMAGE): Promise<void> => {
        const said = await virshFails(host, 'save', 'vm1', image);
        assert.match(said, why);
        assert.ok(!existsSync(host.path(image)), 'half an image is left');
        await wentOn(host);
      };
      const fault = async (name: string, why: RegExp): Promise<void> => {
        writeFileSync(host.path(FAULT), name);
        await fails(why);
        rmSync(host.path(FAULT));
      };
      await fault('killed', /pagewire: cannot save: .*node was ended by signal 9/);
      await fault('memory', /pagewire: cannot save: .*node was ended by signal 6/);

      // libvirt reports the writer, behind us, whose disk is full; ours is in its log.
      await host.run(['sh', '-c', 'mkdir /var/small && mount -t tmpfs -o size=4M tmpfs /var/small']);
      const said = await virshFails(host, 'save', 'vm1', '/var/small/vm1.save');
      assert.match(said, /No space left on device/);
      assert.match(host.daemonSaid(), /pagewire: cannot save: the output was closed by its reader/);
      await wentOn(host);

      await change(host, FILTER, /^node=.*$/m, 'node=/nonexistent/node');
      await fails(/pagewire: cannot save: there is no \/nonexistent\/node: run pagewire install-libvirt-filter again/);
      await change(host, FILTER, /^node=.*$/m, 'node=/usr/bin/false');
      await fails(/pagewire: cannot save: \/usr\/bin\/false ended with 1/);
      await install(host);

      // Given up in the middle: nothing of it stays.
      const virsh = host.startVirsh('save', 'vm1', IMAGE);
      await until(() => filterRuns(host), 30, 'the filter does not start');
      const abort = host.startVirsh('domjobabort', 'vm1');
      await abort.exitCode(60);
      // Whichever of the two was quicker.
      if ((await virsh.exitCode(60)) === 0) await host.virsh('restore', IMAGE);
      await until(async () => !(await filterRuns(host)), 30, 'the filter does not end');
      await wentOn(host);
      await thereAndBack(host);
    }));

  void it('a restore that fails: it ends, the daemon has our line, and the image restores when it is whole', () =>
    onStage(async (stage) => {
      const host = await hostWithFilter(stage, 'lzop');
      await boot(host);
      await host.virsh('save', 'vm1', IMAGE);
      const whole = readFileSync(host.path(IMAGE));
      const payload = readImage(host.path(IMAGE))!.payload;
      const bad = '/var/tmp/bad.save';
      const fails = async (image: Buffer, why: RegExp): Promise<void> => {
        writeFileSync(host.path(bad), image);
        const before = host.daemonSaid().length;
        await virshFails(host, 'restore', bad);
        assert.match(host.daemonSaid().slice(before), why);
        await host.daemonLives();
        assert.equal(await stateOf(host), undefined);
      };
      const flipped = (at: number): Buffer => {
        const image = Buffer.from(whole);
        image[at]! ^= 1;
        return image;
      };
      await fails(flipped(payload + 50), /pagewire: cannot restore: frame 0 at byte 0: the payload's checksum/);
      await fails(flipped((payload + whole.length) >> 1), /pagewire: cannot restore: frame \d+ at byte/);
      await fails(flipped(whole.length - 1), /pagewire: cannot restore: frame \d+ at byte .* the frame is damaged/);
      await fails(whole.subarray(0, -1), /pagewire: cannot restore: .*cut off/);
      await fails(whole.subarray(0, payload + 3), /pagewire: cannot restore: .*lzop ended with 1/);
      // What neither knows.
      await fails(flipped(payload), /pagewire: cannot restore: \/usr\/bin\/lzop ended with 1: lzop: .*not a lzop file/);
      for (const [name, why] of [
        ['killed', /node was ended by signal 9/],
        ['memory', /node was ended by signal 6/],
      ] as const) {
        writeFileSync(host.path(FAULT), name);
        await fails(whole, why);
        rmSync(host.path(FAULT));
      }
      await change(host, FILTER, /^node=.*$/m, 'node=/nonexistent/node');
      await fails(whole, /pagewire: cannot restore: there is no \/nonexistent\/node/);
      await install(host);
      await host.virsh('restore', IMAGE);
      await runs(host);
    }));
});

async function filterRuns(host: Host): Promise<boolean> {
  return (await host.start('pgrep', ['pgrep', '-f', 'libvirt/filter.cjs']).exitCode()) === 0;
}

function useFormat(host: Host, format: string): void {
  const path = host.path('/etc/libvirt/qemu.conf');
  writeFileSync(path, readFileSync(path, 'utf8').replace(/^save_image_format.*$/m, `save_image_format = "${format}"`));
}

function firstBytes(path: string, count: number): Buffer {
  const bytes = Buffer.alloc(count);
  const fd = openSync(path, 'r');
  readSync(fd, bytes, 0, count, 0);
  closeSync(fd);
  return bytes;
}

// What the installation makes and the undo takes away, held against what systemd and AppArmor make of it.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { readImage } from '#src/libvirt/image.js';
import { DAEMONS, DEFAULT_PATH, dropIn, files, FILTER, FOLDER, make, thisFilter } from '#src/libvirt/install.js';
import { type Ended, folder, pagewire } from '../cli/command.js';

const COMMAND = 'install-libvirt-filter';

interface System {
  readonly path: (name: string) => string;
  readonly run: (...options: string[]) => Promise<Ended>;
  /** All files and links below it. */
  readonly content: () => string[];
}

/** An empty folder that stands for a system. */
function system(t: TestContext): System {
  const path = folder(t);
  return {
    path,
    run: (...options) => pagewire(t, [COMMAND, '--root', path(''), ...options]),
    content: () =>
      readdirSync(path(''), { recursive: true, withFileTypes: true })
        .filter((entry) => !entry.isDirectory())
        .map((entry) => join(entry.parentPath, entry.name).slice(path('').length))
        .sort(),
  };
}

/** What an installation for lzop makes. */
const MADE = [FILTER, `${FOLDER}/lzop`, ...DAEMONS.map(dropIn)].sort();

function write(path: string, text: string | Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

void describe('install-libvirt-filter', () => {
  it('makes the filter, a link under the name of lzop, and a drop-in for each daemon; the undo leaves nothing', async (t) => {
    const { path, run, content } = system(t);
    const made = await run();
    assert.equal(made.code, 0, made.stderr);
    assert.deepEqual(content(), MADE);
    assert.equal(statSync(path(FILTER)).mode & 0o111, 0o111);
    assert.equal(readlinkSync(path(`${FOLDER}/lzop`)), FILTER);
    assert.ok(readFileSync(path(FILTER), 'utf8').includes(`node='${process.execPath}'`));
    assert.match(made.stdout.toString(), /save_image_format = "lzop" {3}\(now: raw\)/);

    const undone = await run('--uninstall');
    assert.equal(undone.code, 0, undone.stderr);
    assert.deepEqual(content(), []);
    assert.ok(!existsSync(path('/usr/local/lib/pagewire')));
    assert.ok(!existsSync(path(dirname(dropIn('libvirtd')))));
    for (const name of MADE) assert.ok(undone.stdout.includes(`removed ${name}\n`));
    const nothing = await run('--uninstall');
    assert.equal(nothing.code, 0);
    assert.match(nothing.stdout.toString(), /^nothing is installed\n/);
  });

  it('tells what it would do, and does nothing, with --dry-run', async (t) => {
    const { run, content } = system(t);
    const dry = await run('--dry-run', '--as', 'zstd');
    assert.equal(dry.code, 0, dry.stderr);
    assert.deepEqual(content(), []);
    for (const text of [`${FOLDER}/zstd -> ${FILTER}`, `${FILTER}:\n    #!/bin/sh\n`, `${dropIn('virtqemud')}:\n`]) {
      assert.ok(dry.stdout.includes(text), text);
    }
    await run();
    const undo = await run('--uninstall', '--dry-run');
    assert.deepEqual(content(), MADE);
    for (const name of MADE) assert.ok(undo.stdout.includes(`would remove ${name}\n`));
  });

  it('keeps the PATH that systemd says that each daemon has, or the one that systemd gives', async (t) => {
    const path = folder(t);
    const script = `#!/bin/sh
case "$*" in
*libvirtd.service) echo 'LIBVIRTD_ARGS="--timeout 120" PATH=${FOLDER}:/opt/bin:/usr/bin' ;;
*virtqemud.service) echo ;;
show-environment) printf 'LANG=C\\nPATH=/sbin:/bin\\n' ;;
*) exit 1 ;;
esac
`;
    writeFileSync(path('systemctl'), script, { mode: 0o755 });
    const env = { PATH: `${path('')}:${process.env['PATH']}` };
    const dry = await pagewire(t, [COMMAND, '--dry-run'], { env });
    assert.equal(dry.code, 0, dry.stderr);
    const set = [...dry.stdout.toString().matchAll(/Environment="PATH=(.*)"/g)].map((match) => match[1]);
    assert.deepEqual(set, [`${FOLDER}:/opt/bin:/usr/bin`, `${FOLDER}:/sbin:/bin`]);
  });

  it('adds names and takes them away one by one; the last takes the rest with it', async (t) => {
    const { run, content } = system(t);
    await run();
    assert.equal((await run('--as', 'zstd', 'gzip')).code, 0);
    assert.deepEqual(content(), [...MADE, `${FOLDER}/gzip`, `${FOLDER}/zstd`].sort());
    await run('--uninstall', '--as', 'gzip', '--as', 'lzop');
    assert.deepEqual(content(), [FILTER, `${FOLDER}/zstd`, ...DAEMONS.map(dropIn)].sort());
    const none = await run('--uninstall', '--as', 'xz');
    assert.match(none.stdout.toString(), /^nothing of pagewire stands for xz\n/);
    await run('--uninstall', '--as', 'zstd');
    assert.deepEqual(content(), []);
    const unknown = await run('--as', 'rar');
    assert.equal(unknown.code, 2);
    assert.match(unknown.stderr, /Allowed choices are lzop, gzip/);
  });

  it('says what is in the way, and touches nothing that it has not made', async (t) => {
    const { path, run, content } = system(t);
    write(path('/etc/default/libvirtd'), '# PATH=/no\nLIBVIRTD_ARGS=""\n  PATH=/opt/bin:/usr/bin\n');
    write(
      path('/etc/libvirt/qemu.conf'),
      '#save_image_format = "raw"\nsave_image_format = "lzop"\ndump_image_format="xz"\n',
    );
    const made = await run();
    assert.equal(made.code, 0);
    assert.match(
      made.stderr,
      /etc\/default\/libvirtd sets PATH, which counts more than the drop-in: put \S+ first there/,
    );
    assert.match(
      made.stdout.toString(),
      /save_image_format = "lzop" {3}\(as it is\)\n {2}dump_\S+ = "lzop" {3}\(now: xz\)/,
    );
    await run('--uninstall');

    write(path(`${FOLDER}/lzop`), 'mine\n');
    const before = content();
    const refused = await run();
    assert.equal(refused.code, 2);
    assert.deepEqual(content(), before);
    assert.match(refused.stderr, /libvirt\/lzop is there and was not made by pagewire: move it away first\n$/);
    await run('--uninstall');
    assert.deepEqual(content(), before);
    assert.equal((await pagewire(t, [COMMAND, '--root', '/nonexistent'])).code, 2);
  });

  it('says what docs/libvirt.md says that it does', async (t) => {
    const { run } = system(t);
    const docs = readFileSync(new URL('../../../docs/libvirt.md', import.meta.url), 'utf8');
    const block = /^host# pagewire install-libvirt-filter\n([^]*?)^```/m.exec(docs)?.[1];
    // A system that does not run has no systemd to tell.
    assert.equal((await run()).stdout.toString(), block?.replace('done: systemctl daemon-reload\n', ''));
    const recipe = /^host# (at=.*)\nhost# (\{.*)$/m.exec(docs) ?? [];
    const undo = (await run('--uninstall')).stdout.toString();
    for (const line of recipe.slice(1)) {
      assert.ok(undo.includes(`\n  ${line.replaceAll('vm1.save', 'IMAGE').replace('vm1-lzop.save', 'NEW')}\n`), line);
    }
    assert.equal(recipe.length, 3);
    for (const path of [FILTER, `${FOLDER}/`]) assert.ok(docs.includes(`| \`${path}\` |`), path);
  });

  it('finds what pagewire has packed where libvirt keeps it', async (t) => {
    const { path, run } = system(t);
    const [ours, theirs] = [Buffer.from([0xf3, 0x50, 0x57, 0x46, 1]), Buffer.from('\x89LZO\0', 'latin1')];
    write(path('/var/lib/libvirt/qemu/save/vm1.save'), image(4, ours));
    write(path('/var/lib/libvirt/qemu/save/vm2.save'), image(4, theirs));
    write(path('/var/lib/libvirt/qemu/save/part.save'), image(4, ours).subarray(0, 60));
    write(path('/var/lib/libvirt/qemu/snapshot/vm3.save'), image(99, ours));
    mkdirSync(path('/var/lib/libvirt/qemu/dump/folder'), { recursive: true });
    const { stdout } = await run('--uninstall');
    assert.match(
      stdout.toString(),
      /elsewhere:\n {2}\/\S+save\/vm1\.save \(format lzop\)\n {2}\/\S+vm3\.save \(format 99\)\n$/,
    );
    assert.equal(readImage(path('/var/lib/libvirt/qemu/save/part.save')), undefined);
    write(path('other'), Buffer.alloc(4096));
    assert.equal(readImage(path('other')), undefined);
  });
});

/** A saved guest as libvirt writes it. */
function image(format: number, payload: Uint8Array): Buffer {
  const header = Buffer.alloc(92);
  header.write('LibvirtQemudSave');
  const xml = Buffer.from('<domain/>\0\0\0\0\0\0\0');
  [2, xml.length, 1, format].forEach((value, n) => header.writeUInt32LE(value, 16 + 4 * n));
  return Buffer.concat([header, xml, payload]);
}

/** A drop-in for a PATH of the daemon's own. */
function dropInFor(path: string): string {
  return files([], thisFilter(), { libvirtd: path }).find((file) => file.path === dropIn('libvirtd'))!.text;
}

const hasSystemd = spawnSync('systemd-analyze', ['--version']).status === 0;
const isCi = /^(1|true)$/i.test(process.env['CI'] ?? '');
const skip = hasSystemd || isCi ? false : 'PAGEWIRE-NOT-RUN the drop-ins for libvirt: please install systemd';

void describe('the drop-in', () => {
  it('puts the folder first, once, and keeps the PATH that the daemon had', () => {
    assert.match(
      dropInFor('/opt/bin:/usr/bin'),
      /^Environment="PATH=\/usr\/local\/lib\/pagewire\/libvirt:\/opt\/bin:\/usr\/bin"$/m,
    );
    assert.ok(dropInFor(`${FOLDER}:/usr/bin:${FOLDER}`).includes(`"PATH=${FOLDER}:/usr/bin"`));
    assert.ok(dropInFor('/a b:/50%:/q"').includes(`:/a b:/50%%:/q\\""`));
  });

  it('is one in which systemd finds nothing wrong', { skip }, (t) => {
    const path = folder(t);
    make(files(['lzop'], thisFilter(), { libvirtd: '/a b:/50%:/usr/bin', virtqemud: DEFAULT_PATH }), path(''));
    for (const daemon of DAEMONS) {
      const program = path(`/usr/sbin/${daemon}`);
      writeFileSync(program, '#!/bin/sh\n', { mode: 0o755 });
      write(path(`/usr/lib/systemd/system/${daemon}.service`), `[Service]\nExecStart=/usr/sbin/${daemon}\n`);
    }
    for (const target of ['basic', 'sysinit', 'shutdown']) {
      write(path(`/usr/lib/systemd/system/${target}.target`), '[Unit]\n');
    }
    const names = DAEMONS.map((daemon) => `${daemon}.service`);
    const verify = ['verify', '--man=no', `--root=${path('')}`, ...names];
    const { status, stdout, stderr } = spawnSync('systemd-analyze', verify, { encoding: 'utf8' });
    assert.deepEqual([status, stdout, stderr], [0, '', '']);
    assert.ok(lstatSync(path(`${FOLDER}/lzop`)).isSymbolicLink());
  });
});

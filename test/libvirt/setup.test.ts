// What `pagewire libvirt setup` shows, makes and takes away.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setupFiles } from '#src/libvirt/setup.js';
import { type Way, WAYS } from '#src/libvirt/ways.js';
import { type Ended, folder, pagewire } from '../cli/command.js';

/** An empty folder that stands for a system. */
function system(t: TestContext): { path: (name: string) => string; run: (...options: string[]) => Promise<Ended> } {
  const path = folder(t);
  return { path, run: (...options) => pagewire(t, ['libvirt', 'setup', '--root', path(''), ...options]) };
}

function write(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

void describe('pagewire libvirt setup', () => {
  for (const way of WAYS) {
    it(`${way}: shows all that --apply makes; --undo leaves nothing`, async (t) => {
      const { path, run } = system(t);
      const shown = (await run('--way', way)).stdout.toString();
      const files = setupFiles(way, undefined);
      assert.ok(files.length >= 6);
      for (const file of files) {
        assert.ok(shown.includes(`${file.path}:\n`), file.path);
        assert.ok(!existsSync(path(file.path)));
      }
      const made = await run('--way', way, '--apply');
      assert.equal(made.code, 0, made.stderr);
      for (const file of files) assert.equal(readFileSync(path(file.path), 'utf8'), file.text);
      assert.equal((await run('--way', way, '--apply')).code, 0, 'a second time');
      assert.equal((await run('--undo')).code, 0);
      for (const file of files) assert.ok(!existsSync(path(file.path)), file.path);
      assert.match((await run('--undo')).stdout.toString(), /nothing was set up/);
    });
  }

  it('has a unit of every way in contrib, and tells how to start it', async (t) => {
    const { run } = system(t);
    const units = new Set<string>();
    for (const way of WAYS) {
      const shown = (await run('--way', way)).stdout.toString();
      for (const { path } of setupFiles(way, undefined)) {
        const unit = /systemd\/system\/(.*)\.service$/.exec(path)?.[1];
        if (unit === undefined) continue;
        units.add(`${unit}.service`);
        assert.match(shown, new RegExp(`^[34]\\. .*systemctl .*${unit}`, 'm'));
      }
    }
    const there = readdirSync(new URL('../../../contrib/systemd', import.meta.url));
    assert.deepEqual([...units].sort(), there.filter((name) => name.endsWith('.service')).sort());
  });

  it('lets the user that QEMU runs as into the group, where QEMU uses the sockets', async (t) => {
    const { path, run } = system(t);
    const member = async (way: Way = 'unix'): Promise<string | undefined> =>
      /^ +m (\S+) pagewire$/m.exec((await run('--way', way)).stdout.toString())?.[1];
    assert.equal(await member(), undefined);
    write(path('/etc/passwd'), 'root:x:0:0::/:\nlibvirt-qemu:x:64055:1::/:\nguests:x:107:1::/:\n108:x:5:1::/:\n');
    assert.equal(await member(), 'libvirt-qemu');
    for (const way of WAYS) assert.equal(await member(way), way === 'unix' ? 'libvirt-qemu' : undefined);
    for (const [value, user] of [
      ['"guests"', 'guests'],
      ["'guests' # ours", 'guests'],
      ['"elsewhere"', 'elsewhere'],
      ['"+107"', 'guests'],
      ['"107"', 'guests'],
      ['"root"', undefined],
      ['"0"', undefined],
      ['"+0"', undefined],
    ] as const) {
      write(path('/etc/libvirt/qemu.conf'), `#user = "nobody"\nuser = ${value}\nuser = "second"\n`);
      assert.equal(await member(), user, value);
    }
  });

  it('takes no word of qemu.conf for a user that it does not understand, and does nothing then', async (t) => {
    const { path, run } = system(t);
    write(path('/etc/passwd'), 'root:x:0:0::/:\nlibvirt-qemu:x:64055:1::/:\n108:x:5:1::/:\n');
    for (const [value, why] of [
      ['"+4711"', /\/etc\/passwd has no such number: write the user's name there/],
      ['"4711"', /\/etc\/passwd has no such number/],
      ['"108"', /no name of a user that systemd-sysusers takes/],
      ['"qemu:kvm"', /no name of a user .*: write user = "NAME" or user = "\+NUMBER"/],
      ['""', /no name of a user/],
      ['qemu', /no name of a user/],
      ['"""qemu"""', /no name of a user/],
      ['"first.last"', /no name of a user/],
    ] as const) {
      write(path('/etc/libvirt/qemu.conf'), `user = ${value}\n`);
      for (const options of [[], ['--apply']]) {
        const { code, stdout, stderr } = await run(...options);
        assert.equal(code, 2, value);
        assert.match(stderr, why);
        assert.ok(stderr.includes(`/etc/libvirt/qemu.conf has user = ${value},`), stderr);
        assert.equal(stdout.toString(), '');
      }
      assert.deepEqual(readdirSync(path('/etc')).sort(), ['libvirt', 'passwd']);
    }
    // It is not asked where it does not matter.
    assert.equal((await run('--way', 'tunnel', '--apply')).code, 0);
  });

  it('knows root by its number where the passwd file has nobody', async (t) => {
    const { path, run } = system(t);
    write(path('/etc/libvirt/qemu.conf'), 'user = "+0"\n');
    const { code, stdout } = await run();
    assert.equal(code, 0);
    assert.doesNotMatch(stdout.toString(), /^ +m /m);
  });

  it('keeps the member when another way is set up beside, and takes it away with the rest', async (t) => {
    const { path, run } = system(t);
    const member = '/etc/sysusers.d/pagewire-qemu.conf';
    write(path('/etc/passwd'), 'qemu:x:107:1::/:\n');
    assert.equal((await run('--apply')).code, 0);
    assert.match(readFileSync(path(member), 'utf8'), /^m qemu pagewire$/m);
    assert.equal((await run('--way', 'tunnel', '--apply')).code, 0);
    assert.ok(existsSync(path(member)));
    assert.match((await run('--undo')).stdout.toString(), new RegExp(`^removed ${member}$`, 'm'));
    assert.ok(!existsSync(path(member)));
  });

  it('tells of a system that does not run which commands are left, shown or done', async (t) => {
    const { path, run } = system(t);
    write(path('/etc/passwd'), 'qemu:x:107:1::/:\n');
    const left = [
      `Left to do in the system of ${path('')}, once it runs, as root there:`,
      'systemd-sysusers /etc/sysusers.d/pagewire.conf /etc/sysusers.d/pagewire-qemu.conf',
      'systemd-tmpfiles --create /etc/tmpfiles.d/pagewire.conf',
      'systemctl daemon-reload\n',
    ].join('\n');
    for (const options of [[], ['--apply']]) {
      const said = (await run(...options)).stdout.toString();
      assert.ok(said.includes(left), said);
      assert.doesNotMatch(said, /would be run:|^done:/m);
    }
  });

  it('shows what --apply would keep, and refuses what it would refuse', async (t) => {
    const { path, run } = system(t);
    const [unit, settings] = ['/etc/systemd/system/pagewire-source@.service', '/etc/pagewire/destination.env'];
    write(path(settings), 'PAGEWIRE_CONNECT=tcp:127.0.0.1:{port}\n');
    const shown = await run();
    assert.equal(shown.code, 0);
    assert.match(
      shown.stdout.toString(),
      /^would be kept \/etc\/pagewire\/destination\.env: as shipped, this way has PAGEWIRE_CONNECT=unix:\S+ there$/m,
    );
    assert.ok(shown.stdout.toString().includes(`\nwould be made ${unit}\n`));
    assert.match(shown.stdout.toString(), /To do all of it .* --apply/);
    write(path(unit), '[Unit]\n');
    const [refused, applied] = [await run(), await run('--apply')];
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /pagewire-source@\.service is there and was not made by this: move away/);
    assert.equal(refused.stderr, applied.stderr);
    assert.match(refused.stdout.toString(), /^Nothing was done\.$/m);
    assert.doesNotMatch(refused.stdout.toString(), /To do all of it/);
  });

  it('makes nothing where something is in the way of one file', async (t) => {
    for (const [make, said] of [
      [
        (at: string) => mkdirSync(`${at}/pagewire/tunnel.env`, { recursive: true }),
        /tunnel\.env is a folder: move away/,
      ],
      [
        (at: string) => {
          write(`${at}/pagewire`, 'x');
        },
        /etc\/pagewire is no folder: move away/,
      ],
      [
        (at: string) => {
          mkdirSync(`${at}/pagewire`, { recursive: true });
          symlinkSync('/nonexistent', `${at}/pagewire/tunnel.env`);
        },
        /tunnel\.env is no file: move away/,
      ],
    ] as const) {
      const { path, run } = system(t);
      make(path('etc'));
      const before = readdirSync(path('etc'), { recursive: true }).sort();
      for (const options of [[], ['--apply']]) {
        const { code, stderr } = await run('--way', 'tunnel', ...options);
        assert.equal(code, 2);
        assert.match(stderr, said);
        assert.doesNotMatch(stderr, /are you root/);
      }
      assert.deepEqual(readdirSync(path('etc'), { recursive: true }).sort(), before);
      assert.equal((await run('--undo')).code, 0);
    }
  });

  it('leaves what is not its own, and settings that were changed', async (t) => {
    const { path, run } = system(t);
    const [unit, settings] = ['/etc/systemd/system/pagewire-destination.service', '/etc/pagewire/destination.env'];
    write(path(unit), '[Unit]\n');
    const refused = await run('--apply');
    assert.notEqual(refused.code, 0);
    assert.match(refused.stderr, /pagewire-destination\.service is there and was not made by this/);
    assert.ok(!existsSync(path(settings)), 'something was made');
    write(path(unit), `# Made by: pagewire libvirt setup\n[Unit]\n`);
    assert.equal((await run('--apply')).code, 0);
    const changed = `${readFileSync(path(settings), 'utf8')}PAGEWIRE_LISTEN=tls:[::]:7778\n`;
    write(path(settings), changed);
    assert.match((await run('--apply')).stdout.toString(), /^kept \/etc\/pagewire\/destination\.env$/m);
    assert.match(
      (await run('--apply', '--way', 'intercept')).stdout.toString(),
      /^kept \/etc\/pagewire\/destination\.env: as shipped, this way has PAGEWIRE_CONNECT=tcp:127\.0\.0\.1:\{port\} there$/m,
    );
    assert.match(
      (await run('--undo')).stdout.toString(),
      /^kept \/etc\/pagewire\/destination\.env \(it was changed\)$/m,
    );
    assert.equal(readFileSync(path(settings), 'utf8'), changed);
    assert.ok(!existsSync(path(unit)));
  });
});

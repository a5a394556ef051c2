// What `pagewire libvirt setup` shows, makes and takes away.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setupFiles } from '#src/libvirt/setup.js';
import { WAYS } from '#src/libvirt/ways.js';
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
      const files = setupFiles(way, 'root');
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
      for (const { path } of setupFiles(way, 'root')) {
        const unit = /systemd\/system\/(.*)\.service$/.exec(path)?.[1];
        if (unit === undefined) continue;
        units.add(`${unit}.service`);
        assert.match(shown, new RegExp(`^[34]\\. .*systemctl .*${unit}`, 'm'));
      }
    }
    const there = readdirSync(new URL('../../../contrib/systemd', import.meta.url));
    assert.deepEqual([...units].sort(), there.filter((name) => name.endsWith('.service')).sort());
  });

  it('lets the user that QEMU runs as into the group', async (t) => {
    const { path, run } = system(t);
    const member = async (): Promise<string | undefined> =>
      /^ +m (\S+) pagewire$/m.exec((await run()).stdout.toString())?.[1];
    assert.equal(await member(), undefined);
    write(path('/etc/passwd'), 'root:x:0:0::/:\nlibvirt-qemu:x:1:1::/:\n');
    assert.equal(await member(), 'libvirt-qemu');
    write(path('/etc/libvirt/qemu.conf'), '#user = "nobody"\nuser = "guests"\n');
    assert.equal(await member(), 'guests');
    write(path('/etc/libvirt/qemu.conf'), 'user = "root"\n');
    assert.equal(await member(), undefined);
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

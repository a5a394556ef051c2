// Where the filter stands, held against what Debian's packages say of the daemon: its unit and its AppArmor profile.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { environmentFiles, FILTER, FOLDER } from '#src/libvirt/install.js';
import { rootFolder, skipLibvirt } from './host.js';

const read = (path: string): string => readFileSync(join(rootFolder, path), 'utf8');

interface Rule {
  readonly path: string;
  /** What may be done, as the profile has it: rwmkl, and how something may be executed. */
  readonly permissions: string;
  readonly isDenied: boolean;
}

/** The rules for files of a profile, without those of the profiles inside it. */
function rules(profile: string): Rule[] {
  const own = profile.replace(/^\s*profile \w+ \{[^]*?^\s*\}/gm, '');
  const rule = /^\s*(?:audit )?(deny )?(\/\S*) ([rwmklaixpPuUcC]+)(?: -> \w+)?,\s*$/gm;
  return [...own.matchAll(rule)].map(([, deny, path = '', permissions = '']) => ({
    path,
    permissions,
    isDenied: deny !== undefined,
  }));
}

/** AppArmor's patterns: `*` within a folder, `**` below it, `{a,b}`. */
function matches(pattern: string, path: string): boolean {
  const expression = pattern
    .replace(/[.+^$()|[\]\\]/g, '\\$&')
    .replace(/\*\*|\*|\{|\}|,/g, (sign) => ({ '**': '.*', '*': '[^/]*', '{': '(?:', '}': ')' })[sign] ?? '|');
  return new RegExp(`^${expression}$`).test(path);
}

const profile = (): Rule[] => rules(read('etc/apparmor.d/usr.sbin.libvirtd'));

/** How libvirtd may execute a file: the modes of all rules that say so. */
function executed(path: string): string[] {
  const applying = profile().filter((rule) => matches(rule.path, path) && rule.permissions.includes('x'));
  assert.ok(!applying.some(({ isDenied }) => isDenied));
  return applying.map(({ permissions }) => permissions);
}

void describe("the filter's place, by Debian's packages", { skip: skipLibvirt() }, () => {
  void it('AppArmor lets libvirtd execute the filter, unconfined, and read the folder with the links', () => {
    assert.ok(profile().length > 20);
    // P: with the file's own profile, which it has not; U: without one then.
    assert.deepEqual(executed(FILTER), ['PUx']);
    const reads = profile().filter((rule) => matches(rule.path, `${FOLDER}/lzop`) && rule.permissions.includes('r'));
    assert.ok(reads.length > 0 && !reads.some(({ isDenied }) => isDenied));
  });

  void it('and would not, stood it where the links are: what a link leads to counts', () => {
    assert.deepEqual(executed(`${FOLDER}/lzop`), []);
    assert.deepEqual(executed('/usr/local/sbin/pagewire-libvirt-filter'), []);
  });

  void it("the daemon's unit sets no PATH itself, and keeps nothing from running that Node needs", () => {
    const unit = read('usr/lib/systemd/system/libvirtd.service');
    const settings = [...unit.matchAll(/^(\w+)=(.*)$/gm)].map(([, name = '', value = '']) => ({ name, value }));
    const of = (name: string): string[] =>
      settings.filter((setting) => setting.name === name).map(({ value }) => value);
    assert.deepEqual(of('ExecStart'), ['/usr/sbin/libvirtd $LIBVIRTD_ARGS']);
    for (const value of of('Environment')) assert.doesNotMatch(value, /PATH=/);
    // The install looks into these.
    for (const value of of('EnvironmentFile')) {
      assert.ok(environmentFiles('libvirtd').includes(value.replace(/^-/, '')), value);
    }
    const confining =
      /^(UnsetEnvironment|ExecSearchPath|RootDirectory|RootImage|NoExecPaths|ProtectSystem|InaccessiblePaths|TemporaryFileSystem|MemoryDenyWriteExecute|SystemCallFilter|MemoryMax|User|DynamicUser)$/;
    assert.deepEqual(
      settings.map(({ name }) => name).filter((name) => confining.test(name)),
      [],
    );
  });
});

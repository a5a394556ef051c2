// pagewire check, against destinations of both kinds.
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { EXIT } from '#src/control/exit.js';
import { folder, pagewire, Running } from './command.js';

it('pagewire check tells of a destination what a source of the same kind would be told', async (t) => {
  const path = folder(t);
  for (const kind of [[], ['--libvirt']]) {
    const listen = `unix:${path(`proxy${kind.join('')}`)}`;
    const words = ['proxy', 'destination', '--listen', listen, '--connect', `unix:${path('none')}`, ...kind];
    await new Running(t, words).says(/listening on/);
    const same = await pagewire(t, ['check', listen, ...kind]);
    assert.deepEqual([same.code, same.stderr], [EXIT.ok, '']);
    assert.match(same.stdout.toString(), /^sessions +0 of at most 16$/m);
    assert.match(same.stdout.toString(), /^memory there +\S+ [MG]iB free; a session takes up to \d+ MiB$/m);
    assert.match(
      same.stdout.toString(),
      /^memory here +\S+ [MG]iB free; a session takes up to \d+ MiB and the guest's RAM/m,
    );
    const other = await pagewire(t, ['check', listen, ...(kind.length === 0 ? ['--libvirt'] : [])]);
    assert.equal(other.code, EXIT.link);
    assert.match(other.stdout.toString(), /^refused .*give --libvirt to both/m);
  }
});

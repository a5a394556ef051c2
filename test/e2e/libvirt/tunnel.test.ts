// libvirt's own tunnel through the proxies: `virsh migrate --p2p --tunnelled`.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { after, before, beforeEach, describe, it } from 'node:test';
import { sleep } from '#src/demo/time.js';
import type { SessionSnapshot } from '#src/session/snapshot.js';
import { says } from '../harness/proxies.js';
import { Stage } from '../harness/stage.js';
import type { Running } from '../harness/stage.js';
import { boot, forget, furnish, isGone, lastTick, runs } from './guest.js';
import { Hosts, skipLibvirt } from './host.js';
import type { Host } from './host.js';
import { endTunnel, PORT, startTunnel, TUNNEL_URI as URI } from './tunnel-proxies.js';
import type { TunnelProxies } from './tunnel-proxies.js';

const STATS = '/run/pagewire/stats.jsonl';

/** How often a guest goes there and back. */
const ROUNDS = process.env['PAGEWIRE_TEST_FULL'] === '1' ? 10 : 2;

/** A proxy for libvirt's tunnel on each host; the source's writes its stats. */
async function proxies(
  from: Host,
  to: Host,
  source: string[] = [],
  destination: string[] = [],
): Promise<TunnelProxies> {
  mkdirSync(from.path('/run/pagewire'), { recursive: true });
  writeFileSync(from.path(STATS), '');
  now = await startTunnel(from, to, ['--stats', STATS, ...source], destination);
  return now;
}

let now: TunnelProxies | undefined;

/** The last line of each connection's stats, as far as it has ended. */
function ended(host: Host): (SessionSnapshot & { outcome: { state: string } })[] {
  const lines = readFileSync(host.path(STATS), 'utf8').trim().split('\n').filter(Boolean);
  return lines
    .map((line) => JSON.parse(line) as SessionSnapshot & { outcome: { state: string } | null })
    .filter((line): line is SessionSnapshot & { outcome: { state: string } } => line.outcome !== null);
}

const migration = ['migrate', '--live', '--p2p', '--tunnelled', 'vm1', URI];

void describe("libvirt's tunnel through the proxies", { skip: skipLibvirt() }, () => {
  const stage = new Stage();
  let hosts: Hosts;
  before(async () => {
    hosts = await Hosts.start(stage);
    furnish(hosts.a, hosts.b);
  });
  after(() => stage.end());
  beforeEach(async () => {
    if (now) await endTunnel(now);
    await hosts.b.run(['ip', 'link', 'set', 'mig0', 'up']);
    for (const host of [hosts.a, hosts.b]) {
      await host.virsh('destroy', 'vm1').catch(() => undefined);
      forget(host);
    }
  });

  void it('carries a guest there and back, again and again, and makes its stream small', async () => {
    const { a, b } = hosts;
    await boot(a);
    for (let round = 0; round < ROUNDS; round++) {
      for (const [from, to] of [
        [a, b],
        [b, a],
      ] as const) {
        const pair = await proxies(from, to, ['--max-bandwidth', '200Mbit']);
        const before = lastTick(from);
        await from.virsh(...migration);
        await runs(to, 'vm1', before);
        await isGone(from);
        await says(pair.source, /guest vm1: its stream is complete[\s\S]*connection has ended \(1 stream complete\)/);
        await says(pair.destination, /guest vm1: libvirt prepares for it/);
        await endTunnel(pair);
        const [last] = ended(from);
        assert.equal(last?.outcome.state, 'complete');
        assert.equal(last.tunnel?.guest, 'vm1');
        assert.ok((last.pages?.delta ?? 0) > 100, JSON.stringify(last.pages));
        assert.ok(last.wire.out * 2 < last.streamBytes, `${last.wire.out} of ${last.streamBytes}`);
      }
    }
    await a.daemonLives();
    await b.daemonLives();
  });

  void it('refuses what is no migration, as libvirt refuses', async () => {
    const { a, b } = hosts;
    const pair = await proxies(a, b);
    const list = (): Running => a.start('virsh', ['virsh', '--connect', URI, 'list']);
    const refused = list();
    assert.notEqual(await refused.exitCode(30), 0);
    assert.match(refused.said(), /pagewire lets only migrations through: procedure \d+ .*--libvirt-allow/);
    await says(pair.destination, /asked for more than migrations need: refused/);
    await endTunnel(pair);
    const open = await proxies(a, b, [], ['--libvirt-allow', 'all']);
    const allowed = list();
    assert.equal(await allowed.exitCode(30), 0, allowed.said());
    await endTunnel(open);
  });

  void it('goes on where it was when the link comes back', async () => {
    const { a, b } = hosts;
    await boot(a, { rate: 8000 });
    const pair = await proxies(a, b, ['--silence', '1s', '--max-bandwidth', '60Mbit'], ['--silence', '1s']);
    const migrating = a.startVirsh(...migration);
    await says(pair.source, /guest vm1: libvirt sends its stream/, 30);
    await sleep(300);
    await b.run(['ip', 'link', 'set', 'mig0', 'down']);
    await says(pair.source, /the link to .* is lost/, 30);
    // longer than libvirt waits for a sign of life
    await sleep(process.env['PAGEWIRE_TEST_FULL'] === '1' ? 45_000 : 3000);
    await b.run(['ip', 'link', 'set', 'mig0', 'up']);
    assert.equal(await migrating.exitCode(120), 0, migrating.said());
    await runs(b, 'vm1', lastTick(a));
    await isGone(a);
    await says(pair.source, /connection has ended/);
    await endTunnel(pair);
    const losses = ended(a).map(({ linkLosses }) => linkLosses);
    assert.ok(Math.max(...losses) > 0, `${losses.join()} ${pair.source.said()}`);
  });

  void it('fails with the reason when the link is lost for good, and the guest runs on', async () => {
    const { a, b } = hosts;
    await boot(a, { rate: 8000 });
    const quick = ['--silence', '1s', '--reconnect', '1s'];
    const pair = await proxies(a, b, [...quick, '--max-bandwidth', '60Mbit'], quick);
    const migrating = a.startVirsh(...migration);
    await says(pair.source, /guest vm1: libvirt sends its stream/, 30);
    await b.run(['ip', 'link', 'set', 'mig0', 'down']);
    assert.notEqual(await migrating.exitCode(120), 0);
    assert.match(migrating.said(), /job 'migration out' failed/);
    assert.match(a.daemonSaid(), /pagewire: the link is lost for good/);
    await b.run(['ip', 'link', 'set', 'mig0', 'up']);
    await runs(a);
    await isGone(b);
    await a.daemonLives();
    await b.daemonLives();
    await endTunnel(pair);
  });

  void it('says why the destination cannot be reached', async () => {
    const { a, b } = hosts;
    await boot(a);
    const pair = await proxies(a, b);
    await pair.destination.kill();
    const migrating = a.startVirsh(...migration);
    assert.notEqual(await migrating.exitCode(30), 0);
    assert.match(migrating.said(), /pagewire: cannot connect to tcp:.* connection refused/);
    await runs(a);
  });

  void it('domjobabort ends it at both ends', async () => {
    const { a, b } = hosts;
    await boot(a, { rate: 8000 });
    const pair = await proxies(a, b, ['--max-bandwidth', '40Mbit']);
    const migrating = a.startVirsh(...migration);
    await says(pair.source, /guest vm1: libvirt sends its stream/, 30);
    await sleep(500);
    await a.virsh('domjobabort', 'vm1');
    assert.notEqual(await migrating.exitCode(60), 0);
    await runs(a);
    await isGone(b);
    await says(pair.source, /libvirt's connection has ended/, 20);
    await endTunnel(pair);
  });

  void it('goes by a program that libvirt starts', async () => {
    const { a, b } = hosts;
    await boot(a);
    const pair = await proxies(a, b);
    const program = '/run/pagewire/to-dst';
    writeFileSync(
      a.path(program),
      `#!/bin/sh\nexec pagewire proxy source --libvirt --insecure --listen fd:0 --connect tcp:${b.address}:${PORT} 2>>/run/pagewire/log\n`,
      { mode: 0o755 },
    );
    await a.virsh('migrate', '--live', '--p2p', '--tunnelled', 'vm1', `qemu+ext://dst/system?command=${program}`);
    await runs(b, 'vm1', lastTick(a));
    await isGone(a);
    assert.match(readFileSync(a.path('/run/pagewire/log'), 'utf8'), /guest vm1: its stream is complete/);
    await endTunnel(pair);
  });
});

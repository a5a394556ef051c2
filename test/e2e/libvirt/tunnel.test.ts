// libvirt's own tunnel through the proxies: `virsh migrate --p2p --tunnelled`, by each recipe of docs/libvirt-tunnel.md,
// with keys, and what goes wrong on the way, over plain TCP.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { after, before, beforeEach, describe, it } from 'node:test';
import { sleep, until } from '#src/demo/time.js';
import type { LastError } from '#src/session/failure.js';
import type { SessionSnapshot } from '#src/session/snapshot.js';
import { childrenOf, says } from '../harness/proxies.js';
import { type Running, Stage } from '../harness/stage.js';
import { boot, forget, furnish, isGone, lastTick, runs } from './guest.js';
import { Hosts, inside, skipLibvirt } from './host.js';
import type { Host } from './host.js';
import { Cook, recipe } from './recipes.js';
import { qemuReadsNoKey, qemuReplacesNo } from './services.js';
import { endTunnel, startTunnel, TUNNEL_URI as URI } from './tunnel-proxies.js';
import type { TunnelProxies } from './tunnel-proxies.js';

const REMOTE = 0x20008086;
const FINISH3_PARAMS = 306;
const REPLY = 1;

const STATS = '/run/pagewire/stats.jsonl';

/** How often a guest goes there and back. */
const ROUNDS = process.env['PAGEWIRE_TEST_FULL'] === '1' ? 10 : 2;

/** A proxy for libvirt's tunnel on each host, without keys; the source's writes its stats. */
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

/** Where systemd-sysusers fails, setup tells what it has done by then, and how that is undone. */
async function failsHalfway(host: Host): Promise<void> {
  const script = `mkdir /run/fails; printf '#!/bin/sh\\necho it fails >&2; exit 1' >/run/fails/systemd-sysusers
    chmod 755 /run/fails/systemd-sysusers; PATH=/run/fails:$PATH pagewire libvirt setup --way tunnel --apply`;
  await assert.rejects(
    host.run(['sh', '-c', script]),
    /made \/etc\/pagewire\/tunnel\.env\n[^]*systemd-sysusers \S+ failed: it fails; what was done before is told [^]* or take it away with pagewire libvirt setup --undo/,
  );
  assert.match(await host.run(['pagewire', 'libvirt', 'setup', '--undo']), /^removed \/etc\/pagewire\/tunnel\.env$/m);
}

const LAST_ERROR = ['--last-error', '/run/pagewire/last-{name}.json'];

/** What it has of the guest's last failure there. */
const lastErrorAt = (host: Host): LastError =>
  JSON.parse(readFileSync(host.path('/run/pagewire/last-vm1.json'), 'utf8')) as LastError;

const withoutVirsh = (words: string): string | undefined => (words.startsWith('virsh') ? undefined : words);

let now: TunnelProxies | undefined;

/** The last line of each connection's stats, as far as it has ended. */
function ended(host: Host): (SessionSnapshot & { outcome: { state: string } })[] {
  const lines = readFileSync(host.path(STATS), 'utf8').trim().split('\n').filter(Boolean);
  return lines
    .map((line) => JSON.parse(line) as SessionSnapshot & { outcome: { state: string } | null })
    .filter((line): line is SessionSnapshot & { outcome: { state: string } } => line.outcome !== null);
}

const migration = ['migrate', '--live', '--p2p', '--tunnelled', 'vm1', URI];

/** Stands before a daemon and keeps its answer to the last call of a migration back. */
class Withholding {
  withheld = false;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(daemon: string, at: string) {
    this.#server = createServer((near) => {
      const far = connect(daemon);
      near.pipe(far);
      let rest = Buffer.alloc(0);
      far.on('data', (came) => {
        rest = Buffer.concat([rest, came]);
        while (rest.length >= 28 && rest.length >= rest.readUInt32BE(0)) {
          const packet = rest.subarray(0, rest.readUInt32BE(0));
          rest = rest.subarray(packet.length);
          const [procedure, kind] = [packet.readUInt32BE(12), packet.readUInt32BE(16)];
          if (packet.readUInt32BE(4) === REMOTE && procedure === FINISH3_PARAMS && kind === REPLY) this.withheld = true;
          else near.write(packet);
        }
      });
      for (const [socket, other] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#sockets.add(socket);
        socket.on('error', () => undefined).on('close', () => other.destroy());
      }
    }).listen(at);
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

void describe("libvirt's tunnel through the proxies", { skip: skipLibvirt() }, () => {
  const stage = new Stage();
  let hosts: Hosts;
  /** For guests that go from a to b, and for those that come back. */
  let cook: Cook, cookBack: Cook;
  before(async () => {
    hosts = await Hosts.start(stage);
    const { a, b } = hosts;
    furnish(a, b);
    cook = new Cook({ a, b });
    cookBack = new Cook({ a: b, b: a });
    for (const each of [cook, cookBack]) await each.run('Once on both hosts');
  });
  after(() => stage.end());
  beforeEach(async () => {
    if (now) await endTunnel(now);
    for (const each of [cook, cookBack]) await each.endAll();
    await hosts.b.run(['ip', 'link', 'set', 'mig0', 'up']);
    for (const host of [hosts.a, hosts.b]) {
      await seesWhatHasClosed(host);
      await host.virsh('destroy', 'vm1').catch(() => undefined);
      forget(host);
    }
  });

  /**
   * By its next answers a daemon has seen that a connection of its own is closed. libvirt 11.3 tells that to the guest that
   * went over it, by its name; where the guest is gone before, it ends by SIGSEGV (qemuMigrationSrcConnectionClosed).
   */
  async function seesWhatHasClosed(host: Host): Promise<void> {
    for (let answers = 0; answers < 3; answers++) await host.daemonLives();
  }

  void it('the recipe "Setting it up", there and back, again and again: makes the stream small', async () => {
    const { a, b } = hosts;
    await boot(a);
    for (let round = 0; round < ROUNDS; round++) {
      for (const [from, to, by] of [
        [a, b, cook],
        [b, a, cookBack],
      ] as const) {
        writeFileSync(from.path(STATS), '');
        const before = lastTick(from);
        // Less than a busy host sends: over a link that takes all at once there would be no differences.
        await by.run('Setting it up', (words) =>
          words.includes('proxy source') ? `${words} --stats ${STATS} --max-bandwidth 20Mbit` : words,
        );
        await runs(to, 'vm1', before);
        await isGone(from);
        const [source, destination] = [by.proxy('source'), by.proxy('destination')];
        await says(source, /guest vm1: its stream is complete[\s\S]*connection has ended \(1 stream complete\)/);
        await says(destination, /guest vm1: libvirt prepares for it/);
        await by.endAll();
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
    const [{ words: list, shown } = { words: '', shown: '' }] = recipe('What is let through');
    await cook.run('Setting it up', withoutVirsh);
    await assert.rejects(cook.run('What is let through'), (error: Error) => {
      for (const line of shown.trim().split('\n')) assert.ok(error.message.includes(line), error.message);
      return true;
    });
    await says(cook.proxy('destination'), /asked for more than migrations need: refused/);
    await cook.endAll();
    await cook.run('Setting it up', (words) =>
      withoutVirsh(words)?.replace('proxy destination', '$& --libvirt-allow all'),
    );
    await hosts.a.run(['sh', '-c', list]);
  });

  void it('refuses a migration that is not tunnelled, and says what to give virsh', async () => {
    const { a, b } = hosts;
    await boot(a);
    const pair = await proxies(a, b);
    for (const without of ['--tunnelled', '--p2p']) {
      const migrating = a.startVirsh(...migration.filter((word) => word !== '--tunnelled' && word !== without));
      assert.notEqual(await migrating.exitCode(60), 0);
      assert.match(
        migrating.said(),
        /^error: pagewire lets only tunnelled migrations through: give virsh --p2p --tunnelled/m,
      );
    }
    await runs(a);
    await isGone(b);
    await endTunnel(pair);
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

  void it('fails with the reason when the source proxy itself cannot go on', async () => {
    const { a, b } = hosts;
    await boot(a);
    const pair = await proxies(a, b, ['--memory-limit', '200M', '--cache-size', '128M']);
    const migrating = a.startVirsh(...migration);
    assert.notEqual(await migrating.exitCode(60), 0);
    await says(pair.source, /a cache of 1\d\d MiB and .* MiB for everything else do not fit/);
    // Once the stream flows, virsh shows what QEMU makes of its end; the reason is in the daemon's log.
    assert.match(migrating.said(), /job 'migration out' failed/);
    assert.match(a.daemonSaid(), /pagewire: .*a cache of 1\d\d MiB and .* do not fit/);
    await runs(a);
    await isGone(b);
    await endTunnel(pair);
  });

  void it('fails with the reason at both ends when the far daemon dies, and the guest runs on', async () => {
    const { a, b } = hosts;
    await boot(a, { rate: 8000 });
    const pair = await proxies(a, b, ['--max-bandwidth', '40Mbit', ...LAST_ERROR], LAST_ERROR);
    const migrating = a.startVirsh(...migration);
    await says(pair.source, /guest vm1: libvirt sends its stream/, 30);
    await sleep(300);
    await b.killDaemon();
    assert.notEqual(await migrating.exitCode(60), 0);
    assert.match(migrating.said(), /job 'migration out' failed/);
    assert.match(a.daemonSaid(), /pagewire: .*libvirt daemon.* closed/);
    for (const [proxy, host] of [
      [pair.source, a],
      [pair.destination, b],
    ] as const) {
      await says(proxy, /libvirt daemon.* closed .*vm1.*what to do: /);
      const { guest, message } = lastErrorAt(host);
      assert.equal(guest, 'vm1');
      assert.match(message, /libvirt daemon.* closed/);
    }
    await runs(a);
    await b.restartDaemon();
    await endTunnel(pair);
  });

  void it('fails when the far daemon answers no more, and the guest runs on', async () => {
    const { a, b } = hosts;
    await boot(a, { rate: 8000 });
    const pair = await proxies(
      a,
      b,
      ['--max-bandwidth', '40Mbit', ...LAST_ERROR],
      ['--reconnect', '2s', ...LAST_ERROR],
    );
    const migrating = a.startVirsh(...migration);
    await says(pair.source, /guest vm1: libvirt sends its stream/, 30);
    await sleep(300);
    b.holdDaemon(true);
    const fails = async (proxy: Running, host: Host, why: RegExp): Promise<void> => {
      await says(proxy, why, 60);
      const { guest } = lastErrorAt(host);
      assert.equal(guest, 'vm1');
    };
    try {
      // libvirt's own patience is 30 s
      assert.notEqual(await migrating.exitCode(90), 0);
      await fails(pair.source, a, /libvirt closed its connection in the middle .*vm1.*what to do: /);
    } finally {
      b.holdDaemon(false);
    }
    // it hears nothing of the source while its daemon takes nothing
    await fails(pair.destination, b, /vm1.*what to do: /);
    await runs(a);
    await isGone(b);
    await endTunnel(pair);
  });

  void it("a session's process that is killed is told of, and what is left at the destination can be ended", async () => {
    const { a, b } = hosts;
    await boot(a, { rate: 8000 });
    const pair = await proxies(a, b, ['--max-bandwidth', '40Mbit', ...LAST_ERROR]);
    const migrating = a.startVirsh(...migration);
    await says(pair.source, /guest vm1: libvirt sends its stream/, 30);
    const sessions = inside(pair.source)
      .flatMap((pid) => childrenOf({ pid }))
      .filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'latin1').startsWith('pagewire: libvirt-'));
    assert.equal(sessions.length, 1);
    process.kill(sessions[0] ?? 0, 'SIGKILL');
    assert.notEqual(await migrating.exitCode(60), 0);
    assert.match(migrating.said(), /client socket is closed/);
    await says(
      pair.source,
      /the session's process was ended by SIGKILL .*: libvirt fails its migration.*vm1.*what to do: /,
    );
    const told = lastErrorAt(a);
    assert.deepEqual([told.guest, told.code], ['vm1', 'INTERNAL']);
    await runs(a);
    // The destination waits for the link.
    const early = a.startVirsh(...migration);
    assert.notEqual(await early.exitCode(60), 0);
    assert.match(early.said(), /domain 'vm1' is already active/);
    await b.virsh('destroy', 'vm1');
    const next = a.startVirsh(...migration);
    assert.equal(await next.exitCode(60), 0, next.said());
    await runs(b, 'vm1', lastTick(a));
    await isGone(a);
    await endTunnel(pair);
  });

  void it('holds a guest that runs at the destination when the daemon there dies with its answer', async () => {
    const { a, b } = hosts;
    await boot(a);
    const relay = new Withholding(b.path('/run/libvirt/libvirt-sock'), b.path('/run/relay.sock'));
    const patient = ['--silence', '1s', ...LAST_ERROR];
    const pair = await proxies(a, b, patient, ['--connect', 'unix:/run/relay.sock', '--silence', '1s']);
    try {
      const migrating = a.startVirsh(...migration);
      await until(
        () => relay.withheld,
        60,
        () => `no last answer: ${pair.source.said()}`,
      );
      await runs(b, 'vm1', lastTick(a));
      await b.killDaemon();
      await says(pair.source, /IN DOUBT: the libvirt daemon behind .* closed its connection/, 30);
      // libvirt alone gives up after some 30 s
      await sleep(process.env['PAGEWIRE_TEST_FULL'] === '1' ? 45_000 : 3000);
      assert.equal(migrating.hasEnded, false, migrating.said());
      const [here, there] = [lastTick(a), lastTick(b)];
      await until(() => lastTick(b) > there + 100, 30, 'it does not run at the destination');
      assert.equal(lastTick(a), here, 'it runs at both ends');
      // As the log says: it runs there, so it is ended here, and then the session.
      await a.virsh('destroy', 'vm1');
      const [, session = ''] = /SIGTERM to process (\d+), twice/.exec(pair.source.said()) ?? [];
      for (const heard of [/A second signal ends the session/, /what to do: see where the guest runs/]) {
        await a.run(['kill', session]);
        await says(pair.source, heard, 30);
      }
      assert.notEqual(await migrating.exitCode(60), 0);
      await isGone(a);
    } finally {
      relay.close();
      await endTunnel(pair);
    }
    await b.restartDaemon();
    await runs(b, 'vm1', lastTick(b));
  });

  void it('says why the destination cannot be reached', async () => {
    const { a } = hosts;
    await boot(a);
    await cook.run('Setting it up', withoutVirsh);
    await cook.end('destination');
    const migrating = a.startVirsh(...migration);
    assert.notEqual(await migrating.exitCode(30), 0);
    assert.match(migrating.said(), /^error: pagewire: cannot connect to tls:dst:7778: connection refused/m);
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

  void it('the recipe "A program instead of a socket"', async () => {
    const { a, b } = hosts;
    await a.ownUsr();
    await boot(a);
    await cook.run('Setting it up', (words) => (words.includes('proxy destination') ? words : undefined));
    await cook.run('A program instead of a socket');
    await runs(b, 'vm1', lastTick(a));
    await isGone(a);
    await says(cook.proxy('destination'), /guest vm1: libvirt prepares for it/);
    assert.equal(readFileSync(a.path('/var/log/pagewire-to-dst.log'), 'utf8'), '');
  });

  void it('the recipe "As services": what pagewire libvirt setup makes, and its undo', async () => {
    const { a, b } = hosts;
    for (const host of [a, b]) {
      // It is to make the user, and its folder.
      await host.run(['sed', '-i', '/^pagewire:/d', '/etc/passwd', '/etc/group']);
      await host.run(['rm', '-r', '/run/pagewire']);
    }
    await failsHalfway(a);
    await boot(a);
    await cook.run('As services');
    await runs(b, 'vm1', lastTick(a));
    await isGone(a);
    await says(cook.proxy('source'), /guest vm1: its stream is complete/);
    await says(cook.proxy('destination'), /guest vm1: libvirt prepares for it/);
    assert.doesNotMatch(readFileSync(a.path('/etc/group'), 'utf8'), /^pagewire.*qemu/m);
    await qemuReplacesNo(a, '/run/pagewire-tunnel/dst.sock');
    await cook.endAll();
    const owned = ['/etc/pagewire', '/etc/pagewire/pagewire.pem', '/run/pagewire'];
    for (const host of [a, b]) {
      assert.equal(
        await host.run(['stat', '-c', '%U:%G %a', ...owned]),
        'root:pagewire-keys 750\nroot:pagewire-keys 640\npagewire:pagewire 3770',
      );
      await qemuReadsNoKey(host);
      const said = await host.run(['pagewire', 'libvirt', 'setup', '--undo']);
      for (const unit of ['pagewire-tunnel-destination', 'pagewire-tunnel@']) {
        assert.match(said, new RegExp(`^removed /etc/systemd/system/${unit}\\.service$`, 'm'));
      }
      assert.match(said, /^kept .*\.env \(it was changed\)$/m);
      assert.match(await host.run(['ls', '/etc/systemd/system']), /^(?!.*pagewire)/s);
    }
  });
});

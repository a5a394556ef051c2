// The ways that a wire can go, and who may go them.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { closeSync, existsSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { native } from '#src/native.js';
import { writePreamble } from '#src/session/preamble.js';
import { bareGuest } from '../harness/guests.js';
import { arrives, prepare, setOut, staysHome, travels } from '../harness/journey.js';
import { EXIT, SOON, childrenOf, says, startDestination } from '../harness/proxies.js';
import { assertSameGuest, lastTickOf } from '../harness/migrate.js';
import { Qemu } from '../harness/qemu.js';
import { qemus } from '../harness/qemus.js';
import { atOnce, pagewire, shellCommand, shellWord } from '../harness/repository.js';
import { onStage } from '../harness/stage.js';
import type { Running, Stage } from '../harness/stage.js';
import { freePort } from '../../transport/port.js';

const source = qemus.at(-1) ?? assert.fail('no QEMU to test with');
const capabilities = ['return-path'];

/** A program that carries standard input and output to and from a unix socket, as ssh does to a far one. */
const TUNNEL = `
const { connect } = require('node:net');
const socket = connect({ path: process.argv[1], allowHalfOpen: true });
process.stdin.pipe(socket).pipe(process.stdout);
socket.on('error', (error) => { console.error(error.message); process.exit(1); });
`;

/** Connections of people who are no peers. */
class Crowd {
  /** Of those, how many the other end has closed. */
  closed = 0;
  private count = 0;

  constructor(
    private readonly stage: Stage,
    private readonly port: number,
  ) {}

  /** So many more, from many addresses, in all ways of being no peer in turn. */
  async comes(many: number): Promise<void> {
    await Promise.all(Array.from({ length: many }, () => this.one((this.count += 1))));
  }

  private one(number: number): Promise<void> {
    const localAddress = `127.${1 + (number % 40)}.0.1`;
    const socket = connect({ port: this.port, host: '127.0.0.1', localAddress });
    const preamble = writePreamble({ kind: 'open', session: number.toString(16).padStart(32, '0') });
    const unknown = writePreamble({ kind: 'join', session: number.toString(16).padStart(32, 'f') });
    const hello = Buffer.concat([Buffer.from([0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc]), Buffer.alloc(8192, number)]);
    const ways = [
      [], // silence
      [Buffer.alloc(4096, number)], // garbage
      [preamble], // silence where TLS should come
      [preamble, Buffer.from('\xf3PWF a frame, in the clear', 'latin1')],
      [preamble, hello],
      [unknown],
      [unknown, hello],
    ];
    for (const bytes of ways[number % ways.length] ?? []) socket.write(bytes);
    this.stage.onEnd(() => {
      socket.destroy();
    });
    socket.resume();
    socket.on('close', () => (this.closed += 1));
    return new Promise((done) => {
      socket.on('error', () => {
        done();
      });
      socket.on('connect', () => {
        done();
      });
    });
  }
}

/** What a process has in memory, in MB. */
function residentMegabytes(pid: number): number {
  const path = `/proc/${pid}/status`;
  const [, kilobytes = 0] = /^VmRSS:\s+(\d+) kB$/m.exec(existsSync(path) ? readFileSync(path, 'utf8') : '') ?? [];
  return Number(kilobytes) / 1024;
}

void describe('the wire', { concurrency: atOnce }, () => {
  void it('TLS with pinned keys', () => travels({ source, capabilities, plan: { wire: 'tls' } }));

  void it('TLS with certificates of an authority', () =>
    travels({ source, capabilities, plan: { wire: 'tls', certificates: {} } }));

  void it('IPv6', () => travels({ source, capabilities, plan: { wire: 'tcp6' } }));

  void it('a port of the range for each guest', async () =>
    travels({ source, capabilities, plan: { port: await freePort(), destination: ['--ports', '1024-65535'] } }));

  void it('a port that is not of the range: refused, and the guest stays', () =>
    onStage(async (stage) => {
      const journey = await prepare(stage, { source, capabilities, plan: { port: await freePort() } });
      await setOut(journey);
      await journey.proxies.endWith(EXIT.link, 20);
      assert.match(journey.proxies.source.said(), /refuses: port \d+ is not/);
      await staysHome(journey);
    }));

  void it('fd: passed on, at both sides of both proxies', () =>
    onStage(async (stage) => {
      const [outlet, wire, inlet] = [native.streamPair(), native.streamPair(), native.streamPair()];
      const machine = { type: 'q35', guest: bareGuest(stage, 'sparse') };
      const proxy = (role: string, name: string[], near: number, far: number): Running =>
        stage.start(
          `proxy-${role}`,
          [pagewire, 'proxy', role, ...name, '--listen', 'fd:3', '--connect', 'fd:4'],
          [undefined, undefined, near, far],
        );
      const proxies = [
        proxy('source', ['--name', 'vm1'], outlet[1], wire[0]),
        proxy('destination', [], wire[1], inlet[0]),
      ];
      const [from, to] = await Promise.all([
        Qemu.start(stage, machine, { build: source }),
        Qemu.start(stage, machine, { build: source, incoming: true, fds: [inlet[1]] }),
      ]);
      for (const qemu of [from, to]) await qemu.setCapabilities('events', ...capabilities);
      await from.slowDown();
      await to.qmp.execute('migrate-incoming', { uri: 'fd:3' });
      await from.migrateToFd(outlet[0]);
      for (const fd of [...outlet, ...wire, ...inlet]) closeSync(fd);
      await from.finishMigration(3);
      for (const qemu of [from, to]) await qemu.waitForMigration('completed', 60);
      for (const each of proxies) assert.equal(await each.exitCode(), EXIT.ok, each.said());
      await assertSameGuest(from, to);
      await to.runsOnFrom(lastTickOf(from));
    }));

  void it('exec: of a destination proxy on standard input and output, as by ssh', () =>
    onStage(async (stage) => {
      const far = (inlet: string): string =>
        shellCommand(pagewire, 'proxy', 'destination', '--listen', 'stdio', '--connect', `unix:${inlet}`);
      const journey = await prepare(stage, {
        source,
        capabilities,
        plan: { connect: (inlet) => `exec:${far(inlet)}` },
      });
      await setOut(journey);
      await journey.from.finishMigration();
      await arrives(journey);
    }));

  void it('exec: of a tunnel to a destination proxy, with multifd', () =>
    onStage(async (stage) => {
      const wire = stage.path('wire.sock');
      const tunnel = shellCommand(process.execPath, '-e', TUNNEL, wire);
      const journey = await prepare(stage, {
        source,
        capabilities: ['multifd'],
        parameters: { 'multifd-channels': 2 },
        plan: { connect: () => `exec:${tunnel}` },
      });
      await startDestination(stage, { kind: 'unix', path: wire }, journey.proxies.inlet, []);
      await setOut(journey);
      await journey.from.finishMigration();
      await arrives(journey);
    }));

  void it('exec: of two cats, with pipes', () =>
    onStage(async (stage) => {
      const [there, back] = [stage.pipe('there'), stage.pipe('back')];
      const cats = `cat ${shellWord(back.path)} & cat >${shellWord(there.path)}; wait`;
      const journey = await prepare(stage, { source, capabilities, plan: { connect: () => `exec:${cats}` } });
      const words = ['--listen', 'stdio', '--connect', journey.proxies.inlet];
      const proxy = stage.start(
        'proxy-destination',
        [pagewire, 'proxy', 'destination', ...words],
        [there.read, back.write],
      );
      stage.close(there.read, back.write);
      await setOut(journey);
      stage.close(there.write, back.read);
      await journey.from.finishMigration();
      await arrives(journey);
      assert.equal(await proxy.exitCode(SOON), EXIT.ok, proxy.said());
    }));

  void it('two migrations at once through one destination proxy', () =>
    onStage(async (stage) => {
      const port = await freePort();
      await startDestination(
        stage,
        { kind: 'tcp', host: '127.0.0.1', port },
        `unix:${stage.path('in-{name}.sock')}`,
        [],
      );
      await Promise.all(
        ['vm1', 'vm2'].map(async (name) => {
          const plan = { name, connect: () => `tcp:127.0.0.1:${port}` };
          const journey = await prepare(stage, { source, capabilities, plan });
          await setOut(journey);
          await journey.from.finishMigration();
          await arrives(journey);
        }),
      );
    }));
});

void describe('who is refused', { concurrency: atOnce }, () => {
  void it('a guest that the peer may not reach: both ends say so, the guest stays', () =>
    onStage(async (stage) => {
      const journey = await prepare(stage, {
        source,
        capabilities,
        plan: { wire: 'tls', destination: [], guests: 'web*' },
      });
      await setOut(journey);
      await journey.proxies.endWith(EXIT.link);
      for (const proxy of [journey.proxies.source, journey.proxies.destination]) {
        assert.match(proxy.said(), /may not reach guest vm1/);
      }
      await staysHome(journey);
      // it listens still
      assert.match((await journey.to.migration()).status, /^(none|setup)$/, 'somebody got through to its QEMU');
    }));

  void it('a key that is not the one expected', () =>
    onStage(async (stage) => {
      const journey = await prepare(stage, { source, capabilities, plan: { wire: 'tls', stranger: true } });
      await setOut(journey);
      await journey.proxies.endWith(EXIT.link, 20);
      await staysHome(journey);
    }));

  void it("a destination with another host's certificate, of the same authority: the guest stays", () =>
    onStage(async (stage) => {
      const plan = { wire: 'tls', certificates: { ofDestination: '192.0.2.1' } } as const;
      const journey = await prepare(stage, { source, capabilities, plan });
      await setOut(journey);
      await journey.proxies.endWith(EXIT.link, 20);
      assert.match(journey.proxies.source.said(), /certificate/);
      await staysHome(journey);
    }));

  void it("a source with another host's certificate, of the same authority: both ends say so, the guest stays", () =>
    onStage(async (stage) => {
      const plan = { wire: 'tls', certificates: { ofSource: 'other.example' } } as const;
      const journey = await prepare(stage, { source, capabilities, plan });
      await setOut(journey);
      await journey.proxies.endWith(EXIT.link, 20);
      await says(journey.proxies.destination, /other\.example/);
      await staysHome(journey);
    }));

  void it('a guest that nobody waits for', () =>
    onStage(async (stage) => {
      const journey = await prepare(stage, { source, capabilities });
      await journey.to.quit();
      await setOut(journey);
      const code = await journey.proxies.source.exitCode(20);
      assert.ok(code === EXIT.failed || code === EXIT.link, `exit code ${code}`);
      assert.match(journey.proxies.source.said(), /in-vm1\.sock/, 'it does not say what could not be reached');
      await staysHome(journey);
    }));

  void it('a name that is none', () =>
    onStage(async (stage) => {
      for (const name of ['../vm1', '', '..', 'a'.repeat(65), 'vm 1']) {
        const words = ['--name', name, '--listen', `unix:${stage.path('o')}`, '--connect', 'tcp:127.0.0.1:7777'];
        const proxy = stage.start('proxy-source', [pagewire, 'proxy', 'source', ...words], []);
        assert.equal(await proxy.exitCode(20), EXIT.usage, `'${name}': ${proxy.said()}`);
      }
    }));

  void it('a thousand strangers at a TLS port: a migration goes on, and its link comes back among them', () =>
    onStage(async (stage) => {
      const plan = { wire: 'tls', cutter: true, destination: ['--handshake-timeout', '5s'] } as const;
      // It must not be over before its link is cut, as it may be where the guest gets no time to dirty a page.
      const held = [...capabilities, 'pause-before-switchover'];
      const journey = await prepare(stage, { source, capabilities: held, plan });
      const { from, proxies } = journey;
      const { destination } = proxies;
      await setOut(journey);
      // QEMU counts its first pass before the proxy that it gives it to has a session.
      await says(proxies.source, /guest pc-q35\S* /);
      const before = residentMegabytes(destination.pid);
      const crowd = new Crowd(stage, proxies.port);
      let [most, processes, sessions] = [0, 0, 0];
      for (let hundred = 0; hundred < 10; hundred++) {
        await crowd.comes(100);
        most = Math.max(most, residentMegabytes(destination.pid));
        const children = childrenOf(destination);
        processes = Math.max(processes, children.length);
        sessions = Math.max(
          sessions,
          children.map(residentMegabytes).reduce((sum, each) => sum + each, 0),
        );
        if (hundred % 3 === 1) proxies.cutter.cut();
        await sleep(300);
      }
      await says(proxies.source, /the link .* is back/);
      await from.speedUp();
      await from.waitForMigration('pre-switchover');
      await from.qmp.execute('migrate-continue', { state: 'pre-switchover' });
      await arrives(journey);
      assert.ok(crowd.closed > 900, `${crowd.closed} of a thousand were closed`);
      // 16 are known at once, and there are the session's and the spare.
      assert.ok(processes <= 18, `${processes} processes`);
      assert.ok(most < before + 100, `the listener's memory: ${before} MB before, ${most} MB`);
      // Much of it is Node's own code, which they share.
      assert.ok(sessions < 18 * 100, `its processes have ${sessions} MB`);
      const lines = destination.said().split('\n').length;
      assert.ok(lines < 100, `${lines} lines for a thousand connections`);
      await says(destination, /more connections came to nothing/);
      assert.ok(!destination.hasEnded);
    }));

  void it('a handshake that never ends', () =>
    onStage(async (stage) => {
      const plan = { wire: 'tls', destination: ['--handshake-timeout', '1s'] } as const;
      const { proxies } = await prepare(stage, { source, capabilities, plan });
      const slow = connect(proxies.port, '127.0.0.1');
      const closed = new Promise((done) => slow.on('error', done).on('close', done));
      slow.write(writePreamble({ kind: 'open', session: '00'.repeat(16) }));
      // A ClientHello of 512 bytes, one at a time: each is in time.
      slow.write(Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]));
      const drip = setInterval(() => slow.write(Buffer.alloc(1)), 200);
      stage.onEnd(() => {
        clearInterval(drip);
        slow.destroy();
      });
      await Promise.race([closed, sleep(5000).then(() => assert.fail('it is waited for'))]);
      await says(proxies.destination, /warning: tls:\S+ did not finish the TLS handshake in time/);
    }));
});

void describe('a proxy that cannot reach the other', { concurrency: atOnce }, () => {
  void it('says so, and the guest stays', () =>
    onStage(async (stage) => {
      const port = await freePort();
      const plan = { connect: () => `tcp:127.0.0.1:${port}` };
      const journey = await prepare(stage, { source, capabilities, plan });
      await setOut(journey);
      await journey.proxies.endWith(EXIT.link, 20);
      assert.match(journey.proxies.source.said(), new RegExp(`cannot connect to tcp:127\\.0\\.0\\.1:${port}`));
      await staysHome(journey);
    }));
});

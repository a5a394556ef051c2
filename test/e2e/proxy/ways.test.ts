// The ways that a wire can go, and who may go them.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { connect } from 'node:net';
import { arrives, onTheWay, prepare, setOut, staysHome, travels } from '../harness/journey.js';
import { EXIT, SOON, freePort, startDestination } from '../harness/proxies.js';
import { qemus } from '../harness/qemus.js';
import { atOnce, pagewire, shellCommand, shellWord } from '../harness/repository.js';
import { onStage } from '../harness/stage.js';

const source = qemus.at(-1) ?? assert.fail('no QEMU to test with');
const capabilities = ['return-path'];

/** A program that carries standard input and output to and from a unix socket, as ssh does to a far one. */
const TUNNEL = `
const { connect } = require('node:net');
const socket = connect({ path: process.argv[1], allowHalfOpen: true });
process.stdin.pipe(socket).pipe(process.stdout);
socket.on('error', (error) => { console.error(error.message); process.exit(1); });
`;

void describe('the wire', { concurrency: atOnce }, () => {
  void it('TLS with pinned keys', () => travels({ source, capabilities, plan: { wire: 'tls' } }));

  void it('TLS with certificates of an authority', () =>
    travels({ source, capabilities, plan: { wire: 'tls', certificates: true } }));

  void it('IPv6', () => travels({ source, capabilities, plan: { wire: 'tcp6' } }));

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
      const words = ['--listen', 'stdio', '--connect', `unix:${journey.proxies.inlet}`];
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
      await startDestination(stage, { kind: 'tcp', host: '127.0.0.1', port }, stage.path('in-{name}.sock'), []);
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

  void it('strangers that connect do not disturb a migration', () =>
    onStage(async (stage) => {
      const journey = await prepare(stage, { source, capabilities, plan: {} });
      await setOut(journey);
      await onTheWay(journey, 2);
      const strangers = Array.from({ length: 200 }, (_, index) => {
        const socket = connect(journey.proxies.port, '127.0.0.1');
        socket.on('error', () => undefined);
        // silence, or garbage
        if (index % 2 === 0) socket.write(Buffer.alloc(4096, index));
        return socket;
      });
      await journey.from.finishMigration();
      await arrives(journey);
      for (const stranger of strangers) stranger.destroy();
      assert.ok(!journey.proxies.destination.hasEnded);
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

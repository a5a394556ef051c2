// Where connections are taken, and from where: the same rule whether an address is named or a socket was passed on.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type ListenOptions, type Server } from 'node:net';
import { networkInterfaces } from 'node:os';
import { describe, it, type TestContext } from 'node:test';
import { listenable, nearListenable } from '#src/session/endpoints.js';
import { folder, PAGEWIRE, Running, type RunOptions } from '../cli/command.js';

const USAGE = 2;
const EVERYWHERE = { host: '0.0.0.0', port: 0 };
const LOOPBACK = { host: '127.0.0.1', port: 0 };

/** A socket that listens, as one is passed on. */
async function listening(t: TestContext, where: ListenOptions): Promise<{ server: Server; fd: number; port: number }> {
  const server = createServer().listen(where);
  t.after(() => server.close());
  await once(server, 'listening');
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  return { server, fd, port: (server.address() as AddressInfo).port };
}

describe('a socket that was passed on', () => {
  const ends = {
    source: (listen: string, insecure: boolean, libvirt = false) => nearListenable({ listen, insecure, libvirt }),
    destination: listenable,
  };
  for (const [end, take, instead] of [
    ['source', ends.source, () => 'unix:PATH'],
    [
      'source of a tunnel',
      (listen: string, insecure: boolean) => ends.source(listen, insecure, true),
      () => 'unix:PATH',
    ],
    ['destination', ends.destination, (fd: number) => `tls:fd:${fd}`],
  ] as const) {
    it(`is one of this host at a ${end}, unless other hosts are wanted`, async (t) => {
      for (const host of ['0.0.0.0', '::']) {
        const { fd, port } = await listening(t, { host, port: 0 });
        const shown = host === '::' ? '[::]' : host;
        assert.throws(() => take(`fd:${fd}`, false), {
          code: 'BAD_OPTION',
          message:
            `tcp:${shown}:${port} leaves this host without encryption, and lets in whoever comes: ` +
            `take ${instead(fd)}, or say --insecure`,
        });
        assert.deepEqual(take(`fd:${fd}`, true).address, { fd });
      }
      for (const where of [LOOPBACK, { host: '::1', port: 0 }, { path: folder(t)('socket') }]) {
        const { fd } = await listening(t, where);
        const { address, connected, tls } = take(`fd:${fd}`, false);
        assert.deepEqual([address, connected, tls], [{ fd }, undefined, false]);
      }
    });
  }

  it('has TLS over it at the destination alone', async (t) => {
    const { fd } = await listening(t, EVERYWHERE);
    assert.ok(listenable(`tls:fd:${fd}`, false).tls);
    for (const libvirt of [false, true]) {
      assert.throws(() => nearListenable({ listen: `tls:fd:${fd}`, libvirt }), {
        code: 'BAD_OPTION',
        message: new RegExp(`${libvirt ? 'libvirt' : 'QEMU'} is taken from this host, without TLS`),
      });
    }
  });

  it('may be a connection of this host', async (t) => {
    const { server, port } = await listening(t, LOOPBACK);
    const accepted = once(server, 'connection') as Promise<[{ destroy: () => void; _handle: { fd: number } }]>;
    const socket = connect(port, '127.0.0.1');
    t.after(() => socket.destroy());
    const [theirs] = await accepted;
    t.after(() => {
      theirs.destroy();
    });
    const { fd } = theirs._handle;
    assert.equal(nearListenable({ listen: `fd:${fd}` }).connected, fd);
    assert.equal(listenable(`fd:${fd}`, false).connected, fd);
  });
});

/** What a proxy says that is started so: that it listens, or its last words, with its exit code. */
async function starts(t: TestContext, args: readonly string[], options?: RunOptions): Promise<[string, number | null]> {
  const running = new Running(t, args, options);
  const ended = running.ended.then(({ stderr, code }): [string, number | null] => [stderr, code]);
  const listens = running.says(/waiting for/).then((said): [string, null] => [said, null]);
  return Promise.race([ended, listens.catch(() => ended)]);
}

describe('what a source proxy listens on', () => {
  it('is told with what to do, where it cannot', async (t) => {
    const path = folder(t);
    writeFileSync(path('file'), '');
    for (const [place, why] of [
      ['none/socket', 'no such file or directory (make the folder first)'],
      ['file', 'address already in use (what is there is no socket)'],
    ] as const) {
      const words = ['--name', 'vm1', '--connect', 'unix:far', '--listen', `unix:${path(place)}`];
      const [said] = await starts(t, ['proxy', 'source', ...words]);
      assert.ok(said.endsWith(`: ${why}; what to do: see to what the message names, or take another address\n`), said);
    }
  });

  const far = ['-T', '1', '--connect', 'unix:/nonexistent/far'];
  for (const [way, words] of [
    ['of a QEMU', ['proxy', 'source', ...far, '--name', 'vm1']],
    ["of libvirt's tunnel", ['proxy', 'source', ...far, '--libvirt']],
  ] as const) {
    it(`is never TLS, whose key it would lend to all: one ${way}`, async (t) => {
      const [said, code] = await starts(t, [...words, '--listen', 'tls:127.0.0.1:0', '--insecure']);
      assert.match(said, /--listen tls:127\.0\.0\.1:0: (QEMU|libvirt) is taken from this host, without TLS/);
      assert.equal(code, USAGE);
    });

    it(`is of this host, unless other hosts are wanted: one ${way}`, async (t) => {
      const everywhere = await listening(t, EVERYWHERE);
      const loopback = await listening(t, LOOPBACK);
      for (const place of ['fd:3', 'systemd']) {
        const listen = (fd: number, ...more: string[]): Promise<[string, number | null]> => {
          // As systemd starts a service: the environment says for whom the socket is.
          const script = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"';
          const command = [process.execPath, PAGEWIRE, ...words, '--listen', place, ...more];
          return starts(t, ['-c', script, 'sh', ...command], {
            program: 'sh',
            stdio: ['ignore', 'ignore', 'pipe', fd],
          });
        };
        const [said, code] = await listen(everywhere.fd);
        assert.match(said, new RegExp(`tcp:0\\.0\\.0\\.0:${everywhere.port} leaves this host without encryption`));
        assert.equal(code, USAGE);
        assert.match((await listen(everywhere.fd, '--insecure'))[0], /waiting for/);
        assert.match((await listen(loopback.fd))[0], /waiting for/);
      }
    });
  }
});

const address = Object.values(networkInterfaces())
  .flatMap((all) => all ?? [])
  .find(({ family, internal }) => family === 'IPv4' && !internal)?.address;
const isCi = /^(1|true)$/i.test(process.env['CI'] ?? '');
const lacks = 'PAGEWIRE-NOT-RUN connections of other hosts: please give this host an address beside loopback';

describe('a connection that was passed on', () => {
  it('is of this host, unless other hosts are wanted', { skip: address || isCi ? false : lacks }, async (t) => {
    assert.ok(address !== undefined, 'this host has no address but loopback');
    // As inetd starts a service, but that a connection from an address of another network stands for another host's.
    const inherits = async (host: string, listen: string, ...more: string[]): Promise<[string, number | null]> => {
      const server = createServer((socket) => {
        t.after(() => socket.destroy());
      }).listen({ host, port: 0 });
      t.after(() => server.close());
      await once(server, 'listening');
      const { port } = server.address() as AddressInfo;
      const words = ['proxy', 'destination', '-T', '1', '--connect', 'unix:/nonexistent/far', '--listen', listen];
      const command = [process.execPath, PAGEWIRE, ...words, '--handshake-timeout', '100ms', ...more];
      const script = `exec 0<>/dev/tcp/${host}/${port} && exec "$@"`;
      const stdio: RunOptions['stdio'] = ['ignore', 'ignore', 'pipe'];
      return starts(t, ['-c', script, 'bash', ...command], { program: 'bash', stdio });
    };
    for (const listen of ['stdio', 'fd:0']) {
      const [said, code] = await inherits(address, listen);
      assert.match(said, new RegExp(`tcp:${address}:\\d+ leaves this host without encryption.*: take tls:HOST:PORT`));
      assert.equal(code, USAGE);
      // What comes to nothing then is that nobody speaks.
      assert.match((await inherits(address, listen, '--insecure'))[0], /did not send its preamble in time/);
      assert.match((await inherits('127.0.0.1', listen))[0], /did not send its preamble in time/);
    }
  });

  it('is one socket at a source', () => {
    for (const [libvirt, who] of [
      [false, 'QEMU'],
      [true, 'libvirt'],
    ] as const) {
      assert.throws(() => nearListenable({ listen: 'stdio', libvirt }), {
        code: 'BAD_OPTION',
        message: `--listen stdio: ${who} is taken from one socket; a socket that was passed on as standard input is fd:0`,
      });
    }
  });
});

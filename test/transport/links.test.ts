// Links as JavaScript has them, and OpenSSL, through Node, at their other end.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, fstatSync, readFileSync, writeSync } from 'node:fs';
import { connect, createServer, Socket } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { connect as tlsConnect, TLSSocket } from 'node:tls';
import { PagewireError } from '#src/errors.js';
import { native, type NativeAddress, type NativeLink, type NativeListener, type NativeTls } from '#src/native.js';
import { connectTo, openLink, openSocket } from '#src/transport/connect.js';
import { parseEndpoint } from '#src/transport/endpoint.js';
import { folder } from '../cli/command.js';
import { Authority, text } from './pki.js';

/** Long enough for any machine. */
const LONG_MS = 60_000;

/** What must be late is late after this. */
const SHORT_MS = 200;

const PREAMBLE = Buffer.concat([Buffer.from('f350575001010000', 'hex'), Buffer.alloc(16, 7), Buffer.alloc(8)]);

const HELLO = 0x10;
const PROTOCOL = 'pagewire/1';

interface Door {
  listener: NativeListener;
  port: number;
  next(): Promise<{ fd: number; preamble: Buffer | null; peer: string }>;
  refused: string[];
}

function listen(t: TestContext, address: NativeAddress = { kind: 'tcp', host: '127.0.0.1', port: 0 }): Door {
  const waiting: ((accepted: Awaited<ReturnType<Door['next']>>) => void)[] = [];
  const come: Awaited<ReturnType<Door['next']>>[] = [];
  const refused: string[] = [];
  const listener = native.NativeListener.listen(
    address,
    { preamble: true, maxPending: 64, timeoutMs: LONG_MS },
    (fd, preamble, peer) => {
      const take = waiting.shift();
      if (take) take({ fd, preamble, peer });
      else come.push({ fd, preamble, peer });
    },
    (peer, reason) => refused.push(`${peer} ${reason}`),
  );
  t.after(() => {
    listener.close();
  });
  const own = listener.address();
  const next: Door['next'] = () =>
    new Promise((resolve) => {
      const accepted = come.shift();
      if (accepted) resolve(accepted);
      else waiting.push(resolve);
    });
  return { listener, port: own.kind === 'tcp' ? own.port : 0, next, refused };
}

/** Two ends that pin each other. */
function pinned(): { source: NativeTls; destination: NativeTls; sourceKey: string; destinationKey: string } {
  const [a, b] = [native.keygen('src.example'), native.keygen('dst.example')];
  const tls = (own: typeof a, other: typeof a): NativeTls => ({
    certificate: own.certificate,
    key: own.key,
    pins: [other.fingerprint],
    names: [],
  });
  return { source: tls(a, b), destination: tls(b, a), sourceKey: a.fingerprint, destinationKey: b.fingerprint };
}

async function rejection(promise: Promise<unknown>): Promise<PagewireError> {
  try {
    await promise;
  } catch (error) {
    return PagewireError.from(error);
  }
  return assert.fail('it was kept');
}

describe('links', () => {
  it('are authenticated at both ends, and carry frames', async (t) => {
    const door = listen(t);
    const { source, destination, sourceKey, destinationKey } = pinned();
    const endpoint = parseEndpoint(`tls:127.0.0.1:${door.port}`);
    const [near, far] = await Promise.all([
      connectTo(endpoint, PREAMBLE, source, LONG_MS),
      door.next().then(({ fd, preamble, peer }) => {
        assert.ok(preamble?.equals(PREAMBLE));
        assert.match(peer, /^tcp:127\.0\.0\.1:\d+$/);
        return native.acceptLink(fd, destination, LONG_MS);
      }),
    ]);
    assert.deepEqual(near.peer(), { address: `tls:127.0.0.1:${door.port}`, fingerprint: destinationKey, names: [] });
    assert.equal(far.peer().fingerprint, sourceKey);
    const payload = Buffer.alloc(65_536, 'x');
    const [received] = await Promise.all([far.receive(LONG_MS), near.send(HELLO, payload, LONG_MS)]);
    assert.equal(received.type, HELLO);
    assert.ok(received.payload.equals(payload));
    assert.equal((await rejection(far.receive(SHORT_MS))).code, 'TIMED_OUT');
    near.close();
    assert.equal((await rejection(far.receive(LONG_MS))).code, 'CONNECTION_LOST');
  });

  it('that cannot be say why, with a code for programs', async (t) => {
    const door = listen(t);
    const { source, destination } = pinned();
    const stranger = pinned();
    const endpoint = parseEndpoint(`tls:127.0.0.1:${door.port}`);
    const accepting = door.next().then(({ fd }) => rejection(native.acceptLink(fd, stranger.destination, LONG_MS)));
    const refused = await rejection(connectTo(endpoint, PREAMBLE, source, LONG_MS));
    assert.equal(refused.code, 'PEER_REFUSED');
    assert.match(refused.message, /^tls:127\.0\.0\.1:\d+ shows the key SHA256:.*give --peer SHA256:/);
    assert.equal((await accepting).code, 'PEER_REFUSED');

    door.listener.close();
    const gone = await rejection(connectTo(endpoint, PREAMBLE, source, LONG_MS));
    assert.equal(gone.code, 'CONNECT_FAILED');
    assert.match(gone.message, /^cannot connect to tls:.*: connection refused \(is the destination proxy running\?\)$/);
    const nobody = await rejection(openSocket(parseEndpoint('unix:/nonexistent/qemu.sock'), LONG_MS));
    assert.match(
      nobody.message,
      /^cannot connect to unix:\/nonexistent\/qemu\.sock: no such file or directory \(is QEMU/,
    );

    const bad = await rejection(connectTo(endpoint, PREAMBLE, { ...source, key: destination.key }, LONG_MS));
    assert.equal(bad.code, 'BAD_IDENTITY');
    assert.equal((await rejection(connectTo(endpoint, PREAMBLE, null, LONG_MS))).code, 'BAD_IDENTITY');
    assert.equal((await rejection(native.acceptLink(0xfffff, null, LONG_MS))).code, 'BAD_DESCRIPTOR');
    assert.throws(
      () =>
        native.NativeListener.listen(
          { kind: 'unix', path: '/nonexistent/x' },
          { preamble: false, maxPending: 1, timeoutMs: 1 },
          () => undefined,
        ),
      {
        code: 'LISTEN_FAILED',
        message: /make the folder first/,
      },
    );
  });

  it('do not wait for each other, nor for libuv’s threads', async (t) => {
    const door = listen(t);
    const silent = await Promise.all(
      Array.from({ length: 8 }, () =>
        native.connectLink({ kind: 'tcp', host: '127.0.0.1', port: door.port }, PREAMBLE, null, LONG_MS),
      ),
    );
    const waiting = silent.map((link) => rejection(link.receive(LONG_MS)));
    // More than libuv has threads are waiting; files are read all the same, and another one shakes hands.
    const { source, destination } = pinned();
    for (let i = 0; i < 8; i++) closeSync((await door.next()).fd);
    const [link] = await Promise.all([
      connectTo(parseEndpoint(`tls:127.0.0.1:${door.port}`), PREAMBLE, source, LONG_MS),
      door.next().then(({ fd }) => native.acceptLink(fd, destination, LONG_MS)),
    ]);
    link.close();
    for (const link of silent) link.close();
    for (const error of await Promise.all(waiting)) assert.equal(error.code, 'CONNECTION_LOST');
  });

  it('go over a command’s standard input and output', async () => {
    const link = await connectTo(parseEndpoint('exec:cat'), PREAMBLE, null, LONG_MS);
    assert.equal(link.peer().address, 'exec:cat');
    assert.ok((await link.receivePreamble(LONG_MS)).equals(PREAMBLE));
    await link.send(HELLO, Buffer.from('back'), LONG_MS);
    assert.equal((await link.receive(LONG_MS)).payload.toString(), 'back');
    link.close();
    const ended = await rejection(openLink(parseEndpoint('exec:exit 3')).receive(LONG_MS));
    assert.equal(ended.code, 'CONNECTION_LOST');
    assert.match(ended.message, /exec:exit 3/);
  });

  it('over descriptors leave them to their owner', async () => {
    const [one, other] = native.streamPair();
    const [a, b] = [native.pipeLink(one, one, 'a'), native.pipeLink(other, other, 'b')];
    await a.send(HELLO, Buffer.alloc(0), LONG_MS);
    assert.equal((await b.receive(LONG_MS)).payload.length, 0);
    a.close();
    b.close();
    for (const fd of [one, other]) {
      fstatSync(fd);
      closeSync(fd);
    }
  });
});

describe('a descriptor', () => {
  it('goes to a child process that runs already', async (t) => {
    const [control, theirs] = native.socketPair();
    const addon = new URL('../../Release/pagewire.node', import.meta.url).pathname;
    const program = `
      const native = require(${JSON.stringify(addon)});
      const receiver = new native.NativeReceiver(3, (fd, message) => {
        if (fd < 0) return receiver.close();
        require('node:fs').writeSync(fd, 'got ' + message);
        require('node:fs').closeSync(fd);
      });`;
    const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'inherit', 'inherit', theirs] });
    t.after(() => child.kill('SIGKILL'));
    closeSync(theirs);
    for (const message of ['one', 'two']) {
      const [ours, sent] = native.streamPair();
      native.sendDescriptor(control, sent, Buffer.from(message));
      closeSync(sent);
      const socket = new Socket({ fd: ours });
      const chunks: Buffer[] = [];
      for await (const chunk of socket as AsyncIterable<Buffer>) chunks.push(chunk);
      assert.equal(Buffer.concat(chunks).toString(), `got ${message}`);
    }
    // The child hears of the end, and has nothing left to wait for.
    closeSync(control);
    assert.deepEqual(await once(child, 'exit'), [0, null]);
    assert.throws(
      () => {
        native.sendDescriptor(control, 0, Buffer.from('x'));
      },
      { code: 'BAD_DESCRIPTOR' },
    );
  });

  it('tells what it is', async (t) => {
    const server = createServer().listen(0, '127.0.0.1');
    t.after(() => server.close());
    await once(server, 'listening');
    const address = server.address();
    assert.ok(address !== null && typeof address === 'object');
    const fd = await openSocket(parseEndpoint(`tcp:127.0.0.1:${address.port}`), LONG_MS);
    assert.equal(native.peerOfSocket(fd), `tcp:127.0.0.1:${address.port}`);
    assert.equal(native.isListening(fd), false);
    closeSync(fd);
    assert.throws(() => native.isListening(fd), { code: 'BAD_DESCRIPTOR' });
  });

  it('can be closed one way, with the answer still to come, and when its reader has gone', async (t) => {
    const path = folder(t)('socket');
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      const heard: Buffer[] = [];
      socket.on('data', (bytes) => heard.push(bytes));
      socket.on('end', () => socket.end(`heard ${Buffer.concat(heard).toString()}`));
      // The second one does not wait for its answer.
      socket.on('error', () => undefined);
    }).listen(path);
    t.after(() => server.close());
    await once(server, 'listening');
    const fd = await openSocket(parseEndpoint(`unix:${path}`), LONG_MS);
    writeSync(fd, 'all');
    native.halfClose(fd);
    assert.throws(() => writeSync(fd, 'more'), { code: 'EPIPE' });
    const answer = new Socket({ fd });
    assert.equal(String(await once(answer, 'data')), 'heard all');
    answer.destroy();

    const gone = await openSocket(parseEndpoint(`unix:${path}`), LONG_MS);
    native.halfClose(gone);
    native.halfClose(gone);
    closeSync(gone);
    assert.throws(
      () => {
        native.halfClose(gone);
      },
      { code: 'BAD_DESCRIPTOR' },
    );
  });
});

describe('systemd', () => {
  it('is told what it asked for', (t) => {
    const path = folder(t)('notify');
    const module = new URL('../../../dist/control/notify.js', import.meta.url).href;
    // Nothing that it starts is to talk to systemd, which hears the service alone.
    const program = `
import { notify } from ${JSON.stringify(module)};
notify({ debug: (text) => { throw new Error(text); } }, 'READY=1');
if ('NOTIFY_SOCKET' in process.env) throw new Error('still in the environment');`;
    const command = [process.execPath, '--input-type=module', '--eval', program] as const;
    execFileSync(command[0], command.slice(1), { env: { ...process.env, NOTIFY_SOCKET: undefined } });
    const python = `
import os, socket, subprocess, sys
for name in [sys.argv[1], '@pagewire-test-%d' % os.getpid()]:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(name.replace('@', '\\0'))
    subprocess.run(sys.argv[2:], env={**os.environ, 'NOTIFY_SOCKET': name}, check=True, stdout=subprocess.DEVNULL)
    s.settimeout(60)
    print(s.recv(100).decode())`;
    const told = execFileSync('python3', ['-c', python, path, ...command]);
    assert.equal(told.toString(), 'READY=1\nREADY=1\n');
  });
});

describe('OpenSSL', () => {
  it('is let in as a source with a certificate of the authority, and hears the end', async (t) => {
    const path = folder(t);
    const authority = new Authority(path('ca'));
    const server = text(authority.issue('dst.example', { hosts: ['localhost', '127.0.0.1'], usage: 'serverAuth' }));
    const client = authority.issue('src.example', { usage: 'clientAuth' });
    const authorities = readFileSync(authority.certificate, 'utf8');
    const door = listen(t);
    const socket = connect(door.port, '127.0.0.1');
    socket.write(PREAMBLE);
    const accepting = door
      .next()
      .then(({ fd }) => native.acceptLink(fd, { ...server, authorities, pins: [], names: ['src.example'] }, LONG_MS));
    const own = text(client);
    const openssl = tlsConnect({
      socket,
      cert: own.certificate,
      key: own.key,
      ca: authorities,
      host: 'localhost',
      servername: 'localhost',
      ALPNProtocols: [PROTOCOL],
    });
    const [link] = await Promise.all([accepting, once(openssl, 'secureConnect')]);
    assert.equal(openssl.getProtocol(), 'TLSv1.3');
    assert.deepEqual(link.peer().names, ['src.example']);
    await exchange(link, openssl);
  });

  it('is taken for a destination that has the right name only', async (t) => {
    const path = folder(t);
    const authority = new Authority(path('ca'));
    const own = text(authority.issue('src.example', { usage: 'clientAuth' }));
    const server = text(authority.issue('dst.example', { hosts: ['dst.example', '127.0.0.1'], usage: 'serverAuth' }));
    const authorities = readFileSync(authority.certificate, 'utf8');
    const sockets: TLSSocket[] = [];
    const listener = createServer((socket) => {
      socket.once('readable', () => {
        assert.ok((socket.read(32) as Buffer).equals(PREAMBLE));
        const options = {
          isServer: true,
          cert: server.certificate,
          key: server.key,
          ca: authorities,
          requestCert: true,
          rejectUnauthorized: true,
          ALPNProtocols: [PROTOCOL],
        };
        const openssl = new TLSSocket(socket, options);
        openssl.on('error', () => undefined);
        sockets.push(openssl);
      });
    }).listen(0, '127.0.0.1');
    t.after(() => listener.close());
    await once(listener, 'listening');
    const address = listener.address();
    assert.ok(address !== null && typeof address === 'object');
    const tls = { ...own, authorities, pins: [], names: [] };
    const link = await connectTo(parseEndpoint(`tls:127.0.0.1:${address.port}`), PREAMBLE, tls, LONG_MS);
    assert.deepEqual(link.peer().names, ['dst.example', '127.0.0.1']);
    await exchange(link, sockets[0]!);
    const other = connectTo(parseEndpoint(`tls:localhost:${address.port}`), PREAMBLE, tls, LONG_MS);
    const { code, message } = await rejection(other);
    assert.equal(code, 'PEER_REFUSED');
    assert.match(
      message,
      /shows a certificate for dst\.example, not for localhost \(give --peer dst\.example if that is right\)/,
    );
  });

  for (const [what, options, code, words] of [
    ['TLS 1.2', { maxVersion: 'TLSv1.2' }, 'PROTOCOL_ERROR', /does not speak TLS 1\.3/],
    ['another protocol', { ALPNProtocols: ['http/1.1'] }, 'PROTOCOL_ERROR', /not pagewire's protocol/],
    ['no protocol', { ALPNProtocols: [] }, 'PROTOCOL_ERROR', /not pagewire's protocol/],
    ['no certificate', { cert: undefined, key: undefined }, 'PEER_REFUSED', /showed no certificate/],
  ] as const) {
    it(`is refused with ${what}`, async (t) => {
      const door = listen(t);
      const { source, destination } = pinned();
      const socket = connect(door.port, '127.0.0.1');
      socket.write(PREAMBLE);
      const accepting = door.next().then(({ fd }) => rejection(native.acceptLink(fd, destination, LONG_MS)));
      const openssl = tlsConnect({
        socket,
        cert: source.certificate,
        key: source.key,
        rejectUnauthorized: false,
        ALPNProtocols: [PROTOCOL],
        ...options,
      });
      openssl.on('error', () => undefined);
      const { code: actual, message } = await accepting;
      assert.equal(actual, code, message);
      assert.match(message, words);
      openssl.destroy();
    });
  }
});

/** Frames both ways, the larger of many records, and the end. */
async function exchange(link: NativeLink, openssl: TLSSocket): Promise<void> {
  openssl.on('error', () => undefined);
  const payload = Buffer.alloc(60_000, 'ab');
  const sending = link.send(HELLO, payload, LONG_MS);
  const chunks: Buffer[] = [];
  while (Buffer.concat(chunks).length < 48 + payload.length) {
    const [chunk] = (await once(openssl, 'data')) as [Buffer];
    chunks.push(chunk);
  }
  await sending;
  const frame = Buffer.concat(chunks);
  assert.ok(frame.subarray(48).equals(payload));
  // The same frame back, in pieces.
  for (let at = 0; at < frame.length; at += 7000) openssl.write(frame.subarray(at, at + 7000));
  const received = await link.receive(LONG_MS);
  assert.equal(received.type, HELLO);
  assert.ok(received.payload.equals(payload));
  const ended = once(openssl, 'end');
  link.close();
  await ended;
  openssl.destroy();
}

// The source's end in a program of one's own, against `pagewire proxy destination`.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createSourceProxy, PagewireError, type SourceProxyOptions } from '#src/index.js';
import { folder, PAGEWIRE } from '../cli/command.js';
import { noise } from '../pipeline/content.js';
import { leavesNothing } from '../pipeline/process.js';
import { freePort } from '../transport/port.js';
import { ANSWER, arrives, destinationProxy, leaves } from './qemus.js';

/** So slow that what is sent would take longer than a test may. */
const SLOW = 16 << 10;
const STREAM_BYTES = 6 << 20;

const isA =
  (code: string, message: RegExp) =>
  (error: unknown): boolean =>
    error instanceof PagewireError && error.code === code && message.test(error.message);

describe('createSourceProxy', () => {
  it('carries a stream, and takes another bandwidth limit meanwhile', async (t) => {
    const path = folder(t);
    const stream = noise(STREAM_BYTES);
    const far = `tcp:127.0.0.1:${await freePort()}`;
    await destinationProxy(t, far, `unix:${path('{name}.sock')}`);
    const log: string[] = [];
    const proxy = createSourceProxy({
      ...{ name: 'vm1', listen: `unix:${path('source.sock')}`, connect: [far] },
      // Small frames, so that the first of them arrives soon.
      ...{ threads: 1, frameSize: 4096, maxBandwidth: SLOW },
      onLog: ({ level, message }) => log.push(`${level}: ${message}`),
    });
    assert.equal(proxy.listening, `unix:${path('source.sock')}`);
    assert.equal(proxy.snapshot().state, 'waiting');
    let came = 0;
    let atFirst: number | undefined;
    const arrived = arrives(t, path('vm1.sock'), (bytes) => {
      came += bytes;
      if (atFirst !== undefined) return;
      atFirst = proxy.snapshot().wire.out;
      proxy.setMaxBandwidth(0);
    });
    const answered = leaves(t, path('source.sock'), stream);

    assert.deepEqual(await proxy.done, { cancelled: false, within: undefined });
    assert.ok((await arrived).equals(stream));
    assert.equal(await answered, ANSWER);
    assert.equal(came, STREAM_BYTES);
    assert.ok(atFirst !== undefined && atFirst < STREAM_BYTES / 2, `${atFirst ?? 0} bytes went at once`);
    const { state, streamBytes, peer } = proxy.snapshot();
    assert.deepEqual([state, streamBytes, peer], ['ended', STREAM_BYTES, far]);
    assert.ok(log.includes(`info: waiting for QEMU on ${proxy.listening}`), log.join('\n'));
    assert.ok(!existsSync(path('source.sock')));
  });

  it('carries references, where the destination has room for them', async (t) => {
    const path = folder(t);
    const far = `tcp:127.0.0.1:${await freePort()}`;
    await destinationProxy(t, far, `unix:${path('{name}.sock')}`);
    // What comes again has left the frames that it stood in. Nothing is looked for until the link holds the stream up.
    const again = Buffer.concat([noise(1000, 2), noise(STREAM_BYTES)]);
    const stream = Buffer.concat([noise(STREAM_BYTES), again, again, again]);
    const log: string[] = [];
    const proxy = createSourceProxy({
      ...{ name: 'vm1', listen: `unix:${path('source.sock')}`, connect: [far], match: 16 << 20, threads: 2 },
      maxBandwidth: 8 << 20,
      onLog: ({ message }) => log.push(message),
    });
    const arrived = arrives(t, path('vm1.sock'), () => undefined);
    const answered = leaves(t, path('source.sock'), stream);
    assert.deepEqual(await proxy.done, { cancelled: false, within: undefined });
    assert.ok((await arrived).equals(stream));
    assert.equal(await answered, ANSWER);
    const { wire } = proxy.snapshot();
    assert.ok(wire.out < STREAM_BYTES * 3, `${wire.out} bytes on the wire`);
    assert.match(log.join('\n'), /with delta, match of 16\.0 MiB/);
  });

  it('carries a stream to a destination that has one connection, and serves metrics of it', async (t) => {
    const path = folder(t);
    const metrics = `127.0.0.1:${await freePort()}`;
    const words = [PAGEWIRE, 'proxy', 'destination', '--listen', 'stdio', '--connect', `unix:${path('vm1')}`];
    const command = [process.execPath, ...words, '--metrics', metrics].map((word) => `'${word}'`).join(' ');
    const settings = { connect: [`exec:${command}`], threads: 1, frameSize: 4096, maxBandwidth: SLOW };
    const proxy = createSourceProxy({ name: 'vm1', listen: `unix:${path('source.sock')}`, ...settings });
    const arrived = arrives(t, path('vm1'));
    const answered = leaves(t, path('source.sock'), noise(STREAM_BYTES));
    let text = '';
    while (!text.includes('pagewire_session_linked_channels{role="destination",guest="vm1"} 1')) {
      await sleep(50);
      text = await fetch(`http://${metrics}/metrics`).then(
        (response) => response.text(),
        () => '',
      );
    }
    proxy.setMaxBandwidth(0);
    assert.deepEqual(await proxy.done, { cancelled: false, within: undefined });
    assert.equal((await arrived).length, STREAM_BYTES);
    assert.equal(await answered, ANSWER);
  });

  for (const [what, options, told] of [
    ['by default', {}, /with delta, match of 256 MiB/],
    ['as far as its memory allows', { memoryLimit: 512 << 20 }, /with delta, match of \d\d\.\d MiB/],
    ['not where it has no memory for it', { memoryLimit: 256 << 20 }, /with delta$/m],
    ['not where it is told not to', { match: 0 }, /with delta$/m],
    ['not where nothing is to be packed', { codec: 'none' }, /with delta$/m],
  ] as const) {
    it(`carries references ${what}`, async (t) => {
      const path = folder(t);
      const far = `tcp:127.0.0.1:${await freePort()}`;
      await destinationProxy(t, far, `unix:${path('{name}.sock')}`);
      const log: string[] = [];
      const proxy = createSourceProxy({
        ...{ name: 'vm1', listen: `unix:${path('source.sock')}`, connect: [far], threads: 2, ...options },
        onLog: ({ message }) => log.push(message),
      });
      const arrived = arrives(t, path('vm1.sock'), () => undefined);
      const answered = leaves(t, path('source.sock'), noise(1000));
      await proxy.done;
      assert.ok((await arrived).equals(noise(1000)));
      assert.equal(await answered, ANSWER);
      assert.match(log.join('\n'), told);
    });
  }

  it('is stopped, and takes nobody any more', async (t) => {
    const connect = [`unix:${folder(t)('none')}`];
    const proxy = createSourceProxy({ name: 'vm1', listen: 'tcp:127.0.0.1:0', connect });
    assert.match(proxy.listening, /^tcp:127\.0\.0\.1:[1-9]\d*$/);
    proxy.stop();
    await assert.rejects(proxy.done, isA('STOPPED', /^stopped: the migration fails/));
    // The port is free again.
    const next = createSourceProxy({ name: 'vm1', listen: proxy.listening, connect });
    assert.equal(next.listening, proxy.listening);
    next.stop();
    await assert.rejects(next.done, isA('STOPPED', /^stopped/));
  });

  it('rejects where nobody is at the destination', async (t) => {
    const path = folder(t);
    const listen = path('source.sock');
    const proxy = createSourceProxy({ name: 'vm1', listen: `unix:${listen}`, connect: [`unix:${path('none')}`] });
    const answered = leaves(t, listen, noise(1000)).catch(() => 'reset');
    await assert.rejects(proxy.done, isA('CONNECT_FAILED', /none/));
    assert.notEqual(await answered, ANSWER);
  });

  it('says which connection broke, where it is not the link', async (t) => {
    const path = folder(t);
    const far = `unix:${path('proxy')}`;
    await destinationProxy(t, far, `unix:${path('{name}')}`);
    const arrived = arrives(t, path('vm1'));
    const proxy = createSourceProxy({ name: 'vm1', listen: `tcp:127.0.0.1:${await freePort()}`, connect: [far] });
    const near = connect({ port: Number(proxy.listening.split(':').at(-1)), host: '127.0.0.1' });
    near.write(noise(1000));
    while (proxy.snapshot().state !== 'running') await sleep(10);
    near.resetAndDestroy();
    const message = new RegExp(`^QEMU's connection \\(channel 0\\) at ${proxy.listening} broke: .*reset`);
    await assert.rejects(proxy.done, isA('READ_FAILED', message));
    await arrived;
  });

  it('says so of a QEMU without a proxy, too', async (t) => {
    const path = folder(t);
    const server = createServer((socket) => {
      socket.once('data', () => socket.resetAndDestroy());
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.after(() => server.close());
    const far = `tcp:127.0.0.1:${(server.address() as AddressInfo).port}`;
    const listen = path('source.sock');
    const proxy = createSourceProxy({ name: 'vm1', listen: `unix:${listen}`, connect: [far], stock: true });
    const left = leaves(t, listen, noise(1000)).catch(() => 'reset');
    await assert.rejects(proxy.done, isA('READ_FAILED', new RegExp(`^the connection to ${far} \\(channel 0\\) broke`)));
    await left;
  });

  it('says so of what is not libvirt', async (t) => {
    const path = folder(t);
    const far = `unix:${path('proxy')}`;
    await destinationProxy(t, far, `unix:${path('daemon')}`, '--libvirt');
    const listen = `unix:${path('source.sock')}`;
    const proxy = createSourceProxy({ name: 'some', listen, connect: [far], libvirt: true });
    const left = leaves(t, path('source.sock'), noise(1000)).catch(() => 'reset');
    await assert.rejects(
      proxy.done,
      isA('READ_FAILED', new RegExp(`^what came from libvirt's side at ${listen} cannot`)),
    );
    await left;
  });

  const refused: [options: Partial<SourceProxyOptions>, code: string, message: RegExp][] = [
    [{ name: '..' }, 'BAD_OPTION', /name \.\./],
    [{ port: 0 }, 'BAD_OPTION', /port 0/],
    [{ port: 5, libvirt: true }, 'BAD_OPTION', /port 5: .* --libvirt goes to a libvirt daemon/],
    [{ connect: [] }, 'BAD_OPTION', /address is needed/],
    [{ connect: ['tcp:192.0.2.1:1'] }, 'BAD_OPTION', /without encryption/],
    [{ listen: 'tls:127.0.0.1:0' }, 'BAD_OPTION', /without TLS/],
    [{ listen: 'unix:/nowhere/at/all' }, 'LISTEN_FAILED', /nowhere/],
    [{ maxBandwidth: -1 }, 'BAD_OPTION', /bandwidth limit -1/],
    [{ maxBandwidth: 1, stock: true }, 'BAD_OPTION', /no link of its own/],
    [{ inDoubt: 'ask' as 'hold' }, 'BAD_OPTION', /hold or fail/],
    [{ reconnectMs: NaN }, 'BAD_OPTION', /reconnect NaN/],
    [{ silenceMs: 99 }, 'BAD_OPTION', /silence 99 ms: from 100 ms to 24 h/],
    [{ require: ['gzip'] }, 'BAD_OPTION', /gzip/],
    [{ codec: 'lz4', level: 99 }, 'BAD_OPTION', /level 99/],
    [{ match: 1000 }, 'BAD_OPTION', /match 1000/],
    [{ memoryLimit: 1 << 20 }, 'OUT_OF_MEMORY', /limit of 1\.00 MiB/],
  ];
  it('refuses at once what cannot be, and holds nothing then', async () => {
    await leavesNothing(() => {
      for (const [options, code, message] of refused) {
        const all = { name: 'vm1', listen: 'tcp:127.0.0.1:0', connect: ['tcp:127.0.0.1:1'], ...options };
        assert.throws(() => createSourceProxy(all), isA(code, message), JSON.stringify(options));
      }
      return Promise.resolve();
    });
  });

  it('refuses a change that cannot be, and goes on', async (t) => {
    const proxy = createSourceProxy({ name: 'vm1', listen: 'tcp:127.0.0.1:0', connect: [`unix:${folder(t)('none')}`] });
    assert.throws(
      () => {
        proxy.setMaxBandwidth(0.5);
      },
      isA('BAD_OPTION', /bandwidth limit 0\.5/),
    );
    assert.throws(
      () => {
        proxy.setInDoubt('ask' as 'hold');
      },
      isA('BAD_OPTION', /hold or fail/),
    );
    assert.throws(
      () => {
        proxy.setReconnect(-1);
      },
      isA('BAD_OPTION', /reconnect -1/),
    );
    assert.equal(proxy.snapshot().state, 'waiting');
    proxy.stop();
    await assert.rejects(proxy.done, isA('STOPPED', /^stopped/));
  });
});

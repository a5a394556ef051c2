import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo } from 'node:net';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import { SimulatedDestination } from '#src/simulator/destination.js';
import { SimulatedGuest, type SimulatedGuestOptions } from '#src/simulator/guest.js';
import { WORKLOADS } from '#src/simulator/workload.js';

const SMALL: SimulatedGuestOptions = { ramBytes: 4 << 20, passes: 3 };

function streamOf(options: SimulatedGuestOptions): { guest: SimulatedGuest; stream: Buffer } {
  const guest = new SimulatedGuest(options);
  return { guest, stream: Buffer.concat([...guest.stream()]) };
}

function load(...chunks: Uint8Array[]): SimulatedDestination {
  const destination = new SimulatedDestination();
  for (const chunk of chunks) destination.push(chunk);
  destination.end();
  return destination;
}

describe('a simulated guest', () => {
  for (const workload of WORKLOADS) {
    it(`is whole at the other end: ${workload}`, () => {
      const { guest, stream } = streamOf({ ...SMALL, workload });
      const destination = load(stream);
      assert.deepEqual(destination.digests(), guest.digests());
      assert.equal(destination.machine, 'pc-q35-10.0');
      assert.equal(destination.loaded.bytes, guest.sent.bytes);
      assert.equal(destination.loaded.pages, guest.sent.pages);
      assert.equal(destination.loaded.fillPages, guest.sent.zeroPages);
      assert.equal(guest.sent.passes, 4);
    });
  }

  it('is the same again for the same seed, and another for another', () => {
    const digest = (options: SimulatedGuestOptions): string =>
      createHash('sha256').update(streamOf(options).stream).digest('hex');
    assert.equal(digest({ ...SMALL, seed: 7 }), digest({ ...SMALL, seed: 7 }));
    assert.equal(digest({ ...SMALL, seed: 7 }), digest({ ...SMALL, seed: 7, chunkBytes: 5000 }));
    assert.notEqual(digest({ ...SMALL, seed: 7 }), digest({ ...SMALL, seed: 8 }));
  });

  it('has a stream that changes on purpose only', () => {
    const { stream } = streamOf({ ...SMALL, seed: 1 });
    assert.equal(createHash('sha256').update(stream).digest('hex'), GOLDEN);
  });

  it('sends its pages again and again', () => {
    const { guest } = streamOf({ ...SMALL, workload: 'sparse', dirtyPagesPerPass: 100, passes: 4 });
    const blockPages = guest.blocks.reduce((sum, { bytes }) => sum + bytes.length / 4096, 0);
    const dirtied = 4 * (100 + 2); // two more on the screen
    assert.equal(guest.sent.pages + guest.sent.zeroPages, blockPages + dirtied);
  });

  it('announces the switchover if its machine is of 10.0 or newer', () => {
    const announced = Buffer.from('7e00000002' + '08000b0000' + '0300000002', 'hex');
    assert.ok(streamOf({ ...SMALL, machine: 'pc-q35-11.1' }).stream.includes(announced));
    const old = streamOf({ ...SMALL, machine: 'pc-i440fx-7.2' });
    assert.ok(!old.stream.includes(announced));
    assert.deepEqual(load(old.stream).digests(), old.guest.digests());
  });

  it('can be migrated without a pass after the first', () => {
    const { guest, stream } = streamOf({ ...SMALL, passes: 0 });
    assert.deepEqual(load(stream).digests(), guest.digests());
  });

  it('is migrated once', () => {
    const { guest } = streamOf(SMALL);
    assert.throws(() => guest.stream().next(), /once/);
  });

  it('writes to a slow reader no faster than that reads', async () => {
    const guest = new SimulatedGuest({ ...SMALL, ramBytes: 8 << 20 });
    const slow = new PassThrough({ highWaterMark: 64 << 10 });
    const written = guest.writeTo(slow);
    await new Promise((resume) => setTimeout(resume, 50));
    assert.ok(guest.sent.bytes < 4 << 20, `${guest.sent.bytes} bytes were made for a reader that takes none`);
    const destination = new SimulatedDestination();
    for await (const chunk of slow) destination.push(chunk as Buffer);
    await written;
    destination.end();
    assert.deepEqual(destination.digests(), guest.digests());
  });

  it('crosses a socket', async () => {
    const guest = new SimulatedGuest(SMALL);
    const destination = new SimulatedDestination();
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    const [accepted] = (await once(server, 'connection')) as [AsyncIterable<Buffer>];
    const written = guest.writeTo(socket);
    for await (const chunk of accepted) destination.push(chunk);
    await written;
    server.close();
    socket.destroy();
    assert.deepEqual(destination.digests(), guest.digests());
  });

  it('reports a reader that went away', async () => {
    const guest = new SimulatedGuest(SMALL);
    const gone = new PassThrough();
    const written = guest.writeTo(gone);
    gone.destroy(new Error('gone'));
    await assert.rejects(written, /gone/);
  });
});

const GOLDEN = '0a89ff94a7d1cb98b9bf3e11096e3ae22e12a44e3c08667cab931ce5e235a25e';

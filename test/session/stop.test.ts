// A source that is stopped while its link stands and takes nothing, as where the destination's machine has gone, or the way to it.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { EXIT } from '#src/control/exit.js';
import { folder, Running } from '../cli/command.js';
import { noise } from '../pipeline/content.js';
import { destinationProxy } from './qemus.js';

/** How long the source takes a silent link for one that stands, in seconds: longer than any of this may take. */
const SILENCE = 600;

/** How long nothing more is taken until nothing will be, in milliseconds. */
const STUCK_MS = 500;

const FIRST = 100_000;
const REST = 8 << 20;

/** A way to a proxy. */
interface Way {
  /** What goes over it stands still; other connections do not. */
  block(): void;
  /** What the source has sent goes on. */
  release(): void;
  /** Resolves once so many bytes have gone over it. */
  carried(bytes: number): Promise<void>;
  /** How many there have been. */
  connections(): number;
}

async function relay(t: TestContext, from: string, to: string): Promise<Way> {
  const sockets: Socket[] = [];
  const server = createServer({ allowHalfOpen: true }, (near) => {
    const far = connect({ path: to, allowHalfOpen: true });
    for (const socket of [near, far]) {
      sockets.push(socket.on('error', () => undefined));
      t.after(() => socket.destroy());
    }
    near.pipe(far).pipe(near);
  });
  await once(server.listen(from), 'listening');
  t.after(() => server.close());
  return {
    connections: () => sockets.length / 2,
    block: () => {
      for (const socket of sockets) socket.unpipe().pause();
    },
    release: () => {
      const [near, far] = sockets;
      near?.pipe(far!);
    },
    carried: async (bytes) => {
      while (sockets.reduce((most, { bytesRead }) => Math.max(most, bytesRead), 0) < bytes) await sleep(10);
    },
  };
}

/** Writes piece by piece for as long as there is room. */
async function fill(socket: Socket, pieces: readonly Uint8Array[]): Promise<void> {
  for (const piece of pieces) {
    const taken = new Promise<boolean>((resolve) =>
      socket.write(piece, () => {
        resolve(true);
      }),
    );
    if (!(await Promise.race([taken, sleep(STUCK_MS, false)]))) return;
  }
  assert.fail('all of it was taken');
}

/** A packet of libvirt's. */
function packet(procedure: number, type: number, status: number, body: Uint8Array): Buffer {
  const header = Buffer.alloc(28);
  const words = [header.length + body.length, 0x2000_8086, 1, procedure, type, 7, status];
  words.forEach((word, index) => header.writeUInt32BE(word, index * 4));
  return Buffer.concat([header, body]);
}

const PIECE = 60_000;
function pieces(bytes: number): Buffer[] {
  return Array.from({ length: Math.ceil(bytes / PIECE) }, (_, index) => Buffer.from(noise(PIECE, index + 1)));
}

/** MIGRATE_PREPARE_TUNNEL3_PARAMS: a guest's stream. */
const guest = (bytes: number): Buffer[] => pieces(bytes).map((body) => packet(304, 3, 2, body));

interface Case {
  readonly what: string;
  readonly options: readonly string[];
  readonly first: readonly Buffer[];
  readonly rest: readonly Buffer[];
  /** Its exit code. A listener for many connections did what it was told. */
  readonly code: number;
  readonly isInDoubt?: boolean;
}

/** MIGRATE_FINISH3_PARAMS of a migration that was not cancelled. */
const FINISH = packet(306, 0, 0, Buffer.alloc(8));

const CASES: readonly Case[] = [
  { what: "QEMU's connection", options: ['--name', 'vm1'], first: pieces(FIRST), rest: pieces(REST), code: 143 },
  { what: "libvirt's tunnel", options: ['--libvirt'], first: guest(FIRST), rest: guest(REST), code: EXIT.ok },
  {
    what: "libvirt's tunnel in doubt, which is told twice",
    options: ['--libvirt'],
    ...{ first: guest(FIRST), rest: [FINISH, ...guest(REST)], code: EXIT.ok, isInDoubt: true },
  },
];

describe('a source that is stopped while its link takes nothing', () => {
  for (const { what, options, first, rest, code, isInDoubt = false } of CASES) {
    it(`ends at once and says so: ${what}`, async (t) => {
      const path = folder(t);
      const isLibvirt = options.includes('--libvirt');
      const far = createServer((socket) => socket.on('error', () => undefined).resume()).listen(path('far'));
      t.after(() => far.close());
      const more = ['--silence', `${SILENCE}s`, ...(isLibvirt ? ['--libvirt'] : [])];
      const destination = await destinationProxy(t, `unix:${path('proxy')}`, `unix:${path('far')}`, ...more);
      const way = await relay(t, path('way'), path('proxy'));
      const ends = ['--listen', `unix:${path('near')}`, '--connect', `unix:${path('way')}`];
      const settings = ['--codec', 'none', '-T', '1', '--silence', `${SILENCE}s`];
      const source = new Running(t, ['proxy', 'source', ...ends, ...settings, ...options]);
      await source.says(/waiting for/);
      const near = connect({ path: path('near') }).on('error', () => undefined);
      t.after(() => near.destroy());
      let heard = '';
      near.setEncoding('latin1').on('data', (text: string) => (heard += text));
      const closed = new Promise((resolve) => near.once('close', resolve));
      for (const piece of first) near.write(piece);
      await way.carried(FIRST);
      way.block();
      await fill(near, rest);

      const began = performance.now();
      source.child.kill('SIGTERM');
      if (isInDoubt) {
        await source.says(/A second signal ends the session/);
        source.child.kill('SIGTERM');
      }
      const ended = await source.ended;
      const seconds = (performance.now() - began) / 1000;
      t.diagnostic(`it ended after ${seconds.toFixed(2)} s`);
      assert.ok(seconds < SILENCE / 10, `it ended after ${seconds} s`);
      const why = 'stopped: the migration fails and the guest stays here';
      assert.deepEqual([ended.code, ended.signal], [code, null], ended.stderr);
      assert.ok(ended.stderr.includes(why), ended.stderr);
      await closed;
      assert.equal(heard.includes(`pagewire: ${why}`), isLibvirt, heard);
      // By a connection of its own, which overtakes what is on its way: not what may let the guest run there.
      if (!isInDoubt) await destination.says(/the source gave up: stopped: the migration fails/);
      assert.equal(way.connections(), isInDoubt ? 1 : 2);
    });
  }

  for (const end of ['the end of its stream', 'the last byte of its stream'] as const) {
    it(`overtakes nothing of what QEMU has written: ${end}`, async (t) => {
      const path = folder(t);
      let came = 0;
      const far = createServer((socket) => socket.on('data', ({ length }) => (came += length))).listen(path('far'));
      t.after(() => far.close());
      const destination = await destinationProxy(t, `unix:${path('proxy')}`, `unix:${path('far')}`);
      const way = await relay(t, path('way'), path('proxy'));
      const ends = ['--listen', `unix:${path('near')}`, '--connect', `unix:${path('way')}`];
      const source = new Running(t, ['proxy', 'source', ...ends, '--name', 'vm1', '--codec', 'none', '-T', '1']);
      await source.says(/waiting for/);
      const near = connect({ path: path('near') }).on('error', () => undefined);
      t.after(() => near.destroy());
      for (const piece of pieces(FIRST)) near.write(piece);
      await way.carried(FIRST);
      way.block();
      const last = noise(PIECE, 7);
      await new Promise((resolve) => near.write(last, resolve));
      if (end === 'the end of its stream') near.end();
      // It has read that, and given it to the link, once the link is what it waits for.
      await sleep(STUCK_MS);
      source.child.kill('SIGTERM');
      await source.ended;
      way.release();
      await destination.says(/the source gave up/);
      assert.equal(came, pieces(FIRST).length * PIECE + last.length);
    });
  }
});

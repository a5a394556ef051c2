// The destination's end of a handshake, over a local socket: who gets a session, who joins it, and who is told why not.
import assert from 'node:assert/strict';
import { closeSync } from 'node:fs';
import { createServer } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { native, type NativeLink } from '#src/native.js';
import { FRAME, type Hello, PROTOCOL, readJoinWelcome, type Refuse } from '#src/session/hello.js';
import { Host, type HostSettings, type Registry } from '#src/session/host.js';
import { CANCELLED } from '#src/session/outcome.js';
import { createLog } from '#src/telemetry/log.js';
import { folder } from '../cli/command.js';
import { CAPABILITIES, OPEN, PARAMETERS, settings, TIMEOUT } from './handshake.js';

const SESSION = '00'.repeat(16);

const JOIN: Hello = {
  ...{ kind: 'join', protocol: PROTOCOL, program: '0.0.1', token: OPEN.token, channel: 1, received: 0 },
};

const FREE: Registry = { sessions: { now: 0, most: 1 }, claim: () => Promise.resolve(undefined) };

class Desk {
  readonly host: Host;

  constructor(t: TestContext, more: Partial<HostSettings> = {}, registry = FREE) {
    const path = folder(t);
    const log = createLog({ name: 'test', format: 'text', quiet: true, write: () => undefined });
    this.host = new Host(settings(path, more), registry, log);
    const qemu = createServer((socket) => socket.on('error', () => undefined)).listen(path('vm1'));
    t.after(async () => {
      const { session } = this.host;
      session?.stop();
      await session?.done.catch(() => undefined);
      qemu.close();
    });
  }

  /** Says something to the host, and gives the link and what comes back. */
  async say(
    hello: unknown,
    kind: 'open' | 'join' = 'open',
  ): Promise<{ link: NativeLink; type: number; said: unknown }> {
    const [ours, theirs] = native.streamPair();
    const [link, far] = [native.pipeLink(ours, ours, 'ours'), native.pipeLink(theirs, theirs, 'theirs')];
    closeSync(ours);
    closeSync(theirs);
    const taken = this.host.take(far, { kind, session: SESSION }).catch(() => undefined);
    await link.send(FRAME.hello, Buffer.from(JSON.stringify(hello)), TIMEOUT);
    const { type, payload } = await link.receive(TIMEOUT);
    await taken;
    return { link, type, said: JSON.parse(payload.toString()) as unknown };
  }

  async refused(hello: unknown, kind: 'open' | 'join' = 'open'): Promise<Refuse> {
    const { link, type, said } = await this.say(hello, kind);
    assert.equal(type, FRAME.refuse);
    // Nothing more comes: the link is closed.
    await assert.rejects(link.receive(TIMEOUT));
    link.close();
    return said as Refuse;
  }

  async welcomed(hello: unknown, kind: 'open' | 'join' = 'open'): Promise<unknown> {
    const { type, said } = await this.say(hello, kind);
    assert.equal(type, FRAME.welcome);
    return said;
  }
}

describe('a source that opens a session', () => {
  it('is welcomed, and told what this end can', async (t) => {
    const desk = new Desk(t);
    assert.deepEqual(await desk.welcomed(OPEN), {
      ...{ protocol: PROTOCOL, program: '0.0.2', capabilities: CAPABILITIES, parameters: PARAMETERS },
    });
    assert.equal(desk.host.session?.name, 'vm1');
  });

  it('is told of versions that do not fit, by both their names', async (t) => {
    const hello = { ...OPEN, protocol: { oldest: 4, newest: 5 }, program: '3.1' };
    const { code, message } = await new Desk(t).refused(hello);
    assert.equal(code, 'VERSION');
    assert.match(message, /pagewire 3\.1 .*protocols 4 to 5 .*pagewire 0\.0\.2 .*update pagewire 0\.0\.2/);
  });

  const refusals: [what: string, hello: object, settings: Partial<HostSettings>, code: string, message: RegExp][] = [
    [
      'requires what this end lacks',
      { require: ['delta'] },
      { end: { ...settings(String).end, capabilities: { ...CAPABILITIES, delta: false } } },
      'REQUIRED',
      /delta \(--require\)/,
    ],
    [
      'lacks what this end requires',
      { capabilities: { ...CAPABILITIES, codecs: ['none'] } },
      { end: { ...settings(String).end, require: ['zstd'] } },
      'REQUIRED',
      /0\.0\.1 at the source lacks.*zstd/,
    ],
    ['may not reach the guest', {}, { peers: [{ name: '*', guests: ['vm2'] }] }, 'DENIED', /guest vm1 \(--peer/],
    ['names a port that is not allowed', { port: 22 }, {}, 'DENIED', /port 22 .*100-200/],
    ['names no port where one is needed', {}, { connect: 'tcp:127.0.0.1:{port}' }, 'DENIED', /--port/],
    ['has a name that is a path', { name: '../../etc' }, {}, 'BAD_HELLO', /name/],
  ];
  for (const [what, hello, more, code, message] of refusals) {
    it(`is refused where it ${what}`, async (t) => {
      const desk = new Desk(t, more);
      const refuse = await desk.refused({ ...OPEN, ...hello });
      assert.equal(refuse.code, code);
      assert.match(refuse.message, message);
      assert.equal(desk.host.session, undefined);
    });
  }

  it('is refused where the guest is on its way already', async (t) => {
    const busy = { code: 'BUSY', message: 'guest vm1 is being migrated here already' };
    const desk = new Desk(t, {}, { ...FREE, claim: () => Promise.resolve(busy) });
    assert.deepEqual(await desk.refused(OPEN), busy);
  });

  it('is refused where it says something else than its preamble', async (t) => {
    const { code } = await new Desk(t).refused(OPEN, 'join');
    assert.equal(code, 'BAD_HELLO');
  });
});

describe('a link that joins a session', () => {
  it('is told what has come over the links before it', async (t) => {
    const desk = new Desk(t);
    await desk.welcomed(OPEN);
    const said = await desk.welcomed(JOIN, 'join');
    assert.equal(readJoinWelcome(Buffer.from(JSON.stringify(said))).received, 0);
  });

  it('takes the place of one that seems to stand still', async (t) => {
    const desk = new Desk(t);
    await desk.welcomed(OPEN);
    await desk.welcomed({ ...JOIN, channel: 0 }, 'join');
    await desk.welcomed({ ...JOIN, channel: 0 }, 'join');
    assert.equal(desk.host.session?.snapshot().channels, 1);
  });

  it('is refused where there is no session', async (t) => {
    assert.equal((await new Desk(t).refused(JOIN, 'join')).code, 'UNKNOWN_SESSION');
  });

  it('is refused with the token of another', async (t) => {
    const desk = new Desk(t);
    await desk.welcomed(OPEN);
    const { code } = await desk.refused({ ...JOIN, token: 'cd'.repeat(32) }, 'join');
    assert.equal(code, 'UNKNOWN_SESSION');
  });

  it('ends the session where it only brings that the source has given up', async (t) => {
    const desk = new Desk(t);
    await desk.welcomed(OPEN);
    const gaveUp = { ...JOIN, channel: 0, gaveUp: 'the disk is on fire' };
    assert.equal((await desk.refused({ ...gaveUp, token: 'cd'.repeat(32) }, 'join')).code, 'UNKNOWN_SESSION');
    assert.equal(desk.host.session?.snapshot().state, 'running');
    const ended = assert.rejects(desk.host.session.done, {
      code: 'PEER_FAILED',
      message: 'the source gave up: the disk is on fire',
    });
    const { link } = await desk.say(gaveUp, 'join');
    await ended;
    await assert.rejects(link.receive(TIMEOUT));
    link.close();
  });

  it('ends it well where that is a cancelled migration', async (t) => {
    const desk = new Desk(t);
    await desk.welcomed(OPEN);
    await desk.welcomed({ ...JOIN, channel: 0, gaveUp: CANCELLED }, 'join');
    assert.deepEqual(await desk.host.session?.done, { cancelled: true, within: undefined });
  });

  it('is refused where there is no memory for one more, and those that are there are not', async (t) => {
    const room = 2;
    // Node, the return path, a worker, 7 frames; and for each further connection 6 frames.
    const memoryLimit = (64 + 8 + 12 + 7 + room * 6) << 20;
    const desk = new Desk(t, { memoryLimit });
    await desk.welcomed(OPEN);
    for (let channel = 1; channel <= room; channel++) await desk.welcomed({ ...JOIN, channel }, 'join');
    const { code, message } = await desk.refused({ ...JOIN, channel: room + 1 }, 'join');
    assert.equal(code, 'OUT_OF_MEMORY');
    assert.match(message, /memory for 2 further connections .*--memory-limit/);
    // Its next link.
    await desk.welcomed(JOIN, 'join');
  });

  it('is refused after the session has ended', async (t) => {
    const desk = new Desk(t);
    await desk.welcomed(OPEN);
    desk.host.session?.stop();
    await desk.host.session?.done.catch(() => undefined);
    assert.equal((await desk.refused(JOIN, 'join')).code, 'UNKNOWN_SESSION');
  });
});

/**
 * The process that carries one migration at the destination: the connections of one session, from their handshakes on.
 * It is the listener's child, or the program itself where there is only one connection.
 */
import type { InDoubt } from './outcome.js';
import { PagewireError } from '../errors.js';
import { native, type NativeAllow, type NativeLink, type NativeTls } from '../native.js';
import { defaultMemoryLimit } from '../policy/memory.js';
import type { Log } from '../telemetry/log.js';
import { type Endpoint, fillTemplate, parseEndpoint } from '../transport/endpoint.js';
import { receiveHello, refuse, welcome } from './accept.js';
import { DestinationSession } from './destination.js';
import { type CheckHello, type JoinHello, type OpenHello, PROTOCOL, type Refuse } from './hello.js';
import { agree, type End, refusal } from './negotiate.js';
import { identity, mayReach, type PeerRule, type Ports, refusesPort } from './peers.js';
import type { Preamble } from './preamble.js';
import { furtherRoom, sessionBytes } from './room.js';
import { serveCheck } from './check.js';

/** What a session at the destination is told; plain data, since it goes from process to process. */
export interface HostSettings {
  /** Where QEMU listens: an endpoint with `{name}` and `{port}` in it. */
  readonly connect: string;
  readonly ports: Ports;
  readonly peers: readonly PeerRule[];
  readonly tls: NativeTls | null;
  readonly end: End;
  readonly threads: number;
  readonly replayBytes: number;
  readonly reconnectMs: number;
  readonly handshakeMs: number;
  readonly inDoubt: InDoubt;
  readonly memoryLimit?: number;
  /** What listens at `connect` is a libvirt daemon, and gets no more than this. */
  readonly allow?: NativeAllow;
}

/** Whoever knows of the other sessions. */
export interface Registry {
  /** Takes a guest's name for a new session of a peer; gives the reason where it cannot have it. */
  claim(name: string, who: string): Promise<Refuse | undefined>;
  /** Sessions now, and the most that there may be. */
  readonly sessions: { now: number; most: number };
}

export class Host {
  /** For sessions to come. */
  settings: HostSettings;
  readonly #registry: Registry;
  readonly #log: Log;
  #opened!: (session: DestinationSession) => void;
  /** Resolves once a session is open; never, if none is. */
  readonly opened: Promise<DestinationSession>;
  session: DestinationSession | undefined;
  /** Sessions that are being opened: a source that was welcomed may join before we have gone on. */
  #opening: Promise<unknown> | undefined;

  constructor(settings: HostSettings, registry: Registry, log: Log) {
    this.settings = settings;
    this.#registry = registry;
    this.#log = log;
    this.opened = new Promise((resolve) => (this.#opened = resolve));
  }

  /** A connection whose preamble was read; resolves when its handshake is over, and rejects if it was in vain. */
  async accept(fd: number, preamble: Preamble): Promise<void> {
    const { tls, handshakeMs } = this.settings;
    await this.take(await native.acceptLink(fd, tls, handshakeMs), preamble);
  }

  /** A link that stands. */
  async take(link: NativeLink, preamble: Preamble): Promise<void> {
    const { end, handshakeMs } = this.settings;
    try {
      const hello = await receiveHello(link, end.program, handshakeMs);
      if (hello.kind !== preamble.kind) {
        const message = `the preamble says ${preamble.kind}, and HELLO ${hello.kind}`;
        await refuse(link, { code: 'BAD_HELLO', message }, handshakeMs);
      } else if (hello.kind === 'open') {
        const opened = this.#open(link, hello);
        this.#opening = Promise.allSettled([this.#opening, opened]).then(() => undefined);
        await opened;
      } else if (hello.kind === 'join') await this.#join(link, hello);
      else await this.#check(link, hello);
    } catch (error) {
      link.close();
      throw error;
    }
  }

  async #open(link: NativeLink, hello: OpenHello): Promise<void> {
    const { connect, end, handshakeMs, peers, ports } = this.settings;
    const { inDoubt, reconnectMs, replayBytes, threads, allow, memoryLimit } = this.settings;
    const { name, port, token } = hello;
    const peer = link.peer();
    const denied = mayReach(peers, peer, name)
      ? refusesPort(port, ports)
      : `the peer may not reach guest ${name} (--peer at the destination)`;
    if (denied !== undefined) return refuse(link, { code: 'DENIED', message: denied }, handshakeMs);
    let target: Endpoint;
    try {
      target = parseEndpoint(fillTemplate(connect, name, port));
    } catch (error) {
      return refuse(link, { code: 'DENIED', message: PagewireError.from(error).message }, handshakeMs);
    }
    const open: Refuse = { code: 'BUSY', message: 'the session is open already' };
    const no = refusal(hello, end) ?? (this.session ? open : await this.#registry.claim(name, identity(peer)));
    if (no) return refuse(link, no, handshakeMs);
    const { program, capabilities, parameters } = end;
    await welcome(link, { protocol: PROTOCOL, program, capabilities, parameters }, handshakeMs);
    const agreement = agree(hello, end);
    const session = new DestinationSession({
      ...{ name, token, peer, connect: target, agreement, room: furtherRoom(threads, agreement, memoryLimit) },
      ...{ threads, replayBytes, reconnectMs, inDoubt, allow },
      log: this.#log.child({ guest: name }),
    });
    this.session = session;
    session.open(link);
    const key = peer.fingerprint === undefined ? '' : `, key ${peer.fingerprint}`;
    this.#log.info({ guest: name }, `session from ${peer.address} (pagewire ${hello.program}${key})`);
    this.#opened(session);
  }

  async #join(link: NativeLink, hello: JoinHello): Promise<void> {
    const { handshakeMs } = this.settings;
    await this.#opening;
    const { session } = this;
    const no = session ? session.refuses(hello, link.peer()) : { code: 'UNKNOWN_SESSION', message: UNKNOWN_SESSION };
    if (!session || no) return refuse(link, no ?? { code: 'UNKNOWN_SESSION', message: UNKNOWN_SESSION }, handshakeMs);
    const { program } = this.settings.end;
    if (hello.gaveUp !== undefined) {
      try {
        await welcome(link, { protocol: PROTOCOL, program, received: 0 }, handshakeMs);
      } finally {
        link.close();
        session.sourceGaveUp(hello.gaveUp);
      }
      return;
    }
    await welcome(link, { protocol: PROTOCOL, program, received: await session.ready(hello) }, handshakeMs);
    session.join(link, hello);
  }

  async #check(link: NativeLink, hello: CheckHello): Promise<void> {
    const { end, handshakeMs, memoryLimit, threads } = this.settings;
    const { program, capabilities, parameters } = end;
    const agreement = agree(hello, end);
    const memory = {
      ...{ free: 2 * defaultMemoryLimit(), needed: sessionBytes(threads, agreement) },
      ...(memoryLimit !== undefined && { limit: memoryLimit }),
    };
    const { sessions } = this.#registry;
    await welcome(link, { protocol: PROTOCOL, program, capabilities, parameters, memory, sessions }, handshakeMs);
    await serveCheck(link, agreement);
  }
}

/** What a source is told whose session is not here. */
export const UNKNOWN_SESSION =
  'this destination proxy has no memory of the session: it was started anew, or the session has ended';

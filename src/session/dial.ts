/** The source's way to its destination: over each endpoint in turn, through the handshake to WELCOME or REFUSE. */
import { randomBytes } from 'node:crypto';
import { PagewireError } from '../errors.js';
import type { NativeLink, NativeTls } from '../native.js';
import { connectTo } from '../transport/connect.js';
import { type Endpoint, endpointText } from '../transport/endpoint.js';
import {
  type CheckHello,
  FRAME,
  type Hello,
  type JoinHello,
  type OpenHello,
  readRefuse,
  type Refuse,
  writeMessage,
} from './hello.js';
import { writePreamble } from './preamble.js';

/** A peer that let us in; its WELCOME is still to be read. */
export interface Dialled {
  readonly link: NativeLink;
  readonly welcome: Buffer;
  readonly endpoint: Endpoint;
}

/** A peer that is who it should be said no. */
export class Refusal extends PagewireError {
  readonly refuse: Refuse;

  constructor(endpoint: string, refuse: Refuse) {
    super(refuse.code === 'VERSION' ? 'INCOMPATIBLE' : 'PEER_REFUSED', `${endpoint} refuses: ${refuse.message}`);
    this.refuse = refuse;
  }
}

export class Dialler {
  readonly #endpoints: readonly Endpoint[];
  readonly #tls: NativeTls | null;
  /** 16 bytes in hex. */
  #session = '';
  /** Where it worked last. */
  #preferred = 0;

  constructor(endpoints: readonly Endpoint[], tls: NativeTls | null) {
    this.#endpoints = endpoints;
    this.#tls = tls;
  }

  /** How many addresses there are to go round. */
  get size(): number {
    return this.#endpoints.length;
  }

  /** Whether none can be connected to a second time. */
  get isOnce(): boolean {
    return this.#endpoints.every(({ kind }) => kind === 'stdio' || kind === 'fd');
  }

  /** Opens a session, under a number of its own: nobody may take an attempt for the one before. */
  open(hello: OpenHello | CheckHello, turn: number, timeoutMs: number): Promise<Dialled> {
    this.#session = randomBytes(16).toString('hex');
    return this.#dial(hello, turn, timeoutMs);
  }

  join(hello: JoinHello, turn: number, timeoutMs: number): Promise<Dialled> {
    return this.#dial(hello, turn, timeoutMs);
  }

  /** Tries the address that is `turn` places behind the one where it worked last. */
  async #dial(hello: Hello, turn: number, timeoutMs: number): Promise<Dialled> {
    const index = (this.#preferred + turn) % this.#endpoints.length;
    const endpoint = this.#endpoints[index]!;
    const preamble = writePreamble({ kind: hello.kind, session: this.#session });
    const link = await connectTo(endpoint, preamble, this.#tls, timeoutMs);
    try {
      await link.send(FRAME.hello, writeMessage(hello), timeoutMs);
      const { type, payload } = await link.receive(timeoutMs);
      if (type === FRAME.refuse) throw new Refusal(endpointText(endpoint), readRefuse(payload));
      if (type !== FRAME.welcome) {
        const what = `a frame of type ${type} where WELCOME should come`;
        throw new PagewireError('INCOMPATIBLE', `${endpointText(endpoint)} answers with ${what}`);
      }
      this.#preferred = index;
      return { link, welcome: payload, endpoint };
    } catch (error) {
      link.close();
      throw error;
    }
  }
}

// Two QEMUs that are none: they speak a script over unix sockets and keep QEMU's rules about whose guest runs.
//
//   source       runs; stands from `stops` on; runs again if its connection ends before `settles` has come
//   destination  stands; runs from the moment at which `runs` has come whole
//
// (QEMU 11. In postcopy, a connection that ends after `settles` leaves the source in postcopy-paused.)
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { until } from '#src/demo/time.js';
import type { Message, Script } from './script.js';
import type { Stage } from './stage.js';

/** One end of a script. */
abstract class Peer {
  protected readonly sent: string[] = [];
  protected received = Buffer.alloc(0);
  protected socket: Socket | undefined;
  /** The other end, or what stands between, has closed the connection. */
  isOver(): boolean {
    return this.over;
  }

  private over = false;
  /** Connections beside the main one, as postcopy-preempt's: they end with the other end. */
  readonly further: Socket[] = [];
  /** What went wrong with the bytes, if anything did. */
  fault: string | undefined;
  private readonly expected: readonly { name: string; end: number }[];
  private readonly expectedBytes: Buffer;

  protected constructor(
    readonly role: Message['from'],
    protected readonly script: Script,
  ) {
    const theirs = script.messages.filter(({ from }) => from !== role);
    this.expectedBytes = Buffer.concat(theirs.map(({ bytes }) => bytes));
    let end = 0;
    this.expected = theirs.map(({ name, bytes }) => ({ name, end: (end += bytes.length) }));
  }

  get isConnected(): boolean {
    return this.socket !== undefined;
  }

  /** Whether this end's guest runs. */
  abstract readonly runs: boolean;

  protected use(socket: Socket): void {
    this.socket = socket;
    socket.on('data', (bytes: Buffer) => {
      this.received = Buffer.concat([this.received, bytes]);
      this.cameIn();
    });
    socket.on('error', () => undefined);
    for (const event of ['end', 'close']) {
      socket.on(event, () => {
        this.over = true;
        socket.end();
      });
    }
  }

  protected useFurther(socket: Socket): void {
    this.further.push(socket);
    socket.on('error', () => undefined);
    socket.on('end', () => socket.end());
    socket.resume();
  }

  /** Something has come. */
  protected cameIn(): void {
    if (!this.received.equals(this.expectedBytes.subarray(0, this.received.length))) {
      this.fault ??= `what came to the ${this.role} after ${this.last ?? 'nothing'} is not what was sent`;
    }
  }

  /** Whether this message of the other end has come whole. */
  has(name: string): boolean {
    return this.expected.some((one) => one.name === name && this.received.length >= one.end);
  }

  /** The last message that came whole. */
  get last(): string | undefined {
    return this.expected.filter(({ end }) => this.received.length >= end).at(-1)?.name;
  }

  get hasAll(): boolean {
    return this.received.length === this.expectedBytes.length;
  }

  hasSent(name: string): boolean {
    return this.sent.includes(name);
  }

  send({ name, bytes }: Message): void {
    this.sent.push(name);
    this.socket?.write(bytes);
  }

  /** Says no more. */
  end(): void {
    this.socket?.end();
  }

  /** Is no more, as a process that has ended. */
  go(): void {
    this.socket?.destroy();
  }
}

export class ScriptedSource extends Peer {
  private constructor(
    script: Script,
    private readonly stage: Stage,
    private readonly path: string,
  ) {
    super('source', script);
  }

  static async connect(stage: Stage, script: Script, path: string): Promise<ScriptedSource> {
    const source = new ScriptedSource(script, stage, path);
    source.use(await source.dial());
    return source;
  }

  /** Makes a further connection. */
  async connectAgain(): Promise<void> {
    this.useFurther(await this.dial());
  }

  private async dial(): Promise<Socket> {
    const socket = connect({ path: this.path, allowHalfOpen: true });
    this.stage.onEnd(() => {
      socket.destroy();
    });
    await new Promise<void>((done, failed) => {
      socket.once('connect', done).once('error', failed);
    });
    return socket;
  }

  protected override cameIn(): void {
    super.cameIn();
    if (this.hasAll) this.end();
  }

  get runs(): boolean {
    const { turn } = this.script;
    if (turn === undefined) return false;
    const hasLeft = this.has(turn.settles) || (turn.leaves !== undefined && this.hasSent(turn.leaves));
    return !this.hasSent(turn.stops) || (this.isOver() && !hasLeft);
  }
}

export class ScriptedDestination extends Peer {
  private constructor(script: Script) {
    super('destination', script);
  }

  static async listen(stage: Stage, script: Script, path: string): Promise<ScriptedDestination> {
    const server = createServer({ allowHalfOpen: true });
    const destination = new ScriptedDestination(script);
    server.on('connection', (socket) => {
      if (destination.isConnected) destination.useFurther(socket);
      else destination.use(socket);
      stage.onEnd(() => {
        socket.destroy();
      });
    });
    await new Promise<void>((done) => server.listen(path, done));
    stage.onEnd(() => {
      server.close();
    });
    return destination;
  }

  get runs(): boolean {
    const { turn } = this.script;
    return turn === undefined || this.has(turn.runs);
  }

  /** Says whatever is due by what has come: all that stands in the script before the next message that has not. */
  catchUp(): void {
    for (const message of this.script.messages) {
      if (message.from === 'source') {
        if (!this.has(message.name)) return;
      } else if (!this.hasSent(message.name)) {
        this.send(message);
      }
    }
    this.end();
  }

  protected override cameIn(): void {
    super.cameIn();
    if (this.isByItself) this.catchUp();
  }

  private isByItself = false;

  /** From here on it answers without being told to. */
  goOnByItself(): void {
    this.isByItself = true;
    this.catchUp();
  }
}

/** Waits for a message at the end that it goes to. */
export async function comes(message: Message, to: Peer, seconds = 10): Promise<void> {
  await until(
    () => {
      if (to.fault !== undefined) throw new Error(to.fault);
      return to.has(message.name);
    },
    seconds,
    () =>
      `${message.name} does not come; the last that came is ${to.last ?? 'nothing'}${to.isOver() ? ', then the end' : ''}`,
  );
}

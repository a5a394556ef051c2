// A link that breaks on command: a TCP relay that stands in front of the destination proxy and carries the wire of
// every channel. What it does to the bytes that are under way is what networks do.
import { connect, createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import { until } from '#src/demo/time.js';
import type { Stage } from './stage.js';

/** `there`: from the source to the destination. */
export type Direction = 'there' | 'back';

/** `reset`: as a peer that is gone, or a firewall that tells so. `end`: closed as if all were well, with no END before it. */
export type Break = 'reset' | 'end';

/** Where the wire goes on: HOST, PORT or the path of a unix socket. */
export type Target = { readonly host: string; readonly port: number } | string;

interface Order {
  readonly direction: Direction;
  readonly at: number;
  readonly how: Break;
  readonly done: () => void;
}

interface Line {
  readonly near: Socket;
  readonly far: Socket;
  /** Bytes that have left one end and not reached the other. They are gone if the line is cut. */
  readonly held: Record<Direction, Buffer[]>;
}

export class Cutter {
  /** Bytes that went through, over all connections. */
  readonly carried: Record<Direction, number> = { there: 0, back: 0 };
  /** Connections that were opened, since the beginning. */
  connections = 0;
  private readonly lines = new Set<Line>();
  private readonly holding: Record<Direction, boolean> = { there: false, back: false };
  private order: Order | undefined;
  private refusing = false;

  private constructor(
    private readonly server: Server,
    readonly host: string,
    private readonly target: Target,
  ) {}

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  static async start(stage: Stage, target: Target, host = '127.0.0.1'): Promise<Cutter> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    const cutter = new Cutter(server, host, target);
    server.on('connection', (near) => {
      cutter.open(near);
    });
    await new Promise<void>((done, failed) => {
      server.once('error', failed);
      server.listen(0, host, done);
    });
    stage.onEnd(() => {
      cutter.refuse();
      server.close();
    });
    return cutter;
  }

  private open(near: Socket): void {
    near.on('error', () => undefined);
    if (this.refusing) {
      near.resetAndDestroy();
      return;
    }
    this.connections += 1;
    const far =
      typeof this.target === 'string'
        ? connect({ path: this.target, allowHalfOpen: true })
        : connect({ ...this.target, allowHalfOpen: true });
    const line: Line = { near, far, held: { there: [], back: [] } };
    this.lines.add(line);
    for (const socket of [near, far]) {
      socket.setTimeout(0);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        near.destroy();
        far.destroy();
        this.lines.delete(line);
      });
    }
    this.carry(line, 'there', near, far);
    this.carry(line, 'back', far, near);
  }

  private carry(line: Line, direction: Direction, from: Socket, to: Socket): void {
    from.on('data', (bytes: Buffer) => {
      if (this.holding[direction]) {
        // the rest piles up in the kernel's buffers, and then at the sender
        from.pause();
        line.held[direction].push(bytes);
      } else {
        this.pass(direction, from, to, bytes);
      }
    });
    to.on('drain', () => {
      if (!this.holding[direction]) from.resume();
    });
    from.on('end', () => {
      if (!this.holding[direction]) to.end();
    });
    from.resume();
  }

  private pass(direction: Direction, from: Socket, to: Socket, bytes: Buffer): void {
    const order = this.order?.direction === direction ? this.order : undefined;
    const left = order === undefined ? Infinity : order.at - this.carried[direction];
    const passed = bytes.subarray(0, left);
    this.carried[direction] += passed.length;
    if (order !== undefined && passed.length === left) {
      this.order = undefined;
      from.pause();
      to.write(passed, () => {
        this.cut(order.how);
        order.done();
      });
    } else if (!to.write(passed)) {
      from.pause();
    }
  }

  /** Breaks every connection that stands; what is held is lost. New ones are let through. */
  cut(how: Break = 'reset'): void {
    for (const { near, far } of this.lines) {
      for (const socket of [near, far]) {
        socket.pause();
        if (how === 'reset' && socket.remotePort !== undefined) socket.resetAndDestroy();
        else socket.end(() => socket.destroy());
      }
    }
    this.lines.clear();
  }

  /** Cuts as soon as so many more bytes have gone through in a direction; answers when that has happened. */
  cutAfter(direction: Direction, bytes: number, how: Break = 'reset'): Promise<void> {
    return new Promise((done) => {
      this.order = { direction, at: this.carried[direction] + bytes, how, done };
    });
  }

  /** From here on nothing goes through, while connections stand and are taken: as packets that are dropped. */
  hold(...directions: Direction[]): void {
    for (const direction of directions.length > 0 ? directions : (['there', 'back'] as const)) {
      this.holding[direction] = true;
    }
  }

  /** Whether bytes have been taken and not passed on. */
  holds(direction: Direction): boolean {
    return [...this.lines].some(({ held }) => held[direction].length > 0);
  }

  async holdsSome(direction: Direction, seconds = 10): Promise<void> {
    await until(() => this.holds(direction), seconds, `nothing went ${direction} on the wire`);
  }

  /** Passes on what is held and all that follows. */
  release(): void {
    this.holding.there = this.holding.back = false;
    for (const { near, far, held } of this.lines) {
      for (const [direction, from, to] of [
        ['there', near, far],
        ['back', far, near],
      ] as const) {
        for (const bytes of held[direction].splice(0)) this.pass(direction, from, to, bytes);
        if (from.readableEnded) to.end();
        else from.resume();
      }
    }
  }

  /** Breaks what stands and lets nobody in. */
  refuse(how: Break = 'reset'): void {
    this.refusing = true;
    this.cut(how);
  }

  /** Lets new connections through again. */
  accept(): void {
    this.refusing = false;
    this.release();
  }
}

// QEMU's control protocol: JSON lines over a unix socket.
import { createInterface } from 'node:readline';
import type { Socket } from 'node:net';
import { within } from './time.js';

/** An object of a QMP answer: read its fields with `text`, `number` and `object`. */
export type Answer = Readonly<Record<string, unknown>>;

export function isObject(value: unknown): value is Answer {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
export const text = (answer: Answer, key: string): string | undefined =>
  typeof answer[key] === 'string' ? answer[key] : undefined;
export const number = (answer: Answer, key: string): number | undefined =>
  typeof answer[key] === 'number' ? answer[key] : undefined;
export const object = (answer: Answer, key: string): Answer => (isObject(answer[key]) ? answer[key] : {});

/** QEMU said no. */
export class QmpError extends Error {
  override readonly name = 'QmpError';
}

export class Qmp {
  private readonly waiting = new Map<number, (message: Answer) => void>();
  private gone: (() => void)[] = [];
  private count = 0;
  readonly events: { name: string; data: Answer }[] = [];

  private constructor(
    private readonly socket: Socket,
    private readonly complaint: () => string,
  ) {}

  /** Takes over a socket that is connected to a QEMU's monitor. `complaint` is what to show when QEMU goes away. */
  static async open(socket: Socket, complaint: () => string): Promise<Qmp> {
    const qmp = new Qmp(socket, complaint);
    const lines = createInterface({ input: socket });
    // readline passes the stream's errors on as its own
    lines.on('error', () => undefined);
    lines.on('line', (line) => {
      qmp.received(line);
    });
    lines.once('close', () => {
      for (const action of qmp.gone) action();
      qmp.gone = [];
    });
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  private received(line: string): void {
    const message: unknown = JSON.parse(line);
    if (!isObject(message)) return;
    const event = text(message, 'event');
    if (event !== undefined) this.events.push({ name: event, data: object(message, 'data') });
    const id = number(message, 'id');
    if (id !== undefined) {
      this.waiting.get(id)?.(message);
      this.waiting.delete(id);
    }
  }

  /** Runs a command; the answer is its "return". Fails with QEMU's own words. */
  async execute(command: string, args: Answer = {}, seconds = 30): Promise<unknown> {
    const id = (this.count += 1);
    const answer = new Promise<Answer>((done, failed) => {
      this.waiting.set(id, done);
      this.gone.push(() => {
        failed(new Error(`QEMU went away during ${command}: ${this.complaint()}`));
      });
    });
    this.socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    const message = await within(answer, seconds, () => `QMP ${command} is not answered: ${this.complaint()}`);
    if ('error' in message) throw new QmpError(`QMP ${command}: ${text(object(message, 'error'), 'desc') ?? '?'}`);
    return message['return'];
  }

  /** The same for a command that answers with an object. */
  async query(command: string, args: Answer = {}): Promise<Answer> {
    const answer = await this.execute(command, args);
    return isObject(answer) ? answer : {};
  }
}

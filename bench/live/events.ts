// What happened to a guest and when, by QEMU's own clock: the host's, so that two QEMUs can be compared.
import { createInterface } from 'node:readline';
import { isObject, number, object, text } from '#src/demo/qmp.js';
import type { Qemu } from '../../test/e2e/harness/qemu.js';
import type { Stage } from '../../test/e2e/harness/stage.js';

interface Event {
  readonly name: string;
  /** `status` of a MIGRATION event. */
  readonly status: string | undefined;
  /** Milliseconds since the epoch. */
  readonly time: number;
}

export class Events {
  private readonly seen: Event[] = [];

  /** Listens on the QEMU's second monitor. For MIGRATION events the QEMU needs the capability `events`. */
  static async of(stage: Stage, qemu: Qemu): Promise<Events> {
    const events = new Events();
    const socket = await stage.connect(qemu.spareMonitor);
    const lines = createInterface({ input: socket });
    lines.on('error', () => undefined);
    lines.on('line', (line) => {
      events.received(line);
    });
    socket.write('{"execute":"qmp_capabilities"}\n');
    return events;
  }

  private received(line: string): void {
    const message: unknown = JSON.parse(line);
    const name = isObject(message) ? text(message, 'event') : undefined;
    if (!isObject(message) || name === undefined) return;
    const timestamp = object(message, 'timestamp');
    const time = (number(timestamp, 'seconds') ?? NaN) * 1000 + (number(timestamp, 'microseconds') ?? NaN) / 1000;
    this.seen.push({ name, status: text(object(message, 'data'), 'status'), time });
  }

  /** When it happened last, in milliseconds since the epoch. */
  timeOf(name: string, status?: string): number | undefined {
    return this.seen.findLast((event) => event.name === name && (status === undefined || event.status === status))
      ?.time;
  }
}

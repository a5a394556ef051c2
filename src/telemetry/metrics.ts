/** Prometheus metrics of the sessions that this process, or its children, carry. */
import { createServer, type Server } from 'node:http';
import { PagewireError } from '../errors.js';
import type { SessionSnapshot } from '../session/snapshot.js';

type Reading = (snapshot: SessionSnapshot) => number | undefined;

/** What each session shows while it runs; all are labelled with its role and its guest. */
const GAUGES: Record<string, [help: string, read: Reading]> = {
  session_seconds: ['Since the session began.', (s) => s.seconds],
  session_channels: ["Connections of QEMU's.", (s) => s.channels],
  session_linked_channels: ['Those of them that have a link now.', (s) => s.linked],
  session_in_doubt: ['1 while the far guest may run and the source does not know it.', (s) => Number(s.doubt)],
  session_stream_bytes: ["Bytes of QEMU's stream.", (s) => s.streamBytes],
  session_wire_sent_bytes: ['Bytes written to links.', (s) => s.wire.out],
  session_wire_received_bytes: ['Bytes read from links.', (s) => s.wire.in],
  session_return_bytes: ["Bytes of QEMU's return path.", (s) => s.returnBytes],
  session_wire_bytes_per_second: [
    'What the link takes while it is kept busy; 0 where it always had room.',
    (s) => s.wire.bytesPerSecond,
  ],
  session_queue_seconds: ['How long what is queued before the wire will take.', (s) => s.queue.ms / 1000],
  session_queue_bytes: ['What is queued before the wire.', (s) => s.queue.bytes],
  session_unacknowledged_bytes: ['Kept until the peer has acknowledged it.', (s) => s.unackedBytes],
  session_round_trip_seconds: ['The last round trip.', (s) => s.wire.roundTripMs / 1000],
  session_link_losses: ['Links that were lost.', (s) => s.linkLosses],
  session_guest_ram_bytes: ["The guest's RAM.", (s) => s.guest?.ramBytes],
  session_cache_bytes: ['The page cache.', (s) => s.cache?.bytes],
  session_cache_hits: ['Pages that were in the cache.', (s) => s.cache?.hits],
  session_cache_misses: ['Pages that were not.', (s) => s.cache?.misses],
};

/** In libvirt's tunnel, the guest of the moment. */
const guestOf = ({ name, tunnel }: SessionSnapshot): string => tunnel?.guest ?? name;

const PAGES = ['raw', 'delta', 'skipped', 'fill', 'xbzrle', 'compressed'] as const;

export class Metrics {
  readonly #sessions = new Map<string, SessionSnapshot>();
  readonly #server: Server;
  #ended!: (outcome: string, last: SessionSnapshot) => void;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Serves `http://HOST:PORT/metrics`. */
  static async serve(address: string): Promise<Metrics> {
    const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(address);
    if (!match) throw new PagewireError('BAD_OPTION', `--metrics ${address}: HOST:PORT, such as 127.0.0.1:9417`);
    const { Counter, Gauge, Registry, collectDefaultMetrics } = await import('prom-client');
    const registry = new Registry();
    collectDefaultMetrics({ register: registry, prefix: 'pagewire_' });
    const server = createServer((request, response) => {
      if (request.url !== '/metrics') {
        response.writeHead(404).end();
        return;
      }
      registry.metrics().then(
        (text) => response.writeHead(200, { 'content-type': registry.contentType }).end(text),
        (error: unknown) => response.writeHead(500).end(`${PagewireError.from(error).message}\n`),
      );
    });
    const metrics = new Metrics(server);
    const labelNames = ['role', 'guest'];
    for (const [name, [help, read]] of Object.entries(GAUGES)) {
      new Gauge({
        ...{ name: `pagewire_${name}`, help, labelNames, registers: [registry] },
        collect() {
          this.reset();
          for (const s of metrics.#sessions.values()) {
            const value = read(s);
            if (value !== undefined) this.set({ role: s.role, guest: guestOf(s) }, value);
          }
        },
      });
    }
    new Gauge({
      ...{ name: 'pagewire_session_pages', help: 'Pages by what became of them.', labelNames: [...labelNames, 'kind'] },
      registers: [registry],
      collect() {
        this.reset();
        for (const s of metrics.#sessions.values()) {
          for (const kind of s.pages ? PAGES : []) {
            this.set({ role: s.role, guest: guestOf(s), kind }, s.pages?.[kind] ?? 0);
          }
        }
      },
    });
    const registers = [registry];
    const outcomes = new Counter({
      ...{
        name: 'pagewire_sessions_total',
        help: 'Sessions that have ended.',
        labelNames: ['role', 'outcome'],
        registers,
      },
    });
    const total = (name: string, help: string): { inc(labels: { role: string }, by: number): void } =>
      new Counter({ name: `pagewire_${name}_total`, help, labelNames: ['role'], registers });
    const stream = total('stream_bytes', "Bytes of QEMU's streams, of sessions that have ended.");
    const sent = total('wire_sent_bytes', 'Bytes written to links, of sessions that have ended.');
    const received = total('wire_received_bytes', 'Bytes read from links, of sessions that have ended.');
    metrics.#ended = (outcome, { role, streamBytes, wire }) => {
      outcomes.inc({ role, outcome });
      stream.inc({ role }, streamBytes);
      sent.inc({ role }, wire.out);
      received.inc({ role }, wire.in);
    };
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => {
        reject(new PagewireError('LISTEN_FAILED', `--metrics ${address}: ${error.message}`, { cause: error }));
      });
      server.listen(Number(match[3]), match[1] ?? match[2] ?? '', resolve);
    });
    server.unref();
    return metrics;
  }

  /** How a session stands now. */
  update(snapshot: SessionSnapshot): void {
    this.#sessions.set(snapshot.name, snapshot);
  }

  /** A session is over. */
  end(snapshot: SessionSnapshot, outcome: string): void {
    this.#sessions.delete(snapshot.name);
    this.#ended(outcome, snapshot);
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

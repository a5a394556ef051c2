/**
 * Connections of libvirt and QEMU to other hosts that this host's packet filter has redirected to us: each that goes to
 * a port where none of them went before begins a migration, the others are its further connections.
 *
 *     libvirtd ─▶ dst:49152 ─ redirected ─▶ 127.0.0.1:PORT ─▶ where did it go? ─▶ the process for dst:49152
 */
import { closeSync } from 'node:fs';
import type { Config } from '../control/config.js';
import { PagewireError } from '../errors.js';
import { native, type NativeListener } from '../native.js';
import type { Log } from '../telemetry/log.js';
import { type Endpoint, endpointText } from '../transport/endpoint.js';
import type { SourceProcess, SourceProcesses } from './source-processes.js';
import { checkSource, LISTEN, type SourceProxySettings } from './source-proxy.js';

/** What our own sockets carry, so that the packet filter lets them pass. The letters "PW". */
export const MARK = 0x5057;

/** The port of `--listen intercept:PORT`, or undefined for what is another endpoint. */
export function interceptionPort(listen: string): number | undefined {
  const text = /^intercept:(.*)$/s.exec(listen)?.[1];
  if (text === undefined) return undefined;
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port < 1 || port > 65535) {
    throw new PagewireError('BAD_OPTION', `--listen ${listen}: intercept: takes a port, from 1 to 65535`);
  }
  return port;
}

/** Where a connection was going to. */
type Destination = Endpoint & { kind: 'tcp' };

/** The connections to one destination. */
interface Lane {
  /** The last migration that was begun. */
  migration: SourceProcess | undefined;
  /** They are dealt with one after another: QEMU's are told apart by their order. */
  turn: Promise<void>;
}

export class Interception {
  /** Settled when it was told to stop and all migrations have ended. */
  readonly done: Promise<void>;
  readonly #settings: SourceProxySettings;
  readonly #processes: SourceProcesses;
  readonly #log: Log;
  readonly #listeners: NativeListener[] = [];
  readonly #lanes = new Map<string, Lane>();

  /**
   * `settings` hold for every migration, with `{host}` and `{port}` in `connect`; the packet filter redirects connections
   * to `port` on loopback.
   */
  constructor(port: number, settings: SourceProxySettings, processes: SourceProcesses, log: Log) {
    this.#settings = settings;
    this.#processes = processes;
    this.#log = log;
    this.done = processes.done;
    for (const host of ['127.0.0.1', '::1']) {
      try {
        this.#listeners.push(
          native.NativeListener.listen({ kind: 'tcp', host, port }, LISTEN, (fd) => {
            this.#accept(fd);
          }),
        );
      } catch (error) {
        // A host may be without IPv6, and then nothing comes from there.
        if (host === '127.0.0.1') throw PagewireError.from(error);
        log.debug(`no IPv6: ${PagewireError.from(error).message}`);
      }
    }
  }

  /** For migrations that run and for those to come. */
  change(config: Required<Config>): void {
    this.#processes.change(config);
  }

  /** Takes no more connections; each migration ends as it does by a signal of its own. */
  stop(): void {
    for (const listener of this.#listeners) listener.close();
    this.#processes.stop();
  }

  #accept(fd: number): void {
    const to = native.originalDestination(fd);
    if (to?.kind !== 'tcp' || this.#processes.isStopping) {
      if (!this.#processes.isStopping) {
        this.#log.warn(`${native.peerOfSocket(fd)} was not redirected to us, but came by itself`);
      }
      closeSync(fd);
      return;
    }
    const key = endpointText(to);
    const lane = this.#lanes.get(key) ?? { migration: undefined, turn: Promise.resolve() };
    this.#lanes.set(key, lane);
    const turn = lane.turn.then(() => this.#route(fd, to, lane));
    lane.turn = turn;
  }

  async #route(fd: number, to: Destination, lane: Lane): Promise<void> {
    const belongs = (await lane.migration?.offer(fd)) ?? 'another';
    // All of the one before has arrived, and the other end still knows it: the next one is to come after it. One that waits
    // for its end in doubt is not waited for: the destination knows whether a new one may come.
    if (belongs === 'next') await lane.migration?.gone;
    if (belongs !== 'here') this.#begin(fd, to, lane);
    // Whoever has it has a copy of its own.
    closeSync(fd);
  }

  #begin(fd: number, to: Destination, lane: Lane): void {
    const { name, connect, port } = settingsFor(this.#settings, to);
    const log = this.#log.child({ guest: name });
    if (this.#processes.isStopping) {
      log.warn(`stopping: the migration to ${endpointText(to)} fails and the guest stays here`);
      return;
    }
    log.info(`a migration to ${endpointText(to)}`);
    lane.migration = this.#processes.begin(fd, { name, connect, port });
  }
}

/** The settings of the migration that goes there. */
function settingsFor(settings: SourceProxySettings, to: { host: string; port: number }): SourceProxySettings {
  const host = to.host.includes(':') ? `[${to.host}]` : to.host;
  const connect = settings.connect.map((text) => text.replaceAll('{host}', host).replaceAll('{port}', String(to.port)));
  return { ...settings, name: `${settings.name}-${to.port}`, port: to.port, connect };
}

/** What is wrong with the settings of every migration is told before there is one. (An address for documentation.) */
export function checkInterception(settings: SourceProxySettings, log: Log): void {
  checkSource(settingsFor(settings, { host: '192.0.2.1', port: 49152 }), log);
}

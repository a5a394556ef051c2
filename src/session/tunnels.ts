/** libvirt's connections to a source proxy that carries its tunnel: each is a session of its own. */
import { randomBytes } from 'node:crypto';
import { closeSync } from 'node:fs';
import type { Config } from '../control/config.js';
import { native, type NativeListener } from '../native.js';
import type { NearListenable } from './endpoints.js';
import type { SourceProcesses } from './source-processes.js';
import { LISTEN, type SourceProxySettings } from './source-proxy.js';

export class Tunnels {
  /** Settled when it was told to stop and all connections have ended. */
  readonly done: Promise<void>;
  readonly #processes: SourceProcesses;
  readonly #listener: NativeListener;

  constructor({ address }: NearListenable, { name, connect, socket }: SourceProxySettings, processes: SourceProcesses) {
    this.#processes = processes;
    this.done = processes.done;
    this.#listener = native.NativeListener.listen(address, { ...LISTEN, ...socket }, (fd) => {
      processes.begin(fd, { name: tunnelName(name), connect });
      // The process has a copy of its own.
      closeSync(fd);
    });
  }

  /** For connections that there are and for those to come. */
  change(config: Required<Config>): void {
    this.#processes.change(config);
  }

  /** Takes no more connections; each ends as it does by a signal of its own. */
  stop(): void {
    this.#listener.close();
    this.#processes.stop();
  }
}

/** Several guests may come over each connection, so it has a name of its own. */
export function tunnelName(prefix: string): string {
  return `${prefix}-${randomBytes(4).toString('hex')}`;
}

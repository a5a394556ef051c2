/** What both ends of a handshake say and are told, for tests. */
import { type OpenHello, PROTOCOL } from '#src/session/hello.js';
import type { HostSettings } from '#src/session/host.js';

/** For a handshake, in milliseconds. */
export const TIMEOUT = 20_000;

export const CAPABILITIES = { codecs: ['none', 'lz4', 'zlib', 'zstd'], delta: true, formats: [1] };
export const PARAMETERS = { silenceMs: 5000, frameSize: 1 << 20 };

export const OPEN: OpenHello = {
  ...{ kind: 'open', protocol: PROTOCOL, program: '0.0.1', token: 'ab'.repeat(32), name: 'vm1' },
  ...{ capabilities: CAPABILITIES, parameters: PARAMETERS, require: [] },
};
/** Of a destination whose QEMUs wait at unix sockets with their names. */
export function settings(path: (name: string) => string, more: Partial<HostSettings> = {}): HostSettings {
  return {
    connect: `unix:${path('{name}')}`,
    ...{ ports: { least: 100, most: 200 }, peers: [], tls: null, threads: 1, replayBytes: 1 << 20 },
    end: { program: '0.0.2', capabilities: CAPABILITIES, parameters: PARAMETERS, require: [] },
    ...{ reconnectMs: 60_000, handshakeMs: TIMEOUT, inDoubt: 'hold' },
    ...more,
  };
}

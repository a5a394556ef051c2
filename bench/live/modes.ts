// The ways for a guest to get from one host to the other.
import { existsSync } from 'node:fs';
import type { Answer } from '#src/demo/qmp.js';
import { listens } from './listens.js';
import type { Qemu } from '../../test/e2e/harness/qemu.js';
import type { Stage } from '../../test/e2e/harness/stage.js';
import { Filter } from './filter.js';
import type { Link, Side } from './link.js';
import { farSocket, startProxies } from './proxies.js';

export const MODES = ['plain', 'xbzrle', 'multifd-zstd', 'zstd', 'pagewire', 'pass-through'] as const;
export type Mode = (typeof MODES)[number];

interface Settings {
  /** Of both QEMUs. */
  readonly capabilities: readonly string[];
  readonly parameters: Answer;
}

/** A pipe has no way back. All others have one, as QEMU's manager would set it. */
const DUPLEX = ['return-path'];

export const SETTINGS: Readonly<Record<Mode, Settings>> = {
  plain: { capabilities: DUPLEX, parameters: {} },
  xbzrle: { capabilities: ['xbzrle', ...DUPLEX], parameters: { 'xbzrle-cache-size': 256 << 20 } },
  'multifd-zstd': {
    capabilities: ['multifd', ...DUPLEX],
    parameters: { 'multifd-channels': 2, 'multifd-compression': 'zstd' },
  },
  zstd: { capabilities: [], parameters: {} },
  pagewire: { capabilities: DUPLEX, parameters: {} },
  'pass-through': { capabilities: DUPLEX, parameters: {} },
};

export const PASS_THROUGH = ['--no-delta', '--codec', 'none'];

const PORT = 5000;

/** A way that is laid: where the source QEMU sends to, and who carries. */
export interface Way {
  readonly uri: string;
  /** The programs between the QEMUs. */
  readonly filters: readonly Filter[];
  /** Waits until they have ended, after the migration; fails unless they ended well. */
  readonly end: () => Promise<void>;
}

/**
 * Makes sockets, then becomes a filter between them: its standard input and output are QEMU's socket and the wire's, and
 * nothing stands between. Node can neither enter a namespace nor give up its own process; Python is there, as npm needs
 * it to build the native core.
 */
const BECOME_FILTER = `
import os, socket, sys
side, path, host, port, *command = sys.argv[1:]
qemu, wire = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_INET)
if side == 'source':
    wire.connect((host, int(port)))
    qemu.bind(path + '.new')
    qemu.listen()
    os.rename(path + '.new', path)
    streams = qemu.accept()[0], wire
else:
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    wire.bind((host, int(port)))
    wire.listen()
    wire = wire.accept()[0]
    wire.recv(1, socket.MSG_PEEK) # a QEMU that has a silent connection answers nobody
    qemu.connect(path)
    streams = wire, qemu
for fd, stream in enumerate(streams):
    os.dup2(stream.fileno(), fd)
os.execvp(command[0], command)
`;

async function layPipe(stage: Stage, link: Link, to: Qemu): Promise<Way> {
  const [near, far] = [stage.path('near.sock'), stage.path('far.sock')];
  await to.qmp.execute('migrate-incoming', { uri: `unix:${far}` });
  const wire = [link.address('destination'), `${PORT}`];
  const start = (side: Side, path: string, command: string, isListening: (pid: number) => boolean): Promise<Filter> => {
    const words = ['python3', '-c', BECOME_FILTER, side, path, ...wire, ...command.split(' ')];
    return Filter.listening(stage, `${side}-zstd`, words, isListening, link.on(side));
  };
  const unpack = await start('destination', far, 'zstd -q -d -c', (pid) => listens(pid, PORT));
  const pack = await start('source', near, 'zstd -q -1 -T1 -c', () => existsSync(near));
  const filters = [pack, unpack];
  return {
    uri: `unix:${near}`,
    filters,
    end: async () => {
      for (const filter of filters) await filter.endsWell();
    },
  };
}

async function layProxies(
  stage: Stage,
  link: Link,
  to: Qemu,
  { options, tls }: { options: readonly string[]; tls: boolean },
): Promise<Way> {
  const far = farSocket(stage);
  await to.qmp.execute('migrate-incoming', { uri: `unix:${far}` });
  const { near, ...proxies } = await startProxies(stage, {
    ...{ host: link.address('destination'), port: PORT, tls, options, on: link.on.bind(link), far },
  });
  return { uri: `unix:${near}`, ...proxies };
}

/** Lays the way to a QEMU that waits. */
export async function layWay(mode: Mode, stage: Stage, link: Link, to: Qemu, tls: boolean): Promise<Way> {
  switch (mode) {
    case 'zstd':
      return layPipe(stage, link, to);
    case 'pagewire':
      return layProxies(stage, link, to, { options: [], tls });
    case 'pass-through':
      return layProxies(stage, link, to, { options: PASS_THROUGH, tls });
    default: {
      const uri = `tcp:${link.address('destination')}:${PORT}`;
      await to.qmp.execute('migrate-incoming', { uri });
      return { uri, filters: [], end: () => Promise.resolve() };
    }
  }
}

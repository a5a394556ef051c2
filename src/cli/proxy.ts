/** What both proxies have in common on the command line. */
import { execFileSync } from 'node:child_process';
import { constants, fstatSync, openSync, writeSync } from 'node:fs';
import type { Codec } from '../codecs.js';
import { type Config, readConfig } from '../control/config.js';
import { faultText, onFault } from '../control/faults.js';
import { PagewireError } from '../errors.js';
import type { CacheSize } from '../pipeline/settings.js';
import { createLog, type Log, type LogFormat } from '../telemetry/log.js';
import type { InDoubt } from '../session/outcome.js';
import { REMEDIES } from '../session/remedy.js';
import { descriptor } from './places.js';
import { exitCode, signalExit, type Signal } from '../control/exit.js';
import { plain, replaceStandardStreams, tell } from '../control/standard-streams.js';

export interface ProxyFlags {
  listen: string;
  peer?: string[];
  tlsDir?: string;
  key?: string;
  insecure: boolean;
  listenMode?: number;
  listenOwner?: string;
  threads?: number;
  memoryLimit?: number;
  require?: string[];
  replay: number;
  silence: number;
  reconnect: number;
  inDoubt: InDoubt;
  config?: string;
  lastError?: string;
  stats?: string;
  metrics?: string;
  log: LogFormat;
  quiet: boolean;
  verbose: boolean;
}

export interface SourceFlags extends ProxyFlags {
  name?: string;
  libvirt: boolean;
  /** It has one of the connections of a proxy that listens. */
  ofListener: boolean;
  connect: string[];
  port?: number;
  stock: boolean;
  delta?: boolean;
  codec?: Codec;
  level?: number;
  cacheSize?: CacheSize;
  match?: number;
  maxBandwidth: number;
}

export interface DestinationFlags extends ProxyFlags {
  connect: string;
  libvirt: boolean;
  libvirtAllow?: string[];
  delta?: boolean;
  ports: string;
  maxSessions: number;
  maxHandshakes: number;
  handshakeTimeout: number;
}

/** The log, once for the program. */
export function openLog(name: string, { log, quiet, verbose }: ProxyFlags): Log {
  return createLog({ name, format: log, quiet, verbose, write: tell });
}

/** The settings that can be changed while it runs; the file counts before the command line. */
export function settingsOf(flags: ProxyFlags & { maxBandwidth?: number }): Required<Config> {
  const { maxBandwidth = 0, inDoubt, reconnect: reconnectMs, config } = flags;
  return { maxBandwidth, inDoubt, reconnectMs, ...(config !== undefined && readConfig(config)) };
}

/** Reads the file again; what is wrong with it leaves everything as it was. */
export function reload(
  flags: ProxyFlags & { maxBandwidth?: number },
  log: Log,
  apply: (config: Required<Config>) => void,
): void {
  if (flags.config === undefined) {
    log.warn('SIGHUP, and no --config file to read again');
    return;
  }
  try {
    const settings = settingsOf(flags);
    apply(settings);
    log.info(`read ${flags.config} again`);
  } catch (error) {
    log.error(`${PagewireError.from(error).message}; nothing was changed`);
  }
}

/** `user:group`, `user` or `:group`, by name or number. */
export function parseOwner(text: string): { uid?: number; gid?: number } {
  const [user = '', group = ''] = text.split(':', 2);
  const lookUp = (database: 'passwd' | 'group', name: string): number => {
    if (/^\d+$/.test(name)) return Number(name);
    try {
      // The system's own look-up: users may stand in a directory service.
      const entry = execFileSync('getent', [database, name], { encoding: 'utf8' });
      return Number(entry.split(':')[2]);
    } catch {
      throw new PagewireError(
        'BAD_OPTION',
        `--listen-owner ${text}: there is no ${database === 'passwd' ? 'user' : 'group'} ${name}`,
      );
    }
  };
  return {
    ...(user !== '' && { uid: lookUp('passwd', user) }),
    ...(group !== '' && { gid: lookUp('group', group) }),
  };
}

const NEWLINE = 10;

/** Opens the file for `--stats` at once, so that a name that cannot be written is an error before a guest moves. */
export function openStats(spec: string | undefined, log: Log): ((line: string) => void) | undefined {
  if (spec === undefined) return undefined;
  let fd: number;
  try {
    const given = descriptor(spec);
    const { O_WRONLY, O_CREAT, O_APPEND, O_NONBLOCK } = constants;
    fd = given ?? openSync(spec, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, 0o666);
    fstatSync(fd);
  } catch (error) {
    if (error instanceof PagewireError) throw error;
    throw new PagewireError('OPEN_FAILED', `cannot open ${spec} for --stats: ${(error as Error).message}`);
  }
  let works = true;
  let isAtBegin = true;
  // A listener runs for months: a disk that is full for a while, or a reader that is slow, costs the lines of that time.
  return (line) => {
    const bytes = Buffer.from(isAtBegin ? line : `\n${line}`);
    let at = 0;
    try {
      while (at < bytes.length) at += writeSync(fd, bytes, at);
      works = true;
    } catch (error) {
      if (works)
        log.warn(`--stats: cannot write ${spec}: ${(error as Error).message}; lines are left out until it can`);
      works = false;
    }
    if (at > 0) isAtBegin = bytes[at - 1] === NEWLINE;
  };
}

/**
 * Runs a proxy to its end and leaves its exit code. Signals are the proxy's own: in doubt, one of them must not end it.
 */
export async function runProxy(name: string, flags: ProxyFlags, command: () => Promise<number>): Promise<never> {
  replaceStandardStreams('stdout');
  const log = openLog(name, flags);
  onFault((error) => {
    log.error(faultText(error));
  });
  let code: number;
  try {
    code = await command();
  } catch (error) {
    const failure = PagewireError.from(error);
    code = exitCode(failure.code);
    log.error({ code: failure.code, remedy: REMEDIES[failure.code] }, plain(failure.message));
  }
  process.exit(code);
}

/** The exit code of a session that failed, perhaps because a signal asked for it. */
export function exitOf({ code }: PagewireError, signal: Signal | undefined): number {
  return code === 'STOPPED' && signal !== undefined ? signalExit(signal) : exitCode(code);
}

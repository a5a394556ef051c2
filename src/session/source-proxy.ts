/** The source's end of a migration, from endpoints as users write them: listens for QEMU, and carries it in a session. */
import { PagewireError } from '../errors.js';
import { native, type NativeListener, type NativeListenOptions } from '../native.js';
import { checkAmount, checkEncoder, checkFrameSize, type EncoderSettings } from '../pipeline/settings.js';
import { Workers } from '../pipeline/workers.js';
import { defaultMemoryLimit, sessionMatch } from '../policy/memory.js';
import type { Log } from '../telemetry/log.js';
import { type Endpoint, endpointText, isGuestName } from '../transport/endpoint.js';
import type { IdentityOptions } from '../transport/identity.js';
import { Dialler } from './dial.js';
import { endOf } from './end.js';
import { connectable, nearListenable, tlsFor } from './endpoints.js';
import type { Agreement, End } from './negotiate.js';
import type { InDoubt, SessionEnd } from './outcome.js';
import { parsePeer } from './peers.js';
import type { SessionSnapshot } from './snapshot.js';
import { SourceSession } from './source.js';
import { StockSession } from './stock.js';

/** What a proxy at the source may be told: as on its command line, see docs/proxy.md. */
export interface SourceProxySettings extends EncoderSettings {
  /** The guest's name, as the destination is to know it; with `libvirt` any name, since several guests may come. */
  name: string;
  /** One connection of a libvirt daemon's to another, with tunnelled migrations in it, instead of a QEMU's. */
  libvirt?: boolean | undefined;
  /** Where QEMU connects: `unix:PATH`, `tcp:HOST:PORT`, `fd:N` or `systemd`. */
  listen: string;
  /** A unix socket's mode (default: 0600) and owner. */
  socket?: Pick<NativeListenOptions, 'mode' | 'uid' | 'gid'> | undefined;
  /** The destination's proxy, or with `stock` its QEMU; several addresses are tried in turn. */
  connect: readonly string[];
  /** For a destination whose QEMU listens on one of a range of ports. */
  port?: number | undefined;
  /** Lets plain `tcp:` go to other hosts. */
  insecure?: boolean | undefined;
  /** For `tls:`: where key and certificates are, and the peer's name or the `SHA256:…` of its key. */
  tls?: (Pick<IdentityOptions, 'dir' | 'key'> & { peers?: readonly string[] | undefined }) | undefined;
  /** Bytes that are kept until the peer has acknowledged them; default: 64 MiB. */
  replayBytes?: number | undefined;
  /** A link that is silent for so long is lost; default: 5 s. */
  silenceMs?: number | undefined;
  /** How long to look for a lost link; default: 5 min. */
  reconnectMs?: number | undefined;
  /** What to do if both guests might run; default: hold. */
  inDoubt?: InDoubt | undefined;
  /** Bytes a second on the wire; default: 0, no limit. */
  maxBandwidth?: number | undefined;
  /** What the session may not be without: `delta`, or a codec. */
  require?: readonly string[] | undefined;
}

const DEFAULTS = { replayBytes: 64 << 20, silenceMs: 5000 };

/** QEMU's connections that may wait at once, and for how long: they are taken at once. */
export const LISTEN = { preamble: false, maxPending: 64, timeoutMs: 10_000 };

/** One migration, from QEMU's first connection to the end of all, or one connection of a libvirt daemon's. */
export class SourceMigration {
  /** Settled once all is over: QEMU's sockets are closed, and no more of its connections are taken. */
  readonly done: Promise<SessionEnd>;
  readonly #session: SourceSession | StockSession;

  /** `workers`, which end with it, may have been started before; without them it starts its own. */
  constructor(settings: SourceProxySettings, log: Log, workers?: Workers) {
    this.#session = sessionOf(settings, log, workers);
    this.done = this.#session.done;
  }

  /** A connection of QEMU's, the migration's from now on. The first one begins it. */
  accept(fd: number): void {
    this.#session.accept(fd);
  }

  /** Calls `listener` when a migration in libvirt's tunnel has begun or ended. */
  onTunnel(listener: () => void): void {
    if (this.#session instanceof SourceSession) this.#session.onTunnel = listener;
  }

  /** Bytes a second, for all of QEMU's connections together, from now on; 0: no limit. */
  setMaxBandwidth(bytesPerSecond: number): void {
    checkBandwidth(bytesPerSecond, this.#session instanceof StockSession);
    if (this.#session instanceof SourceSession) this.#session.setMaxBandwidth(bytesPerSecond);
  }

  /** What to do if both guests might run; `fail` ends a session that is held. */
  setInDoubt(policy: InDoubt): void {
    checkInDoubt(policy);
    this.#session.setInDoubt(policy);
  }

  /** How long to look for a lost link. */
  setReconnect(ms: number): void {
    checkAmount('time to reconnect', ms);
    if (this.#session instanceof SourceSession) this.#session.setReconnect(ms);
  }

  /** The migration fails and the guest stays here; if both guests might run, only a second call ends it. */
  stop(): void {
    this.#session.stop();
  }

  /** Something in pagewire itself broke: the migration fails, unless both guests might run then. */
  fault(error: unknown): void {
    this.#session.fault(error);
  }

  /** What has happened so far, or in all once {@link done} is settled. */
  snapshot(): SessionSnapshot {
    return this.#session.snapshot();
  }
}

/** A migration that listens for QEMU itself. */
export class SourceProxy extends SourceMigration {
  /** Where QEMU is awaited, with the port that the system chose for port 0. */
  readonly listening: string;

  constructor(settings: SourceProxySettings, log: Log) {
    const { libvirt = false, socket } = settings;
    const { address, endpoint, shown, connected } = nearListenable(settings);
    const who = libvirt ? 'libvirt' : 'QEMU';
    super(settings, log);
    let listener: NativeListener | undefined;
    // Before whoever waits for it hears of it.
    const close = (): void => listener?.close();
    this.done.then(close, close);
    try {
      if (connected === undefined) {
        listener = native.NativeListener.listen(address, { ...LISTEN, ...socket }, (fd) => {
          this.accept(fd);
        });
      }
    } catch (error) {
      this.done.catch(() => undefined);
      this.stop();
      throw PagewireError.from(error);
    }
    this.listening = listener ? chosen(endpoint, listener, shown) : shown;
    log.info(listener ? `waiting for ${who} on ${this.listening}` : `${who} is on ${shown}`);
    if (connected !== undefined) this.accept(connected);
  }
}

/**
 * The workers of a session to be. Their first thread takes as long to start as all else does until the destination answers,
 * and QEMU there waits for that.
 */
export function warmWorkers(settings: EncoderSettings): Workers {
  const { codec, threads } = checkEncoder(settings);
  const workers = new Workers(threads);
  if (codec !== 'none') workers.warm();
  return workers;
}

/** Throws where no proxy could be made of these. */
export function checkSource(settings: SourceProxySettings, log: Log): void {
  const session = sessionOf(settings, log);
  session.done.catch(() => undefined);
  session.stop();
}

/** A session that is told what it can do. */
function sessionOf(settings: SourceProxySettings, log: Log, workers?: Workers): SourceSession | StockSession {
  const { name, listen: near, port, stock = false, insecure = false, libvirt = false, tls = {}, require } = settings;
  const { replayBytes = DEFAULTS.replayBytes } = settings;
  const { silenceMs = DEFAULTS.silenceMs, reconnectMs = 300_000, inDoubt = 'hold', maxBandwidth = 0 } = settings;
  const { delta, codec, level, match, threads, cacheSize, memoryLimit, frameSize } = settings;
  if (!isGuestName(name)) throw badOption(`--name ${name}: 1 to 64 of A-Z a-z 0-9 . _ - (and not only dots)`);
  if (port !== undefined && !(Number.isInteger(port) && port >= 1 && port <= 65535)) {
    throw badOption(`--port ${port}: 1 to 65535`);
  }
  if (port !== undefined && libvirt) {
    throw badOption(
      `--port ${port}: that is of a QEMU at the destination, and --libvirt goes to a libvirt daemon there`,
    );
  }
  if (settings.connect.length === 0) throw badOption('--connect: an address is needed');
  checkAmount('replay buffer', replayBytes);
  checkAmount('time of silence', silenceMs);
  checkAmount('time to reconnect', reconnectMs);
  checkBandwidth(maxBandwidth, stock);
  checkInDoubt(inDoubt);
  const connect = settings.connect.map((text) => connectable(text, insecure));
  if (stock) checkStock(connect, require);
  if (stock && libvirt) throw badOption('--stock is for a QEMU, and --libvirt for a libvirt daemon: leave one out');
  const isTls = connect.some(({ kind }) => kind === 'tls');
  const identity = tlsFor('source', isTls, (tls.peers ?? []).map(parsePeer), tls);
  if (identity) log.debug(`TLS by ${identity.files.join(', ')}`);
  const encoder = { delta, codec, level, match, threads, cacheSize, memoryLimit, frameSize };
  const hopes = {
    delta,
    silenceMs,
    libvirt,
    match: match ?? defaultMatch({ ...encoder, stock }, replayBytes),
    require,
  };
  const end = endOf(hopes, checkFrameSize(frameSize, codec));
  if (stock) return new StockSession({ name, near, connect, encoder, inDoubt, log });
  const dialler = new Dialler(connect, identity?.tls ?? null);
  const policy = { replayBytes, reconnectMs, inDoubt, maxBandwidth };
  return new SourceSession({ name, near, port, dialler, encoder, end, libvirt, ...policy, log, workers });
}

/** What a source without further settings can and wants. */
export function defaultEnd(libvirt: boolean): End {
  const match = defaultMatch({}, DEFAULTS.replayBytes);
  return endOf({ silenceMs: DEFAULTS.silenceMs, libvirt, match }, checkFrameSize(undefined));
}

/** In bytes: what is free, what a source takes beside its page cache, and the largest that it could have. */
export interface SourceMemory {
  readonly free: number;
  readonly needed: number;
  readonly cache: number;
}

/** What a source without further settings takes. */
export function defaultMemory({ match, frameSize }: Pick<Agreement, 'match' | 'frameSize'>): SourceMemory {
  const { codec, level, fixedMemory, memoryLimit } = checkEncoder({ match, frameSize }, DEFAULTS.replayBytes);
  const needed = fixedMemory(codec, level);
  return { free: 2 * memoryLimit, needed, cache: Math.max(memoryLimit - needed, 0) };
}

/** How far back references lead where nobody says, in bytes. */
function defaultMatch(encoder: EncoderSettings, replayBytes: number): number {
  const { codec, level, memoryLimit, fixedMemory } = checkEncoder(encoder, replayBytes);
  // Who wants nothing packed wants no work done on it.
  if (codec === 'none') return 0;
  const limit = memoryLimit === Infinity ? defaultMemoryLimit() : memoryLimit;
  return sessionMatch(limit - fixedMemory(codec, level));
}

function checkStock(connect: readonly Endpoint[], require: readonly string[] | undefined): void {
  const other = connect.find(({ kind }) => kind !== 'tcp' && kind !== 'unix' && kind !== 'fd');
  if (other) {
    throw badOption(`--stock connects to a QEMU, which is at tcp: or unix:, not at ${endpointText(other)}`);
  }
  if (require !== undefined) throw badOption('--stock has no peer that could lack what --require names');
}

function checkBandwidth(bytesPerSecond: number, stock: boolean): void {
  checkAmount('bandwidth limit', bytesPerSecond);
  if (stock && bytesPerSecond > 0) {
    throw badOption("--stock has no link of its own to limit (--max-bandwidth): QEMU's max-bandwidth is what there is");
  }
}

function checkInDoubt(policy: InDoubt): void {
  if (!['hold', 'fail'].includes(policy)) throw badOption(`in doubt ${policy}: hold or fail`);
}

function chosen(endpoint: Endpoint, listener: NativeListener, shown: string): string {
  const address = listener.address();
  return endpoint.kind === 'tcp' && address.kind === 'tcp' ? endpointText({ ...endpoint, port: address.port }) : shown;
}

function badOption(message: string): PagewireError {
  return new PagewireError('BAD_OPTION', message);
}

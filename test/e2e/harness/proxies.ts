// Two proxies between two QEMUs, and a link between them that can be broken.
//
//   source QEMU ─ outlet ─▶ proxy source ═ [cutter] ═▶ proxy destination ─ inlet ─▶ destination QEMU
//
// outlet and inlet are unix sockets, the wire is TCP on loopback if nothing else is said.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from '#src/demo/time.js';
import { Authority } from '../../transport/pki.js';
import type { Certificate } from '../../transport/pki.js';
import { Cutter } from './cutter.js';
import type { DroppingNetwork } from './network.js';
import { relay } from './relay.js';
import { pagewire } from './repository.js';
import type { Running, Stage } from './stage.js';
import { freePort } from '../../transport/port.js';

/** Whether a byte-exact relay stands in for the proxies: to see whether a test that fails blames the right one. */
const standIn = process.env['PAGEWIRE_E2E_RELAY'] === '1';

/** Exit codes of the proxies (docs/cli.md). */
export const EXIT = { ok: 0, failed: 1, usage: 2, truncated: 3, link: 6 } as const;

/** The time by which both ends must have ended. The issue says 1 s; a loaded machine gets more. */
export const SOON = 5;

export interface Plan {
  /** The guest's name, by which the destination proxy finds its QEMU. */
  readonly name?: string;
  /** How the wire goes. `tls`: with keys made by `pagewire keygen`, each end knowing the other's. */
  readonly wire?: 'tcp' | 'tcp6' | 'tls';
  /** With `tls`: certificates of an authority that both know, in folders as QEMU's, for these; else for the right ones. */
  readonly certificates?: { readonly ofSource?: string; readonly ofDestination?: string };
  /** No destination proxy: the source's speaks to the destination QEMU itself. */
  readonly stock?: boolean;
  /** No destination proxy of ours: where the source's is to connect to, by the destination QEMU's socket. */
  readonly connect?: (inlet: string) => string;
  /** With `tls`: the guests that the source may reach. */
  readonly guests?: string;
  /** With `tls`: the destination knows another key than the source's. */
  readonly stranger?: boolean;
  /** Whether there is to be a cutter before the destination proxy. */
  readonly cutter?: boolean;
  /** With a cutter: whether the source knows the way that goes past it, too. */
  readonly detour?: boolean;
  /** The destination QEMU is to wait on this port, not on a unix socket. */
  readonly port?: number;
  /** Where both proxies run. */
  readonly network?: DroppingNetwork;
  readonly source?: readonly string[];
  readonly destination?: readonly string[];
}

/** Waits until a proxy says something; fails if it ends without. */
export async function says(proxy: Running, what: string | RegExp, seconds = 15): Promise<void> {
  await until(
    () => {
      if (new RegExp(what).test(proxy.said())) return true;
      if (proxy.hasEnded) throw new Error(`${proxy.name} has ended without saying ${String(what)}: ${proxy.said()}`);
      return false;
    },
    seconds,
    () => `${proxy.name} does not say ${String(what)}, but: ${proxy.said()}`,
  );
}

/** The processes that a process has started and that run. */
export function childrenOf({ pid }: Pick<Running, 'pid'>): number[] {
  const path = `/proc/${pid}/task/${pid}/children`;
  return existsSync(path) ? readFileSync(path, 'utf8').trim().split(' ').filter(Boolean).map(Number) : [];
}

/** The processes of a destination proxy that have a session; it keeps one without for the next. */
export function sessionsOf(destination: Running): number[] {
  return childrenOf(destination).filter((pid) => {
    try {
      return !readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('a session to be');
    } catch {
      return false; // it has ended meanwhile
    }
  });
}

/** Starts a proxy, and waits until it says that it is ready: a socket can be seen before it listens. */
async function startProxy(
  stage: Stage,
  role: 'source' | 'destination',
  options: readonly string[],
  prefix: readonly string[] = [],
): Promise<Running> {
  const running = stage.start(
    `proxy-${role}`,
    [...prefix, pagewire, 'proxy', role, ...options],
    [undefined, undefined],
  );
  await says(running, role === 'source' ? /waiting for QEMU on/ : /listening on/, 20);
  return running;
}

/** `prefix`: a command that runs another, as `ip netns exec`. */
export function startSource(
  stage: Stage,
  outlet: string,
  connect: readonly string[],
  options: readonly string[],
  prefix?: readonly string[],
): Promise<Running> {
  const words = ['--listen', `unix:${outlet}`, ...connect.flatMap((address) => ['--connect', address]), ...options];
  return startProxy(stage, 'source', words, prefix);
}

export function startDestination(
  stage: Stage,
  listen: { kind: 'tcp' | 'tls'; host: string; port: number } | { kind: 'unix'; path: string },
  connect: string,
  options: readonly string[],
  prefix?: readonly string[],
): Promise<Running> {
  const address = listen.kind === 'unix' ? `unix:${listen.path}` : url(listen);
  return startProxy(stage, 'destination', ['--listen', address, '--connect', connect, ...options], prefix);
}

/** An address as the command line takes it. */
function url({ kind, host, port }: { kind: string; host: string; port: number }): string {
  return `${kind}:${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Makes a key in a folder of its own. */
function keygen(stage: Stage, name: string): { key: string; fingerprint: string } {
  const folder = stage.path(`keys-${name}`);
  if (!existsSync(folder)) mkdirSync(folder, { mode: 0o700 });
  const said = execFileSync(pagewire, ['keygen', '--dir', folder, '--name', name], { encoding: 'utf8' });
  const fingerprint = /SHA256:[A-Za-z0-9+/]{43}/.exec(said)?.[0];
  if (fingerprint === undefined) throw new Error(`pagewire keygen tells no fingerprint: ${said}`);
  return { key: join(folder, 'pagewire.pem'), fingerprint };
}

/** Keys for both ends, and what they are to know of each other. */
export function identities(stage: Stage, { guests, stranger }: Plan): { source: string[]; destination: string[] } {
  const [source, destination] = [keygen(stage, 'source'), keygen(stage, 'destination')];
  const known = stranger === true ? keygen(stage, 'stranger') : source;
  const may = guests === undefined ? '' : `=${guests}`;
  return {
    source: ['--key', source.key, '--peer', destination.fingerprint],
    destination: ['--key', destination.key, '--peer', `${known.fingerprint}${may}`],
  };
}

/** Certificates as docs/proxy.md has them: the destination's is for the host that is dialled, the source's for a name. */
function certificates(stage: Stage, plan: Plan): { source: string[]; destination: string[] } {
  const authority = new Authority(stage.path('authority'));
  const folder = (role: 'client' | 'server', issued: Certificate): string => {
    const path = stage.path(role);
    mkdirSync(path);
    copyFileSync(authority.certificate, join(path, 'ca-cert.pem'));
    copyFileSync(issued.certificate, join(path, `${role}-cert.pem`));
    copyFileSync(issued.key, join(path, `${role}-key.pem`));
    return path;
  };
  const { ofSource = 'src.example', ofDestination = '127.0.0.1' } = plan.certificates ?? {};
  const client = authority.issue(ofSource, { usage: 'clientAuth' });
  const server = authority.issue('dst.example', { hosts: [ofDestination], usage: 'serverAuth' });
  return {
    source: ['--tls-dir', folder('client', client)],
    destination: ['--tls-dir', folder('server', server), '--peer', 'src.example'],
  };
}

/** Proxies between two QEMUs, ready for a migration. */
export class Proxies {
  private constructor(
    private readonly stage: Stage,
    /** The socket that the source QEMU is to migrate to. */
    readonly outlet: string,
    /** What the destination QEMU is to wait on, as QEMU takes it. */
    readonly inlet: string,
    private readonly ends: { source?: Running; destination?: Running; cutter?: Cutter },
    private readonly listen: { kind: 'tcp' | 'tls'; host: string; port: number },
    private readonly options: { source: readonly string[]; destination: readonly string[] },
    private readonly detour: boolean,
    private readonly prefix: readonly string[] = [],
  ) {}

  static async start(stage: Stage, plan: Plan = {}): Promise<Proxies> {
    const { name = 'vm1', wire = 'tcp' } = plan;
    const socket = stage.path(`in-${name}.sock`);
    const inlet = plan.port === undefined ? `unix:${socket}` : `tcp:127.0.0.1:${plan.port}`;
    const outlet = stage.path(`out-${name}.sock`);
    const host = wire === 'tcp6' ? '::1' : '127.0.0.1';
    const listen = { kind: wire === 'tls' ? 'tls' : 'tcp', host, port: await freePort(host) } as const;
    const trust = plan.certificates ? certificates : identities;
    const identity = wire === 'tls' ? trust(stage, plan) : { source: [], destination: [] };
    const options = {
      source: [
        ...['--name', name, ...identity.source, ...(plan.source ?? [])],
        ...(plan.port === undefined ? [] : ['--port', `${plan.port}`]),
      ],
      destination: [...identity.destination, ...(plan.destination ?? [])],
    };
    const proxies = new Proxies(stage, outlet, inlet, {}, listen, options, plan.detour === true, plan.network?.prefix);
    if (standIn) {
      await relay(stage, outlet, socket);
      return proxies;
    }
    if (plan.stock === true || plan.connect !== undefined) {
      const more = plan.stock === true ? ['--stock'] : [];
      const to = plan.connect?.(socket) ?? inlet;
      proxies.ends.source = await startSource(stage, outlet, [to], [...options.source, ...more]);
      return proxies;
    }
    if (plan.cutter === true) proxies.ends.cutter = await Cutter.start(stage, { host, port: listen.port }, host);
    await proxies.startDestination();
    await proxies.startSource();
    return proxies;
  }

  async startDestination(): Promise<void> {
    const isPort = this.inlet.startsWith('tcp:');
    this.ends.destination = await startDestination(
      this.stage,
      this.listen,
      isPort ? 'tcp:127.0.0.1:{port}' : `unix:${join(this.stage.folder, 'in-{name}.sock')}`,
      this.options.destination,
      this.prefix,
    );
  }

  async startSource(): Promise<void> {
    const direct = url(this.listen);
    const first = this.ends.cutter === undefined ? direct : url({ ...this.listen, port: this.ends.cutter.port });
    this.ends.source = await startSource(
      this.stage,
      this.outlet,
      this.detour ? [first, direct] : [first],
      this.options.source,
      this.prefix,
    );
  }

  private end<K extends 'source' | 'destination' | 'cutter'>(which: K): NonNullable<(typeof this.ends)[K]> {
    const end = this.ends[which];
    if (end === undefined) throw new Error(`there is no ${which}: PAGEWIRE_E2E_RELAY, or a plan without`);
    return end;
  }

  /** Where the destination proxy listens. */
  get port(): number {
    return this.listen.port;
  }

  get source(): Running {
    return this.end('source');
  }
  get destination(): Running {
    return this.end('destination');
  }
  get cutter(): Cutter {
    return this.end('cutter');
  }

  /** Waits until the destination's session is over. The listener goes on. */
  async sessionIsOver(seconds = SOON): Promise<void> {
    if (this.ends.destination === undefined) return;
    const { destination } = this;
    await until(
      () => sessionsOf(destination).length === 0,
      seconds,
      () => `the destination's session goes on: ${destination.said()}`,
    );
    if (destination.hasEnded) throw new Error(`the destination proxy has ended: ${destination.said()}`);
  }

  /** Waits for the end of the session on both sides; the source's exit code must be this one. */
  async endWith(code: number, seconds = SOON): Promise<void> {
    if (this.ends.source === undefined) return;
    const found = await this.source.exitCode(seconds);
    const said = this.source.said();
    if (found !== code) throw new Error(`proxy source ended with exit code ${found} instead of ${code}: ${said}`);
    if (code !== EXIT.ok && said === '') throw new Error(`proxy source ended with exit code ${code} and says nothing`);
    if (/^ {4}at /m.test(said)) throw new Error(`a stack trace: ${said}`);
    await this.sessionIsOver(seconds);
  }
}

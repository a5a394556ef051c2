/** What endpoints as users write them become at either end of a session. */
import { PagewireError } from '../errors.js';
import { native, type NativeAddress } from '../native.js';
import {
  checkOpen,
  checkPlain,
  type Endpoint,
  endpointText,
  nativeAddress,
  parseEndpoint,
} from '../transport/endpoint.js';
import { type Identity, type IdentityOptions, loadIdentity } from '../transport/identity.js';
import type { PeerRule } from './peers.js';
import type { SourceProxySettings } from './source-proxy.js';

/** systemd passes the first of its sockets as this descriptor (sd_listen_fds). */
const FIRST_SYSTEMD_FD = 3;

const STDIN = 0;

/** Where connections are taken. */
export interface Listenable {
  readonly endpoint: Endpoint;
  /** For the core. */
  readonly address: NativeAddress | { fd: number };
  readonly shown: string;
  /** The one connection that there is, where it was made already. */
  readonly connected: number | undefined;
  /** Whether TLS goes over the connections that are taken. */
  readonly tls: boolean;
}

/** Where a source takes the connections of its QEMU or libvirt. */
export type NearListenable = Listenable & { readonly tls: false };

/** A socket that was passed on, perhaps with TLS to go over it. */
const PASSED = /^(tls:)?(fd:\d{1,9}|systemd)$/;

/** Where a destination takes the connections of sources. */
export function listenable(text: string, insecure: boolean): Listenable {
  const target = targetOf(text);
  const { endpoint, connected, tls } = target;
  const listens = endpoint.kind === 'fd' ? `tls:${text}` : undefined;
  if (!tls) checkPlain(reachableAt(target), insecure, connected === undefined ? listens : 'tls:HOST:PORT');
  return target;
}

/**
 * Where a source takes the connections of its QEMU or libvirt. To whoever connects there it lends its key, and asks for
 * none: so it is a place of this host, unless a user says otherwise.
 */
export function nearListenable({
  listen,
  insecure = false,
  libvirt = false,
}: Pick<SourceProxySettings, 'listen' | 'insecure' | 'libvirt'>): NearListenable {
  const target = targetOf(listen);
  const { tls } = target;
  const who = libvirt ? 'libvirt' : 'QEMU';
  if (target.endpoint.kind === 'stdio') {
    const instead = 'a socket that was passed on as standard input is fd:0';
    throw new PagewireError('BAD_OPTION', `--listen stdio: ${who} is taken from one socket; ${instead}`);
  }
  if (tls) {
    throw new PagewireError('BAD_OPTION', `--listen ${listen}: ${who} is taken from this host, without TLS`);
  }
  checkPlain(reachableAt(target), insecure, 'unix:PATH');
  return { ...target, tls };
}

function targetOf(text: string): Listenable {
  const [, scheme = '', passed] = PASSED.exec(text) ?? [];
  const endpoint: Endpoint = passed === 'systemd' ? { kind: 'fd', fd: systemdSocket() } : parseEndpoint(passed ?? text);
  const shown = `${scheme}${endpointText(endpoint)}`;
  const address = nativeAddress(endpoint);
  const tls = endpoint.kind === 'tls' || scheme !== '';
  if (address) return { endpoint, address, shown, connected: undefined, tls };
  switch (endpoint.kind) {
    case 'fd': {
      const { fd } = endpoint;
      checkOpen(fd, endpointText(endpoint));
      if (native.isListening(fd)) return { endpoint, address: { fd }, shown, connected: undefined, tls };
      if (tls)
        throw new PagewireError('BAD_OPTION', `--listen ${shown}: this is a connection; TLS needs a listening socket`);
      return { endpoint, address: { fd }, shown, connected: fd, tls };
    }
    case 'stdio':
      return { endpoint, address: { fd: STDIN }, shown, connected: STDIN, tls };
    default:
      throw new PagewireError('BAD_OPTION', `--listen ${shown}: nobody can connect to a command; it is for --connect`);
  }
}

/** From where connections come: of a socket that was passed on, where it listens, or who is at its other end. */
function reachableAt({ endpoint, connected }: Listenable): Endpoint {
  if (connected !== undefined) {
    const peer = native.peerOfSocket(connected);
    return peer.startsWith('tcp:') ? parseEndpoint(peer) : endpoint;
  }
  return endpoint.kind === 'fd' ? native.addressOfSocket(endpoint.fd) : endpoint;
}

function systemdSocket(): number {
  const { LISTEN_PID: pid, LISTEN_FDS: count } = process.env;
  if (pid !== String(process.pid) || count === undefined) {
    throw new PagewireError('BAD_OPTION', '--listen systemd: no socket was passed (is it started by a socket unit?)');
  }
  if (count !== '1') {
    throw new PagewireError(
      'BAD_OPTION',
      `--listen systemd: one socket is needed, and ${count} were passed; name one as fd:3`,
    );
  }
  return FIRST_SYSTEMD_FD;
}

export function connectable(text: string, insecure: boolean): Endpoint {
  const endpoint = parseEndpoint(text);
  checkPlain(endpoint, insecure);
  if (endpoint.kind === 'fd') checkOpen(endpoint.fd, endpointText(endpoint));
  return endpoint;
}

/** Who we are and whom we let in, where an endpoint asks for it. */
export function tlsFor(
  role: 'source' | 'destination',
  isTls: boolean,
  rules: readonly PeerRule[],
  { dir, key }: Pick<IdentityOptions, 'dir' | 'key'>,
): Identity | undefined {
  if (isTls) {
    const pins = rules.flatMap(({ pin }) => pin ?? []);
    const names = rules.flatMap(({ name }) => name ?? []);
    return loadIdentity({ role, pins, names, dir, key });
  }
  const asked = rules.find(({ name }) => name !== '*');
  if (!asked) return undefined;
  const who = asked.pin ?? asked.name ?? '';
  throw new PagewireError('BAD_OPTION', `--peer ${who}: only tls: tells who a peer is`);
}

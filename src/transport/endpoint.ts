/** Endpoints as users write them: where a connection goes, or where connections are taken. */
import { fstatSync } from 'node:fs';
import { PagewireError } from '../errors.js';
import type { NativeAddress } from '../native.js';

export type Endpoint =
  | { readonly kind: 'unix'; readonly path: string }
  /** An IPv6 address stands without brackets here. */
  | { readonly kind: 'tcp' | 'tls'; readonly host: string; readonly port: number }
  | { readonly kind: 'fd'; readonly fd: number }
  | { readonly kind: 'stdio' }
  | { readonly kind: 'exec'; readonly command: string };

/** What a unix socket's path may have, in bytes (sun_path without its end). */
const LONGEST_PATH = 107;

const KINDS = 'unix:PATH, tcp:HOST:PORT, tls:HOST:PORT, fd:N, stdio or exec:CMD';

/** Reads an endpoint. */
export function parseEndpoint(text: string): Endpoint {
  if (text === 'stdio') return { kind: 'stdio' };
  const colon = text.indexOf(':');
  const [kind, rest] = colon < 0 ? ['', text] : [text.slice(0, colon), text.slice(colon + 1)];
  switch (kind) {
    case 'unix':
      if (rest === '') throw bad(text, 'a path is missing');
      if (Buffer.byteLength(rest) > LONGEST_PATH || rest.includes('\0')) {
        throw bad(text, `a socket's path has at most ${LONGEST_PATH} bytes`);
      }
      return { kind, path: rest };
    case 'tcp':
    case 'tls':
      return { kind, ...hostAndPort(text, rest) };
    case 'fd':
      if (!/^\d{1,9}$/.test(rest)) throw bad(text, 'the number of a descriptor is needed, such as fd:3');
      return { kind, fd: Number(rest) };
    case 'exec':
      if (rest.trim() === '') throw bad(text, 'a command is missing');
      return { kind, command: rest };
    default:
      throw bad(text, `an endpoint is ${KINDS}`);
  }
}

function hostAndPort(text: string, rest: string): { host: string; port: number } {
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(rest);
  if (!match) {
    const isIpv6 = rest.split(':').length > 2 && !rest.startsWith('[');
    throw bad(text, isIpv6 ? 'an IPv6 address stands in brackets, as [::1]' : 'HOST:PORT is needed');
  }
  const [, ipv6, name = '', digits = ''] = match;
  const port = Number(digits);
  if (port > 65535) throw bad(text, 'a port is at most 65535');
  if (ipv6 !== undefined && !/^[0-9a-fA-F:.]+(%[\w.-]+)?$/.test(ipv6)) throw bad(text, `${ipv6} is no IPv6 address`);
  if (ipv6 === undefined && !/^[\w.-]{1,253}$/.test(name)) throw bad(text, 'a host is missing, or has a strange name');
  return { host: ipv6 ?? name, port };
}

function bad(text: string, why: string): PagewireError {
  return new PagewireError('BAD_OPTION', `${text}: ${why}`);
}

/** The endpoint as a user writes it. */
export function endpointText(endpoint: Endpoint): string {
  switch (endpoint.kind) {
    case 'unix':
      return `unix:${endpoint.path}`;
    case 'tcp':
    case 'tls': {
      const { kind, host, port } = endpoint;
      return `${kind}:${host.includes(':') ? `[${host}]` : host}:${port}`;
    }
    case 'fd':
      return `fd:${endpoint.fd}`;
    case 'stdio':
      return 'stdio';
    case 'exec':
      return `exec:${endpoint.command}`;
  }
}

/** Where the core connects to or listens; undefined for what is no address. */
export function nativeAddress(endpoint: Endpoint): NativeAddress | undefined {
  switch (endpoint.kind) {
    case 'unix':
      return { kind: 'unix', path: endpoint.path };
    case 'tcp':
    case 'tls':
      return { kind: 'tcp', host: endpoint.host, port: endpoint.port };
    default:
      return undefined;
  }
}

/** Whether what goes there stays on this host, by what can be told without a name server. */
export function isLocal(endpoint: Endpoint): boolean {
  if (endpoint.kind !== 'tcp' && endpoint.kind !== 'tls') return true;
  const host = endpoint.host.toLowerCase();
  return host === 'localhost' || host === '::1' || /^(::ffff:)?127(\.\d{1,3}){3}$/.test(host);
}

/** Plain TCP to or from other hosts is only for those who say that they want it; `instead` is what others may take. */
export function checkPlain(endpoint: Endpoint, insecure: boolean, instead?: string): void {
  if (endpoint.kind !== 'tcp' || insecure || isLocal(endpoint)) return;
  const other = instead ?? endpointText({ ...endpoint, kind: 'tls' });
  throw new PagewireError(
    'BAD_OPTION',
    `${endpointText(endpoint)} leaves this host without encryption, and lets in whoever comes: take ${other}, or say --insecure`,
  );
}

/** A descriptor that users name was passed on by whoever started us. */
export function checkOpen(fd: number, name: string): void {
  try {
    fstatSync(fd);
  } catch (cause) {
    throw new PagewireError('BAD_OPTION', `${name}: no such descriptor is open (was it passed on to pagewire?)`, {
      cause,
    });
  }
}

/** What may stand in for a guest's name in `{name}`. */
export function isGuestName(name: string): boolean {
  // A name of dots would be a folder's.
  return /^[A-Za-z0-9._-]{1,64}$/.test(name) && !/^\.+$/.test(name);
}

/** Puts a guest's name and port in the places that were left for them. */
export function fillTemplate(template: string, name: string, port: number | undefined): string {
  if (!isGuestName(name)) {
    throw new PagewireError('BAD_OPTION', `${name}: a guest's name is of letters, digits, "." "_" "-", at most 64`);
  }
  if (port === undefined && template.includes('{port}')) {
    throw new PagewireError('BAD_OPTION', `${template} needs a port, and the source gave none (--port)`);
  }
  return template.replaceAll('{name}', name).replaceAll('{port}', String(port));
}

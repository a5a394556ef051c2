// The two proxies of libvirt's tunnel, each on its host. (As users start them: the recipes of docs/libvirt-tunnel.md.)
import { mkdirSync } from 'node:fs';
import { says } from '../harness/proxies.js';
import type { Running } from '../harness/stage.js';
import type { Host } from './host.js';

/** Where the source's proxy listens. */
export const SOCKET = '/run/pagewire/libvirt.sock';
/** Where the destination's proxy listens. */
export const PORT = 7780;

/** The far daemon, through them. */
export const TUNNEL_URI = `qemu+unix:///system?socket=${SOCKET}`;

export interface TunnelProxies {
  readonly source: Running;
  readonly destination: Running;
}

/** What proxies listen and connect with: the options of each, and the scheme of the link. */
interface Security {
  readonly scheme: 'tcp' | 'tls';
  readonly source: readonly string[];
  readonly destination: readonly string[];
}

const PLAIN: Security = { scheme: 'tcp', source: ['--insecure'], destination: ['--insecure'] };

/** A key on each host, by which they know each other. */
export async function exchangeKeys(from: Host, to: Host): Promise<Security> {
  const [ours, theirs] = await Promise.all(
    [from, to].map(async (host) => {
      const said = await host.run(['pagewire', 'keygen']);
      const [fingerprint] = /SHA256:[A-Za-z0-9+/]{43}/.exec(said) ?? [];
      if (fingerprint === undefined) throw new Error(`pagewire keygen tells no fingerprint: ${said}`);
      return fingerprint;
    }),
  );
  return { scheme: 'tls', source: ['--peer', theirs ?? ''], destination: ['--peer', ours ?? ''] };
}

/** Starts both, with further options for each, and waits until they listen. */
export async function startTunnel(
  from: Host,
  to: Host,
  source: readonly string[] = [],
  destination: readonly string[] = [],
  security = PLAIN,
): Promise<TunnelProxies> {
  for (const host of [from, to]) mkdirSync(host.path('/run/pagewire'), { recursive: true });
  const { scheme } = security;
  const far = to.start('proxy-destination', [
    ...['pagewire', 'proxy', 'destination', '--libvirt', '--listen', `${scheme}:0.0.0.0:${PORT}`],
    ...['--connect', 'unix:/run/libvirt/libvirt-sock', ...security.destination, ...destination],
  ]);
  await says(far, /listening on/);
  const near = from.start('proxy-source', [
    ...['pagewire', 'proxy', 'source', '--libvirt', '--listen', `unix:${SOCKET}`],
    ...['--connect', `${scheme}:${to.address}:${PORT}`, ...security.source, ...source],
  ]);
  await says(near, /waiting for libvirt on/);
  return { source: near, destination: far };
}

export async function endTunnel({ source, destination }: TunnelProxies): Promise<void> {
  await Promise.all([source.kill(), destination.kill()]);
}

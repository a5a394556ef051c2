// The two proxies of libvirt's tunnel, each on its host, without keys. (With keys: the recipes of
// docs/libvirt-tunnel.md.)
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

/** Starts both, with further options for each, and waits until they listen. */
export async function startTunnel(
  from: Host,
  to: Host,
  source: readonly string[] = [],
  destination: readonly string[] = [],
): Promise<TunnelProxies> {
  for (const host of [from, to]) mkdirSync(host.path('/run/pagewire'), { recursive: true });
  const far = to.start('proxy-destination', [
    ...['pagewire', 'proxy', 'destination', '--libvirt', '--insecure', '--listen', `tcp:0.0.0.0:${PORT}`],
    ...['--connect', 'unix:/run/libvirt/libvirt-sock', ...destination],
  ]);
  await says(far, /listening on/);
  const near = from.start('proxy-source', [
    ...['pagewire', 'proxy', 'source', '--libvirt', '--insecure', '--listen', `unix:${SOCKET}`],
    ...['--connect', `tcp:${to.address}:${PORT}`, ...source],
  ]);
  await says(near, /waiting for libvirt on/);
  return { source: near, destination: far };
}

export async function endTunnel({ source, destination }: TunnelProxies): Promise<void> {
  await Promise.all([source.kill(), destination.kill()]);
}

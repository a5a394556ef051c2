/** Connections to other pagewires and to QEMUs, over any kind of endpoint. */
import { spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import { PagewireError } from '../errors.js';
import { native, type NativeLink, type NativeTls } from '../native.js';
import { type Endpoint, endpointText, nativeAddress } from './endpoint.js';

/** Standard input and output. */
const STDIN = 0;
const STDOUT = 1;

/**
 * Connects to another pagewire, and sends the routing preamble; over `tls:`, both ends are authenticated then.
 *
 * @throws PagewireError with the code CONNECT_FAILED, PEER_REFUSED, PROTOCOL_ERROR, TIMED_OUT, CONNECTION_LOST,
 * BAD_IDENTITY, BAD_DESCRIPTOR or BAD_OPTION.
 */
export async function connectTo(
  endpoint: Endpoint,
  preamble: Uint8Array,
  tls: NativeTls | null,
  timeoutMs: number,
): Promise<NativeLink> {
  const address = nativeAddress(endpoint);
  try {
    if (address) {
      const isTls = endpoint.kind === 'tls';
      if (isTls && !tls)
        throw new PagewireError('BAD_IDENTITY', `${endpointText(endpoint)} needs a key or a certificate`);
      return await native.connectLink(address, preamble, isTls ? tls : null, timeoutMs);
    }
    const link = openLink(endpoint);
    try {
      await link.sendPreamble(preamble, timeoutMs);
    } catch (error) {
      link.close();
      throw error;
    }
    return link;
  } catch (error) {
    throw PagewireError.from(error);
  }
}

/** A plain link over a descriptor, over standard input and output, or to a command; nothing is sent yet. */
export function openLink(endpoint: Endpoint): NativeLink {
  const name = endpointText(endpoint);
  switch (endpoint.kind) {
    case 'fd':
      return native.pipeLink(endpoint.fd, endpoint.fd, name);
    case 'stdio':
      return native.pipeLink(STDIN, STDOUT, name);
    case 'exec': {
      const fd = startCommand(endpoint.command);
      try {
        return native.pipeLink(fd, fd, name);
      } finally {
        closeSync(fd);
      }
    }
    default:
      throw new PagewireError('INTERNAL', `${name} is an address`);
  }
}

/** Connects to a QEMU, or to a libvirt daemon; the descriptor is the caller's. */
export async function openSocket(endpoint: Endpoint, timeoutMs: number, libvirt = false): Promise<number> {
  const address = nativeAddress(endpoint);
  if (endpoint.kind === 'fd') return endpoint.fd;
  if (endpoint.kind === 'exec') return startCommand(endpoint.command);
  if (!address || endpoint.kind === 'tls') {
    throw new PagewireError('BAD_OPTION', `${endpointText(endpoint)}: a QEMU is reached by unix:, tcp:, fd: or exec:`);
  }
  try {
    return await native.connectSocket(address, libvirt, timeoutMs);
  } catch (error) {
    throw PagewireError.from(error);
  }
}

/** Starts a command of the shell with one end of a socket as its standard input and output: the other end. */
function startCommand(command: string): number {
  const [ours, theirs] = native.streamPair();
  try {
    const child = spawn('/bin/sh', ['-c', command], { stdio: [theirs, theirs, 'inherit'] });
    // It hears of our end by the end of its input, we of its end by the end of the connection.
    child.on('error', () => undefined);
    child.unref();
  } finally {
    closeSync(theirs);
  }
  return ours;
}

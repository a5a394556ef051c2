import { once } from 'node:events';
import { type AddressInfo, createServer, Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';

/** Both ends of a TCP connection on the loopback interface. */
export async function connectLink(): Promise<{ near: Socket; far: Socket }> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const near = new Socket().connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [far] = (await once(server, 'connection')) as [Socket];
  server.close();
  return { near, far };
}

/** Copies one stream to the end of another. */
export function pipeTo(from: NodeJS.ReadableStream, to: NodeJS.WritableStream, signal: AbortSignal): Promise<void> {
  return pipeline(from, to, { signal });
}

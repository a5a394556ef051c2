// Both QEMUs of a migration, and the destination's proxy between them, for tests of the source's end.
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Running } from '../cli/command.js';

/** What the destination's QEMU says once it has all. */
export const ANSWER = 'all is here';

/** How long it thinks before it has said all: longer than a proxy takes to look whether somebody has gone, in milliseconds. */
const THINKING_MS = 600;

/** How often a QEMU looks for a socket that is not there yet, in milliseconds. */
const RETRY_MS = 50;

/** `pagewire proxy destination`, once it listens. */
export async function destinationProxy(
  t: TestContext,
  listen: string,
  qemu: string,
  ...options: string[]
): Promise<Running> {
  const words = ['proxy', 'destination', '--listen', listen, '--connect', qemu, '-T', '1', ...options];
  const running = new Running(t, words);
  await running.says(/listening on/);
  return running;
}

/** In place of the destination's QEMU: resolves with what came, whole. `came` hears of each piece. */
export function arrives(t: TestContext, path: string, came = (_: number): void => undefined): Promise<Buffer> {
  const pieces: Buffer[] = [];
  return new Promise((resolve) => {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('data', (piece) => {
        pieces.push(piece);
        came(piece.length);
      });
      socket.once('end', () => {
        // In two pieces: a source that has sent all, and closed its half, still waits for what is said.
        socket.on('error', () => undefined).write(ANSWER.slice(0, 3));
        setTimeout(() => socket.end(ANSWER.slice(3)), THINKING_MS);
        resolve(Buffer.concat(pieces));
      });
    });
    server.listen(path);
    t.after(() => server.close());
  });
}

/** In place of the source's QEMU: connects once somebody listens, sends all of it, and resolves with the answer. */
export async function leaves(t: TestContext, path: string, stream: Uint8Array): Promise<string> {
  const socket = await dial(path, t.signal);
  t.after(() => socket.destroy());
  let answer = '';
  socket.setEncoding('utf8').on('data', (text: string) => (answer += text));
  socket.end(stream);
  await once(socket, 'close');
  return answer;
}

async function dial(path: string, signal: AbortSignal): Promise<Socket> {
  for (;;) {
    const socket = connect({ path, allowHalfOpen: true });
    try {
      await once(socket, 'connect', { signal });
      return socket;
    } catch (error) {
      socket.destroy();
      if (signal.aborted) throw error;
      await sleep(RETRY_MS);
    }
  }
}

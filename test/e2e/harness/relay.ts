// A byte-exact way between two QEMUs, in place of the proxies: what they are held against. PAGEWIRE_E2E_RELAY=1 puts it
// into every test that can do without a proxy, so that a test which fails shows who is wrong.
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { sleep } from '#src/demo/time.js';
import type { Stage } from './stage.js';

/** What QEMU looks at before anything else: with less than that a main or multifd connection would hang its monitor. */
const MAGIC_BYTES = 4;
/** How long a later connection waits for them once main is up: one for postcopy-preempt carries none until the first fault. */
const PATIENCE_MS = 50;

/** Waits for the first bytes, for at most `milliseconds`, and leaves them to be read. */
async function awaitMagic(socket: Socket, milliseconds: number): Promise<void> {
  const begin: Buffer[] = [];
  const keep = (bytes: Buffer): void => void begin.push(bytes);
  const end = performance.now() + milliseconds;
  socket.on('data', keep).resume();
  while (Buffer.concat(begin).length < MAGIC_BYTES && performance.now() < end && !socket.readableEnded) await sleep(1);
  socket.pause().off('data', keep);
  if (!socket.readableEnded) socket.unshift(Buffer.concat(begin));
}

/** Carries both directions; a half that ends does not cut the other, a broken connection breaks both. */
function splice(a: Socket, b: Socket): void {
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.on('error', () => to.destroy());
    from.pipe(to);
  }
}

/** Opens each connection to `from` onward to `to`, in the order of their acceptance. Answers what breaks them all. */
export async function relay(stage: Stage, from: string, to: string): Promise<() => void> {
  const open = new Set<Socket>();
  const breakAll = (): void => {
    for (const socket of open) socket.destroy();
  };
  let opened = Promise.resolve();
  let isFirst = true;
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (near) => {
    near.on('error', () => undefined);
    const first = isFirst;
    isFirst = false;
    opened = opened.then(async () => {
      await awaitMagic(near, first ? Infinity : PATIENCE_MS);
      await new Promise<void>((done) => {
        const far = connect({ path: to, allowHalfOpen: true }, done);
        far.on('error', () => {
          near.destroy();
          done();
        });
        splice(near, far);
        open.add(near).add(far);
      });
    });
  });
  await new Promise<void>((done) => server.listen(from, done));
  stage.onEnd(() => {
    breakAll();
    server.close();
  });
  return breakAll;
}

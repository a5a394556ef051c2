/** The destination's side of a handshake: HELLO in, WELCOME or REFUSE out. */
import { PagewireError } from '../errors.js';
import type { NativeLink } from '../native.js';
import { FRAME, type Hello, isRefusal, readHello, type Refuse, writeMessage } from './hello.js';

/** The peer's HELLO, undefined where it was refused already. */
export async function receiveHello(link: NativeLink, program: string, timeoutMs: number): Promise<Hello> {
  const { type, payload } = await link.receive(timeoutMs);
  if (type !== FRAME.hello) {
    const message = `a frame of type ${type} where HELLO should come`;
    return refuse(link, { code: 'BAD_HELLO', message }, timeoutMs);
  }
  const hello = readHello(payload, program);
  return isRefusal(hello) ? refuse(link, hello, timeoutMs) : hello;
}

export async function welcome(
  link: NativeLink,
  message: Parameters<typeof writeMessage>[0],
  timeoutMs: number,
): Promise<void> {
  await link.send(FRAME.welcome, writeMessage(message), timeoutMs);
}

/** Tells the peer why not, and throws the same. The link is closed. */
export async function refuse(link: NativeLink, why: Refuse, timeoutMs: number): Promise<never> {
  const { address } = link.peer();
  try {
    await link.send(FRAME.refuse, writeMessage(why), timeoutMs);
  } catch {
    // It has gone: it need not know.
  } finally {
    link.close();
  }
  throw new PagewireError(
    why.code === 'VERSION' || why.code === 'BAD_HELLO' ? 'INCOMPATIBLE' : 'PEER_REFUSED',
    `refused ${address}: ${why.message}`,
  );
}

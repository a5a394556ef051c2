import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';

/** The ports that the kernel gives to those who want any begin here: one below is nobody's by chance. */
const ANY = Number.parseInt(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8'), 10);
const LEAST = 10_000;

/** A port that nobody listens on now. */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  for (;;) {
    const port = randomInt(LEAST, Math.max(ANY, 2 * LEAST));
    const server = createServer();
    try {
      await once(server.listen(port, host), 'listening');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') continue;
      throw error;
    }
    await new Promise((done) => server.close(done));
    return port;
  }
}

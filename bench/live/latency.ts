/**
 * How much longer a page takes that postcopy's destination asks for, when two proxies stand between: `npm run
 * bench:latency`. From the request's bytes leaving the destination until the page's bytes have arrived, between two
 * scripted ends in one process: once over a TCP connection of their own, once through the proxies.
 */
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { within } from '#src/demo/time.js';
import { onStage } from '../../test/e2e/harness/stage.js';
import type { Stage } from '../../test/e2e/harness/stage.js';
import { requestPages } from './postcopy.js';
import { farSocket, startProxies } from './proxies.js';
import { Report, median } from './report.js';
import { atLeast, readOptions, requirePrograms } from './requirements.js';
import { freePort } from '../../test/transport/port.js';

const flags = readOptions({
  /** Rounds of both ways in turn, and requests in each. */
  runs: { type: 'string', default: '5' },
  requests: { type: 'string', default: '1000' },
  /** Pages a second that the source sends unasked meanwhile: a list, each is a case. */
  background: { type: 'string', default: '0,2000' },
  tls: { type: 'boolean', default: false },
  out: { type: 'string' },
});
const runs = atLeast(1, 'runs', flags.runs);
const requests = atLeast(1, 'requests', flags.requests);
const backgrounds = flags.background.split(',').map((text) => atLeast(0, 'background', text));
requirePrograms('setpriv');

/** What the proxies may add to the median, in milliseconds. */
const GOAL = 0.5;

async function listen(stage: Stage, where: { path: string } | { host: string; port: number }): Promise<Server> {
  const server = createServer({ noDelay: true });
  server.listen(where);
  await once(server, 'listening');
  stage.onEnd(() => {
    server.close();
  });
  return server;
}

async function accept(server: Server): Promise<Socket> {
  const [socket] = (await within(once(server, 'connection'), 30, () => 'nobody connects')) as [Socket];
  return socket;
}

function measureDirect(pagesPerSecond: number): Promise<number[]> {
  return onStage(async (stage) => {
    const where = { host: '127.0.0.1', port: await freePort() };
    const accepted = accept(await listen(stage, where));
    const source = connect({ ...where, noDelay: true });
    return requestPages(source, accepted, { requests, pagesPerSecond });
  });
}

function measureProxied(pagesPerSecond: number): Promise<number[]> {
  return onStage(async (stage) => {
    const far = farSocket(stage);
    const accepted = accept(await listen(stage, { path: far }));
    const wire = { host: '127.0.0.1', port: await freePort() };
    const proxies = await startProxies(stage, { ...wire, tls: flags.tls, far });
    const source = connect(proxies.near);
    const taken = await requestPages(source, accepted, { requests, pagesPerSecond });
    await proxies.end();
    return taken;
  });
}

function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? NaN;
}

const report = new Report('npm run bench:latency');
report.say(
  `${runs} rounds of ${requests} requests each way in turn; proxies over ${flags.tls ? 'TLS' : 'TCP'}, loopback`,
);
for (const pagesPerSecond of backgrounds) {
  const [direct, proxied, added]: [number[], number[], number[]] = [[], [], []];
  for (let run = 0; run < runs; run++) {
    const one = await measureDirect(pagesPerSecond);
    const other = await measureProxied(pagesPerSecond);
    direct.push(...one);
    proxied.push(...other);
    added.push(median(other) - median(one));
  }
  const row = (name: string, values: readonly number[]): string[] => [
    name,
    ...[median(values), percentile(values, 90), percentile(values, 99)].map((value) => value.toFixed(3)),
  ];
  report.say();
  report.say(
    pagesPerSecond === 0 ? 'nothing else on its way' : `${pagesPerSecond} pages a second on their way besides`,
  );
  report.table([['ms from request to page', 'median', '90 %', '99 %'], row('direct', direct), row('proxies', proxied)]);
  const more = median(added);
  report.say(`added: ${more.toFixed(3)} ms (wanted ≤ ${GOAL}: ${more <= GOAL ? 'reached' : 'NOT REACHED'})`);
}
report.writeTo(flags.out);

// Links that break and come back while a guest is on its way: QEMU notices nothing but a pause.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { sleep, until, within } from '#src/demo/time.js';
import type { Direction } from '../harness/cutter.js';
import {
  arrives,
  intoPostcopy,
  noticedNothing,
  onTheWay,
  plays,
  prepare,
  setOut,
  throughPostcopy,
} from '../harness/journey.js';
import type { Itinerary, Journey } from '../harness/journey.js';
import { DroppingNetwork, namespacesLack } from '../harness/network.js';
import { skipPostcopy } from '../harness/postcopy.js';
import { childrenOf, says } from '../harness/proxies.js';
import { qemus, strictInPostcopy } from '../harness/qemus.js';
import { atOnce, full, inCi } from '../harness/repository.js';
import { onStage } from '../harness/stage.js';
import type { Running } from '../harness/stage.js';

/** Seconds after which silence is a lost link, here; 5 by default. */
const SILENCE = 1;
const SETTINGS = ['--silence', `${SILENCE}s`];
const PLAN = { cutter: true, source: SETTINGS, destination: SETTINGS } as const;

/** What happens to the link on the way. It comes back each time. */
const TROUBLES: Readonly<Record<string, (journey: Journey) => Promise<void>>> = {
  'the connection is killed again and again': async ({ proxies: { cutter } }) => {
    // odd counts, so that it breaks anywhere: in a frame, in a header, in the handshake of the link that is to replace it
    const cuts: [Direction, number][] = [
      ...([
        ['there', 100_003],
        ['back', 211],
        ['there', 61],
        ['back', 37],
      ] as [Direction, number][]),
      ...([
        ['there', 300_007],
        ['there', 1],
        ['back', 1009],
      ] as [Direction, number][]),
    ];
    for (const [index, [direction, bytes]] of cuts.entries()) {
      await within(
        cutter.cutAfter(direction, bytes, index % 2 === 0 ? 'reset' : 'end'),
        20,
        () => `no ${bytes} bytes go ${direction} after cut ${index}`,
      );
    }
  },
  'packets are dropped for a while': async ({ proxies: { cutter } }) => {
    for (const directions of [['there', 'back'], ['back']] as Direction[][]) {
      const { connections } = cutter;
      cutter.hold(...directions);
      await until(() => cutter.connections > connections, 20, 'nobody tries to connect anew after silence');
      await sleep(SILENCE * 500);
      cutter.release();
      await someGoesThrough(cutter.carried);
    }
  },
  'nobody can connect for a while': async ({ proxies: { cutter } }) => {
    cutter.refuse();
    await sleep(1500);
    cutter.accept();
    await someGoesThrough(cutter.carried);
  },
  'a delay that is no silence': async ({ proxies: { cutter } }) => {
    const { connections } = cutter;
    cutter.hold();
    await sleep(SILENCE * 300);
    cutter.release();
    await someGoesThrough(cutter.carried);
    assert.equal(cutter.connections, connections, 'a link was given up that was not lost');
  },
  'the destination proxy is stopped for seconds': ({ proxies }) => stopped(proxies.destination),
  'the source proxy is stopped for seconds': ({ proxies }) => stopped(proxies.source),
};

async function someGoesThrough(carried: Readonly<Record<Direction, number>>): Promise<void> {
  const { there } = carried;
  await until(() => carried.there > there + 50_000, 20, 'nothing goes through the link after it came back');
}

/** A process, and those that it has started, stands still for longer than silence may last. */
async function stopped(proxy: Running): Promise<void> {
  const pids = [proxy.pid, ...childrenOf(proxy)];
  for (const pid of pids) process.kill(pid, 'SIGSTOP');
  await sleep(SILENCE * 2500);
  for (const pid of pids) process.kill(pid, 'SIGCONT');
}

function throughTrouble(itinerary: Itinerary, trouble: (journey: Journey) => Promise<void>): Promise<void> {
  return plays(itinerary, async (stage) => {
    const journey = await prepare(stage, { plan: PLAN, ...itinerary });
    await setOut(journey);
    await onTheWay(journey);
    // slower than the guest writes: it is not to come to its end meanwhile
    await journey.from.setParameters({ 'max-bandwidth': 16 << 20 });
    await trouble(journey);
    await journey.from.speedUp();
    await arrives(journey);
    noticedNothing(journey);
  });
}

function throughTroubleInPostcopy(itinerary: Itinerary, trouble: (journey: Journey) => Promise<void>): Promise<void> {
  const byPostcopy = throughPostcopy({ plan: PLAN, ...itinerary });
  return plays(byPostcopy, async (stage) => {
    const journey = await prepare(stage, byPostcopy);
    // so that there is a lot to do, and time to break things meanwhile
    await journey.from.setParameters({ 'max-postcopy-bandwidth': 6 << 20 });
    await setOut(journey);
    await onTheWay(journey, 1);
    await intoPostcopy(journey);
    await trouble(journey);
    await journey.from.setParameters({ 'max-postcopy-bandwidth': 0 });
    await arrives(journey);
    noticedNothing(journey);
  });
}

const newest = qemus.at(-1);
const older = qemus.slice(0, -1);

void describe('a link that breaks in precopy', { concurrency: atOnce }, () => {
  if (newest === undefined) return;
  const capabilities = ['return-path'];
  for (const [what, trouble] of Object.entries(TROUBLES)) {
    void it(what, () => throughTrouble({ source: newest, capabilities }, trouble));
  }
  const [what, again] = Object.entries(TROUBLES)[0] ?? assert.fail();
  for (const source of older) {
    void it(`${what}, QEMU ${source.version}`, () => throughTrouble({ source, capabilities }, again));
  }
  void it('the address is gone for good, and there is another', () =>
    throughTrouble({ source: newest, capabilities, plan: { ...PLAN, detour: true } }, async ({ proxies }) => {
      proxies.cutter.refuse();
      await says(proxies.source, new RegExp(`the link to tcp:127\\.0\\.0\\.1:${proxies.port} is back`));
    }));
  void it(`${what}, with multifd`, () =>
    throughTrouble({ source: newest, capabilities: ['multifd'], parameters: { 'multifd-channels': 2 } }, again));
  void it(`${what}, with TLS`, () =>
    throughTrouble({ source: newest, capabilities, plan: { ...PLAN, wire: 'tls' } }, again));
});

void describe('a link that breaks in postcopy', { concurrency: atOnce, skip: skipPostcopy() }, () => {
  const strict = strictInPostcopy ?? newest;
  if (strict === undefined) return;
  const [what, again] = Object.entries(TROUBLES)[0] ?? assert.fail();
  for (const source of qemus) {
    const isForAll = source === strict || (full && source === newest);
    for (const [name, trouble] of isForAll ? Object.entries(TROUBLES) : [[what, again] as const]) {
      void it(`${name}, QEMU ${source.version}`, () => throughTroubleInPostcopy({ source }, trouble));
    }
  }
  void it(`${what}, postcopy-preempt`, () =>
    throughTroubleInPostcopy({ source: strict, capabilities: ['postcopy-preempt'] }, again));
});

const lacks = namespacesLack();
const skip = lacks === undefined || inCi ? false : `PAGEWIRE-NOT-RUN dropped packets: ${lacks}`;

void describe('a network that drops packets', { skip }, () => {
  if (newest === undefined) return;
  void it('some of them all the time, and all of them for a while', () =>
    onStage(async (stage) => {
      assert.equal(lacks, undefined);
      const network = DroppingNetwork.create(stage);
      const journey = await prepare(stage, {
        source: newest,
        capabilities: ['return-path'],
        plan: { source: SETTINGS, destination: SETTINGS, network },
      });
      network.drop(2);
      await setOut(journey);
      await onTheWay(journey);
      await journey.from.setParameters({ 'max-bandwidth': 16 << 20 });
      network.drop(100);
      await sleep(SILENCE * 2500);
      network.drop(2);
      await sleep(SILENCE * 1000);
      await journey.from.speedUp();
      network.drop(0);
      await arrives(journey);
      noticedNothing(journey);
    }));

  void it('in postcopy, while the guest waits for its pages', { skip: skipPostcopy() }, () => {
    const source = strictInPostcopy ?? newest;
    return onStage(async (stage) => {
      assert.equal(lacks, undefined);
      const network = DroppingNetwork.create(stage);
      const plan = { source: SETTINGS, destination: SETTINGS, network };
      const journey = await prepare(stage, throughPostcopy({ source, plan }));
      await journey.from.setParameters({ 'max-postcopy-bandwidth': 6 << 20 });
      await setOut(journey);
      await onTheWay(journey, 1);
      await intoPostcopy(journey);
      network.drop(2);
      await sleep(SILENCE * 500);
      network.drop(100);
      await sleep(SILENCE * 2500);
      network.drop(2);
      await says(journey.proxies.source, /the link .* is back/);
      await journey.from.setParameters({ 'max-postcopy-bandwidth': 0 });
      network.drop(0);
      await arrives(journey);
      noticedNothing(journey);
    });
  });
});

// Migrations that do not go to their end: cancelled, cut off for good, a proxy killed. The guest is never lost.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '#src/demo/time.js';
import {
  arrives,
  intoPostcopy,
  leavesNothing,
  onTheWay,
  plays,
  prepare,
  setOut,
  staysHome,
  throughPostcopy,
} from '../harness/journey.js';
import type { Itinerary, Journey } from '../harness/journey.js';
import { OutOfBand, bothPause, recover, skipPostcopy, wellInPostcopy } from '../harness/postcopy.js';
import { EXIT, Proxies, SOON, sessionsOf } from '../harness/proxies.js';
import { qemus, strictInPostcopy } from '../harness/qemus.js';
import { atOnce } from '../harness/repository.js';
import { onStage } from '../harness/stage.js';

/** For how long the proxies try to reconnect, where it is not to come to that. */
const PATIENT = { cutter: true } as const;
const BRIEF = ['--reconnect', '1s', '--silence', '1s'];
const IMPATIENT = { cutter: true, source: BRIEF, destination: BRIEF } as const;

/** A guest on its way, `then`, and what becomes of it. */
function precopy(itinerary: Itinerary, then: (journey: Journey) => Promise<void>): Promise<void> {
  return onStage(async (stage) => {
    const journey = await prepare(stage, { capabilities: ['return-path'], ...itinerary });
    await journey.from.setParameters({ 'max-bandwidth': 20 << 20 });
    await setOut(journey);
    await onTheWay(journey, 2);
    await then(journey);
  });
}

/** QEMU has nowhere to write to any more. */
async function isStuck({ from }: Journey): Promise<void> {
  const transferred = async (): Promise<unknown> => (await from.migration()).answer['ram'];
  await until(
    async () => {
      const before = JSON.stringify(await transferred());
      await sleep(1000);
      return JSON.stringify(await transferred()) === before;
    },
    30,
    'QEMU goes on writing',
  );
}

/** The source proxy is killed, or the destination's, or only the process of the destination's session. */
async function kill({ proxies }: Journey, whom: 'source' | 'destination' | 'session'): Promise<void> {
  if (whom === 'session') {
    const [session] = sessionsOf(proxies.destination);
    assert.ok(session !== undefined, 'the destination has no process for the session');
    process.kill(session, 'SIGKILL');
  } else {
    await proxies[whom].kill();
  }
}

void describe('a migration that is cancelled', { concurrency: atOnce }, () => {
  for (const source of qemus) {
    void it(`QEMU ${source.version}: both proxies end at once, without reconnecting`, (t) =>
      precopy({ source, plan: PATIENT }, async (journey) => {
        const began = performance.now();
        await journey.from.qmp.execute('migrate_cancel');
        await journey.proxies.endWith(EXIT.truncated, SOON);
        t.diagnostic(`both had ended ${Math.round(performance.now() - began)} ms after the order to cancel`);
        // A link that takes nothing more in time gets another one beside it, which tells of the end and carries nothing.
        assert.doesNotMatch(journey.proxies.source.said(), /the link to .* is lost/, 'it tried to reconnect');
        await staysHome(journey, 'cancelled');
        await leavesNothing(journey);
      }));
  }
  const source = qemus.at(-1);
  if (source === undefined) return;
  void it('with multifd', () =>
    precopy(
      { source, plan: PATIENT, capabilities: ['multifd'], parameters: { 'multifd-channels': 2 } },
      async (journey) => {
        await journey.from.qmp.execute('migrate_cancel');
        await journey.proxies.endWith(EXIT.truncated, SOON);
        await staysHome(journey, 'cancelled');
        // QEMU's own threads for its connections take their time to end.
        await leavesNothing(journey, 20);
      },
    ));
  void it('while the link is broken: the source ends at once, and can migrate again', () =>
    precopy({ source, plan: { ...PATIENT, destination: BRIEF } }, async (journey) => {
      journey.proxies.cutter.refuse();
      await journey.from.qmp.execute('migrate_cancel');
      const code = await journey.proxies.source.exitCode(SOON);
      assert.ok(code === EXIT.truncated || code === EXIT.link, `exit code ${code}`);
      await staysHome(journey, 'cancelled');
      await leavesNothing(journey, 20);
    }));
  void it('while the link is broken and all room is full', () =>
    precopy({ source, plan: { cutter: true, source: ['--replay', '1M'], destination: BRIEF } }, async (journey) => {
      journey.proxies.cutter.refuse();
      await isStuck(journey);
      await journey.from.qmp.execute('migrate_cancel');
      assert.equal(await journey.proxies.source.exitCode(SOON), EXIT.truncated);
      await staysHome(journey, 'cancelled');
      await leavesNothing(journey, 20);
    }));
  void it('while the link is broken, and just then it could be made again', () =>
    precopy({ source, plan: { cutter: true, source: ['--replay', '1M'] } }, async (journey) => {
      journey.proxies.cutter.refuse();
      // The source waits for longer and longer between two tries.
      await isStuck(journey);
      journey.proxies.cutter.accept();
      await journey.from.qmp.execute('migrate_cancel');
      await journey.proxies.endWith(EXIT.truncated, SOON);
      await staysHome(journey, 'cancelled');
      await leavesNothing(journey);
    }));
});

void describe('a destination QEMU that goes away', { concurrency: atOnce }, () => {
  const source = qemus.at(-1);
  if (source === undefined) return;
  void it('the source fails the migration at once, and is told why', () =>
    precopy({ source, plan: PATIENT }, async (journey) => {
      await journey.to.quit();
      await journey.proxies.endWith(EXIT.failed, SOON);
      await staysHome(journey);
    }));
});

void describe('a destination QEMU that cannot load the guest', { concurrency: atOnce }, () => {
  // It has taken every byte by then: only what it says tells.
  for (const source of qemus) {
    // An older one breaks its connection without a word: without a proxy there, that may be the network, and is in doubt.
    for (const stock of source.major >= 10 ? [false, true] : [false]) {
      void it(`QEMU ${source.version}${stock ? ', --stock' : ''}: no success, and the guest stays`, () =>
        onStage(async (stage) => {
          const journey = await prepare(stage, {
            ...{ source, capabilities: ['return-path'], more: { source: ['-device', 'virtio-rng-pci'] } },
            plan: { stock },
          });
          await setOut(journey);
          await onTheWay(journey, 1);
          await journey.from.speedUp();
          await staysHome(journey);
          await leavesNothing(journey);
          await journey.proxies.endWith(EXIT.failed);
        }));
    }
  }
});

void describe('a migration that cannot go on, in precopy', { concurrency: atOnce }, () => {
  const source = qemus.at(-1);
  if (source === undefined) return;

  for (const build of qemus) {
    void it(`the source proxy is killed, QEMU ${build.version}`, () =>
      precopy({ source: build, plan: IMPATIENT }, async (journey) => {
        await kill(journey, 'source');
        await staysHome(journey);
        await leavesNothing(journey, 20);
        await journey.proxies.sessionIsOver(20);
      }));

    void it(`the destination proxy is killed, QEMU ${build.version}`, () =>
      precopy({ source: build, plan: IMPATIENT }, async (journey) => {
        await kill(journey, 'destination');
        await leavesNothing(journey);
        assert.equal(await journey.proxies.source.exitCode(20), EXIT.link, journey.proxies.source.said());
        await staysHome(journey);
      }));
  }

  void it('the link is cut for good', () =>
    precopy({ source, plan: IMPATIENT }, async (journey) => {
      journey.proxies.cutter.refuse();
      await journey.proxies.endWith(EXIT.link, 20);
      await staysHome(journey);
      await leavesNothing(journey);
    }));

  for (const whom of ['session', 'destination'] as const) {
    void it(`the destination's ${whom === 'session' ? 'session' : 'proxy'} starts anew: a clear refusal`, () =>
      precopy({ source, plan: PATIENT }, async (journey) => {
        const { proxies } = journey;
        if (whom === 'destination') proxies.cutter.refuse(); // so that nobody finds the port closed
        await kill(journey, whom);
        if (whom === 'destination') {
          await proxies.startDestination();
          proxies.cutter.accept();
        }
        // at once: it has five minutes to reconnect, but nobody to reconnect to
        assert.equal(await proxies.source.exitCode(20), EXIT.link, proxies.source.said());
        assert.match(proxies.source.said(), /refuses: this destination proxy has no memory of the session/);
        await staysHome(journey);
        await leavesNothing(journey);
      }));
  }
});

void describe('postcopy that is interrupted', { concurrency: atOnce, skip: skipPostcopy() }, () => {
  /** Into postcopy, `then`; both QEMUs pause, and go on over new proxies. */
  function interrupted(itinerary: Itinerary, then: (journey: Journey) => Promise<void>): Promise<void> {
    const byPostcopy = throughPostcopy(itinerary);
    return plays(byPostcopy, async (stage) => {
      const journey = await prepare(stage, byPostcopy);
      await journey.from.setParameters({ 'max-postcopy-bandwidth': 6 << 20 });
      const monitor = await OutOfBand.open(stage, journey.to);
      await setOut(journey);
      await onTheWay(journey, 1);
      await intoPostcopy(journey);
      await wellInPostcopy(journey);
      await then(journey);
      await bothPause(journey, monitor);
      const others = await Proxies.start(stage, { name: 'vm1-recovery' });
      await recover(journey, monitor, others);
      await journey.from.setParameters({ 'max-postcopy-bandwidth': 0 });
      await arrives({ ...journey, proxies: others });
    });
  }

  for (const source of qemus) {
    for (const whom of ['source', 'destination'] as const) {
      void it(`the ${whom} proxy is killed: both QEMUs pause and recover, QEMU ${source.version}`, () =>
        interrupted({ source, plan: IMPATIENT }, async (journey) => {
          await kill(journey, whom);
          if (whom === 'destination') assert.equal(await journey.proxies.source.exitCode(20), EXIT.link);
          else await journey.proxies.sessionIsOver(20);
        }));
    }
  }
  const source = strictInPostcopy ?? qemus.at(-1);
  if (source === undefined) return;
  void it('the link is cut for good', () =>
    interrupted({ source, plan: IMPATIENT }, async ({ proxies }) => {
      proxies.cutter.refuse();
      await proxies.endWith(EXIT.link, 20);
    }));
  void it("the destination's proxy starts anew: a clear refusal", () =>
    interrupted({ source, plan: PATIENT }, async ({ proxies }) => {
      proxies.cutter.refuse(); // so that nobody finds the port closed
      await proxies.destination.kill();
      await proxies.startDestination();
      proxies.cutter.accept();
      assert.equal(await proxies.source.exitCode(20), EXIT.link, proxies.source.said());
      assert.match(proxies.source.said(), /refuses: this destination proxy has no memory of the session/);
    }));
  void it('the source proxy is killed, with postcopy-preempt', () =>
    interrupted({ source, plan: IMPATIENT, capabilities: ['postcopy-preempt'] }, async (journey) => {
      await kill(journey, 'source');
      await journey.proxies.sessionIsOver(20);
    }));
  void it("QEMU's own migrate-pause", () =>
    interrupted({ source, plan: PATIENT }, async ({ from, proxies }) => {
      await from.qmp.execute('migrate-pause');
      // its stream has ended in the middle, whoever ended it
      await proxies.endWith(EXIT.truncated);
    }));
});

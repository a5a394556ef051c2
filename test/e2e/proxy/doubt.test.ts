// Never two guests. The link is cut just before and just after each message of a migration, between ends that play QEMU's
// rules (harness/peers.ts); and for the worst moments between real QEMUs.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { sleep, until } from '#src/demo/time.js';
import { Cutter } from '../harness/cutter.js';
import { arrives, goesOn, onTheWay, prepare, setOut } from '../harness/journey.js';
import type { Journey } from '../harness/journey.js';
import { ScriptedDestination, ScriptedSource, comes } from '../harness/peers.js';
import { skipPostcopy } from '../harness/postcopy.js';
import { EXIT, sessionsOf, says, startDestination, startSource } from '../harness/proxies.js';
import { keepsDirtyPages, qemus } from '../harness/qemus.js';
import { atOnce, full } from '../harness/repository.js';
import { postcopy, postcopyBefore11, precopy, recovery } from '../harness/script.js';
import type { Script } from '../harness/script.js';
import { Stage, onStage } from '../harness/stage.js';
import type { Running } from '../harness/stage.js';
import { freePort } from '../../transport/port.js';

/** So many scripted migrations at once: they mostly wait. */
const AT_ONCE = 4;

/** What a source proxy says that holds its QEMU back, and so its guest. */
const LOUD = 'IN DOUBT';

const BRIEF = ['--reconnect', '1s'];

/** A scripted migration whose link is about to break. */
interface Scene {
  readonly from: ScriptedSource;
  readonly to: ScriptedDestination;
  readonly proxy: Running;
  readonly cutter: Cutter;
  readonly script: Script;
  /** Whether the destination proxy has said that it is in doubt. */
  readonly isHeldThere: () => boolean;
}

function neverBoth({ from, to, proxy }: Scene): void {
  assert.ok(!(from.runs && to.runs), `BOTH GUESTS RUN; proxy source says: ${proxy.said()}`);
}

/** Plays the messages before the one with this number, each once the one before it has come. */
async function playUntil({ from, to, script }: Scene, at: number): Promise<void> {
  for (const message of script.messages.slice(0, at)) {
    const [speaker, hearer] = message.from === 'source' ? [from, to] : [to, from];
    speaker.send(message);
    await comes(message, hearer);
  }
}

/** The link breaks: a message is the first that is lost, or the last that comes through. */
async function cut(scene: Scene, at: number, when: 'before' | 'after'): Promise<void> {
  const { from, to, cutter, script } = scene;
  await playUntil(scene, at);
  const message = script.messages[at] ?? assert.fail();
  const [speaker, hearer, direction, other] =
    message.from === 'source' ? ([from, to, 'there', 'back'] as const) : ([to, from, 'back', 'there'] as const);
  if (when === 'before') {
    cutter.hold();
    speaker.send(message);
    await cutter.holdsSome(direction);
  } else {
    // it comes, and whoever sent it is not told
    cutter.hold(other);
    speaker.send(message);
    await comes(message, hearer);
  }
  cutter.refuse();
  await sleep(100); // both proxies know it by then: what is said from here on goes nowhere
  neverBoth(scene);
}

/** No QEMU waits for the other: what is left to say is said. */
function goOn({ from, to, script }: Scene): void {
  for (const message of script.messages) {
    if (message.from === 'source' && !from.hasSent(message.name)) from.send(message);
  }
  to.goOnByItself();
}

/** All has come, and the guest runs at the destination only. */
async function completes(scene: Scene): Promise<void> {
  const { from, to, proxy } = scene;
  await until(
    () => from.hasAll && to.hasAll,
    20,
    () => `the source has heard ${from.last ?? 'nothing'}, the destination ${to.last ?? 'nothing'}: ${proxy.said()}`,
  );
  assert.equal(await proxy.exitCode(10), EXIT.ok, proxy.said());
  assert.deepEqual([from.fault, to.fault], [undefined, undefined]);
  assert.deepEqual([from.runs, to.runs], [false, true]);
  assert.equal(to.further.length, from.further.length, 'further connections');
}

/** The link, cut at this message, does not come back within the time that it has. */
async function staysCut(scene: Scene, at: number): Promise<void> {
  const { proxy, script } = scene;
  await until(
    () => proxy.hasEnded || proxy.said().includes(LOUD),
    20,
    () => `proxy source neither ends nor says that it is in doubt: ${proxy.said()}`,
  );
  neverBoth(scene);
  if (proxy.hasEnded) {
    await isGivenUp(scene);
  } else {
    const doubtful = script.messages.findIndex(({ name }) => name === script.turn?.doubtful);
    assert.ok(doubtful >= 0 && at >= doubtful, `held, though nothing can be in doubt: ${proxy.said()}`);
    assert.match(proxy.said(), script === precopy ? /end the QEMU here first/ : /leave both QEMUs as they are/);
    await isHeld(scene);
  }
}

/** The source proxy has ended: one guest runs. */
async function isGivenUp(scene: Scene): Promise<void> {
  const { from, to, proxy } = scene;
  const code = await proxy.exitCode();
  // Once all is said and heard, it may know enough to call it a success.
  assert.ok(code === EXIT.link || (from.hasAll && code === EXIT.ok), `exit code ${code}: ${proxy.said()}`);
  // A destination that cannot know whether its QEMU's answer has come keeps it, and says so.
  await until(
    () => from.isOver() && (to.isOver() || !to.isConnected || (to.runs && scene.isHeldThere())),
    20,
    'a proxy does not let go of its QEMU',
  );
  neverBoth(scene);
  assert.ok(from.runs || to.runs, `no guest runs, and nobody says so: ${proxy.said()}`);
  assert.equal(from.fault ?? to.fault, undefined);
}

/** The source proxy holds its QEMU and says so: until the session is back, or a person decides. */
async function isHeld(scene: Scene): Promise<void> {
  const { from, to, proxy, cutter, script } = scene;
  assert.ok(!from.isOver(), 'held, and closed');
  assert.ok(!from.has(script.turn?.settles ?? assert.fail()), 'in doubt, though the answer has come');
  cutter.accept();
  const isBack = await until(
    () => (proxy.hasEnded ? 'back' : (to.isOver() || !to.isConnected) && !to.runs ? 'gone' : undefined),
    20,
    () => `the link is back, and nothing comes of it: ${proxy.said()}`,
  );
  neverBoth(scene);
  if (isBack === 'back') {
    await completes(scene);
    return;
  }
  // The destination has given up, and its QEMU with it. Nobody but a person can know that.
  proxy.signal('SIGTERM');
  await says(proxy, /second signal/);
  assert.ok(!from.isOver(), 'one signal is no decision');
  proxy.signal('SIGTERM');
  await proxy.exitCode();
  await until(() => from.isOver(), 5, 'QEMU is not let go of');
  // One that has left does not run again, and only this person knows.
  assert.deepEqual([from.runs, to.runs], [script !== postcopyBefore11, false]);
}

void describe('the link is cut at each message', { concurrency: AT_ONCE }, () => {
  // One listener for all: sessions have nothing to do with each other.
  let common: { stage: Stage; destination: Running; port: number };
  before(async () => {
    const stage = new Stage();
    const port = await freePort();
    const listen = { kind: 'tcp', host: '127.0.0.1', port } as const;
    const options = [...BRIEF, '--max-sessions', '200'];
    const destination = await startDestination(stage, listen, `unix:${stage.path('in-{name}.sock')}`, options);
    common = { stage, destination, port };
  });
  after(() => common.stage.end());

  let count = 0;
  function onScene(
    script: Script,
    play: (scene: Scene) => Promise<void>,
    options: readonly string[] = [],
  ): Promise<void> {
    return onStage(async (stage) => {
      const name = `${script.name}-${(count += 1)}`;
      const [outlet, inlet] = [stage.path('out.sock'), common.stage.path(`in-${name}.sock`)];
      const cutter = await Cutter.start(stage, { host: '127.0.0.1', port: common.port });
      const [to, proxy] = await Promise.all([
        ScriptedDestination.listen(stage, script, inlet),
        startSource(stage, outlet, [`tcp:127.0.0.1:${cutter.port}`], ['--name', name, ...BRIEF, ...options]),
      ]);
      const from = await ScriptedSource.connect(stage, script, outlet);
      // The guest's way begins when there is a session: before that, a link that breaks is an end at once.
      await says(proxy, /connected to/);
      const isHeldThere = (): boolean =>
        new RegExp(`${name}: .*${LOUD}|${LOUD}.*${name}`).test(common.destination.said());
      await play({ from, to, proxy, cutter, script, isHeldThere });
    }).catch((error: unknown) => {
      if (error instanceof Error) error.message += `\n--- proxy destination:\n${common.destination.complaint()}`;
      throw error;
    });
  }

  for (const script of [precopy, postcopy]) {
    void it(`${script.name}, where both guests may run, and --in-doubt fail: QEMU is let go of`, () =>
      onScene(
        script,
        async (scene) => {
          const { from, to, proxy } = scene;
          const at = script.messages.findIndex(({ name }) => name === script.turn.runs);
          await playUntil(scene, at);
          scene.cutter.hold('back');
          from.send(script.messages[at] ?? assert.fail());
          await comes(script.messages[at] ?? assert.fail(), to);
          scene.cutter.refuse();
          assert.equal(await proxy.exitCode(20), EXIT.link, proxy.said());
          await until(() => from.isOver(), 5, 'QEMU is not let go of');
          assert.deepEqual([from.runs, to.runs], [true, true], 'there was no doubt');
          assert.doesNotMatch(proxy.said(), new RegExp(LOUD));
        },
        ['--in-doubt', 'fail'],
      ));
  }

  void it('where both guests may run, it is held, and then the operator says that this is taken care of', () =>
    onStage(async (stage) => {
      const config = stage.path('proxy.conf');
      writeFileSync(config, 'in-doubt = hold\n');
      await onScene(
        precopy,
        async (scene) => {
          const { from, proxy } = scene;
          const at = precopy.messages.findIndex(({ name }) => name === precopy.turn.runs);
          await cut(scene, at, 'after');
          await says(proxy, LOUD);
          proxy.signal('SIGHUP');
          await says(proxy, /read \S+ again/);
          assert.ok(!from.isOver() && !proxy.hasEnded, 'nothing has changed, and it is let go of');
          writeFileSync(config, 'in-doubt = fail\n');
          proxy.signal('SIGHUP');
          assert.equal(await proxy.exitCode(10), EXIT.link, proxy.said());
          await until(() => from.isOver(), 5, 'QEMU is not let go of');
        },
        ['--config', config],
      );
    }));

  void it('never, and QEMU makes a further connection while the answer to its package is out: it is carried', () =>
    onScene(postcopy, async (scene) => {
      const { from, to } = scene;
      await playUntil(
        scene,
        postcopy.messages.findIndex(({ name }) => name === 'PONG 4'),
      );
      await from.connectAgain();
      await until(
        () => to.further.length === 1,
        10,
        () => `it does not come: ${scene.proxy.said()}`,
      );
      assert.ok(!from.has(postcopy.turn.settles));
      from.further[0]?.end();
      goOn(scene);
      await completes(scene);
    }));

  for (const [how, bytes] of [
    ['says SHUT 1', Buffer.from([0, 1, 0, 4, 0, 0, 0, 1])],
    ['ends without SHUT', Buffer.alloc(0)],
  ] as const) {
    for (const script of [precopy, postcopy, recovery]) {
      void it(`${script.name}, never, and QEMU at the destination has all of it and ${how}: no success`, () =>
        onScene(script, async (scene) => {
          const { from, to, proxy } = scene;
          await playUntil(scene, script.messages.length - 1);
          to.send({ from: 'destination', name: how, bytes });
          to.end();
          from.end();
          assert.equal(await proxy.exitCode(10), EXIT.failed, proxy.said());
          assert.match(proxy.said(), /was given all of the stream and (said SHUT 1|ended)/);
          assert.equal(proxy.said().includes('the guest stays at the source'), script === precopy);
          assert.match(proxy.said(), /log of the QEMU at the destination/);
          assert.doesNotMatch(proxy.said(), new RegExp(LOUD));
        }));
    }
  }

  for (const script of [precopy, postcopy, postcopyBefore11, recovery]) {
    void it(`${script.name}, never`, () =>
      onScene(script, async (scene) => {
        await playUntil(scene, script.messages.length);
        scene.to.end();
        await completes(scene);
      }));
    // Both begin in the same way: that is cut once.
    const begin = new Map<Script, string>([
      [postcopy, postcopy.turn.stops],
      [postcopyBefore11, 'PING 2'],
    ]).get(script);
    const same = Math.max(
      script.messages.findIndex(({ name }) => name === begin),
      0,
    );
    for (const [at, { name }] of script.messages.entries()) {
      if (at < same) continue;
      for (const when of ['before', 'after'] as const) {
        void it(`${script.name}, ${when} ${name}, for good`, () =>
          onScene(script, async (scene) => {
            await cut(scene, at, when);
            goOn(scene);
            await staysCut(scene, at);
          }));
      }
      const some = at % 3 === 0 ? ([at % 2 === 0 ? 'before' : 'after'] as const) : [];
      for (const when of full ? (['before', 'after'] as const) : some) {
        void it(`${script.name}, ${when} ${name}, and is back at once`, () =>
          onScene(script, async (scene) => {
            await cut(scene, at, when);
            scene.cutter.accept();
            goOn(scene);
            await completes(scene);
          }));
      }
    }
  }
});

void describe('without a destination proxy (--stock)', { concurrency: AT_ONCE }, () => {
  const answer = precopy.messages.findIndex(({ name }) => name === precopy.turn.settles);

  function onScene(play: (scene: Scene) => Promise<void>): Promise<void> {
    return onStage(async (stage) => {
      const [outlet, inlet] = [stage.path('out.sock'), stage.path('in.sock')];
      const to = await ScriptedDestination.listen(stage, precopy, inlet);
      const cutter = await Cutter.start(stage, inlet);
      const address = `tcp:127.0.0.1:${cutter.port}`;
      const proxy = await startSource(stage, outlet, [address], ['--name', 'stock', '--stock']);
      const from = await ScriptedSource.connect(stage, precopy, outlet);
      await play({ from, to, proxy, cutter, script: precopy, isHeldThere: () => false });
    });
  }

  for (const [at, { name }] of precopy.messages.entries()) {
    for (const when of ['before', 'after'] as const) {
      void it(`is cut ${when} ${name}`, () =>
        onScene(async (scene) => {
          const { from, to, proxy } = scene;
          await cut(scene, at, when);
          goOn(scene);
          await until(
            () => proxy.hasEnded || proxy.said().includes(LOUD),
            20,
            () => `it neither ends nor is held: ${proxy.said()}`,
          );
          neverBoth(scene);
          if (proxy.hasEnded) {
            await until(() => from.isOver(), 5, 'QEMU is not let go of');
            neverBoth(scene);
            assert.ok(from.runs || to.runs, `no guest runs, and nobody says so: ${proxy.said()}`);
          } else {
            const doubtful = precopy.messages.findIndex((message) => message.name === precopy.turn.doubtful);
            assert.ok(at >= doubtful && !from.isOver(), `held, or not, at the wrong moment: ${proxy.said()}`);
            for (const _ of [1, 2]) {
              proxy.signal('SIGTERM');
              await sleep(200);
            }
            await proxy.exitCode();
          }
        }));
    }
  }

  void it('is told to stop before the answer has come: one signal is no decision', () =>
    onScene(async (scene) => {
      await playUntil(scene, answer);
      scene.proxy.signal('SIGTERM');
      await says(scene.proxy, /second signal/);
      assert.ok(!scene.from.isOver(), 'one signal is no decision');
      scene.to.goOnByItself();
      await completes(scene);
    }));

  void it('loses its link before the answer has come: held until a person decides', () =>
    onScene(async (scene) => {
      await playUntil(scene, answer);
      scene.cutter.refuse();
      await says(scene.proxy, LOUD);
      neverBoth(scene);
      assert.ok(!scene.from.isOver(), 'held, and closed');
      scene.proxy.signal('SIGTERM');
      await says(scene.proxy, /second signal/);
      scene.proxy.signal('SIGTERM');
      await scene.proxy.exitCode();
      await until(() => scene.from.isOver(), 5, 'QEMU is not let go of');
    }));

  void it('is held, and its QEMU goes: there is nothing left to hold', () =>
    onScene(async (scene) => {
      await playUntil(scene, answer);
      scene.cutter.refuse();
      await says(scene.proxy, LOUD);
      scene.from.go();
      await scene.proxy.exitCode(10);
    }));

  void it('is told to stop while the guest runs here: it fails at once', () =>
    onScene(async (scene) => {
      await playUntil(scene, 3);
      scene.proxy.signal('SIGTERM');
      await scene.proxy.exitCode();
      await until(() => scene.from.isOver(), 5, 'QEMU is not let go of');
      assert.deepEqual([scene.from.runs, scene.to.runs], [true, false]);
    }));
});

void describe('the link is cut at the worst moments, real QEMU', { concurrency: atOnce, skip: skipPostcopy() }, () => {
  const plan = { cutter: true, source: BRIEF, destination: BRIEF } as const;

  for (const source of qemus) {
    // Older ones do not wait for PONG 0x42, but are paused by what comes next.
    const isOld = source.major < 11;
    /** All is over. A QEMU that loses dirty pages by itself is no measure of the guest. */
    const ends = async (journey: Journey): Promise<void> => {
      if (keepsDirtyPages(source)) {
        await arrives(journey);
        return;
      }
      await journey.from.waitForMigration('completed', 90);
      await journey.to.waitForMigration('completed', 90);
      await journey.proxies.endWith(EXIT.ok);
    };

    // With a package that comes in part, their guest would be gone; a newer one's would run on at the source.
    if (isOld)
      void it(`in postcopy's package, QEMU ${source.version}: no guest runs, and the source is held`, () =>
        onStage(async (stage) => {
          const patient = { cutter: true, source: BRIEF } as const;
          const journey = await prepare(stage, {
            ...{ source, plan: patient, atOnce: true, capabilities: ['postcopy-ram'] },
          });
          const { from, to, proxies } = journey;
          await setOut(journey);
          await onTheWay(journey);
          proxies.cutter.hold('there');
          await from.qmp.execute('migrate-start-postcopy');
          await from.waitForMigration('postcopy-active', 20);
          proxies.cutter.refuse();
          await says(proxies.source, LOUD);
          assert.ok((await from.isStopped()) && (await to.isStopped()), 'a guest runs');
          assert.ok(!['failed', 'postcopy-paused'].includes((await from.migration()).status), 'QEMU has noticed');
          proxies.cutter.accept();
          await ends(journey);
        }));

    void it(`before the PONG of the package, QEMU ${source.version}: the guest runs there, and the source is held`, () =>
      onStage(async (stage) => {
        const journey = await prepare(stage, { source, plan, atOnce: true, capabilities: ['postcopy-ram'] });
        const { from, to, proxies } = journey;
        await setOut(journey);
        await onTheWay(journey);
        proxies.cutter.hold('back');
        await from.qmp.execute('migrate-start-postcopy');
        await until(
          async () => !(await to.isStopped()),
          20,
          () => `the guest does not run; ${to.complaint()}`,
        );
        await proxies.cutter.holdsSome('back');
        proxies.cutter.refuse();
        await says(proxies.source, LOUD);
        if (!isOld) assert.equal((await from.migration()).status, 'postcopy-device');
        assert.ok(await from.isStopped(), 'BOTH GUESTS RUN');
        proxies.cutter.accept();
        await ends(journey);
      }));
  }

  const source = qemus.at(-1);
  if (source === undefined) return;

  void it('before SHUT: the guest runs at the destination, and the source is held', () =>
    onStage(async (stage) => {
      const journey = await prepare(stage, { source, plan, atOnce: true, capabilities: ['return-path'] });
      const { from, to, proxies } = journey;
      await setOut(journey);
      await onTheWay(journey);
      proxies.cutter.hold('back');
      await from.speedUp();
      await to.waitForMigration('completed');
      await goesOn(to);
      proxies.cutter.refuse();
      await says(proxies.source, LOUD);
      assert.ok(await from.isStopped(), 'BOTH GUESTS RUN');
      proxies.cutter.accept();
      await arrives(journey);
    }));

  void it('before SHUT, and the destination proxy is gone: the source is held until somebody decides', () =>
    onStage(async (stage) => {
      const journey = await prepare(stage, { source, plan, atOnce: true, capabilities: ['return-path'] });
      const { from, to, proxies } = journey;
      await setOut(journey);
      await onTheWay(journey);
      proxies.cutter.hold('back');
      await from.speedUp();
      await to.waitForMigration('completed');
      for (const pid of sessionsOf(proxies.destination)) process.kill(pid, 'SIGKILL');
      proxies.cutter.refuse();
      proxies.cutter.accept();
      await says(proxies.source, LOUD);
      assert.ok(!proxies.source.hasEnded && (await from.isStopped()), 'BOTH GUESTS RUN');
      // Somebody looks, and sees that it runs there: the source's QEMU is not to run it again.
      await goesOn(to);
      await from.quit();
      await proxies.source.exitCode(10);
    }));
});

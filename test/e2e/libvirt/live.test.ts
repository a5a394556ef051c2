// `virsh migrate` through the proxies, by each recipe of docs/libvirt.md, and what goes wrong on the way.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { sleep, until } from '#src/demo/time.js';
import { childrenOf, EXIT, says } from '../harness/proxies.js';
import { Stage } from '../harness/stage.js';
import type { Running } from '../harness/stage.js';
import { boot, forget, furnish, isGone, lastTick, printed, runs } from './guest.js';
import type { GuestPlan } from './guest.js';
import { ADDRESS6, Hosts, inside, skipLibvirt } from './host.js';
import type { Host, HostOptions } from './host.js';
import { Cook } from './recipes.js';
import { qemuReadsNoKey, startService } from './services.js';

const skip = skipLibvirt();

/** A pair of hosts for the tests of a `describe`, one after the other. */
class Kitchen {
  private stage = new Stage();
  private made: { hosts: Hosts; cook: Cook } | undefined;

  constructor(options: HostOptions = {}) {
    before(async () => {
      const hosts = await Hosts.start(this.stage, options);
      this.made = { hosts, cook: new Cook(hosts) };
    });
    after(() => this.stage.end());
  }

  get hosts(): Hosts {
    return this.made?.hosts ?? assert.fail('there are no hosts');
  }
  get a(): Host {
    return this.hosts.a;
  }
  get b(): Host {
    return this.hosts.b;
  }
  get cook(): Cook {
    return this.made?.cook ?? assert.fail('there are no hosts');
  }

  /** A test that finds vm1 at work on host a. Afterwards no guest is left. */
  test(name: string, body: () => Promise<void>, plan: GuestPlan = {}): void {
    void it(name, async () => {
      furnish(this.a, this.b);
      forget(this.b);
      try {
        await boot(this.a, plan);
        await body();
      } catch (error) {
        if (error instanceof Error) error.message += `\n${this.stage.complaints()}`;
        throw error;
      } finally {
        for (const host of [this.a, this.b]) await host.startVirsh('destroy', 'vm1').exitCode(60);
        await this.cook.end('source');
      }
    });
  }

  /** vm1 has moved: it runs on at the destination and is gone at the source, and both daemons are well. */
  async hasMoved(): Promise<void> {
    await runs(this.b, 'vm1', lastTick(this.a));
    assert.doesNotMatch(printed(this.b, 'vm1'), /READY/, 'the guest booted instead of running on');
    await isGone(this.a);
    for (const host of [this.a, this.b]) await host.daemonLives();
  }

  /** vm1 has stayed: it runs on at the source and is unknown at the destination, and both daemons are well. */
  async hasStayed(): Promise<void> {
    await isGone(this.b);
    await runs(this.a);
    for (const host of [this.a, this.b]) await host.daemonLives();
  }

  /** The source proxy has ended well, and says what went over the wire. */
  async sourceEndsWell(): Promise<void> {
    const proxy = this.cook.proxy('source');
    assert.equal(await proxy.exitCode(20), EXIT.ok, proxy.said());
    assert.match(proxy.said(), /migrated: .* on the wire/);
  }
}

/** A guest that writes more than QEMU may send: its migration does not come to its end by itself. */
const BUSY: GuestPlan = { rate: 12_000 };
const ENDLESS = ['--bandwidth', '8'];
const BY_SOCKET = [
  ...['migrate', '--live', 'vm1', 'qemu+tcp://dst/system', '--migrateuri', 'unix:///run/pagewire/vm1.sock'],
  ...ENDLESS,
];

/** A recipe without its `virsh migrate`, whose proxies lose a silent link after a second. */
function prepared(words: string): string | undefined {
  return words.startsWith('virsh migrate') ? undefined : `${words} --silence 1s`;
}

/** Waits until the guest's memory is on its way. */
async function onTheWay(source: Running): Promise<void> {
  await says(source, /guest pc-.* of RAM/, 30);
  await sleep(500);
}

/** Packets of the link between the proxies are dropped on this host, until {@link mend}. libvirt's own go on. */
async function cut(host: Host): Promise<void> {
  const rules = [
    'add table inet cut',
    'add chain inet cut input { type filter hook input priority 0; }',
    'add rule inet cut input tcp dport 7777 drop',
  ];
  await host.run(['nft', rules.join('; ')]);
}
const mend = (host: Host): Promise<string> => host.run(['nft', 'delete table inet cut']);

void describe('virsh migrate through the proxies', { skip }, () => {
  if (skip !== false) return;
  const kitchen = new Kitchen();
  before(() => kitchen.cook.run('Once on both hosts'));

  for (const heading of ['Through a unix socket', 'Peer to peer', 'Several connections', 'Through TCP']) {
    kitchen.test(`the recipe "${heading}"`, async () => {
      await kitchen.cook.run(heading);
      await kitchen.sourceEndsWell();
      await kitchen.hasMoved();
    });
  }

  kitchen.test(
    'the recipe "Postcopy": the guest changes over before all of its memory has',
    async () => {
      await kitchen.cook.run('Through a unix socket', (words) =>
        /^virsh|proxy source/.test(words) ? undefined : words,
      );
      const events = kitchen.b.startVirsh('event', '--domain', 'vm1', '--event', 'lifecycle', '--loop');
      await kitchen.cook.run('Postcopy', (words) => words.replace('--live', `--live ${ENDLESS.join(' ')}`));
      await kitchen.sourceEndsWell();
      await kitchen.hasMoved();
      await events.kill();
    },
    BUSY,
  );

  void describe('a link that breaks', () => {
    kitchen.test(
      'and comes back: a pause',
      async () => {
        await kitchen.cook.run('Through a unix socket', prepared);
        const source = kitchen.cook.proxy('source');
        const migrate = kitchen.a.startVirsh(...BY_SOCKET);
        await onTheWay(source);
        await cut(kitchen.b);
        await says(source, /the link to .* is lost/, 20);
        await mend(kitchen.b);
        await says(source, /connected to .* again|after \d/, 20);
        await kitchen.a.virsh('migrate-setspeed', 'vm1', '10000');
        await kitchen.a.virsh('migrate-setmaxdowntime', 'vm1', '3000');
        assert.equal(await migrate.exitCode(60), 0, migrate.said());
        await kitchen.sourceEndsWell();
        await kitchen.hasMoved();
      },
      BUSY,
    );

    kitchen.test(
      'for good: virsh says so, the guest stays',
      async () => {
        await kitchen.cook.run('Through a unix socket', (words) => prepared(`${words} --reconnect 1s`));
        const source = kitchen.cook.proxy('source');
        const migrate = kitchen.a.startVirsh(...BY_SOCKET);
        await onTheWay(source);
        await cut(kitchen.b);
        assert.equal(await source.exitCode(30), EXIT.link, source.said());
        assert.notEqual(await migrate.exitCode(60), 0);
        await mend(kitchen.b);
        assert.match(migrate.said(), /^error: ./m);
        assert.match(source.said(), /vm1: .*the link to tls:dst:7777 is lost/);
        await kitchen.hasStayed();
      },
      BUSY,
    );
  });

  kitchen.test(
    'virsh domjobabort: both ends clean, the guest stays',
    async () => {
      await kitchen.cook.run('Through a unix socket', prepared);
      const source = kitchen.cook.proxy('source');
      const migrate = kitchen.a.startVirsh(...BY_SOCKET);
      await onTheWay(source);
      await kitchen.a.virsh('domjobabort', 'vm1');
      assert.notEqual(await migrate.exitCode(60), 0);
      assert.match(migrate.said(), /^error: ./m);
      assert.equal(await source.exitCode(20), EXIT.truncated, source.said());
      await kitchen.hasStayed();
    },
    BUSY,
  );

  kitchen.test('no proxy at the destination: virsh says so, the guest stays', async () => {
    await kitchen.cook.run('Through a unix socket', prepared);
    await kitchen.cook.end('destination');
    const migrate = kitchen.a.startVirsh(...BY_SOCKET);
    assert.notEqual(await migrate.exitCode(60), 0);
    const source = kitchen.cook.proxy('source');
    assert.equal(await source.exitCode(20), EXIT.link, source.said());
    assert.match(source.said(), /cannot connect to tls:dst:7777: connection refused/);
    await kitchen.hasStayed();
  });

  kitchen.test('no proxy at the source, or one that was killed: virsh says so, the guest stays', async () => {
    const failsBy = async (why: string): Promise<void> => {
      const migrate = kitchen.a.startVirsh(...BY_SOCKET);
      assert.notEqual(await migrate.exitCode(60), 0);
      assert.match(migrate.said(), new RegExp(`Failed to connect socket to '/run/pagewire/vm1.sock': ${why}`));
    };
    await failsBy('No such file or directory');
    await kitchen.cook.run('Through a unix socket', prepared);
    const source = kitchen.cook.proxy('source');
    for (const pid of inside(source)) process.kill(pid, 'SIGKILL');
    await source.exitCode(20);
    await failsBy('Connection refused');
    await kitchen.hasStayed();
  });

  kitchen.test('a name that is not the guest waits by: virsh says so, the guest stays', async () => {
    await kitchen.cook.run('Through a unix socket', (words) => prepared(words.replace('--name vm1', '--name other')));
    const migrate = kitchen.a.startVirsh(...BY_SOCKET);
    assert.notEqual(await migrate.exitCode(60), 0);
    assert.match(migrate.said(), /^error: ./m);
    const source = kitchen.cook.proxy('source');
    assert.equal(await source.exitCode(20), EXIT.failed, source.said());
    assert.match(source.said(), /cannot connect to unix:\/run\/pagewire\/other.sock: no such file or directory/);
    await kitchen.hasStayed();
  });
});

void describe('QEMU as a user of its own', { skip }, () => {
  if (skip !== false) return;
  const kitchen = new Kitchen({ qemuConf: ['user = "libvirt-qemu"', 'group = "kvm"'] });
  before(() => kitchen.cook.run('Once on both hosts'));

  kitchen.test('the recipe', async () => {
    await kitchen.cook.run('QEMU as a user of its own');
    await kitchen.sourceEndsWell();
    await kitchen.hasMoved();
    for (const host of [kitchen.a, kitchen.b]) await qemuReadsNoKey(host);
  });

  kitchen.test("a folder at the destination that is not QEMU's: virsh says so, the guest stays", async () => {
    await assert.rejects(
      kitchen.cook.run('QEMU as a user of its own', (words) => words.replace('-o libvirt-qemu', '-o root')),
      /Failed to bind socket to \/run\/pagewire\/vm1.sock: Permission denied/,
    );
    await kitchen.hasStayed();
  });
});

void describe('interception', { skip }, () => {
  if (skip !== false) return;
  const kitchen = new Kitchen();
  before(() => kitchen.cook.run('Once on both hosts'));
  /** The recipe, with words of its own for `virsh migrate`, and without rules that are there already. */
  const intercepted =
    (...more: string[]) =>
    (words: string): string =>
      words
        .replace('migrate --live', ['migrate --live', ...more].join(' '))
        .replace("nft 'add table", "nft 'add table inet pagewire; delete table inet pagewire; add table");
  const isTold = async (): Promise<void> => {
    await says(kitchen.cook.proxy('source'), /src-49\d{3}: migrated: .* on the wire/, 20);
  };

  for (const [what, more] of Object.entries({
    'the recipe "Interception"': [],
    'peer to peer': ['--p2p'],
    'several connections': ['--parallel', '--parallel-connections', '2'],
  })) {
    kitchen.test(what, async () => {
      await kitchen.cook.run('Interception', intercepted(...more));
      await isTold();
      await kitchen.hasMoved();
    });
  }

  kitchen.test('IPv6', async () => {
    await kitchen.cook.run('Interception', (words) =>
      intercepted('--migrateuri', `tcp://[${ADDRESS6.b}]`)(words.replace('tls:0.0.0.0:', 'tls:[::]:')),
    );
    await says(kitchen.cook.proxy('source'), /a migration to tcp:\[fd77::2\]:49/, 20);
    await isTold();
    await kitchen.hasMoved();
  });

  kitchen.test(
    'the recipe "Interception to hosts without pagewire": the mark lets our own connection pass',
    async () => {
      await kitchen.cook.end('destination');
      await kitchen.cook.run('Interception to hosts without pagewire', intercepted());
      await isTold();
      await kitchen.hasMoved();
    },
  );

  kitchen.test('no proxy at the destination: virsh says so, the guest stays, and the next one is taken', async () => {
    const told = kitchen.a.path('/run/last-error');
    await kitchen.cook.run('Interception', (words) =>
      words.startsWith('virsh')
        ? undefined
        : intercepted()(words).replace('proxy source', 'proxy source --last-error /run/last-error'),
    );
    await kitchen.cook.end('destination');
    for (let i = 0; i < 2; i += 1) {
      const migrate = kitchen.a.startVirsh('migrate', '--live', 'vm1', 'qemu+tcp://dst/system');
      assert.notEqual(await migrate.exitCode(60), 0);
      assert.match(migrate.said(), /^error: ./m);
      await kitchen.hasStayed();
    }
    const said = kitchen.cook.proxy('source').said();
    assert.equal(said.match(/src-49\d{3}: cannot connect to tls:10.77.0.2:7777: connection refused/g)?.length, 2, said);
    const { guest, connection } = JSON.parse(readFileSync(told, 'utf8')) as Record<string, string>;
    assert.match(`${guest ?? ''} ${connection ?? ''}`, /^src-49\d{3} tls:10\.77\.0\.2:7777$/);
  });

  kitchen.test(
    "a migration's process that is killed takes no other migration with it, and the next one is taken",
    async () => {
      const { a, b, cook } = kitchen;
      const told = a.path('/run/killed');
      await cook.run('Interception', (words) =>
        words.startsWith('virsh')
          ? undefined
          : intercepted()(words).replace('proxy source', 'proxy source --last-error /run/killed'),
      );
      const source = cook.proxy('source');
      forget(b, 'vm2');
      await boot(a, { ...BUSY, name: 'vm2' });
      const [doomed, other] = ['vm1', 'vm2'].map((name) =>
        a.startVirsh('migrate', '--live', name, 'qemu+tcp://dst/system', ...ENDLESS),
      ) as [Running, Running];
      const processes = await until(
        () => {
          const found = inside(source)
            .flatMap((pid) => childrenOf({ pid }))
            .flatMap((pid) => {
              const [, port] = /^pagewire: src-(49\d{3})/.exec(readFileSync(`/proc/${pid}/cmdline`, 'latin1')) ?? [];
              return port === undefined ? [] : [{ pid, name: `src-${port}` }];
            });
          const onTheirWay = source.said().match(/guest pc-.* of RAM/g)?.length ?? 0;
          return found.length === 2 && onTheirWay === 2 ? found : undefined;
        },
        30,
        () => `not two processes with a guest each: ${source.said()}`,
      );
      const [killed] = processes;
      assert.ok(killed);
      process.kill(killed.pid, 'SIGKILL');
      // Which guest has which port is libvirt's choice.
      const codes = await Promise.race([doomed, other].map(async (each) => ({ each, code: await each.exitCode(60) })));
      assert.notEqual(codes.code, 0, codes.each.said());
      const [stays, goes] = codes.each === doomed ? ['vm1', 'vm2'] : ['vm2', 'vm1'];
      await says(source, new RegExp(`${killed.name}: the session's process was ended by SIGKILL`), 10);
      const { guest, code } = JSON.parse(readFileSync(told, 'utf8')) as Record<string, string>;
      assert.deepEqual([guest, code], [killed.name, 'INTERNAL']);
      await runs(a, stays);
      await isGone(b, stays);

      const moves = async (name: string, migrate: Running): Promise<void> => {
        await a.virsh('migrate-setspeed', name, '10000');
        await a.virsh('migrate-setmaxdowntime', name, '3000');
        assert.equal(await migrate.exitCode(60), 0, migrate.said());
        await runs(b, name, lastTick(a, name));
        await isGone(a, name);
      };
      await moves(goes, codes.each === doomed ? other : doomed);
      // Whatever the port: its last session has no link any more.
      await moves(stays, a.startVirsh('migrate', '--live', stays, 'qemu+tcp://dst/system'));
      for (const host of [a, b]) {
        await host.startVirsh('destroy', 'vm2').exitCode(60);
        await host.daemonLives();
      }
    },
    BUSY,
  );

  kitchen.test('what pagewire libvirt setup makes, and its undo', async () => {
    const { a, b, cook } = kitchen;
    const keys: string[] = [];
    for (const host of [a, b]) {
      const said = await host.run(['pagewire', 'libvirt', 'setup', '--way', 'intercept', '--apply']);
      assert.match(said, /^done: systemd-tmpfiles --create/m);
      await host.run(['sh', '-c', 'cd /etc/pagewire; chgrp pagewire-keys pagewire.pem; chmod 640 pagewire.pem']);
      keys.push(/SHA256:\S+/.exec(await host.run(['pagewire', 'keygen', '--dir', '/etc/pagewire']))?.[0] ?? '');
    }
    /** Fills in the peer, and runs what the unit runs. */
    const serve = async (host: Host, unit: string, peer: string): Promise<Running> => {
      const settings = host.path(`/etc/pagewire/${unit}.env`);
      writeFileSync(
        settings,
        readFileSync(settings, 'utf8').replace(/^PAGEWIRE_OPTIONS=.*$/m, `PAGEWIRE_OPTIONS="--peer ${peer}"`),
      );
      const proxy = await startService(host, `pagewire-${unit}.service`);
      await says(proxy, /listening on|waiting for QEMU on/, 30);
      return proxy;
    };
    await cook.end('destination');
    const destination = await serve(b, 'destination', keys[0] ?? '');
    const source = await serve(a, 'intercept', keys[1] ?? '');
    await a.run(['nft', '-f', '/etc/pagewire/intercept.nft']);
    await a.virsh('migrate', '--live', 'vm1', 'qemu+tcp://dst/system');
    await says(source, /src-49\d{3}: migrated: /, 20);
    await kitchen.hasMoved();
    await a.run(['nft', 'delete table inet pagewire']);
    for (const proxy of [source, destination]) await proxy.kill();
    for (const host of [a, b]) {
      await qemuReadsNoKey(host);
      const said = await host.run(['pagewire', 'libvirt', 'setup', '--undo']);
      assert.match(said, /^removed \/etc\/systemd\/system\/pagewire-intercept.service$/m);
      assert.match(said, /^kept .*\.env \(it was changed\)$/m);
    }
  });

  kitchen.test('a connection that no rule has redirected is refused', async () => {
    await kitchen.cook.run('Interception', (words) => (words.includes('proxy source') ? words : undefined));
    await kitchen.a.run(['bash', '-c', 'exec 3<>/dev/tcp/127.0.0.1/7701; read -u 3 || true']);
    await says(kitchen.cook.proxy('source'), /was not redirected to us/, 10);
  });
});

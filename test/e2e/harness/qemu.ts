// One QEMU with a guest in it.
import { existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import type { Guest } from './guests.js';
import { Qmp, number, object, text } from '#src/demo/qmp.js';
import type { Answer } from '#src/demo/qmp.js';
import type { QemuBuild } from './qemus.js';
import type { Running, Stage } from './stage.js';
import { sleep, until } from '#src/demo/time.js';

/** What the machine is made of. */
export interface Machine {
  /** A machine type, with its options. */
  readonly type: string;
  readonly guest: Guest;
  readonly megabytes?: number;
  /** `default`: what QEMU puts in by itself (VGA, network, drives) and a disk. */
  readonly devices?: 'none' | 'default';
  /** Over how many RAM blocks the guest's memory goes. */
  readonly ramBlocks?: 1 | 2;
  readonly more?: readonly string[];
}

export interface Role {
  readonly build: QemuBuild;
  /** Waits for a stream; the guest is held when it has come. */
  readonly incoming?: boolean;
  /** Descriptors that QEMU inherits, as 3, 4 and so on. */
  readonly fds?: readonly number[];
}

export type Capability = string;

/** RAM that a guest on a PC sees below 1 MiB is interrupted by the VGA's window, which is not RAM. */
const VGA_WINDOW = { start: 0xa0000, end: 0xc0000 };
const MIB = 1 << 20;

let count = 0;

export class Qemu {
  private constructor(
    readonly name: string,
    readonly build: QemuBuild,
    readonly process: Running,
    readonly qmp: Qmp,
    /** A second monitor, for who must speak to QEMU by other means than `qmp`. */
    readonly spareMonitor: string,
    private readonly stage: Stage,
    private readonly serial: string,
    private readonly machine: Machine,
  ) {}

  static async start(stage: Stage, machine: Machine, { build, incoming = false, fds = [] }: Role): Promise<Qemu> {
    const { type, guest, megabytes = 128, devices = 'none', ramBlocks = 1, more = [] } = machine;
    const name = `${incoming ? 'destination' : 'source'}-${build.version}-${(count += 1)}`;
    const path = (extension: string): string => stage.path(`${name}.${extension}`);
    const devicesArguments = ['-nodefaults'];
    if (devices === 'default') {
      const disk = path('disk');
      writeFileSync(disk, '');
      truncateSync(disk, 4 * MIB);
      devicesArguments.splice(0, 1, '-drive', `file=${disk},format=raw`);
    }
    const memory = ['-m', `${megabytes}`];
    if (ramBlocks === 2) {
      for (const half of [0, 1]) {
        memory.push('-object', `memory-backend-ram,id=half${half},size=${megabytes / 2}M`);
        memory.push('-numa', `node,memdev=half${half}`);
      }
    }
    const child = stage.start(
      name,
      [
        ...[build.command, '-name', name, '-no-user-config', '-machine', type, '-accel', 'tcg', ...memory],
        ...[...devicesArguments, '-display', 'none', '-monitor', 'none', '-serial', `file:${path('serial')}`],
        ...['-qmp', `unix:${path('qmp')},server=on,wait=off`, '-qmp', `unix:${path('qmp2')},server=on,wait=off`],
        ...guest.arguments,
        ...more,
        ...(incoming ? ['-S', '-incoming', 'defer'] : []),
      ],
      [undefined, undefined, ...fds],
    );
    const complaint = (): string => child.complaint();
    const socket = await until(
      async () => {
        if (child.hasEnded) throw new Error(`${name} did not start: ${complaint()}`);
        return existsSync(path('qmp')) ? await stage.connect(path('qmp')) : undefined;
      },
      20,
      () => `${name} opens no monitor: ${complaint()}`,
    );
    const qmp = await Qmp.open(socket, complaint);
    const qemu = new Qemu(name, build, child, qmp, path('qmp2'), stage, path('serial'), machine);
    if (!incoming) {
      await qemu.waitForText(guest.ready, 60);
      await sleep(100); // so that some pages are touched before the migration begins
    }
    return qemu;
  }

  /** What to show when something went wrong with this QEMU. */
  complaint(): string {
    return `${this.name}: ${this.process.complaint()}`;
  }

  // ---- the guest

  /** All that it printed so far. */
  printed(): string {
    return existsSync(this.serial) ? readFileSync(this.serial, 'latin1') : '';
  }

  async waitForText(what: string, seconds: number): Promise<void> {
    await until(
      () => {
        if (this.process.hasEnded) throw new Error(`QEMU ended: ${this.complaint()}`);
        return this.printed().includes(what);
      },
      seconds,
      () => `the guest did not print '${what}', but '${this.printed().slice(-200)}'; ${this.complaint()}`,
    );
  }

  /** The guest's own counts in the last line that it printed: of time, and of pages touched. */
  lastTick(): { time: number; line: string } | undefined {
    const line = [...this.printed().matchAll(/^T \d+ [0-9a-f]+(?=\r?\n)/gm)].at(-1)?.[0];
    return line === undefined ? undefined : { time: Number(line.split(' ')[1]), line };
  }

  /** Lets a held guest go, and checks that it goes on from `before`, the last tick that it printed elsewhere. */
  async runsOnFrom(before: { time: number; line: string }): Promise<void> {
    await this.qmp.execute('cont');
    const goesOn = (): boolean => (this.lastTick()?.time ?? 0) > before.time + 4;
    await until(goesOn, 15, () => `the guest does not run on after '${before.line}': '${this.printed().slice(-200)}'`);
    // it must not have started anew, either
    if (this.printed().includes(this.machine.guest.ready)) throw new Error('the guest booted instead of running on');
  }

  /**
   * Writes the guest's RAM to files and answers them. The guest must be stopped. Memory devices above 4 GiB are saved
   * if `high` says how many MiB there are.
   */
  async saveRam(high = 0): Promise<string[]> {
    const { megabytes = 128 } = this.machine;
    const ranges = [
      [0, VGA_WINDOW.start],
      [VGA_WINDOW.end, megabytes * MIB],
      [4096 * MIB, (4096 + high) * MIB],
    ] as const;
    const files: string[] = [];
    for (const [start, end] of ranges.filter(([from, to]) => to > from)) {
      const file = this.stage.path(`${this.name}.ram${files.length}`);
      // QEMU answers before all is on the disk but not before it is written
      await this.qmp.execute('pmemsave', { val: start, size: end - start, filename: file }, 60);
      files.push(file);
    }
    return files;
  }

  async isStopped(): Promise<boolean> {
    return (await this.qmp.query('query-status'))['running'] === false;
  }

  // ---- migration

  async setCapabilities(...names: readonly Capability[]): Promise<void> {
    const capabilities = names.map((capability) => ({ capability, state: true }));
    await this.qmp.execute('migrate-set-capabilities', { capabilities });
  }

  async setParameters(parameters: Answer): Promise<void> {
    await this.qmp.execute('migrate-set-parameters', parameters);
  }

  async migration(): Promise<{ status: string; passes: number; answer: Answer }> {
    const answer = await this.qmp.query('query-migrate');
    return {
      status: text(answer, 'status') ?? 'none',
      passes: number(object(answer, 'ram'), 'dirty-sync-count') ?? 0,
      answer,
    };
  }

  /** Waits until the migration is in this state, or one of these; fails if it fails, or ends otherwise. */
  async waitForMigration(wanted: string | readonly string[], seconds = 60): Promise<void> {
    const isWanted = (status: string): boolean => [wanted].flat().includes(status);
    const final = ['completed', 'failed', 'cancelled'];
    await until(
      async () => {
        if (this.process.hasEnded) throw new Error(`QEMU ended during a migration: ${this.complaint()}`);
        const { status, answer } = await this.migration();
        if (!isWanted(status) && final.includes(status)) {
          throw new Error(`migration ${status}: ${text(answer, 'error-desc') ?? ''}; ${this.complaint()}`);
        }
        return isWanted(status);
      },
      seconds,
      () => `the migration does not become ${[wanted].flat().join(' or ')}; ${this.complaint()}`,
    );
  }

  /** Sends the guest away by a descriptor of ours. */
  async migrateToFd(fd: number): Promise<void> {
    // QEMU takes the outgoing descriptor by SCM_RIGHTS only, over the monitor that then orders the migration, and Node
    // cannot pass one on. Python is there: npm needs it to build the native core.
    const script = `
import array, json, socket, sys
monitor = socket.socket(socket.AF_UNIX)
monitor.connect(sys.argv[1])
answers = monitor.makefile()
answers.readline()
def run(command, fds=(), **arguments):
    message = json.dumps({'execute': command, 'arguments': arguments}).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
    monitor.sendmsg([message], rights)
    while True:
        answer = json.loads(answers.readline())
        if 'error' in answer: sys.exit(command + ': ' + answer['error']['desc'])
        if 'return' in answer: return
run('qmp_capabilities')
run('getfd', [3], fdname='outgoing')
run('migrate', uri='fd:outgoing')
`;
    const helper = this.stage.start('getfd', ['python3', '-c', script, this.spareMonitor], [undefined, undefined, fd]);
    const code = await helper.exitCode();
    if (code !== 0) throw new Error(`cannot hand QEMU a descriptor: ${helper.complaint()}`);
  }

  /**
   * Lets a migration that has been ordered make `passes` passes over the guest's RAM at a pace that leaves it time to
   * dirty pages, then finishes it. It is to be slowed down by `slowDown` before.
   */
  async finishMigration(passes = 4, seconds = 90): Promise<void> {
    await until(
      async () => {
        const { status, passes: made } = await this.migration();
        return made >= passes || !['setup', 'active', 'none'].includes(status);
      },
      seconds,
      () => `the migration does not make ${passes} passes; ${this.complaint()}`,
    );
    if ((await this.migration()).status === 'active') await this.speedUp();
    await this.waitForMigration('completed', seconds);
  }

  /** Before a migration: `megabytes` in a second, and no end while more than a few pages are dirty. */
  async slowDown(megabytes = 56): Promise<void> {
    // not 0: while a disk's bitmap waits, older QEMUs would never look for dirty pages again
    await this.setParameters({ 'max-bandwidth': megabytes * MIB, 'downtime-limit': 1 });
  }

  async speedUp(): Promise<void> {
    await this.setParameters({ 'max-bandwidth': 10_240 * MIB, 'downtime-limit': 300_000 });
  }

  async quit(): Promise<void> {
    await this.process.kill();
  }
}

const PAGE = 4096;

/** Fails, naming pages, unless the files hold the same; removes them if they do. */
export function assertSameRam(a: readonly string[], b: readonly string[], what: string): void {
  if (a.length !== b.length) throw new Error(`${what}: ${a.length} and ${b.length} ranges of RAM`);
  for (const [index, file] of a.entries()) {
    const other = b[index] ?? '';
    const [sizeA, sizeB] = [statSync(file).size, statSync(other).size];
    if (sizeA !== sizeB) throw new Error(`${what}: ${sizeA} and ${sizeB} bytes of RAM`);
    const [x, y] = [readFileSync(file), readFileSync(other)];
    if (x.equals(y)) continue;
    const pages: string[] = [];
    for (let at = 0; at < x.length; at += PAGE) {
      const [p, q] = [x.subarray(at, at + PAGE), y.subarray(at, at + PAGE)];
      if (!p.equals(q)) pages.push(`${at.toString(16)} (${p.filter((byte, i) => byte !== q[i]).length} bytes)`);
    }
    throw new Error(
      `${what}: RAM differs in ${pages.length} of ${x.length / PAGE} pages, ${basename(file)}: ` +
        pages.slice(0, 5).join(', '),
    );
  }
  for (const file of [...a, ...b]) rmSync(file);
}

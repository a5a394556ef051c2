// A stage is what one test stands on: a folder of its own, and the processes, descriptors and sockets that it uses.
// When the test ends, however it ends, all of them go.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import type { ChildProcess, StdioOptions } from 'node:child_process';
import { closeSync, constants, existsSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { until, within } from '#src/demo/time.js';

/** What a child's descriptors can be: a descriptor of ours or a socket that we have not read from. */
export type Endpoint = number | Socket;

/** Children die with us even if we are killed, where util-linux is there to arrange it. */
const dieWithUs =
  spawnSync('setpriv', ['--pdeathsig', 'KILL', 'true']).status === 0 ? ['setpriv', '--pdeathsig', 'KILL'] : [];

const NO_COMPLAINT = '(nothing on its standard error)';

/** A process that the stage started. */
export class Running {
  readonly pid: number;
  private ended: { code: number | null; signal: NodeJS.Signals | null } | undefined;
  private readonly exit: Promise<void>;

  constructor(
    readonly name: string,
    readonly child: ChildProcess,
    private readonly log: string,
  ) {
    this.pid = child.pid ?? 0;
    this.exit = new Promise((done, failed) => {
      child.once('error', failed);
      child.once('exit', (code, signal) => {
        this.ended = { code, signal };
        done();
      });
    });
    this.exit.catch(() => undefined);
  }

  get hasEnded(): boolean {
    return this.ended !== undefined;
  }

  /** All that it wrote on its standard error, and on its output if that has no other place. */
  said(): string {
    return readFileSync(this.log, 'utf8').trim();
  }

  /** The end of what it wrote on its standard error. */
  complaint(): string {
    const text = this.said();
    return text === '' ? NO_COMPLAINT : text.slice(-1500);
  }

  /** Its exit code, once it has ended by itself; the shell's number if a signal ended it. */
  async exitCode(seconds = 20): Promise<number> {
    await within(this.exit, seconds, () => `${this.name} has not ended: ${this.complaint()}`);
    const { code, signal } = this.ended ?? { code: null, signal: null };
    return code ?? 128 + (signal === 'SIGKILL' ? 9 : 15);
  }

  /** Sends a signal to it alone, not to what it started. */
  signal(name: NodeJS.Signals): void {
    process.kill(this.pid, name);
  }

  async kill(): Promise<void> {
    if (this.ended === undefined && this.pid > 0) {
      try {
        process.kill(-this.pid, 'SIGKILL'); // it leads a group: what it started goes too
      } catch {
        // It ended at this moment.
      }
      await this.exitCode(10);
    }
  }
}

// Without this Node 20 takes its handles apart at the end, and was seen to spin in that for ever (CleanupHandles), after
// all tests had passed. An exit by name skips it, and Node's own word about an exception that nobody caught.
process.once('uncaughtExceptionMonitor', (error) => {
  console.error(error);
});
process.once('exit', (code) => process.exit(code));

const FOLDER = 'pagewire-e2e-';

/** Removes the folders of test runs that were killed: they hold the memory of guests. */
function sweep(): void {
  for (const name of readdirSync(tmpdir())) {
    const pid = name.startsWith(FOLDER) ? /^(\d+)-/.exec(name.slice(FOLDER.length))?.[1] : undefined;
    if (pid !== undefined && !existsSync(`/proc/${pid}`))
      rmSync(join(tmpdir(), name), { recursive: true, force: true });
  }
}
sweep();

export class Stage {
  readonly folder = mkdtempSync(join(tmpdir(), `${FOLDER}${process.pid}-`));
  private readonly atEnd: (() => Promise<void> | void)[] = [];
  private readonly started: Running[] = [];
  private count = 0;

  path(name: string): string {
    return join(this.folder, name);
  }

  /** A path in the folder that nothing has used yet. */
  fresh(name: string): string {
    return this.path(`${(this.count += 1)}-${name}`);
  }

  onEnd(action: () => Promise<void> | void): void {
    this.atEnd.push(action);
  }

  /** Starts a process with standard error in a file. `endpoints` are its descriptors 0, 1, then 3 and so on. */
  start(name: string, command: readonly string[], endpoints: readonly (Endpoint | undefined)[], env = {}): Running {
    const log = this.fresh(`${name}.err`);
    const error = openSync(log, 'w');
    const [input, output, ...more] = endpoints.map((endpoint) => endpoint ?? 'ignore');
    const stdio: StdioOptions = [input ?? 'ignore', output ?? error, error, ...more];
    const [program, ...rest] = [...dieWithUs, ...command];
    if (program === undefined) throw new Error('no command');
    const child = spawn(program, rest, {
      cwd: this.folder,
      stdio,
      detached: true,
      env: { ...process.env, ...env },
    });
    closeSync(error);
    const running = new Running(name, child, log);
    this.started.push(running);
    this.onEnd(() => running.kill());
    return running;
  }

  /** A pipe: what is written to `write` comes out at `read`. Both are closed at the end, or by `close` before it. */
  pipe(name = 'pipe'): { read: number; write: number; path: string } {
    const path = this.fifo(name);
    const both = openSync(path, constants.O_RDWR); // so that neither open below waits for the other
    const ends = { read: openSync(path, constants.O_RDONLY), write: openSync(path, constants.O_WRONLY), path };
    closeSync(both);
    this.open.add(ends.read).add(ends.write);
    return ends;
  }

  fifo(name: string): string {
    const path = this.fresh(`${name}.fifo`);
    execFileSync('mkfifo', [path]);
    return path;
  }

  file(path: string, flags: 'r' | 'w'): number {
    const fd = openSync(path, flags);
    this.open.add(fd);
    return fd;
  }

  private readonly open = new Set<number>();

  /** Lets go of endpoints, mostly after a child has them: an end of file travels only when we hold no copy. */
  close(...endpoints: Endpoint[]): void {
    for (const endpoint of endpoints) {
      if (typeof endpoint !== 'number') endpoint.destroy();
      else if (this.open.delete(endpoint)) closeSync(endpoint);
    }
  }

  /** Listens on a unix socket; `accepted` gets each connection, untouched. */
  async listen(path: string, accepted: (socket: Socket) => void): Promise<void> {
    const server = createServer({ pauseOnConnect: true }, (socket) => {
      socket.on('error', () => undefined);
      this.onEnd(() => {
        socket.destroy();
      });
      accepted(socket);
    });
    await new Promise<void>((done, failed) => {
      server.once('error', failed);
      server.listen(path, done);
    });
    this.onEnd(() => {
      server.close();
    });
  }

  /** Connects to a unix socket as soon as it is there. Nothing is read from it. */
  async connect(path: string, seconds = 10): Promise<Socket> {
    return until(
      () =>
        new Promise<Socket | undefined>((done) => {
          const socket = connect(path);
          socket.pause();
          socket.once('error', () => {
            done(undefined);
          });
          socket.once('connect', () => {
            socket.removeAllListeners('error');
            socket.on('error', () => undefined);
            this.onEnd(() => {
              socket.destroy();
            });
            done(socket);
          });
        }),
      seconds,
      `nothing listens on ${basename(path)}`,
    );
  }

  /** What all its processes had to say. */
  complaints(): string {
    return this.started
      .map((running) => ({ name: running.name, complaint: running.complaint() }))
      .filter(({ complaint }) => complaint !== NO_COMPLAINT)
      .map(({ name, complaint }) => `--- standard error of ${name}:\n${complaint}`)
      .join('\n');
  }

  async end(): Promise<void> {
    for (const action of this.atEnd.reverse()) await action();
    this.close(...this.open);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Runs `test` on a stage of its own. */
export async function onStage<T>(test: (stage: Stage) => Promise<T>): Promise<T> {
  const stage = new Stage();
  try {
    return await test(stage);
  } catch (error) {
    const complaints = stage.complaints();
    if (error instanceof Error && complaints !== '') error.message += `\n${complaints}`;
    throw error;
  } finally {
    await stage.end();
  }
}

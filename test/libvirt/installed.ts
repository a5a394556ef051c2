// The filter as libvirt's daemon would find it: installed below a folder of the test's, run with pipes.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, closeSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FILTER, type Filter, files, FOLDER, make, thisFilter } from '#src/libvirt/install.js';
import type { Program } from '#src/libvirt/programs.js';
import { folder } from '../cli/command.js';

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: Buffer;
  stderr: string;
  /** Whether all of the input was taken. */
  isDrained: boolean;
}

export interface FilterRun {
  args?: readonly string[];
  /** What goes in through a pipe. */
  input?: Uint8Array;
  /** What goes in as a file, of which so many bytes have been read already. */
  file?: { path: string; at: number };
  /** A path that the output goes to, instead of a pipe; `closed` is a pipe that nobody reads. */
  output?: string;
  env?: NodeJS.ProcessEnv;
  /** Put before the program. */
  prefix?: readonly string[];
}

/** An installation that stands for one program. */
export class Installed {
  readonly #t: TestContext;
  readonly path: (name: string) => string;
  readonly program: Program;

  constructor(t: TestContext, program: Program, filter: Filter = thisFilter()) {
    this.#t = t;
    this.path = folder(t);
    this.program = program;
    chmodSync(this.path(''), 0o755); // other users run it, too
    const made = files([program], filter, {});
    make(made, this.path(''));
    // The link leads to where it would stand.
    const link = this.path(join(FOLDER, program));
    spawnSync('ln', ['-sfn', this.path(FILTER), link]);
  }

  /** The daemon's PATH. */
  get searchPath(): string {
    return [this.path(FOLDER), process.env['PATH']].join(delimiter);
  }

  /** A program of the test's own in PATH behind ours, under the same name. */
  standIn(script: string): string {
    mkdirSync(this.path('real'), { recursive: true });
    const path = this.path(`real/${this.program}`);
    writeFileSync(path, script, { mode: 0o755 });
    return [this.path(FOLDER), this.path('real'), process.env['PATH']].join(delimiter);
  }

  /** A file that Node loads before it runs anything, in every thread: environment that does it. */
  preload(script: string, ...options: string[]): NodeJS.ProcessEnv {
    const path = this.path('preload.cjs');
    writeFileSync(path, script);
    return { NODE_OPTIONS: ['--require', path, ...options].join(' ') };
  }

  /** Runs the filter to its end. */
  async run(run: FilterRun): Promise<Ended> {
    const running = this.start(run);
    running.write(run.input ?? Buffer.alloc(0));
    return running.end();
  }

  start({ args = ['-c'], file, output, env, prefix = [] }: FilterRun): RunningFilter {
    const stdin = file === undefined ? 'pipe' : openAt(file.path, file.at);
    const stdout = output === undefined || output === 'closed' ? 'pipe' : openSync(output, 'w');
    const [program = '', ...rest] = [...prefix, this.path(join(FOLDER, this.program)), ...args];
    const child = spawn(program, rest, {
      cwd: '/',
      stdio: [stdin, stdout, 'pipe'],
      env: { ...process.env, PATH: this.searchPath, ...env },
    });
    for (const fd of [stdin, stdout]) if (typeof fd === 'number') closeSync(fd);
    if (output === 'closed') child.stdout?.destroy();
    this.#t.after(() => child.kill('SIGKILL'));
    return new RunningFilter(child);
  }
}

/** A filter under way. */
export class RunningFilter {
  readonly #child: ReturnType<typeof spawn>;
  readonly #out: Buffer[] = [];
  #stderr = '';
  #inputFailed = false;
  #outBytes = 0;
  readonly #ended: Promise<unknown>;

  constructor(child: ReturnType<typeof spawn>) {
    this.#child = child;
    child.stdin?.on('error', () => {
      this.#inputFailed = true;
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr += chunk.toString();
    });
    this.#ended = once(child, 'close');
  }

  /** Puts bytes in; they are taken as the filter takes them. */
  write(bytes: Uint8Array): void {
    this.#child.stdin?.write(bytes);
  }

  /** Waits until so many bytes have come out. */
  async gave(bytes: number): Promise<void> {
    this.#read();
    while (this.#outBytes < bytes) await sleep(5);
  }

  /** Ends the program that the shell runs, as the kernel does where memory is short. */
  async killProgram(): Promise<void> {
    for (;;) {
      const node = below(this.#child.pid!).find((pid) => argumentsOf(pid)[1]?.endsWith('/filter.cjs'));
      if (node !== undefined) {
        process.kill(node, 'SIGKILL');
        return;
      }
      await sleep(5);
    }
  }

  /** The end of the input; how all ended. */
  async end(): Promise<Ended> {
    this.#read();
    this.#child.stdin?.end();
    await this.#ended;
    const { exitCode: code, signalCode: signal } = this.#child;
    const stdout = Buffer.concat(this.#out);
    return { code, signal, stdout, stderr: this.#stderr, isDrained: !this.#inputFailed };
  }

  #read(): void {
    const { stdout } = this.#child;
    if (!stdout || stdout.destroyed || stdout.listenerCount('data') > 0) return;
    stdout.on('data', (chunk: Buffer) => {
      this.#out.push(chunk);
      this.#outBytes += chunk.length;
    });
  }
}

/** A descriptor of a file at a place in it: what it has been read up to by another. */
function openAt(path: string, at: number): number {
  const fd = openSync(path, 'r');
  const { status } = spawnSync('dd', ['bs=1', `count=${at}`, 'status=none', 'of=/dev/null'], { stdio: [fd] });
  if (status !== 0) throw new Error(`dd could not read ${at} bytes of ${path}`);
  return fd;
}

/** All processes that a process started, and those that they did. */
function below(pid: number): number[] {
  try {
    const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
    );
    return children.flatMap((child) => [child, ...below(child)]);
  } catch {
    return []; // it has ended
  }
}

function argumentsOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0');
  } catch {
    return [];
  }
}

// The command line, run as its users run it.
import { type ChildProcess, spawn, type StdioOptions } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';

export const PAGEWIRE = fileURLToPath(new URL('../../../bin/pagewire', import.meta.url));

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: Buffer;
  stderr: string;
}

export interface RunOptions {
  /** What goes in, and the end behind it. */
  input?: Uint8Array;
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** Default: pipes, all of whose output is kept. */
  stdio?: StdioOptions;
  /** Another program that runs pagewire. */
  program?: string;
}

/** A command that runs; killed when the test ends before it. */
export class Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  #stderr = '';
  #isOver = false;
  #stdout: Buffer[] = [];
  #notify = (): void => undefined;

  constructor(t: TestContext, args: readonly string[], { program, cwd, env, stdio = 'pipe' }: RunOptions = {}) {
    const [file, ...first] = program === undefined ? [process.execPath, PAGEWIRE] : [program];
    this.child = spawn(file, [...first, ...args], { cwd, env: { ...process.env, ...env }, stdio });
    t.after(() => {
      this.child.kill('SIGKILL');
    });
    this.child.stdin?.on('error', () => undefined);
    this.child.stdout?.on('data', (chunk: Buffer) => this.#stdout.push(chunk));
    this.child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr += chunk.toString();
      this.#notify();
    });
    this.ended = new Promise((resolve, reject) => {
      this.child.once('error', reject);
      this.child.once('close', (code, signal) => {
        resolve({ code, signal, stdout: Buffer.concat(this.#stdout), stderr: this.#stderr });
        this.#isOver = true;
        this.#notify();
      });
    });
  }

  /** Waits until stderr has such a line. */
  async says(what: RegExp): Promise<string> {
    while (!what.test(this.#stderr)) {
      if (this.#isOver) throw new Error(`it ended without saying ${String(what)}: ${this.#stderr}`);
      await new Promise<void>((resolve) => {
        this.#notify = resolve;
      });
    }
    return this.#stderr;
  }
}

/** The processes of a proxy, by what they are called. */
export function titles({ child: { pid = 0 } }: Running): Map<string, number> {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  return new Map(
    children.map((child) => [readFileSync(`/proc/${child}/cmdline`, 'latin1').split('\0')[0] ?? '', child]),
  );
}

/** Runs pagewire to its end. */
export function pagewire(t: TestContext, args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  const running = new Running(t, args, options);
  running.child.stdin?.end(options.input ?? Buffer.alloc(0));
  return running.ended;
}

/** An empty folder that goes with the test. */
export function folder(t: TestContext): (name: string) => string {
  const path = mkdtempSync(join(tmpdir(), 'pagewire-'));
  t.after(() => {
    rmSync(path, { recursive: true, force: true });
  });
  return (name) => join(path, name);
}

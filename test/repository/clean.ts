import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of package.json (this file runs from build/test/repository). */
export const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

/** The environment without what npm sets for the scripts that it runs, so that an npm in a test starts as a user's. */
export function userEnvironment(changes: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !/^(npm_|INIT_CWD$|NODE_TEST_CONTEXT$)/i.test(name));
  return { ...Object.fromEntries(kept), ...changes };
}

export interface Ended {
  status: number | string;
  output: string;
}

/** Runs a program without input; answers how it ended, with all that it printed. */
export function run(program: string, args: string[], cwd: string, env = userEnvironment()): Promise<Ended> {
  return new Promise((resolve) => {
    const child = execFile(program, args, { cwd, env, maxBuffer: 64 << 20 }, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : (error.code ?? error.signal ?? 'unknown'), output: stdout + stderr });
    });
    child.stdin?.end();
  });
}

/** Runs a program that must succeed; answers what it printed. */
export async function mustRun(program: string, args: string[], cwd: string, env = userEnvironment()): Promise<string> {
  const { status, output } = await run(program, args, cwd, env);
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${status}:\n${output}`);
  return output;
}

/** Runs `body` with an empty folder outside the repository, which goes when it is done. */
export async function withEmptyFolder<T>(body: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'pagewire-'));
  try {
    return await body(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

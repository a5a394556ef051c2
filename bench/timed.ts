// A command's time, of the clock and of the processors.
import { spawn } from 'node:child_process';

/** Seconds. */
export interface Timed {
  readonly wall: number;
  /** User and system, of the command and of all that it started and waited for. */
  readonly cpu: number;
}

/** Runs a shell's command, or a pipeline of several, from one file to another; none of them may fail. */
export async function timed(command: string, input: string, output: string): Promise<Timed> {
  const script = `TIMEFORMAT='%3R %3U %3S'; { time { ${command}; } <"$IN" >"$OUT" 2>&3; } 3>&2 2>&4`;
  // Node reads all of these certificates when it starts, which takes 29 ms here. A libvirt daemon's filter has none to read.
  const { NODE_EXTRA_CA_CERTS: _, ...environment } = process.env;
  const child = spawn('bash', ['-o', 'pipefail', '-c', script], {
    stdio: ['ignore', 'ignore', 'inherit', 'ignore', 'pipe'],
    env: { ...environment, IN: input, OUT: output },
  });
  let said = '';
  child.stdio[4]?.on('data', (text: Buffer) => (said += text.toString()));
  const code = await new Promise((done, failed) => child.once('error', failed).once('close', done));
  if (code !== 0) throw new Error(`exit code ${String(code)}: ${command}`);
  const [wall = NaN, user = NaN, system = NaN] = said.trim().split(/\s+/).map(Number);
  return { wall, cpu: user + system };
}

import { PagewireError } from '../errors.js';
import { simulatedDemo } from '../demo/simulated.js';
import { type DemoReport, render } from '../demo/report.js';
import { EXIT } from '../control/exit.js';
import { tell } from '../control/standard-streams.js';

export interface DemoFlags {
  qemu: boolean;
  json: boolean;
}

/** `pagewire demo` */
export async function demo({ qemu, json }: DemoFlags, signal: AbortSignal): Promise<number> {
  const note = (text: string): void => {
    if (!json) tell(`${text}\n`);
  };
  const report: DemoReport = qemu
    ? await (await import('../demo/qemu.js')).qemuDemo(note, signal)
    : await simulatedDemo(note, signal);
  // A reader such as `head` may have gone.
  process.stdout.on('error', () => undefined);
  process.stdout.write(json ? `${JSON.stringify(report, null, 2)}\n` : render(report));
  const wrong = report.runs.filter((run) => !run.sameRam);
  if (wrong.length > 0) {
    throw new PagewireError('INTERNAL', `the RAM differs after: ${wrong.map((run) => run.name).join(', ')}`);
  }
  return EXIT.ok;
}

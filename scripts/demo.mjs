// `npm run demo [-- OPTIONS]`: sets the clone up and runs `pagewire demo`.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { root, setUpOrExit } from './setup.mjs';

setUpOrExit({ typescript: ['src'] });
const demo = spawn(process.execPath, [join(root, 'bin/pagewire'), 'demo', ...process.argv.slice(2)], {
  stdio: 'inherit',
});
// A signal to the terminal's whole group reaches the demo by itself; one to this process alone is handed on.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => demo.kill(signal));
demo.on('exit', (code, signal) => {
  process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 143);
});

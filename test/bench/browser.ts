// A real browser, without a window.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const SETUP = fileURLToPath(new URL('../../../scripts/chromium/setup.sh', import.meta.url));
const inCi = /^(1|true)$/i.test(process.env['CI'] ?? '');

/** As npm test runs for itself; Chromium needs a sandbox less where it opens nothing but our own page. */
const ALWAYS = ['--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--disable-dev-shm-usage'];

/** Blink's numbers for the scheme that a user prefers. */
const SCHEMES = { dark: 0, light: 1 };
export type Scheme = keyof typeof SCHEMES;

export interface Window {
  width: number;
  height: number;
  scheme: Scheme;
}

/** The browser's command: PAGEWIRE_CHROMIUM, what scripts/chromium/setup.sh has fetched (CI fetches it), or the machine's. */
function find(): string | undefined {
  const named = process.env['PAGEWIRE_CHROMIUM'];
  if (named !== undefined && named !== '') return named;
  const { stdout, stderr, status } = spawnSync(SETUP, inCi ? [] : ['--print'], { encoding: 'utf8' });
  const fetched = /^chromium (.*)$/m.exec(status === 0 ? stdout : '')?.[1];
  if (fetched !== undefined) return fetched;
  if (inCi) console.error(stderr);
  const folders = (process.env['PATH'] ?? '').split(':');
  return ['chromium', 'chromium-browser', 'google-chrome', 'chromium-headless-shell']
    .flatMap((name) => folders.map((folder) => join(folder, name)))
    .find((path) => existsSync(path));
}

const browser = find();

/** Why a test cannot run here; in CI it runs, and fails. */
export const skip =
  browser !== undefined || inCi
    ? false
    : 'PAGEWIRE-NOT-RUN the report in a browser: run scripts/chromium/setup.sh (no root, some 200 MB), or install chromium';

/** Opens a page and gives its document as it stands when all is loaded. */
export function open(url: string, { width, height, scheme }: Window): string {
  if (browser === undefined) throw new Error('no browser: scripts/chromium/setup.sh has failed');
  const view = [`--window-size=${width},${height}`, `--blink-settings=preferredColorScheme=${SCHEMES[scheme]}`];
  const args = ['--headless', ...ALWAYS, ...view, '--virtual-time-budget=5000', '--dump-dom', url];
  const { stdout, stderr, status } = spawnSync(browser, args, {
    encoding: 'utf8',
    timeout: 60_000,
    maxBuffer: 64 << 20,
  });
  if (status !== 0 || stdout === '') throw new Error(`${browser} ended with ${status ?? 'a signal'}: ${stderr}`);
  return stdout;
}

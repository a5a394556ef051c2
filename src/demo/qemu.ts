import type { DemoReport } from './report.js';
export async function qemuDemo(_note: (text: string) => void, _signal: AbortSignal): Promise<DemoReport> {
  return Promise.reject(new Error('not yet'));
}

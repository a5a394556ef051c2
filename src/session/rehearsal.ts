/** What a process that waits for a session does meanwhile: else the session's first moments would go to it. */
import { performance } from 'node:perf_hooks';
import type { End } from './negotiate.js';
import { PROTOCOL, readHello, readOpenWelcome, writeMessage } from './hello.js';

/** How long such a process has been waiting by then, in milliseconds: the session that it was started for goes before. */
const QUIET_MS = 200;

/** To be called when all is loaded, with what there is to do besides; the function that it returns calls it off. */
export function rehearse(
  end: Pick<End, 'program' | 'capabilities' | 'parameters'>,
  others: () => void = () => undefined,
): () => void {
  const timer = setTimeout(() => {
    try {
      others();
    } catch {
      // The session will tell, if that is still so.
    }
    const { program, capabilities, parameters } = end;
    const versions = { protocol: PROTOCOL, program };
    const open = { name: 'rehearsal', token: '0'.repeat(64), capabilities, parameters, require: [] };
    // Parsers are made of their schemas at their first use, which takes longer than a connection's whole set-up.
    readHello(writeMessage({ kind: 'open', ...versions, ...open }), program);
    readOpenWelcome(writeMessage({ ...versions, capabilities, parameters }));
    // Node loads what stands behind these when they are asked for first.
    new AbortController().abort();
    performance.now();
    // Loading leaves a heap that is as full as it may be: the next object would begin a collection.
    globalThis.gc?.();
  }, QUIET_MS).unref();
  return () => {
    clearTimeout(timer);
  };
}

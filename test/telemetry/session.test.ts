// The progress line of a session.
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { carried, type SessionSnapshot } from '#src/session/snapshot.js';
import { sessionLine } from '#src/telemetry/session.js';

it('the progress line tells rates, ratio, pages by kind, cache hits, the queue and the round trip', () => {
  const snapshot: SessionSnapshot = {
    ...carried([]),
    ...{ role: 'source', name: 'vm1', state: 'running', seconds: 2, peer: 'tls:dst:7777', codec: 'zstd', guest: null },
    streamBytes: 64 << 20,
    wire: { out: 16 << 20, in: 0, bytesPerSecond: 0, roundTripMs: 1.26 },
    queue: { bytes: 1 << 20, ms: 41.6 },
    passes: 3,
    pages: { raw: 100, delta: 200, skipped: 30, fill: 4, xbzrle: 0, compressed: 0, deltaBytes: 0 },
    cache: { bytes: 0, budget: 0, pages: 0, hits: 3, misses: 1, evictions: 0 },
  };
  assert.equal(
    sessionLine(snapshot, 32 << 20, 8 << 20),
    '64.0 MiB · 32.0 MiB/s in · 8.00 MiB/s on the wire · 4.00x · pass 3 · ' +
      'pages 100 raw 200 delta 30 skipped 4 zero · cache 75% · queue 42 ms · rtt 1.3 ms',
  );
  assert.match(sessionLine({ ...snapshot, state: 'reconnecting' }, 0, 0), /^reconnecting · /);
});

import { Dialler } from '../session/dial.js';
import { check as ask, type CheckReport } from '../session/check.js';
import { version } from '../session/end.js';
import { connectable, tlsFor } from '../session/endpoints.js';
import { parsePeer } from '../session/peers.js';
import { defaultEnd, defaultMemory, type SourceMemory } from '../session/source-proxy.js';
import { bytes } from '../telemetry/amounts.js';
import { EXIT } from '../control/exit.js';

export interface CheckFlags {
  peer?: string[];
  tlsDir?: string;
  key?: string;
  insecure: boolean;
  libvirt: boolean;
  json: boolean;
}

/** `pagewire check` */
export async function check(text: string, flags: CheckFlags): Promise<number> {
  const endpoint = connectable(text, flags.insecure);
  const identity = tlsFor('source', endpoint.kind === 'tls', (flags.peer ?? []).map(parsePeer), {
    dir: flags.tlsDir,
    key: flags.key,
  });
  const told = await ask(new Dialler([endpoint], identity?.tls ?? null), defaultEnd(flags.libvirt));
  const report = { ...told, here: defaultMemory(told.agreement) };
  process.stdout.write(flags.json ? `${JSON.stringify(report, null, 2)}\n` : render(report));
  return report.refused === undefined ? EXIT.ok : EXIT.link;
}

function render(r: CheckReport & { here: SourceMemory }): string {
  const { program, capabilities, memory, sessions } = r.welcome;
  const { here } = r;
  const key = r.fingerprint ?? 'none: the link is not encrypted';
  const names = r.names.length > 0 ? `, ${r.names.join(', ')}` : '';
  const limit = memory.limit === undefined ? '' : `, limit ${bytes(memory.limit)}`;
  const there = memory.needed === undefined ? '' : `; a session takes up to ${bytes(memory.needed)}`;
  const rows: [string, string][] = [
    ['peer', `${r.address}, pagewire ${program} (this is ${version()})`],
    ['key', `${key}${names}`],
    ['codecs', `${r.agreement.codecs.join(', ')}${capabilities.delta ? '; delta' : '; no delta there'}`],
    ['sessions', `${sessions.now} of at most ${sessions.most}`],
    ['memory there', `${bytes(memory.free)} free${limit}${there}`],
    [
      'memory here',
      `${bytes(here.free)} free; a session takes up to ${bytes(here.needed)}` +
        (r.agreement.delta ? ` and the guest's RAM, of which it has room for ${bytes(here.cache)}` : ''),
    ],
    ['handshake', `${r.handshakeMs.toFixed(1)} ms`],
    ['round trip', r.roundTripMs === undefined ? 'not measured' : `${r.roundTripMs.toFixed(2)} ms`],
    ['rate', `${bytes(r.bytesPerSecond)}/s (${((r.bytesPerSecond * 8) / 1e6).toFixed(0)} Mbit/s)`],
  ];
  if (r.refused !== undefined) rows.push(['refused', r.refused]);
  return rows.map(([what, value]) => `${what.padEnd(14)}${value}\n`).join('');
}

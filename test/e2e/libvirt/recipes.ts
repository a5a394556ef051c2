// The recipes of docs/libvirt.md and docs/libvirt-tunnel.md, run as they stand there: lines that begin with `src# ` on
// host a, with `dst# ` on host b. Only what differs from host to host is put in: the fingerprints of the keys, and the
// hosts' names where a guest goes the other way. The hosts have no systemd: what `systemctl` would start is started as
// the unit says.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { says } from '../harness/proxies.js';
import { root } from '../harness/repository.js';
import type { Running } from '../harness/stage.js';
import { HOSTNAME } from './host.js';
import type { Host, HostName } from './host.js';
import { execStart, startService } from './services.js';

interface Command {
  readonly host: HostName;
  readonly words: string;
  /** What it says, by the document. */
  readonly shown: string;
}

const DOCUMENTS = ['docs/libvirt.md', 'docs/libvirt-tunnel.md'].map((name) => readFileSync(join(root, name), 'utf8'));

/** The commands under a heading, up to the next one. */
export function recipe(heading: string): Command[] {
  const sections = DOCUMENTS.flatMap((document) => document.split(new RegExp(`^#+ ${heading}$`, 'm')).slice(1));
  assert.equal(sections.length, 1, `the documents have not one section '${heading}'`);
  const blocks = [...(sections[0]?.split(/^#+ /m)[0] ?? '').matchAll(/^```text\n([\s\S]*?)^```$/gm)];
  const lines = blocks.map(([, text = '']) => text.replaceAll(/ \\\n\s*/g, ' ')).join('');
  const command = /^(src|dst)# (.*<<'END'\n[^]*?^END$|.*)\n((?:(?!src# |dst# ).*\n)*)/gm;
  const commands = [...lines.matchAll(command)].map(
    ([, where, words = '', shown = '']) => ({ host: where === 'src' ? 'a' : 'b', words, shown }) as const,
  );
  assert.ok(commands.length > 0, `the documents have no commands under '${heading}'`);
  return commands;
}

/** What a recipe has started and left running, by host. */
export interface Proxies {
  source: Running | undefined;
  destination: Running | undefined;
}

const FINGERPRINT = /SHA256:[A-Za-z0-9+/]{43}/;

/** Runs recipes one after the other. Guests go from a to b. */
export class Cook {
  /** Fingerprints: those of the documents, and ours. */
  private readonly keys = new Map<string, string>();
  readonly proxies: Proxies = { source: undefined, destination: undefined };

  constructor(private readonly hosts: Readonly<Record<HostName, Host>>) {}

  /** Runs the commands under a heading; `change` may leave out one, or change it. */
  async run(heading: string, change: (words: string) => string | undefined = (words) => words): Promise<void> {
    for (const { host, words: written } of recipe(heading)) {
      const words = change(this.asHere(written));
      if (words !== undefined) await this.command(host, words);
    }
  }

  /** With our keys, and our hosts' names. */
  private asHere(words: string): string {
    return words
      .replaceAll(new RegExp(FINGERPRINT, 'g'), (key) => this.keys.get(key) ?? key)
      .replaceAll(/\b(?:src|dst)\b/g, (name) => HOSTNAME[this.hosts[name === 'src' ? 'a' : 'b'].name]);
  }

  private async command(name: HostName, words: string): Promise<void> {
    const host = this.hosts[name];
    const service = /^systemctl enable --now (\S+)$/.exec(words)?.[1];
    const run = service === undefined ? words : execStart(host, service);
    const role = /^(?:\S+ )*pagewire proxy (source|destination) /.exec(run)?.[1] as
      'source' | 'destination' | undefined;
    if (role === undefined) {
      const said = await host.run(['sh', '-c', words], 90);
      if (words.startsWith('pagewire keygen')) this.learn(name, FINGERPRINT.exec(said)?.[0]);
      return;
    }
    if (role === 'destination') await this.end('destination');
    const proxy =
      service === undefined
        ? host.start(`proxy-${role}`, ['sh', '-c', `exec ${words}`])
        : await startService(host, service);
    this.proxies[role] = proxy;
    await says(proxy, role === 'source' ? /waiting for (?:QEMU|libvirt) on/ : /listening on/, 30);
  }

  /** In the documents, the first key is that of the source, the second that of the destination. */
  private learn(name: HostName, ours: string | undefined): void {
    assert.ok(ours !== undefined, 'pagewire keygen tells no fingerprint');
    const shown = [...DOCUMENTS.join('\n').matchAll(new RegExp(FINGERPRINT, 'g'))].map(([key]) => key);
    const [source, destination, ...more] = new Set(shown);
    assert.ok(source !== undefined && destination !== undefined && more.length === 0, 'two keys are to be shown');
    this.keys.set(name === 'a' ? source : destination, ours);
  }

  /** Ends a proxy that a recipe has left running. */
  async end(role: 'source' | 'destination'): Promise<void> {
    await this.proxies[role]?.kill();
    this.proxies[role] = undefined;
  }

  /** Ends all that recipes have left running. */
  async endAll(): Promise<void> {
    await Promise.all([this.end('source'), this.end('destination')]);
  }

  /** The proxy that a recipe has started. */
  proxy(role: 'source' | 'destination'): Running {
    return this.proxies[role] ?? assert.fail(`no proxy ${role} was started`);
  }
}

// The recipes of docs/libvirt.md, run as they stand there: lines that begin with `src# ` on host a, with `dst# ` on
// host b. Only what differs from host to host is put in: the fingerprints of the keys.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { says } from '../harness/proxies.js';
import { root } from '../harness/repository.js';
import type { Running } from '../harness/stage.js';
import type { Hosts } from './host.js';

interface Command {
  readonly host: 'a' | 'b';
  readonly words: string;
}

/** The commands under a heading, up to the next one. */
export function recipe(heading: string): Command[] {
  const document = readFileSync(join(root, 'docs/libvirt.md'), 'utf8');
  const [, section] = document.split(new RegExp(`^#+ ${heading}$`, 'm'));
  assert.ok(section !== undefined, `docs/libvirt.md has no section '${heading}'`);
  const blocks = [...(section.split(/^#/m)[0] ?? '').matchAll(/^```text\n([\s\S]*?)^```$/gm)];
  const lines = blocks.map(([, text = '']) => text.replaceAll(/ \\\n\s*/g, ' ')).join('');
  const commands = [...lines.matchAll(/^(src|dst)# (.*)$/gm)].map(
    ([, where, words = '']) => ({ host: where === 'src' ? 'a' : 'b', words }) as const,
  );
  assert.ok(commands.length > 0, `docs/libvirt.md has no commands under '${heading}'`);
  return commands;
}

/** What a recipe has started and left running, by host. */
export interface Proxies {
  source: Running | undefined;
  destination: Running | undefined;
}

const FINGERPRINT = /SHA256:[A-Za-z0-9+/]{43}/;

/** Runs recipes one after the other. */
export class Cook {
  /** Fingerprints: those of the document, by whose they are, and ours. */
  private readonly keys = new Map<string, string>();
  readonly proxies: Proxies = { source: undefined, destination: undefined };

  constructor(private readonly hosts: Hosts) {}

  /** Runs the commands under a heading; `change` may leave out one, or change it. */
  async run(heading: string, change: (words: string) => string | undefined = (words) => words): Promise<void> {
    for (const { host, words: written } of recipe(heading)) {
      const words = change(this.withOurKeys(written));
      if (words !== undefined) await this.command(host, words);
    }
  }

  private withOurKeys(words: string): string {
    return words.replaceAll(new RegExp(FINGERPRINT, 'g'), (key) => this.keys.get(key) ?? key);
  }

  private async command(name: 'a' | 'b', words: string): Promise<void> {
    const host = this.hosts[name];
    const role = /^(?:\S+ )*pagewire proxy (source|destination) /.exec(words)?.[1] as
      'source' | 'destination' | undefined;
    const command = ['sh', '-c', `exec ${words}`];
    if (role === undefined) {
      const said = await host.run(['sh', '-c', words], 90);
      if (words.startsWith('pagewire keygen')) this.learn(name, FINGERPRINT.exec(said)?.[0]);
      return;
    }
    if (role === 'destination') await this.end('destination');
    const proxy = host.start(`proxy-${role}`, command);
    this.proxies[role] = proxy;
    await says(proxy, role === 'source' ? /waiting for QEMU on/ : /listening on/, 30);
  }

  /** In the document, the first key is that of the source, the second that of the destination. */
  private learn(name: 'a' | 'b', ours: string | undefined): void {
    assert.ok(ours !== undefined, 'pagewire keygen tells no fingerprint');
    const document = readFileSync(join(root, 'docs/libvirt.md'), 'utf8');
    const [source, destination] = new Set([...document.matchAll(new RegExp(FINGERPRINT, 'g'))].map(([key]) => key));
    const theirs = name === 'a' ? source : destination;
    assert.ok(theirs !== undefined, 'docs/libvirt.md shows no two keys');
    this.keys.set(theirs, ours);
  }

  /** Ends a proxy that a recipe has left running. */
  async end(role: 'source' | 'destination'): Promise<void> {
    await this.proxies[role]?.kill();
    this.proxies[role] = undefined;
  }

  /** The proxy that a recipe has started. */
  proxy(role: 'source' | 'destination'): Running {
    return this.proxies[role] ?? assert.fail(`no proxy ${role} was started`);
  }
}

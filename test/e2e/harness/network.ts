// A network of its own for two proxies, whose packets are dropped by nft. (QEMUs stay outside: they speak to the
// proxies over unix sockets, which know of no network.)
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { cache, fetchMissing } from './qemus.js';
import type { Stage } from './stage.js';

/** The machine's nft, or the one that scripts/qemu/setup.sh has fetched. */
function nft(): string | undefined {
  if (spawnSync('nft', ['--version']).status === 0) return 'nft';
  fetchMissing('nft');
  const fetched = join(cache, 'nft/nft');
  return existsSync(fetched) ? fetched : undefined;
}

/** What this machine lacks for network namespaces that drop packets, in words, or undefined. */
export function namespacesLack(): string | undefined {
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  if (spawnSync('ip', ['-V']).status !== 0) return 'no ip: install iproute2';
  if (nft() === undefined) return 'no nft: run scripts/qemu/setup.sh nft, or install nftables';
  return undefined;
}

let count = 0;

export class DroppingNetwork {
  /** Put before a command, it runs in this network. */
  readonly prefix: readonly string[];

  private constructor(name: string) {
    this.prefix = ['ip', 'netns', 'exec', name];
  }

  static create(stage: Stage): DroppingNetwork {
    const name = `pagewire-${process.pid}-${(count += 1)}`;
    execFileSync('ip', ['netns', 'add', name]);
    stage.onEnd(() => {
      execFileSync('ip', ['netns', 'delete', name]);
    });
    const network = new DroppingNetwork(name);
    network.run('ip', 'link', 'set', 'lo', 'up');
    // Packets as on a wire, not of 64 KiB: so that one of them is lost now and then.
    network.run('ip', 'link', 'set', 'lo', 'mtu', '1500');
    network.nft('add table inet loss');
    network.nft('add chain inet loss input { type filter hook input priority 0; }');
    return network;
  }

  private run(...command: string[]): void {
    const [program = '', ...rest] = [...this.prefix, ...command];
    execFileSync(program, rest, { stdio: ['ignore', 'ignore', 'pipe'] });
  }

  private nft(rule: string): void {
    this.run(nft() ?? 'nft', rule);
  }

  /** From here on so many in a hundred packets are lost. */
  drop(percent: number): void {
    this.nft('flush chain inet loss input');
    if (percent >= 100) this.nft('add rule inet loss input drop');
    else if (percent > 0) this.nft(`add rule inet loss input numgen random mod 100 < ${percent} drop`);
  }
}

import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { PagewireError } from '../errors.js';
import { native } from '../native.js';
import { codecNumber, CODECS } from '../codecs.js';
import type { Variant } from './variant.js';
import { blockVariants } from './variants/blocks.js';
import { chainVariants } from './variants/chains.js';
import { deltaVariants } from './variants/deltas.js';
import { npmVariants } from './variants/npm.js';

/** The variants there are, in their order; a name stands for one of them. */
export class Registry {
  readonly #variants = new Map<string, Variant>();

  /** All that pagewire brings, our block codecs at chosen levels or at every one; those whose npm package is not installed are among them, as missing. */
  static async builtIn({ everyLevel = false } = {}): Promise<Registry> {
    const registry = new Registry();
    registry.add(...blockVariants(everyLevel), ...(await npmVariants()), ...deltaVariants(), ...chainVariants());
    return registry;
  }

  /** @throws PagewireError with the code BAD_OPTION where one is no variant, or its name is taken. */
  add(...variants: readonly Variant[]): this {
    for (const variant of variants) {
      const fault = faultOf(variant);
      if (fault !== undefined) throw new PagewireError('BAD_OPTION', `${nameOf(variant)}: ${fault}`);
      if (this.#variants.has(variant.name)) {
        throw new PagewireError('BAD_OPTION', `${nameOf(variant)}: there is one of that name: give it another`);
      }
      this.#variants.set(variant.name, variant);
    }
    return this;
  }

  /** Adds what a module exports as its default: a variant or an array of them. */
  async load(path: string): Promise<this> {
    let module: { default?: unknown };
    try {
      module = (await import(pathToFileURL(resolve(path)).href)) as { default?: unknown };
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new PagewireError('OPEN_FAILED', `cannot load the variants of ${path}: ${reason}`, { cause: error });
    }
    if (module.default === undefined) {
      throw new PagewireError('BAD_OPTION', `${path} has no default export: a variant or an array of them is needed`);
    }
    // What somebody else's module holds is looked at by `add`.
    return this.add(...([module.default].flat() as Variant[]));
  }

  /** Those whose name has one of these texts in it; all of them where there is none. */
  variants(filter: readonly string[] = []): Variant[] {
    const all = [...this.#variants.values()];
    return filter.length === 0 ? all : all.filter(({ name }) => filter.some((text) => name.includes(text)));
  }
}

function nameOf(variant: unknown): string {
  const name = isObject(variant) ? variant['name'] : undefined;
  return typeof name === 'string' && name !== '' ? `the variant ${JSON.stringify(name)}` : 'a variant';
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

/** What is wrong with it, where anything is: it may come from a module that no compiler has seen. */
function faultOf(variant: unknown): string | undefined {
  if (!isObject(variant)) return 'an object is needed';
  const { name, kind, codec, level, blockSize, settings, afterBulk, cachePercent } = variant;
  // A name is a cell of tables and a label of plots.
  if (typeof name !== 'string' || !/^[\x20-\x7e]{1,40}$/.test(name)) {
    return 'a name of 1 to 40 printable ASCII characters is needed';
  }
  if ('missing' in variant) return undefined;
  const lacks = (method: string): boolean => typeof variant[method] !== 'function';
  switch (kind) {
    case 'block':
      if (blockSize !== undefined && !(Number.isInteger(blockSize) && isWithin(blockSize as number, 512, 4 << 20))) {
        return 'blockSize is from 512 to 4194304 bytes';
      }
      if ('codec' in variant) return levelFault(codec, level);
      return lacks('pack') || lacks('unpack') ? 'a block variant has the methods pack and unpack' : undefined;
    case 'delta':
      if ('rival' in variant) return undefined;
      return lacks('encode') || lacks('decode') ? 'a delta variant has the methods encode and decode' : undefined;
    case 'chain':
      if (!isObject(settings)) return "a chain variant has settings, the encoder's";
      if (cachePercent !== undefined && !(typeof cachePercent === 'number' && isWithin(cachePercent, 1, 1000))) {
        return 'cachePercent is from 1 to 1000';
      }
      if (afterBulk === undefined) return undefined;
      return isObject(afterBulk) ? levelFault(afterBulk['codec'], afterBulk['level']) : 'afterBulk has codec and level';
    default:
      return `its kind is ${JSON.stringify(kind)}: one of block, delta, chain`;
  }
}

function levelFault(codec: unknown, level: unknown): string | undefined {
  const known = CODECS.find((name) => name === codec);
  if (known === undefined) return `codec is one of ${CODECS.join(', ')}`;
  const [lowest, highest] = native.codecLevels(codecNumber(known));
  const fits = Number.isInteger(level) && isWithin(level as number, lowest, highest);
  return fits ? undefined : `level of ${known} is from ${lowest} to ${highest}`;
}

function isWithin(value: number, least: number, most: number): boolean {
  return value >= least && value <= most;
}

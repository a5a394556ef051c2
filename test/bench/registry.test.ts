import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { Registry } from '#src/bench/registry.js';
import type { Variant } from '#src/index.js';
import { folder } from '../cli/command.js';

const same = (bytes: Uint8Array): Uint8Array => bytes;

describe('the registry', () => {
  it('has each name once, and gives those that a filter names', async () => {
    const registry = await Registry.builtIn();
    const names = registry.variants().map(({ name }) => name);
    assert.equal(new Set(names).size, names.length);
    assert.ok(names.length > 40);
    const some = registry.variants(['xor', 'stored']).map(({ name }) => name);
    assert.ok(some.length > 2 && some.every((name) => /xor|stored/.test(name)));
    assert.throws(() => registry.add({ kind: 'block', name: 'stored', pack: same, unpack: same }), {
      code: 'BAD_OPTION',
      message: 'the variant "stored": there is one of that name: give it another',
    });
  });

  it('has every level of every codec, where that is asked for', async () => {
    const names = (await Registry.builtIn({ everyLevel: true })).variants().map(({ name }) => name);
    const upTo = (codec: string, highest: number): string[] =>
      Array.from({ length: highest }, (_, n) => `${codec} ${n + 1}`);
    for (const name of [...upTo('lz4', 12), ...upTo('zlib', 12), ...upTo('zstd', 19), 'zstd -64', 'stored']) {
      assert.ok(names.includes(name), name);
    }
  });

  const faults: [what: string, variant: unknown, message: RegExp][] = [
    ['nothing', undefined, /^a variant: an object is needed$/],
    ['no name', { kind: 'block', pack: same, unpack: same }, /a name of 1 to 40/],
    ['a name that breaks tables', { kind: 'block', name: 'a\nb', pack: same, unpack: same }, /a name of 1 to 40/],
    [
      'an unknown kind',
      { kind: 'page', name: 'x' },
      /^the variant "x": its kind is "page": one of block, delta, chain$/,
    ],
    ['a block without unpack', { kind: 'block', name: 'x', pack: same }, /the methods pack and unpack/],
    ['a delta without decode', { kind: 'delta', name: 'x', encode: same }, /the methods encode and decode/],
    [
      'a chain with a level that there is not after the first pass',
      { kind: 'chain', name: 'x', settings: {}, afterBulk: { codec: 'zstd', level: 99 } },
      /level of zstd is from -100 to 19/,
    ],
    [
      'a chain with no codec after the first pass',
      { kind: 'chain', name: 'x', settings: {}, afterBulk: 'zstd' },
      /afterBulk has codec and level/,
    ],
    ['a cache of no size', { kind: 'chain', name: 'x', settings: {}, cachePercent: NaN }, /cachePercent is from 1/],
    ['a chain without settings', { kind: 'chain', name: 'x' }, /has settings/],
    [
      'a level that there is not',
      { kind: 'block', name: 'x', codec: 'zstd', level: 20 },
      /level of zstd is from -100 to 19/,
    ],
    [
      'blocks of no size',
      { kind: 'block', name: 'x', pack: same, unpack: same, blockSize: 0 },
      /blockSize is from 512/,
    ],
  ];
  for (const [what, variant, message] of faults) {
    it(`refuses ${what}`, () => {
      assert.throws(() => new Registry().add(variant as Variant), { code: 'BAD_OPTION', message });
    });
  }

  it("loads a module's variants, and says what is wrong with a module", async (t) => {
    const path = folder(t);
    const module = (name: string, text: string): string => {
      writeFileSync(path(name), text);
      return path(name);
    };
    const one = module('one.mjs', `export default { kind: 'chain', name: 'mine', settings: { codec: 'lz4' } };`);
    assert.deepEqual(
      (await new Registry().load(one)).variants().map(({ name }) => name),
      ['mine'],
    );
    const none = module('none.mjs', 'export const variants = [];');
    await assert.rejects(new Registry().load(none), { code: 'BAD_OPTION', message: /has no default export/ });
    const broken = module('broken.mjs', 'export default [');
    await assert.rejects(new Registry().load(broken), { code: 'OPEN_FAILED', message: /cannot load the variants of/ });
    await assert.rejects(new Registry().load(path('gone.mjs')), { code: 'OPEN_FAILED' });
  });
});

// docs/inspect.md describes every field of the JSON, and no other, and the command's options.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { inspection, VERSION } from '#src/inspect/schema.js';
import { pagewire } from '../cli/command.js';

const document = readFileSync(fileURLToPath(new URL('../../../docs/inspect.md', import.meta.url)), 'utf8');
const firstColumn = (section: string): string[] => {
  const text = document.split(/^## /m).find((part) => part.startsWith(section)) ?? '';
  return [...text.matchAll(/^\| `([^`]+)` \|/gm)].map(([, name = '']) => name);
};

/** As much of a JSON schema as ours needs. */
interface Schema {
  properties?: Record<string, Schema>;
  items?: Schema;
  anyOf?: Schema[];
}

/** Names of what is no object, and of tallies, which are described apart. */
function fields({ properties, items, anyOf }: Schema, name = ''): string[] {
  if (items) return fields(items, `${name}[]`);
  if (anyOf)
    return anyOf.filter(isPart).length === 0 ? [name] : anyOf.filter(isPart).flatMap((its) => fields(its, name));
  if (!properties || 'xbzrle' in properties) return [name];
  return Object.entries(properties).flatMap(([key, its]) => fields(its, name === '' ? key : `${name}.${key}`));
}

function isPart(schema: Schema): boolean {
  return schema.properties !== undefined || schema.items !== undefined;
}

describe('docs/inspect.md', () => {
  it('describes every field, and no other', () => {
    assert.deepEqual(firstColumn('JSON').sort(), fields(z.toJSONSchema(inspection) as Schema).sort());
    assert.ok(document.includes(`| \`version\` | the version of this description: ${VERSION} |`));
  });

  it('describes every option', async (t) => {
    const { stdout } = await pagewire(t, ['inspect', '--help']);
    const [, options = ''] = /Options:\n([\s\S]*?)\n\n/.exec(stdout.toString()) ?? [];
    const told = [...options.matchAll(/^ {2}(--[\w-]+)/gm)].map(([, name]) => name);
    const documented = [...document.matchAll(/^\| `(--[\w-]+)/gm)].map(([, name]) => name);
    assert.deepEqual(documented.sort(), told.sort());
  });
});

// Writes src/demo/guest.ts: the assembled test/e2e/guest/bare.S, so that `pagewire demo --qemu` and the end-to-end
// tests need no assembler.
//
//   node scripts/qemu/make-demo-guest.mjs           needs as and ld (binutils, x86)
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** The flat image that bare.S makes. */
export function assemble() {
  const work = mkdtempSync(join(tmpdir(), 'pagewire-guest-'));
  try {
    const [object, image] = [join(work, 'bare.o'), join(work, 'bare.bin')];
    execFileSync('as', ['--32', '-o', object, join(root, 'test/e2e/guest/bare.S')]);
    execFileSync('ld', ['-m', 'elf_i386', '--oformat', 'binary', '-Ttext', '0x100000', '-o', image, object]);
    return readFileSync(image);
  } finally {
    rmSync(work, { recursive: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const lines = assemble()
    .toString('base64')
    .match(/.{1,112}/g)
    .map((line) => `  '${line}',`);
  writeFileSync(
    join(root, 'src/demo/guest.ts'),
    `// Made by scripts/qemu/make-demo-guest.mjs from test/e2e/guest/bare.S, which says what it does: change it there.

/** A multiboot kernel for QEMU's -kernel: a guest that dirties memory as its command line says. */
export const guestImage: Uint8Array = Buffer.from(
  [
${lines.map((line) => `  ${line}`).join('\n')}
  ].join(''),
  'base64',
);
`,
  );
}

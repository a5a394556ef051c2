/**
 * What contrib/libvirt/filter.sh runs: `filter.cjs save` or `filter.cjs restore [N]`, from standard input to standard
 * output; of a file, N bytes have been read already.
 *
 * It loads the pipeline and nothing else, in one script (scripts/bundle.mjs), since the guest stands still while it starts.
 * What libvirt expects of a filter that fails is the shell's to do, also where this cannot start.
 */
import { plain, replaceStandardStreams, tell } from '../control/standard-streams.js';

/** What it exits with; the shell knows the last one, where some of a stream that cannot be restored is out. */
const EXIT = { ok: 0, failed: 1, someIsOut: 32 };

async function save(): Promise<number> {
  const [{ Encoder }, { saveProfile }] = await Promise.all([
    import('../pipeline/encoder.js'),
    import('../pipeline/save.js'),
  ]);
  await new Encoder({ ...saveProfile(), input: 0, output: 1 }).done;
  return EXIT.ok;
}

async function restore(alreadyRead: number): Promise<number> {
  const [{ Decoder }, { native }] = await Promise.all([import('../pipeline/decoder.js'), import('../native.js')]);
  if (alreadyRead > 0) native.rewind(0, alreadyRead);
  const decoder = new Decoder({ input: 0, output: 1 });
  try {
    await decoder.done;
    return EXIT.ok;
  } catch (error) {
    say(error);
    return decoder.snapshot().totals.bytesOut > 0 ? EXIT.someIsOut : EXIT.failed;
  }
}

/** The line that the shell looks for. */
function say(error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  tell(`pagewire: ${plain(message).replaceAll('\n', ' ')}\n`);
}

// What Node makes of these two would be non-blocking for libvirt and QEMU too.
replaceStandardStreams('stdout', 'stderr');
const [, , direction, alreadyRead = '0'] = process.argv;
const done = direction === 'restore' ? restore(Number(alreadyRead)) : save();
done.then(
  (code) => process.exit(code),
  (error: unknown) => {
    say(error);
    process.exit(EXIT.failed);
  },
);

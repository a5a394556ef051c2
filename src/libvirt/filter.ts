/**
 * What contrib/libvirt/filter.sh runs: `filter.js save` or `filter.js restore`, from standard input to standard output.
 *
 * It loads the pipeline and nothing else, since the guest stands still while it starts. What libvirt expects of a
 * filter that fails is the shell's to do, also where this cannot start.
 */
import { plain, replaceStandardStreams, tell } from '../cli/run.js';

/** What it exits with; the shell knows the last one, where some of a stream that cannot be restored is out. */
const EXIT = { ok: 0, failed: 1, someIsOut: 32 };

async function save(): Promise<number> {
  const [{ Encoder }, { SAVE_SETTINGS }] = await Promise.all([
    import('../pipeline/encoder.js'),
    import('./settings.js'),
  ]);
  await new Encoder({ ...SAVE_SETTINGS, input: 0, output: 1 }).done;
  return EXIT.ok;
}

async function restore(): Promise<number> {
  const { Decoder } = await import('../pipeline/decoder.js');
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
try {
  process.exit(await (process.argv[2] === 'restore' ? restore() : save()));
} catch (error) {
  say(error);
  process.exit(EXIT.failed);
}

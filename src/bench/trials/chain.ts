import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { PagewireError } from '../../errors.js';
import { native, type NativeTotals } from '../../native.js';
import { Decoder } from '../../pipeline/decoder.js';
import { Encoder } from '../../pipeline/encoder.js';
import { checkEncoder, type EncoderSettings } from '../../pipeline/settings.js';
import type { Sample } from '../sample.js';
import type { ChainVariant } from '../variant.js';
import type { Timing, Trial, Turn } from './trial.js';

/** How often the encoder is asked for its pass, in milliseconds. */
const ASK_MS = 2;

/** The page cache's own word for each page of the guest's RAM, in bytes (native/core/src/page_cache). */
const INDEX_WORD = 4;
/** What a page's copy takes beside the page, in bytes. */
const SLOT = 8;

/** The real encoder and the real decoder, from file to file; all of the sample in every turn. */
export class ChainTrial implements Trial {
  readonly variant: ChainVariant;
  readonly #sample: Sample;
  readonly #folder: string;
  readonly #signal: AbortSignal;

  constructor(variant: ChainVariant, sample: Sample, folder: string, signal: AbortSignal) {
    this.variant = variant;
    this.#sample = sample;
    this.#folder = folder;
    this.#signal = signal;
  }

  async warm(): Promise<Turn> {
    const turn = await this.turn();
    await this.#verify();
    return turn;
  }

  async turn(): Promise<Turn> {
    const { settings, afterBulk } = this.variant;
    const encoded = join(this.#folder, 'encoded');
    const [encode, encoder] = await between(this.#sample.path, encoded, async (input, output) => {
      const options = { ...settings, ...this.#cacheSize(), input, output, signal: this.#signal };
      const encoder = new Encoder(options);
      let refusal: unknown;
      const asking =
        afterBulk &&
        setInterval(() => {
          if ((encoder.snapshot().delta?.passes.length ?? 0) < 2) return;
          clearInterval(asking);
          try {
            encoder.setCodec(afterBulk.codec, afterBulk.level);
          } catch (error) {
            refusal = error;
            encoder.stop();
          }
        }, ASK_MS);
      try {
        await encoder.done;
      } catch (error) {
        throw refusal ?? error;
      } finally {
        clearInterval(asking);
      }
      return encoder;
    });
    const first = checkEncoder(settings);
    const { totals, delta, codec, level } = encoder.snapshot();
    const { hits = 0, misses = 0, bytes = 0 } = delta?.cache ?? {};
    const turn = {
      rawBytes: totals.bytesIn,
      packedBytes: totals.bytesOut,
      memoryBytes: Math.max(first.fixedMemory(first.codec, first.level), first.fixedMemory(codec, level)) + bytes,
      encode: timing(encode, totals),
      ...(delta && hits + misses > 0 && { cache: { bytes, hitRate: hits / (hits + misses) } }),
    };
    if (settings.stock) return { ...turn, decode: undefined };
    const [decode, decoder] = await between(encoded, this.#decoded, async (input, output) => {
      const decoder = new Decoder({ input, output, threads: settings.threads, signal: this.#signal });
      await decoder.done;
      return decoder;
    });
    return { ...turn, decode: timing(decode, decoder.snapshot().totals) };
  }

  get #decoded(): string {
    return join(this.#folder, this.variant.settings.stock ? 'encoded' : 'decoded');
  }

  /** A share of what the pages that come with content need, with the index of the whole guest. */
  #cacheSize(): Pick<EncoderSettings, 'cacheSize'> {
    const { cachePercent } = this.variant;
    if (cachePercent === undefined) return {};
    const { ramBytes, pageSize, distinct } = this.#sample.facts;
    const index = (ramBytes / Math.max(pageSize, 1)) * INDEX_WORD;
    return { cacheSize: { bytes: Math.ceil(index + (distinct * (pageSize + SLOT) * cachePercent) / 100) } };
  }

  /** Without delta every byte is as it was; with it, the destination has what it would have had. */
  async #verify(): Promise<void> {
    const { delta = true } = this.variant.settings;
    const isSame = delta
      ? (await native.streamRamDigest(this.#decoded)) === (await native.streamRamDigest(this.#sample.path))
      : (await sha256(this.#decoded)) === this.#sample.digest;
    if (!isSame) throw new PagewireError('INTERNAL', 'what was decoded is not what was encoded');
  }
}

/** Runs `work` from one file to another; what it gives, after the seconds that it took. */
async function between<T>(
  from: string,
  to: string,
  work: (input: number, output: number) => Promise<T>,
): Promise<[seconds: number, result: T]> {
  const input = await open(from, 'r');
  try {
    const output = await open(to, 'w');
    try {
      const began = performance.now();
      const result = await work(input.fd, output.fd);
      return [(performance.now() - began) / 1000, result];
    } finally {
      await output.close();
    }
  } finally {
    await input.close();
  }
}

/** CPU time of the flow's own threads and its workers. */
function timing(seconds: number, totals: NativeTotals): Timing {
  return { seconds, cpuSeconds: totals.sourceCpuSeconds + totals.codecCpuSeconds + totals.sinkCpuSeconds };
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

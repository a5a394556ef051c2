import { type Codec, codecNumber } from '../codecs.js';
import { events, type Guest, native, type NativeDelta, type NativeTotals } from '../native.js';
import type { Input, Output } from './descriptors.js';
import type { StreamEnd } from './lane.js';
import { PagewireError } from '../errors.js';
import { bytes as amount } from '../telemetry/amounts.js';
import { type CheckedSettings, checkEncoder, checkLevel, type EncoderSettings } from './settings.js';
import { Transfer } from './transfer.js';

export interface EncoderOptions extends EncoderSettings {
  /** The stream to encode. */
  input: Input;
  /** Where the frames go; with `stock`, the filtered stream itself. */
  output: Output;
  /** Called once the stream has named the guest's RAM, before the cache is made. */
  onGuest?: ((guest: Guest) => void) | undefined;
  /** Ends the encoder when it is aborted. */
  signal?: AbortSignal | undefined;
}

/** What has happened so far. */
export interface EncoderSnapshot {
  totals: NativeTotals;
  /** Undefined where the encoder works without delta. */
  delta: NativeDelta | undefined;
  /** Undefined until the stream has named the guest's RAM. */
  guest: Guest | undefined;
  codec: Codec;
  level: number;
}

/** A stream on its way from QEMU to frames. */
export class Encoder {
  readonly #transfer: Transfer;
  readonly #delta: boolean;
  readonly #settings: CheckedSettings;
  #codec: Codec;
  #level: number;
  /** What the page cache may take by {@link setCacheBytes}, in bytes. */
  #cacheBytes: number | undefined;
  #last: EncoderSnapshot | undefined;

  constructor(options: EncoderOptions) {
    const settings = checkEncoder(options);
    this.#settings = settings;
    this.#codec = settings.codec;
    this.#level = settings.level;
    this.#delta = settings.native.delta !== undefined;
    const direct = { codec: codecNumber(this.#codec), level: this.#level };
    const nativeOptions = { ...settings.native, threads: settings.threads, direct };
    this.#transfer = new Transfer({
      input: options.input,
      output: options.output,
      signal: options.signal,
      start: (input, output, listener) =>
        native.NativeFlow.encode(input, output, nativeOptions, (event, slot, bytes) => {
          if (event === events.guest) this.#tellGuest(options.onGuest);
          else listener(event, slot, bytes);
        }),
      closing: () => {
        this.#last = this.snapshot();
      },
    });
  }

  /** Resolves once all is written; rejects with a PagewireError. */
  get done(): Promise<StreamEnd> {
    return this.#transfer.done;
  }

  /** What has happened so far, or in all once {@link done} is settled. */
  snapshot(): EncoderSnapshot {
    if (this.#last) return this.#last;
    const { flow } = this.#transfer;
    return {
      totals: flow.totals(),
      delta: this.#delta ? flow.delta() : undefined,
      guest: flow.guest() ?? undefined,
      codec: this.#codec,
      level: this.#level,
    };
  }

  /**
   * Changes codec and level, from the next frame on.
   *
   * @throws PagewireError with the code BAD_OPTION, also where they need more memory than there is beside the cache.
   */
  setCodec(codec: Codec, level: number): void {
    checkLevel(codec, level);
    const { fixedMemory, memoryLimit } = this.#settings;
    const needed = fixedMemory(codec, level);
    // Before the guest is known the cache has taken nothing: it gets what is left.
    const cache = this.#last ? 0 : this.#cache();
    if (needed > fixedMemory(this.#codec, this.#level) && needed + cache > memoryLimit) {
      throw new PagewireError(
        'BAD_OPTION',
        `${codec} with level ${level} needs ${amount(needed)} of memory, which does not fit beside a page cache of ` +
          `${amount(cache)} in the limit of ${amount(memoryLimit)}: setCacheBytes can make room`,
      );
    }
    this.#codec = codec;
    this.#level = level;
    if (!this.#last) this.#transfer.flow.setDirect(codecNumber(codec), level);
  }

  /** Switches delta off or on, from the next read on; the stream stays right either way. */
  setDelta(on: boolean): void {
    if (!this.#last) this.#transfer.flow.setDelta(on);
  }

  /** Grows or shrinks the page cache, to bytes with its metadata; to no more than the memory limit leaves. */
  setCacheBytes(bytes: number): void {
    if (this.#last) return;
    this.#cacheBytes = Math.min(bytes, this.#room());
    this.#transfer.flow.setCacheBytes(this.#cacheBytes);
  }

  /** Ends at once, without an end mark; {@link done} rejects with the code STOPPED. */
  stop(): void {
    this.#transfer.stop();
  }

  /** What the memory limit leaves to the page cache, in bytes. */
  #room(): number {
    const { fixedMemory, memoryLimit } = this.#settings;
    return Math.max(memoryLimit - fixedMemory(this.#codec, this.#level), 0);
  }

  /** What the page cache may take now, in bytes. */
  #cache(): number {
    if (!this.#delta) return 0;
    return this.#cacheBytes ?? this.#transfer.flow.guest()?.cacheGranted ?? 0;
  }

  #tellGuest(onGuest: EncoderOptions['onGuest']): void {
    const guest = this.#transfer.flow.guest();
    if (!guest) return;
    // The codec that was planned with may not be the one that packs.
    if (this.#cache() > this.#room()) this.setCacheBytes(this.#room());
    onGuest?.(guest);
  }
}

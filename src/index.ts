/**
 * pagewire as a library: a virtual machine's memory stream in, far fewer bytes out, and back.
 *
 * Both ends work between file descriptors, without a byte passing through JavaScript; Node streams are taken as well
 * and copied.
 */
import { Decoder, type DecoderOptions } from './pipeline/decoder.js';
import { Encoder, type EncoderOptions } from './pipeline/encoder.js';
import { SourceProxy, type SourceProxySettings } from './session/source-proxy.js';
import { type LogEntry, logTo } from './telemetry/log.js';

/**
 * Starts to encode `input` into `output`.
 *
 * @throws PagewireError with the code BAD_OPTION, BAD_DESCRIPTOR or OUT_OF_MEMORY; what fails later rejects `done`.
 */
export function createEncoder(options: EncoderOptions): Encoder {
  return new Encoder(options);
}

/**
 * Starts to decode the frames of `input` into `output`.
 *
 * @throws PagewireError with the code BAD_OPTION or BAD_DESCRIPTOR; what fails later rejects `done`.
 */
export function createDecoder(options: DecoderOptions): Decoder {
  return new Decoder(options);
}

export interface SourceProxyOptions extends SourceProxySettings {
  /** Called with each line of the log. */
  onLog?: ((entry: LogEntry) => void) | undefined;
}

/**
 * Starts to wait for QEMU, in whose place the destination's proxy then talks to the other QEMU: `pagewire proxy source`.
 *
 * @throws PagewireError with the code BAD_OPTION, BAD_IDENTITY, LISTEN_FAILED or OUT_OF_MEMORY; what fails later rejects
 * `done`.
 */
export function createSourceProxy({ onLog, ...settings }: SourceProxyOptions): SourceProxy {
  return new SourceProxy(settings, logTo('proxy source', onLog ?? (() => undefined)));
}

export {
  type ArchiveIndex,
  type ArchiveInfo,
  type BaseOptions,
  flatten,
  type FlattenOptions,
  type Flattening,
  type PageOptions,
  readInfo,
  readPage,
  salvage,
  type SalvagedFile,
  type SalvageOptions,
  type VerifiedFile,
  verifyFile,
} from './archive/index.js';
export {
  bench,
  type BenchOptions,
  type BenchReport,
  type BlockVariant,
  type ChainVariant,
  type DeltaVariant,
  type Variant,
} from './bench/index.js';
export { type Codec, CODECS } from './codecs.js';
export { ERROR_CODES, type ErrorCode, PagewireError } from './errors.js';
export type { Guest, PageCounts, Pass } from './native.js';
export type { Decoder, DecoderOptions, DecoderSnapshot } from './pipeline/decoder.js';
export type { Input, Output } from './pipeline/descriptors.js';
export type { Encoder, EncoderOptions, EncoderSnapshot } from './pipeline/encoder.js';
export type { StreamEnd } from './pipeline/lane.js';
export type { CacheSize, EncoderSettings } from './pipeline/settings.js';
export type { InDoubt, SessionEnd } from './session/outcome.js';
export type { SessionSnapshot } from './session/snapshot.js';
export type { SourceProxy, SourceProxySettings } from './session/source-proxy.js';
export type { LogEntry } from './telemetry/log.js';

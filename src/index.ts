/**
 * pagewire as a library: a virtual machine's memory stream in, far fewer bytes out, and back.
 *
 * Both ends work between file descriptors, without a byte passing through JavaScript; Node streams are taken as well
 * and copied.
 */
import { Decoder, type DecoderOptions } from './pipeline/decoder.js';
import { Encoder, type EncoderOptions } from './pipeline/encoder.js';

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

export { type Codec, CODECS } from './codecs.js';
export { ERROR_CODES, type ErrorCode, PagewireError } from './errors.js';
export type { Guest, PageCounts, Pass } from './native.js';
export type { Decoder, DecoderOptions, DecoderSnapshot } from './pipeline/decoder.js';
export type { Input, Output } from './pipeline/descriptors.js';
export type { Encoder, EncoderOptions, EncoderSnapshot } from './pipeline/encoder.js';
export type { StreamEnd } from './pipeline/lane.js';
export type { CacheSize, EncoderSettings } from './pipeline/settings.js';

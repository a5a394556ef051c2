/** The links that what was measured is held against. */
export const LINKS: readonly { name: string; bytesPerSecond: number }[] = [
  { name: '0.2 Gbit/s', bytesPerSecond: 25e6 },
  { name: '1 Gbit/s', bytesPerSecond: 125e6 },
  { name: '10 Gbit/s', bytesPerSecond: 1250e6 },
  { name: '25 Gbit/s', bytesPerSecond: 3125e6 },
];

/**
 * Seconds for `rawBytes` to reach the other end of a link of `bytesPerSecond` as `wireBytes`: encoder, link and decoder
 * work at the same time, so it is what the slowest of the three takes. The two speeds count raw bytes.
 */
export function secondsOver(
  bytesPerSecond: number,
  work: { rawBytes: number; wireBytes: number; encodeBytesPerSecond: number; decodeBytesPerSecond: number },
): number {
  return Math.max(
    work.rawBytes / work.encodeBytesPerSecond,
    work.wireBytes / bytesPerSecond,
    work.rawBytes / work.decodeBytesPerSecond,
  );
}

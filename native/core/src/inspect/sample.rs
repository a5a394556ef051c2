//! Frames from all over a stream, and what codecs make of them.

use crate::checksum::xxh3_64;
use crate::codec::{Codec, Packer, Unpacker};
use crate::descriptor::thread_cpu_ns;
use std::hint::black_box;
use std::time::Duration;

/// Bytes of the stream in a frame: what an encoder packs at a time.
pub const FRAME: usize = 1 << 20;

/// Frames that are kept.
pub const MAX_FRAMES: usize = 64;

/// How far apart the frames are that are measured one after the other, so that a measurement that runs out of time has
/// seen the whole stream.
const STRIDE: usize = 8;

/// What unpacks to something else than was packed: a fault of ours or of a codec's library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame that was packed to be measured does not unpack to what it was")]
pub struct Mismatch;

/// What a codec made of a sample on this machine, on one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Frames that were packed and unpacked.
    pub frames: u64,
    /// Bytes of them.
    pub raw: u64,
    /// Bytes as packed; of a frame that does not get smaller, those of the frame.
    pub packed: u64,
    /// CPU time of packing and the checksum.
    pub pack: Duration,
    /// CPU time of unpacking and the checksum.
    pub unpack: Duration,
}

/// Evenly spread frames of a stream whose length is not known beforehand: every frame, then every second one, every
/// fourth, as it goes on.
#[derive(Default)]
pub struct Sample {
    frames: Vec<Vec<u8>>,
    /// One frame in so many is kept, in powers of two.
    stride_bits: u32,
    /// Number of the frame that comes.
    number: u64,
    /// Bytes of it so far.
    filled: usize,
}

impl Sample {
    /// The next bytes of the stream.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(FRAME - self.filled));
            if self.number & ((1 << self.stride_bits) - 1) == 0 {
                if self.filled == 0 {
                    self.begin_frame();
                }
                if let Some(frame) = self.frames.last_mut() {
                    frame.extend_from_slice(piece);
                }
            }
            self.filled += piece.len();
            if self.filled == FRAME {
                self.filled = 0;
                self.number += 1;
            }
            bytes = rest;
        }
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.frames.iter().map(|frame| frame.len() as u64).sum()
    }

    /// One frame in so many is in it.
    #[must_use]
    pub fn one_in(&self) -> u64 {
        1 << self.stride_bits
    }

    /// Packs and unpacks frames until all are done or so much CPU time is spent, at least one.
    ///
    /// # Errors
    /// If a frame does not come back as it was.
    pub fn measure(&self, codec: Codec, level: i32, limit: Duration) -> Result<Measured, Mismatch> {
        let mut packer = Packer::new();
        let mut unpacker = Unpacker::new();
        let mut packed = vec![0; FRAME];
        let mut unpacked = vec![0; FRAME];
        let mut measured = Measured::default();
        let order = (0..STRIDE).flat_map(|from| (from..self.frames.len()).step_by(STRIDE));
        if let Some(first) = self.frames.first() {
            // The contexts are made, and their memory is touched, before the clock runs.
            packer.pack(codec, level, first, &mut packed);
        }
        for frame in order.map(|number| &self.frames[number]) {
            let began = thread_cpu_ns();
            let length = packer.pack(codec, level, frame, &mut packed);
            let payload = length.map_or(&frame[..], |length| &packed[..length]);
            black_box(xxh3_64(payload));
            let between = thread_cpu_ns();
            black_box(xxh3_64(payload));
            let out = &mut unpacked[..frame.len()];
            let codec = if length.is_some() { codec } else { Codec::None };
            let result = unpacker.unpack(codec, payload, out);
            let ended = thread_cpu_ns();
            if result.is_err() || out != frame {
                return Err(Mismatch);
            }
            measured.frames += 1;
            measured.raw += frame.len() as u64;
            measured.packed += payload.len() as u64;
            measured.pack += Duration::from_nanos(between - began);
            measured.unpack += Duration::from_nanos(ended - between);
            if measured.pack + measured.unpack >= limit {
                break;
            }
        }
        Ok(measured)
    }

    fn begin_frame(&mut self) {
        if self.frames.len() == MAX_FRAMES {
            self.stride_bits += 1;
            let mut number = 0;
            self.frames.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        // The number of frames before it is even, so this one is among those that are kept.
        self.frames.push(Vec::with_capacity(FRAME));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames that tell their number.
    fn sample(frames: u64, tail: usize) -> Sample {
        let mut sample = Sample::default();
        let mut frame = vec![0; FRAME];
        for number in 0..frames {
            frame[..8].copy_from_slice(&number.to_le_bytes());
            sample.add(&frame[..100]);
            sample.add(&frame[100..]);
        }
        sample.add(&frame[..tail]);
        sample
    }

    fn numbers(sample: &Sample) -> Vec<u64> {
        let number = |frame: &Vec<u8>| u64::from_le_bytes(*frame.first_chunk().expect("8 bytes"));
        sample.frames.iter().map(number).collect()
    }

    #[test]
    fn frames_are_spread_evenly() {
        assert_eq!(numbers(&sample(5, 0)), [0, 1, 2, 3, 4]);
        let all = sample(64, 0);
        assert_eq!((all.frames.len(), all.one_in()), (64, 1));
        let half = sample(65, 0);
        assert_eq!((half.frames.len(), half.one_in()), (33, 2));
        let more = sample(300, 10);
        assert_eq!(more.one_in(), 8);
        assert_eq!(
            numbers(&more),
            (0..300).step_by(8).collect::<Vec<_>>(),
            "every eighth"
        );
    }

    #[test]
    fn a_codec_is_measured_by_what_comes_back() {
        let sample = sample(3, 70_000);
        for codec in Codec::ALL {
            let measured = sample
                .measure(codec, 1, Duration::from_secs(60))
                .expect("the same");
            assert_eq!((measured.frames, measured.raw), (4, sample.bytes()));
            if codec == Codec::None {
                assert_eq!(measured.packed, measured.raw);
            } else {
                assert!(measured.packed < measured.raw / 10);
            }
        }
        let cut = sample.measure(Codec::Zstd, 19, Duration::ZERO);
        assert_eq!(cut.expect("the same").frames, 1);
        let none = Sample::default().measure(Codec::Lz4, 1, Duration::ZERO);
        assert_eq!(none, Ok(Measured::default()));
    }
}

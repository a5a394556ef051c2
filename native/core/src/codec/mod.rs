//! Block codecs behind one interface: a frame's payload in, a packed one out, and back.
//!
//! A block is packed by itself, so that any worker can unpack it without the blocks before it. A block that would not
//! become smaller is not packed ([`Packer::pack`] says so, and the frame stores it), so nothing expands.

mod lz4_block;
mod zlib;
mod zstd;

use thiserror::Error;

/// How a frame's payload is packed. The numbers are the wire's (docs/format.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Stored as it is.
    None = 0,
    /// An LZ4 block (no LZ4 frame around it).
    Lz4 = 1,
    /// A zlib stream (RFC 1950).
    Zlib = 2,
    /// One Zstandard frame, without a dictionary.
    Zstd = 3,
}

/// Level 0 stands for this one, as each codec's own library has it.
const DEFAULT_LEVELS: [i32; 4] = [0, 1, 6, 3];

impl Codec {
    /// Every codec, in the order of its number.
    pub const ALL: [Codec; 4] = [Codec::None, Codec::Lz4, Codec::Zlib, Codec::Zstd];

    /// The number on the wire.
    pub fn to_byte(self) -> u8 {
        self as u8
    }

    /// The codec with this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The name that users give.
    pub fn name(self) -> &'static str {
        ["none", "lz4", "zlib", "zstd"][self as usize]
    }

    /// The levels that can be asked for; 0, the codec's default, is always among them.
    ///
    /// lz4: 1 and 2 are the fast compressor, 3 to 12 lz4hc, and below 0 ever faster. zlib: 1 to 12 as libdeflate has
    /// them. zstd: 1 to 19, and below 0 ever faster (20 and up want windows larger than a frame, for nothing).
    pub fn levels(self) -> std::ops::RangeInclusive<i32> {
        match self {
            Codec::None => 0..=0,
            Codec::Lz4 => -100..=12,
            Codec::Zlib => 0..=12,
            Codec::Zstd => -100..=19,
        }
    }

    /// The level that is meant: 0 is the codec's default.
    pub fn effective_level(self, level: i32) -> i32 {
        if level == 0 {
            DEFAULT_LEVELS[self as usize]
        } else {
            level
        }
    }

    /// Bytes of working memory of one thread that packs blocks of `block` bytes, at the most.
    pub fn packer_bytes(self, level: i32, block: usize) -> u64 {
        match self {
            Codec::None => 0,
            Codec::Lz4 => lz4_block::context_bytes(self.effective_level(level)),
            Codec::Zlib => zlib::context_bytes(self.effective_level(level)),
            Codec::Zstd => zstd::context_bytes(self.effective_level(level), block),
        }
    }
}

/// Why a packed block cannot be unpacked.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnpackError {
    /// The codec's library refused the bytes.
    #[error("{0}")]
    Corrupt(String),
    /// The block unpacks to another number of bytes than was said.
    #[error("it unpacks to {actual} bytes, expected {expected}")]
    Length {
        /// As the frame's header says.
        expected: usize,
        /// As it turned out.
        actual: usize,
    },
}

/// The packing contexts of one thread; each is made when it is first needed.
#[derive(Default)]
pub struct Packer {
    zlib: zlib::Packer,
    zstd: zstd::Packer,
}

impl Packer {
    /// No context yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Packs `raw` into `out` and gives the length, or `None` where the result would not be shorter than `raw`
    /// (then the frame is to be stored). `out` needs no more than `raw.len()` bytes.
    pub fn pack(&mut self, codec: Codec, level: i32, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        let room = raw.len().saturating_sub(1).min(out.len());
        let out = &mut out[..room];
        if room == 0 {
            return None;
        }
        let level = codec.effective_level(level);
        match codec {
            Codec::None => None,
            Codec::Lz4 => lz4_block::pack(level, raw, out),
            Codec::Zlib => self.zlib.pack(level, raw, out),
            Codec::Zstd => self.zstd.pack(level, raw, out),
        }
    }
}

/// The unpacking contexts of one thread; each is made when it is first needed.
#[derive(Default)]
pub struct Unpacker {
    zlib: zlib::Unpacker,
    zstd: zstd::Unpacker,
}

impl Unpacker {
    /// No context yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unpacks `packed` into `out`, which is exactly as long as the block was.
    ///
    /// # Errors
    /// If the bytes are not a block of this codec or unpack to another length. `out` then holds nothing of use.
    pub fn unpack(
        &mut self,
        codec: Codec,
        packed: &[u8],
        out: &mut [u8],
    ) -> Result<(), UnpackError> {
        let expected = out.len();
        let actual = match codec {
            Codec::None if packed.len() == expected => {
                out.copy_from_slice(packed);
                expected
            }
            Codec::None => packed.len(),
            Codec::Lz4 => lz4_block::unpack(packed, out)?,
            Codec::Zlib => self.zlib.unpack(packed, out)?,
            Codec::Zstd => self.zstd.unpack(packed, out)?,
        };
        if actual == expected {
            Ok(())
        } else {
            Err(UnpackError::Length { expected, actual })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Text-like, then random, then constant: each codec finds something to do and something it cannot do.
    fn sample(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        (0..len)
            .map(|i| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                match i * 3 / len.max(1) {
                    0 => b"row= acct= bal= st=|"[i % 20] ^ u8::from(state % 9 == 0),
                    1 => state as u8,
                    _ => 0,
                }
            })
            .collect()
    }

    #[test]
    fn every_codec_and_level_gives_back_what_it_took() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        for codec in Codec::ALL {
            for level in codec.levels().filter(|level| *level > -8 || *level == -100) {
                for len in [1, 2, 17, 4096, 200_000] {
                    let raw = sample(len, 42);
                    let mut packed = vec![0; len];
                    let Some(n) = packer.pack(codec, level, &raw, &mut packed) else {
                        continue;
                    };
                    assert!(n < len);
                    let mut back = vec![1; len];
                    assert_eq!(
                        unpacker.unpack(codec, &packed[..n], &mut back),
                        Ok(()),
                        "{codec:?} {level} {len}"
                    );
                    assert_eq!(back, raw, "{codec:?} {level} {len}");
                }
            }
        }
    }

    #[test]
    fn random_bytes_are_left_to_be_stored_and_text_is_not() {
        let mut packer = Packer::new();
        let (random, text) = (
            sample(300_000, 7)[100_001..200_000].to_vec(),
            sample(300_000, 7)[..99_999].to_vec(),
        );
        let mut out = vec![0; 100_000];
        for codec in [Codec::Lz4, Codec::Zlib, Codec::Zstd] {
            assert_eq!(packer.pack(codec, 1, &random, &mut out), None, "{codec:?}");
            assert!(
                packer.pack(codec, 1, &text, &mut out).is_some(),
                "{codec:?}"
            );
        }
    }

    #[test]
    fn a_wrong_length_is_told() {
        let raw = sample(50_000, 3);
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        for codec in [Codec::Lz4, Codec::Zlib, Codec::Zstd] {
            let mut packed = vec![0; raw.len()];
            let n = packer.pack(codec, 0, &raw, &mut packed).expect("packs");
            for wrong in [0, 1, raw.len() - 1, raw.len() + 1] {
                assert!(
                    unpacker
                        .unpack(codec, &packed[..n], &mut vec![0; wrong])
                        .is_err(),
                    "{codec:?} {wrong}"
                );
            }
            assert!(
                unpacker
                    .unpack(codec, &packed[..n - 1], &mut vec![0; raw.len()])
                    .is_err()
            );
        }
    }

    #[test]
    fn memory_is_told_for_every_codec_and_level() {
        for codec in [Codec::Lz4, Codec::Zlib, Codec::Zstd] {
            for level in codec.levels() {
                let bytes = codec.packer_bytes(level, 1 << 20);
                assert!(
                    (1..256 << 20).contains(&bytes),
                    "{codec:?} {level}: {bytes}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_unpacked_but_never_panic(
            packed in proptest::collection::vec(any::<u8>(), 0..2000), len in 0usize..5000,
        ) {
            let mut unpacker = Unpacker::new();
            for codec in Codec::ALL {
                let _ = unpacker.unpack(codec, &packed, &mut vec![0; len]);
            }
        }
    }
}

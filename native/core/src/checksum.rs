//! XXH3, the checksum of frames and of content: as fast as memory, and known to other programs (`xxhsum`).

use twox_hash::{XxHash3_64, XxHash3_128};

/// XXH3-64 of these bytes, seed 0.
#[inline]
#[must_use]
pub fn xxh3_64(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// XXH3-128 of bytes that come in pieces, seed 0.
#[derive(Default)]
pub struct ContentHash(XxHash3_128);

impl ContentHash {
    /// Of no bytes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The hash of all bytes so far.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.0.finish_128()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `xxhsum -H3` and `xxhsum -H2` print them.
    #[test]
    fn known_hashes() {
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(
            ContentHash::new().digest(),
            0x99aa_06d3_0147_98d8_6001_c324_468d_497f
        );
    }

    #[test]
    fn pieces_make_the_whole() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| ((i * i) >> 3) as u8).collect();
        for cut in [0, 1, 240, 241, 1024, 4999] {
            let mut pieces = ContentHash::new();
            pieces.update(&bytes[..cut]);
            pieces.update(&bytes[cut..]);
            let mut whole = ContentHash::new();
            whole.update(&bytes);
            assert_eq!(pieces.digest(), whole.digest());
        }
    }
}

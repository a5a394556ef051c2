//! Pages that hold what another page holds.

use crate::checksum::xxh3_64;
use std::collections::HashMap;

/// Contents that are remembered: 7 GiB of different pages of 4 KiB, in 36 MiB of memory (a table of 2^21 places, seven
/// eighths of them full).
pub const MAX_CONTENTS: usize = (1 << 21) / 8 * 7;

/// Counts pages whose content went by before. Contents are told apart by XXH3-64. Where there are more than
/// [`MAX_CONTENTS`], half of all hashes are not looked at any more, then three quarters, and so on, and each that still is
/// stands for as many as that: the count is exact up to there and an estimate beyond.
#[derive(Default)]
pub struct Contents {
    /// The last page with that content. The map's own hash keeps what a hostile stream can do to it small.
    seen: HashMap<u64, u64>,
    /// So many low bits of a hash must be zero.
    bits: u32,
    equal: u64,
    looked_at: u64,
}

impl Contents {
    /// The next page's content.
    pub fn add(&mut self, page: u64, content: &[u8]) {
        self.add_hash(page, xxh3_64(content), MAX_CONTENTS);
    }

    #[inline]
    fn add_hash(&mut self, page: u64, hash: u64, most: usize) {
        self.looked_at += 1;
        if !self.is_looked_at(hash) {
            return;
        }
        match self.seen.insert(hash, page) {
            Some(before) if before != page => self.equal = self.equal.saturating_add(self.one_in()),
            Some(_) => {}
            None if self.seen.len() > most => self.halve(),
            None => {}
        }
    }

    #[inline]
    fn is_looked_at(&self, hash: u64) -> bool {
        self.bits == 0 || hash.trailing_zeros() >= self.bits
    }

    #[cold]
    fn halve(&mut self) {
        self.bits = (self.bits + 1).min(u64::BITS - 1);
        let bits = self.bits;
        self.seen.retain(|hash, _| hash.trailing_zeros() >= bits);
    }

    /// Pages whose content another page had before, as far as that is remembered.
    #[must_use]
    pub fn equal(&self) -> u64 {
        self.equal
    }

    /// Pages in all.
    #[must_use]
    pub fn looked_at(&self) -> u64 {
        self.looked_at
    }

    /// One in so many contents is remembered: 1 means that the count is exact.
    #[must_use]
    pub fn one_in(&self) -> u64 {
        1 << self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_elsewhere_counts_the_same_page_does_not() {
        let mut contents = Contents::default();
        for (page, byte) in [(0, 1), (1, 2), (2, 1), (0, 1), (0, 1), (1, 2)] {
            contents.add(page, &[byte; 4096]);
        }
        // Page 2 has what page 0 had; then page 0 has what page 2 had last.
        assert_eq!(
            (contents.equal(), contents.looked_at(), contents.one_in()),
            (2, 6, 1)
        );
    }

    #[test]
    fn beyond_the_bound_it_estimates() {
        let mut contents = Contents::default();
        // Each content three times, at three pages.
        for page in 0..300_000u64 {
            let hash = xxh3_64(&(page % 100_000).to_le_bytes());
            contents.add_hash(page, hash, 10_000);
        }
        assert!(contents.seen.len() <= 10_001);
        assert_eq!(contents.one_in(), 16);
        let equal = contents.equal() as f64;
        assert!((equal / 200_000.0 - 1.0).abs() < 0.05, "{equal}");
    }

    #[test]
    fn hashes_of_zero_are_no_harm() {
        let mut contents = Contents::default();
        for page in 0..200 {
            contents.add_hash(page, 0, 0);
        }
        assert_eq!(contents.seen.len(), 1);
    }
}

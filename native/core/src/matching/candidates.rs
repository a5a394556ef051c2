//! Where runs of bytes stood before, by their hash. What is found here is a candidate, to be compared byte by byte.
//!
//! Many threads look and write at once without a lock: a word is one candidate whole, and one that is lost, or wrong, costs
//! a reference and nothing else.

use super::mapping::{HUGE, Mapping, Pages};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Candidates of one bucket: half a cache line, so that each look costs one miss.
pub(super) const WAYS: usize = 4;

/// The low bits of a word are the offset in the original stream, modulo 1 TiB, the others of the hash. 0 is none.
const OFFSET_BITS: u32 = 40;
const OFFSETS: u64 = (1 << OFFSET_BITS) - 1;

pub(super) struct Candidates {
    memory: Mapping,
    buckets: u64,
}

impl Candidates {
    /// Bytes of memory for a window with an anchor every `spacing` bytes.
    pub(super) fn bytes(window: u64, spacing: u32) -> u64 {
        Self::buckets(window, spacing) * (WAYS * 8) as u64
    }

    fn buckets(window: u64, spacing: u32) -> u64 {
        (window / u64::from(spacing) / WAYS as u64)
            .max(1)
            .next_power_of_two()
    }

    pub(super) fn new(window: u64, spacing: u32) -> io::Result<Self> {
        let memory = Mapping::new(Self::bytes(window, spacing), Pages::Huge)?;
        // They are written at random, so the first page speaks for all.
        memory.take(0, HUGE);
        Ok(Candidates {
            memory,
            buckets: Self::buckets(window, spacing),
        })
    }

    fn bucket(&self, hash: u64) -> &[AtomicU64] {
        // SAFETY: the memory is used through this function only.
        let words = unsafe { self.memory.words(0) };
        let at = (hash & (self.buckets - 1)) as usize * WAYS;
        &words[at..at + WAYS]
    }

    /// Has the bucket of a hash fetched, to be there when it is looked at.
    pub(super) fn prefetch(&self, hash: u64) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch touches nothing, and the address is one of ours.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.bucket(hash).as_ptr().cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = hash;
    }

    /// The offsets before `here` at which the run may stand that has this hash.
    pub(super) fn look(&self, hash: u64, here: u64) -> impl Iterator<Item = u64> {
        let bucket = self.bucket(hash);
        let words: [u64; WAYS] = std::array::from_fn(|way| bucket[way].load(Ordering::Relaxed));
        words
            .into_iter()
            .filter(move |word| *word != 0 && (word ^ hash) >> OFFSET_BITS == 0)
            .filter_map(move |word| here.checked_sub(back(word, here)))
    }

    /// Notes where a run stands, before the others of its bucket. The last of them, mostly the oldest, is forgotten.
    pub(super) fn note(&self, hash: u64, offset: u64) {
        let bucket = self.bucket(hash);
        let mut word = hash & !OFFSETS | offset & OFFSETS;
        for place in bucket {
            let next = place.load(Ordering::Relaxed);
            place.store(word, Ordering::Relaxed);
            word = next;
        }
    }
}

/// How far before `here` the offset of a word is.
fn back(word: u64, here: u64) -> u64 {
    here.wrapping_sub(word) & OFFSETS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_found() {
        let candidates = Candidates::new(1 << 20, 64).expect("memory");
        let hash = 0xabcd_ef01_2345_6789;
        for offset in [100, 200, 300, 400, 500] {
            candidates.note(hash, offset);
        }
        let mut found: Vec<u64> = candidates.look(hash, 1000).collect();
        found.sort_unstable();
        assert_eq!(found, [200, 300, 400, 500]);
        assert_eq!(candidates.look(hash ^ 1 << 60, 1000).count(), 0);
    }

    #[test]
    fn offsets_go_beyond_what_a_word_holds() {
        let candidates = Candidates::new(1 << 20, 64).expect("memory");
        let (hash, far) = (77 << 40, (5 << 40) - 10);
        candidates.note(hash, far);
        let found: Vec<u64> = candidates.look(hash, far + 30).collect();
        assert_eq!(found, [far]);
    }
}

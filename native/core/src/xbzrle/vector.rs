//! What an encoder asks of an instruction set: the mask of the bytes in which two blocks of 64 differ, and
//! which masks have any bit.

/// The bytes that one mask covers.
pub(super) const BLOCK: usize = 64;

/// The masks that are looked at together: those of 4 KiB, the whole page nearly always.
pub(super) const BLOCKS: usize = 64;

/// How many bytes ahead of the comparison both pages are fetched. Pages that lie in L2 pay a few percent for it, those
/// that do not gain more. The last blocks fetch the beginning of what lies behind the pages, which in a stream and in a
/// cache filled from one is often the next page.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 1024;

/// One instruction set.
pub(super) trait Differ {
    /// Bit `i` is set where byte `i` of the blocks differs.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn differ(old: &[u8; BLOCK], new: &[u8; BLOCK]) -> u64;

    /// Bit `i` is set where mask `i` is not 0.
    ///
    /// # Safety
    /// As [`Differ::differ`].
    #[inline(always)]
    unsafe fn nonzero(masks: &[u64; BLOCKS]) -> u64 {
        masks
            .iter()
            .rev()
            .fold(0, |nonzero, &mask| nonzero << 1 | u64::from(mask != 0))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86_64 {
    use std::arch::x86_64::*;

    use super::{AHEAD, BLOCK, BLOCKS, Differ};

    /// Fetches what the comparison will come to. An address behind the page does no harm: a prefetch never faults.
    #[inline(always)]
    fn fetch_ahead(old: &[u8; BLOCK], new: &[u8; BLOCK]) {
        for block in [old, new] {
            // SAFETY: every x86-64 has SSE, and the instruction reads nothing that the program could see.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(AHEAD).cast()) };
        }
    }

    pub(in super::super) struct Avx2;

    impl Differ for Avx2 {
        #[inline(always)]
        unsafe fn differ(old: &[u8; BLOCK], new: &[u8; BLOCK]) -> u64 {
            fetch_ahead(old, new);
            // SAFETY: the caller vouches for AVX2; the unaligned loads read the 32 bytes at 0 and at 32 of a block of 64.
            unsafe {
                let equal = |at: usize| {
                    let old = _mm256_loadu_si256(old.as_ptr().add(at).cast());
                    let new = _mm256_loadu_si256(new.as_ptr().add(at).cast());
                    u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(old, new)) as u32)
                };
                !(equal(0) | equal(32) << 32)
            }
        }

        #[inline(always)]
        unsafe fn nonzero(masks: &[u64; BLOCKS]) -> u64 {
            let mut zero = 0;
            for (at, four) in masks.chunks_exact(4).enumerate() {
                // SAFETY: the caller vouches for AVX2; the unaligned load reads four masks.
                let zero_of_4 = unsafe {
                    let four = _mm256_loadu_si256(four.as_ptr().cast());
                    _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(
                        four,
                        _mm256_setzero_si256(),
                    )))
                };
                zero |= (zero_of_4 as u64) << (4 * at);
            }
            !zero
        }
    }

    #[cfg(pagewire_avx512)]
    pub(in super::super) struct Avx512Bw;

    #[cfg(pagewire_avx512)]
    #[allow(clippy::incompatible_msrv)] // the cfg is there only where the compiler has them
    impl Differ for Avx512Bw {
        #[inline(always)]
        unsafe fn differ(old: &[u8; BLOCK], new: &[u8; BLOCK]) -> u64 {
            // SAFETY: the caller vouches for AVX-512BW; the unaligned loads read a block of 64 bytes each.
            unsafe {
                let old = _mm512_loadu_si512(old.as_ptr().cast());
                let new = _mm512_loadu_si512(new.as_ptr().cast());
                _mm512_cmpneq_epi8_mask(old, new)
            }
        }

        #[inline(always)]
        unsafe fn nonzero(masks: &[u64; BLOCKS]) -> u64 {
            let mut nonzero = 0;
            for (at, eight) in masks.chunks_exact(8).enumerate() {
                // SAFETY: the caller vouches for AVX-512; the unaligned load reads eight masks.
                let nonzero_of_8 = unsafe {
                    let eight = _mm512_loadu_si512(eight.as_ptr().cast());
                    _mm512_test_epi64_mask(eight, eight)
                };
                nonzero |= u64::from(nonzero_of_8) << (8 * at);
            }
            nonzero
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod aarch64 {
    use std::arch::aarch64::*;

    use super::{BLOCK, Differ};

    pub(in super::super) struct Neon;

    /// The bit that a byte has in a mask of eight, twice.
    static BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];

    impl Differ for Neon {
        #[inline(always)]
        unsafe fn differ(old: &[u8; BLOCK], new: &[u8; BLOCK]) -> u64 {
            // SAFETY: the caller vouches for NEON; the loads read 16 bytes at 0, 16, 32 and 48 of a block of 64, and the
            // 16 of BITS.
            unsafe {
                let bits = vld1q_u8(BITS.as_ptr());
                let differing = |at: usize| {
                    let equal = vceqq_u8(
                        vld1q_u8(old.as_ptr().add(at)),
                        vld1q_u8(new.as_ptr().add(at)),
                    );
                    vbicq_u8(bits, equal)
                };
                // Adding neighbours three times makes one byte of the eight bits of eight bytes.
                let low = vpaddq_u8(differing(0), differing(16));
                let high = vpaddq_u8(differing(32), differing(48));
                let sums = vpaddq_u8(low, high);
                vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)))
            }
        }
    }
}

//! What an encoder asks of an instruction set: the mask of the bytes in which two blocks of 64 differ, and what is made of
//! masks then. All but the first can be done without vectors, which is what is written out here.

use super::MAX_RUN;
use super::masks::{LATE, edges_of};
use super::writer::{SHORTEST, TWO_BYTE_LENGTH};

/// The bytes that one mask covers.
pub(super) const BLOCK: usize = 64;

/// The masks that are looked at together: those of 4 KiB, the whole page nearly always.
pub(super) const BLOCKS: usize = 64;

/// The bytes that they cover.
pub(super) const PART: usize = BLOCKS * BLOCK;

/// As many masks as the widest vectors hold.
pub(super) const EIGHT: usize = 8;

/// One for each block of a part: of bytes that differ, or of edges.
pub(super) type Masks = [u64; BLOCKS];

/// The most edges that one block has: two for four bytes, as gaps are of three and more.
pub(super) const POSITIONS_OF_BLOCK: usize = 32;

/// The runs whose heads are made together.
pub(super) const RUNS: usize = 8;

/// The positions of [`RUNS`] runs, behind those of the run before.
pub(super) type Runs = [u16; 2 + 2 * RUNS];

/// How the records of some runs begin.
pub(super) struct Heads {
    /// For each record its two lengths as they are written, in the low 32 bits, and in the high ones the bytes that it takes.
    pub of: [u64; RUNS],
    /// Whether all of the runs are short: changed ones up to [`SHORTEST`], unchanged ones up to [`MAX_RUN`]. Else the
    /// heads mean nothing.
    pub short: bool,
}

/// One instruction set.
pub(super) trait Differ {
    /// Bit `i` is set where byte `i` of the blocks differs.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn differ(old: &[u8; BLOCK], new: &[u8; BLOCK]) -> u64;

    /// Where runs begin and end in a part with these masks, behind a block with the mask `last`, see [`edges_of`]. Bit `i`
    /// of what is returned is set where block `i` has an edge.
    ///
    /// # Safety
    /// As [`Differ::differ`].
    #[inline(always)]
    unsafe fn edges(mut last: u64, masks: &Masks, edges: &mut Masks) -> u64 {
        for (&mask, edges) in masks.iter().zip(&mut *edges) {
            *edges = edges_of(last, mask);
            last = mask;
        }
        edges
            .iter()
            .rev()
            .fold(0, |some, &edges| some << 1 | u64::from(edges != 0))
    }

    /// Writes the positions of a block's edges into `free`, in their order; the block begins at `block`. What stands behind
    /// them afterwards means nothing.
    ///
    /// # Safety
    /// As [`Differ::differ`].
    #[inline(always)]
    unsafe fn positions(mut edges: u64, block: u16, free: &mut [u16; POSITIONS_OF_BLOCK]) {
        /// The positions that are taken out at a time. Measured (AVX2, EPYC of family 25): 4 is 15 % faster than 8 on
        /// counters that lie 64 bytes apart, and as fast on pages full of changes.
        const GROUP: usize = 4;
        let count = edges.count_ones() as usize;
        let mut taken = 0;
        for group in free.chunks_exact_mut(GROUP) {
            // In one register: compilers make vectors of four stores, which takes longer.
            let mut four = 0;
            for at in 0..GROUP {
                four |= u64::from(edges.trailing_zeros()) << (16 * at);
                edges &= edges.wrapping_sub(1);
            }
            // A carry comes only from a position behind the last one.
            four = four.wrapping_add(u64::from(block) * 0x0001_0001_0001_0001);
            for (at, position) in group.iter_mut().enumerate() {
                *position = (four >> (16 * at)) as u16;
            }
            taken += GROUP;
            if taken >= count {
                break;
            }
        }
    }

    /// How the records of `runs` begin.
    ///
    /// # Safety
    /// As [`Differ::differ`].
    #[inline(always)]
    unsafe fn heads(runs: &Runs) -> Heads {
        let mut heads = Heads {
            of: [0; RUNS],
            short: true,
        };
        for (run, head) in heads.of.iter_mut().enumerate() {
            let (before, start) = (runs[2 * run + 1].wrapping_sub(LATE), runs[2 * run + 2]);
            let end = runs[2 * run + 3].wrapping_sub(LATE);
            let same = u32::from(start.wrapping_sub(before));
            let changed = u32::from(end.wrapping_sub(start));
            heads.short &= (changed <= SHORTEST as u32) & (same <= MAX_RUN as u32);
            let two = u32::from(same >= TWO_BYTE_LENGTH as u32);
            let lengths = match two {
                0 => same | changed << 8,
                _ => same + (same & !0x7f) + 0x80 + (changed << 16),
            };
            *head = u64::from(lengths) | u64::from(2 + two + changed) << 32;
        }
        heads
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86_64 {
    use std::arch::x86_64::*;

    use super::*;

    pub(in super::super) struct Avx2;

    impl Differ for Avx2 {
        #[inline(always)]
        unsafe fn differ(old: &[u8; BLOCK], new: &[u8; BLOCK]) -> u64 {
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
        unsafe fn edges(last: u64, masks: &Masks, edges: &mut Masks) -> u64 {
            let mut none = 0;
            // SAFETY: the caller vouches for AVX2; the unaligned loads and stores are of four masks of the arrays.
            unsafe {
                let mut last = _mm256_set1_epi64x(last as i64);
                let fours = masks.chunks_exact(4);
                let edges = edges.chunks_exact_mut(4);
                for (at, (masks, edges)) in fours.zip(edges).enumerate() {
                    let mask = _mm256_loadu_si256(masks.as_ptr().cast());
                    // One mask further on: the last one of before, and three of these.
                    let across = _mm256_permute2x128_si256::<0x21>(last, mask);
                    let before = _mm256_alignr_epi8::<8>(mask, across);
                    last = mask;
                    let behind_1 = _mm256_or_si256(
                        _mm256_add_epi64(mask, mask),
                        _mm256_srli_epi64::<63>(before),
                    );
                    let behind_2 = _mm256_or_si256(
                        _mm256_slli_epi64::<2>(mask),
                        _mm256_srli_epi64::<62>(before),
                    );
                    let behind_3 = _mm256_or_si256(
                        _mm256_slli_epi64::<3>(mask),
                        _mm256_srli_epi64::<61>(before),
                    );
                    let found = _mm256_andnot_si256(
                        _mm256_or_si256(behind_1, behind_2),
                        _mm256_xor_si256(mask, behind_3),
                    );
                    _mm256_storeu_si256(edges.as_mut_ptr().cast(), found);
                    let zero = _mm256_cmpeq_epi64(found, _mm256_setzero_si256());
                    none |= (_mm256_movemask_pd(_mm256_castsi256_pd(zero)) as u64) << (4 * at);
                }
            }
            !none
        }

        #[inline(always)]
        unsafe fn heads(runs: &Runs) -> Heads {
            let mut heads = Heads {
                of: [0; RUNS],
                short: false,
            };
            // SAFETY: the caller vouches for AVX2; the unaligned loads read the first and the last 16 of 18 positions, the
            // stores write four of eight heads each.
            unsafe {
                // A run in each lane: where it begins in the low half, where it ends in the high one.
                let late = _mm256_set1_epi32(i32::from(LATE) << 16);
                let before = _mm256_sub_epi16(_mm256_loadu_si256(runs.as_ptr().cast()), late);
                let run = _mm256_sub_epi16(_mm256_loadu_si256(runs.as_ptr().add(2).cast()), late);
                let start = _mm256_and_si256(run, _mm256_set1_epi32(0xffff));
                let same = _mm256_sub_epi16(start, _mm256_srli_epi32::<16>(before));
                let changed = _mm256_sub_epi16(_mm256_srli_epi32::<16>(run), start);
                let long = _mm256_or_si256(
                    _mm256_cmpgt_epi32(changed, _mm256_set1_epi32(SHORTEST as i32)),
                    _mm256_cmpgt_epi32(same, _mm256_set1_epi32(MAX_RUN as i32)),
                );
                heads.short = _mm256_testz_si256(long, long) != 0;

                let low = _mm256_set1_epi32(TWO_BYTE_LENGTH as i32 - 1);
                let two = _mm256_cmpgt_epi32(same, low);
                let length_of_two = _mm256_add_epi32(
                    _mm256_add_epi32(same, _mm256_andnot_si256(low, same)),
                    _mm256_set1_epi32(TWO_BYTE_LENGTH as i32),
                );
                let of_one = _mm256_or_si256(same, _mm256_slli_epi32::<8>(changed));
                // Behind lengths of one byte each stands what the changed bytes overwrite.
                let lengths = _mm256_or_si256(
                    _mm256_blendv_epi8(of_one, length_of_two, two),
                    _mm256_slli_epi32::<16>(changed),
                );
                let taken = _mm256_sub_epi32(_mm256_add_epi32(changed, _mm256_set1_epi32(2)), two);
                // The heads of 0, 1, 4, 5 and of 2, 3, 6, 7.
                let (outer, inner) = (
                    _mm256_unpacklo_epi32(lengths, taken),
                    _mm256_unpackhi_epi32(lengths, taken),
                );
                let to = heads.of.as_mut_ptr();
                _mm256_storeu_si256(to.cast(), _mm256_permute2x128_si256::<0x20>(outer, inner));
                _mm256_storeu_si256(
                    to.add(4).cast(),
                    _mm256_permute2x128_si256::<0x31>(outer, inner),
                );
            }
            heads
        }
    }

    #[cfg(pagewire_avx512)]
    pub(in super::super) struct Avx512Bw;

    #[cfg(pagewire_avx512)]
    #[allow(clippy::incompatible_msrv)] // the cfg is there only where the compiler has them
    impl Differ for Avx512Bw {
        /// By loads of 64 bytes, which is what LLVM makes of AVX2's two of 32 as well where it may. Each crosses the border
        /// of a cache line where a page is not aligned; the cache's copies are. So on Zen 5 (Turin): identical pages 15 %
        /// faster than by loads of 32 bytes, sparse ones up to 8 %, cold ones neither. Where both versions lay askew, cold
        /// sparse pages took a quarter longer. On Zen 4, measured with both askew only, identical pages took 18 % longer.
        #[inline(always)]
        unsafe fn differ(old: &[u8; BLOCK], new: &[u8; BLOCK]) -> u64 {
            // SAFETY: the caller vouches for AVX-512BW; the unaligned loads read the 64 bytes of a block.
            unsafe {
                _mm512_cmpneq_epi8_mask(
                    _mm512_loadu_si512(old.as_ptr().cast()),
                    _mm512_loadu_si512(new.as_ptr().cast()),
                )
            }
        }

        #[inline(always)]
        unsafe fn edges(last: u64, masks: &Masks, edges: &mut Masks) -> u64 {
            let mut some = 0;
            // SAFETY: the caller vouches for AVX-512; the unaligned loads and stores are of eight masks of the arrays.
            unsafe {
                let mut last = _mm512_set1_epi64(last as i64);
                for (at, (masks, edges)) in masks
                    .chunks_exact(EIGHT)
                    .zip(edges.chunks_exact_mut(EIGHT))
                    .enumerate()
                {
                    let mask = _mm512_loadu_si512(masks.as_ptr().cast());
                    // One mask further on: the last one of before, and seven of these.
                    let before = _mm512_alignr_epi64::<7>(mask, last);
                    last = mask;
                    let behind_1 = _mm512_or_si512(
                        _mm512_add_epi64(mask, mask),
                        _mm512_srli_epi64::<63>(before),
                    );
                    let behind_2 = _mm512_or_si512(
                        _mm512_slli_epi64::<2>(mask),
                        _mm512_srli_epi64::<62>(before),
                    );
                    let behind_3 = _mm512_or_si512(
                        _mm512_slli_epi64::<3>(mask),
                        _mm512_srli_epi64::<61>(before),
                    );
                    let found = _mm512_andnot_si512(
                        _mm512_or_si512(behind_1, behind_2),
                        _mm512_xor_si512(mask, behind_3),
                    );
                    _mm512_storeu_si512(edges.as_mut_ptr().cast(), found);
                    some |= u64::from(_mm512_test_epi64_mask(found, found)) << (EIGHT * at);
                }
            }
            some
        }

        #[inline(always)]
        unsafe fn heads(runs: &Runs) -> Heads {
            // SAFETY: as above.
            unsafe { Avx2::heads(runs) }
        }
    }

    #[cfg(pagewire_avx512)]
    pub(in super::super) struct Avx512Vbmi2;

    #[cfg(pagewire_avx512)]
    #[allow(clippy::incompatible_msrv)] // as above
    impl Differ for Avx512Vbmi2 {
        #[inline(always)]
        unsafe fn differ(old: &[u8; BLOCK], new: &[u8; BLOCK]) -> u64 {
            // SAFETY: the tier asks for AVX-512BW and AVX2 besides.
            unsafe { Avx512Bw::differ(old, new) }
        }

        #[inline(always)]
        unsafe fn edges(last: u64, masks: &Masks, edges: &mut Masks) -> u64 {
            // SAFETY: as above.
            unsafe { Avx512Bw::edges(last, masks, edges) }
        }

        /// All of them at once: the numbers 0 to 63, of which those of the edges are pushed together.
        #[inline(always)]
        unsafe fn positions(edges: u64, block: u16, free: &mut [u16; POSITIONS_OF_BLOCK]) {
            static NUMBERS: [u8; BLOCK] = {
                let mut numbers = [0; BLOCK];
                let mut at = 0;
                while at < BLOCK {
                    numbers[at] = at as u8;
                    at += 1;
                }
                numbers
            };
            // SAFETY: the caller vouches for AVX-512VBMI2; the unaligned load reads 64 bytes of `NUMBERS`, the store writes
            // the 32 positions.
            unsafe {
                let numbers = _mm512_loadu_si512(NUMBERS.as_ptr().cast());
                // In a register: Zen 4 takes over a hundred cycles to push together into memory.
                let pushed = _mm512_castsi512_si256(_mm512_maskz_compress_epi8(edges, numbers));
                let positions = _mm512_add_epi16(
                    _mm512_cvtepu8_epi16(pushed),
                    _mm512_set1_epi16(block as i16),
                );
                _mm512_storeu_si512(free.as_mut_ptr().cast(), positions);
            }
        }

        #[inline(always)]
        unsafe fn heads(runs: &Runs) -> Heads {
            // SAFETY: as above.
            unsafe { Avx2::heads(runs) }
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

//! Anchors: places in the stream that are chosen by the eight bytes that stand there, so that they are found again wherever
//! the same content stands, however it is shifted.
//!
//! One position in so many is an anchor. That is decided for 32 or 64 positions at a time by the vector units: several times
//! as fast as a hash that rolls from byte to byte.

/// Bytes that decide whether a position is an anchor.
pub(super) const GRAM: usize = 8;

/// Odd numbers without a pattern (from the fractional parts of square roots), and one for the sum.
const MIX: [u32; 3] = [0x9e37_79b1, 0x6a09_e667 | 1, 0x3c6e_f372];

/// The positions from `from` on, up to `to`, at which an anchor stands: in one of `spacing`, a power of two, on average.
/// The grams of all of them must lie within `raw`.
pub(super) fn find(raw: &[u8], from: usize, to: usize, spacing: u32, into: &mut Vec<u32>) {
    assert!(to + GRAM - 1 <= raw.len());
    #[cfg(all(target_arch = "x86_64", pagewire_avx512))]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512F.
        unsafe { find_avx512(raw, from, to, spacing, into) };
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { find_avx2(raw, from, to, spacing, into) };
        return;
    }
    find_with(sums, raw, from, to, spacing, into);
}

#[cfg(all(target_arch = "x86_64", pagewire_avx512))]
#[allow(clippy::incompatible_msrv)] // the cfg is there only where the compiler has them
#[target_feature(enable = "avx512f")]
unsafe fn find_avx512(raw: &[u8], from: usize, to: usize, spacing: u32, into: &mut Vec<u32>) {
    // SAFETY: our caller has seen that the processor has AVX-512F.
    find_with(
        |block, shift| unsafe { sums_avx512(block, shift) },
        raw,
        from,
        to,
        spacing,
        into,
    );
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn find_avx2(raw: &[u8], from: usize, to: usize, spacing: u32, into: &mut Vec<u32>) {
    // SAFETY: our caller has seen that the processor has AVX2.
    find_with(
        |block, shift| unsafe { sums_avx2(block, shift) },
        raw,
        from,
        to,
        spacing,
        into,
    );
}

/// The bytes of the grams of the positions that are looked at together: 32, or 64.
type Block<const BYTES: usize> = [u8; BYTES];
const NARROW: usize = 32 + GRAM - 1;
#[cfg(all(target_arch = "x86_64", pagewire_avx512))]
const WIDE: usize = 64 + GRAM - 1;

/// `candidates` tells by a bit for each position of a block which sums are those of anchors.
#[inline(always)]
fn find_with<const BYTES: usize>(
    candidates: impl Fn(&Block<BYTES>, u32) -> u64,
    raw: &[u8],
    from: usize,
    to: usize,
    spacing: u32,
    into: &mut Vec<u32>,
) {
    let shift = 32 - spacing.trailing_zeros();
    let positions = BYTES - (GRAM - 1);
    let mut at = from;
    while at + positions <= to {
        let Some(block) = raw[at..].first_chunk() else {
            break;
        };
        let mut bits = candidates(block, shift);
        while bits != 0 {
            let position = at + bits.trailing_zeros() as usize;
            if is_anchor(raw, position, shift) {
                into.push(position as u32);
            }
            bits &= bits - 1;
        }
        at += positions;
    }
    for position in at..to {
        if is_anchor(raw, position, shift) {
            into.push(position as u32);
        }
    }
}

/// One position after the other.
fn sums(block: &Block<NARROW>, shift: u32) -> u64 {
    let is_anchor = |at: &usize| is_anchor(block, *at, shift);
    (0..32).filter(is_anchor).fold(0, |bits, at| bits | 1 << at)
}

/// The bits of positions, from those of each alignment's lanes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn in_order(hits: [u32; 4]) -> u64 {
    if hits == [0; 4] {
        return 0;
    }
    let mut bits = 0;
    for (alignment, mut lanes) in hits.into_iter().enumerate() {
        while lanes != 0 {
            bits |= 1 << (4 * lanes.trailing_zeros() + alignment as u32);
            lanes &= lanes - 1;
        }
    }
    bits
}

/// For each of the four alignments, sixteen grams at once.
#[cfg(all(target_arch = "x86_64", pagewire_avx512))]
#[allow(clippy::incompatible_msrv)] // the cfg is there only where the compiler has them
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn sums_avx512(block: &Block<WIDE>, shift: u32) -> u64 {
    use std::arch::x86_64::*;
    let start = block.as_ptr();
    let mut hits = [0; 4];
    // SAFETY: the loads reach up to 3 + 4 + 64 bytes, which a block has; loads of this kind need no alignment.
    unsafe {
        let [low_by, high_by, plus] = MIX.map(|number| _mm512_set1_epi32(number as i32));
        let high_bits = _mm512_set1_epi32((u32::MAX << shift) as i32);
        for (alignment, hits) in hits.iter_mut().enumerate() {
            let low = _mm512_loadu_si512(start.add(alignment).cast());
            let high = _mm512_loadu_si512(start.add(alignment + 4).cast());
            let (low, high) = (
                _mm512_mullo_epi32(low, low_by),
                _mm512_mullo_epi32(high, high_by),
            );
            let sum = _mm512_add_epi32(_mm512_add_epi32(low, high), plus);
            *hits = u32::from(_mm512_testn_epi32_mask(sum, high_bits));
        }
    }
    in_order(hits)
}

/// For each of the four alignments, eight grams at once.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sums_avx2(block: &Block<NARROW>, shift: u32) -> u64 {
    use std::arch::x86_64::*;
    let start = block.as_ptr();
    let mut hits = [0; 4];
    // SAFETY: the loads reach up to 3 + 4 + 32 bytes, which a block has; loads of this kind need no alignment.
    unsafe {
        let [low_by, high_by, plus] = MIX.map(|number| _mm256_set1_epi32(number as i32));
        let shift = _mm_cvtsi32_si128(shift as i32);
        for (alignment, hits) in hits.iter_mut().enumerate() {
            let low = _mm256_loadu_si256(start.add(alignment).cast());
            let high = _mm256_loadu_si256(start.add(alignment + 4).cast());
            let (low, high) = (
                _mm256_mullo_epi32(low, low_by),
                _mm256_mullo_epi32(high, high_by),
            );
            let sum = _mm256_add_epi32(_mm256_add_epi32(low, high), plus);
            let is_anchor =
                _mm256_cmpeq_epi32(_mm256_srl_epi32(sum, shift), _mm256_setzero_si256());
            *hits = _mm256_movemask_ps(_mm256_castsi256_ps(is_anchor)) as u32;
        }
    }
    in_order(hits)
}

#[inline(always)]
fn is_anchor(raw: &[u8], at: usize, shift: u32) -> bool {
    raw[at..].first_chunk::<GRAM>().is_some_and(|gram| {
        let [a, b, c, d, e, f, g, h] = *gram;
        let (low, high) = (
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
        );
        // What repeats with a period of four bytes or less would be an anchor in many places, and says nothing.
        low != high && mixed(low, high) >> shift == 0
    })
}

#[inline(always)]
fn mixed(low: u32, high: u32) -> u32 {
    low.wrapping_mul(MIX[0])
        .wrapping_add(high.wrapping_mul(MIX[1]))
        .wrapping_add(MIX[2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Find = fn(&[u8], usize, usize, u32, &mut Vec<u32>);

    /// All that this processor has, beside the one that is chosen.
    fn ways() -> Vec<Find> {
        let plain: Find = |raw, from, to, spacing, into| {
            find_with(sums, raw, from, to, spacing, into);
        };
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            let avx2: Find = |raw, from, to, spacing, into| unsafe {
                find_avx2(raw, from, to, spacing, into);
            };
            return vec![find, plain, avx2];
        }
        vec![find, plain]
    }

    proptest! {
        #[test]
        fn anchors_are_those_of_the_definition(raw in proptest::collection::vec(any::<u8>(), GRAM..2000), from in 0usize..300) {
            let to = raw.len() - GRAM + 1;
            let from = from.min(to);
            let expected: Vec<u32> = (from..to).filter(|&at| is_anchor(&raw, at, 28)).map(|at| at as u32).collect();
            for find in ways() {
                let mut found = Vec::new();
                find(&raw, from, to, 16, &mut found);
                prop_assert_eq!(&found, &expected);
            }
        }
    }

    #[test]
    fn a_run_has_no_anchor() {
        for byte in 0..=255 {
            let mut found = Vec::new();
            find(&[byte; 100], 0, 93, 64, &mut found);
            assert!(found.is_empty(), "{byte}");
        }
    }
}

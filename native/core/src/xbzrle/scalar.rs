//! The encoder for processors without a vector tier, and the measure for those that have one: eight bytes at a time.

use super::writer::Writer;

/// Finds run after run, eight bytes at a time.
pub(super) fn encode(old: &[u8], new: &[u8], out: &mut [u8]) -> Option<usize> {
    let old = &old[..new.len()]; // one bound for both
    let mut writer = Writer::new(old, new, out);
    let mut start = next_different(old, new, 0);
    while start < new.len() {
        let mut end = next_equal(old, new, start + 1);
        loop {
            end = if differs(old, new, end + 1) {
                next_equal(old, new, end + 2)
            } else if differs(old, new, end + 2) {
                next_equal(old, new, end + 3)
            } else {
                break;
            };
        }
        writer.run(start, end)?;
        start = next_different(old, new, end + 3);
    }
    Some(writer.written())
}

/// Whether the pages differ at `at`; behind their end they do not.
#[inline(always)]
pub(super) fn differs(old: &[u8], new: &[u8], at: usize) -> bool {
    matches!((old.get(at), new.get(at)), (Some(old), Some(new)) if old != new)
}

/// The first position from `at` on where the pages differ, or their length.
#[inline(always)]
pub(super) fn next_different(old: &[u8], new: &[u8], mut at: usize) -> usize {
    for difference in differences(old, new, at) {
        if difference != 0 {
            return at + difference.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < new.len() && !differs(old, new, at) {
        at += 1;
    }
    at.min(new.len())
}

/// The first position from `at` on where the pages are equal, or their length.
#[inline(always)]
pub(super) fn next_equal(old: &[u8], new: &[u8], mut at: usize) -> usize {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    for difference in differences(old, new, at) {
        // The lowest bit that this sets is right: a borrow comes only from a zero byte below.
        let zeros = difference.wrapping_sub(LOW) & !difference & HIGH;
        if zeros != 0 {
            return at + zeros.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while differs(old, new, at) {
        at += 1;
    }
    at.min(new.len())
}

/// The differences of eight bytes each from `at` on, the first byte in the low one; up to seven at the end are left out.
#[inline(always)]
fn differences(old: &[u8], new: &[u8], at: usize) -> impl Iterator<Item = u64> {
    let from = at.min(new.len());
    let load = |eight: &[u8]| eight.try_into().map_or(0, u64::from_le_bytes);
    old[from..]
        .chunks_exact(8)
        .zip(new[from..].chunks_exact(8))
        .map(move |(old, new)| load(old) ^ load(new))
}

//! XBZRLE, QEMU's format for the difference of two versions of a page: [`encode`] makes a delta, [`decode`] applies one.
//!
//! ```text
//! delta = (zrun nzrun)*      zrun  = ULEB128 length of bytes that stay
//!                            nzrun = ULEB128 length n, then n bytes of the new page
//! ```
//!
//! A length has at most two ULEB bytes, so a run is shorter than 16,384 bytes. Only the first zrun may be 0, a nzrun
//! never is; what stays at the page's end is not written, and equal pages make an empty delta. QEMU loads a delta only
//! if it is not longer than the page. (The rules: QEMU's documentation and what its streams hold.)
//!
//! Encoding is the hottest loop of the program. It is written once (`masks.rs`, over 64-bit masks of the bytes that
//! differ) and stamped out for each instruction set, a [`Tier`]; the best that the processor has is chosen at the first
//! call. Every tier gives the same bytes. Decoding is written once too, over the ways to copy a run (`copy.rs`).

mod copy;
mod decode;
mod masks;
mod scalar;
mod tier;
mod vector;
mod writer;

pub use decode::DecodeError;
pub use tier::{ENVIRONMENT_VARIABLE, Selection, Tier, TierUnavailable, selection, tier};

/// The longest page, that of arm64 and ppc64 guests.
pub const MAX_PAGE: usize = 64 * 1024;

/// The longest run that a length of two ULEB bytes can name.
pub const MAX_RUN: usize = (1 << 14) - 1;

/// What a page's length is a multiple of: the bytes that one mask covers.
pub const PAGE_GRAIN: usize = 64;

/// Writes into `out` how to make `new` from `old`, and returns how many bytes that took.
///
/// `Some(0)`: the pages are equal. `None`: the delta does not fit into `out`, is longer than the page (QEMU would
/// refuse it), or holds a changed run that the format cannot name ([`MAX_RUN`], only on pages of 32 and 64 KiB). Bytes
/// of `out` beyond the returned length are scratch; after `None` all of them are.
///
/// The delta is never larger than the canonical one (each changed run by itself): gaps of one and two equal bytes are
/// written out where that costs nothing, as fewer runs are faster to apply.
///
/// # Panics
/// If the pages differ in length, or the length is not a multiple of [`PAGE_GRAIN`] up to [`MAX_PAGE`].
pub fn encode(old: &[u8], new: &[u8], out: &mut [u8]) -> Option<usize> {
    check_pages(old, new);
    tier().encode_checked(old, new, out)
}

/// [`encode`] on a tier of the caller's choice, for tests and benchmarks.
///
/// # Errors
/// If this machine or this build lacks the tier.
///
/// # Panics
/// As [`encode`].
pub fn encode_with(
    tier: Tier,
    old: &[u8],
    new: &[u8],
    out: &mut [u8],
) -> Result<Option<usize>, TierUnavailable> {
    check_pages(old, new);
    if !tier.is_available() {
        return Err(TierUnavailable { tier });
    }
    Ok(tier.encode_checked(old, new, out))
}

/// Makes the new version of `page` from the old one in place. An empty delta changes nothing.
///
/// # Errors
/// If `delta` is not exact in the format. Runs before the fault have been applied then, so the page is neither the old
/// nor the new version: it must not serve as a base any more.
pub fn decode(delta: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
    tier().decode_available(delta, page)
}

/// [`decode`] on a tier of the caller's choice, for tests and benchmarks.
///
/// # Errors
/// If this machine or this build lacks the tier; inside, as [`decode`].
pub fn decode_with(
    tier: Tier,
    delta: &[u8],
    page: &mut [u8],
) -> Result<Result<(), DecodeError>, TierUnavailable> {
    if !tier.is_available() {
        return Err(TierUnavailable { tier });
    }
    Ok(tier.decode_available(delta, page))
}

fn check_pages(old: &[u8], new: &[u8]) {
    assert_eq!(
        old.len(),
        new.len(),
        "the two versions of a page are equally long"
    );
    assert!(
        new.len() <= MAX_PAGE && new.len() % PAGE_GRAIN == 0,
        "no page has {} bytes",
        new.len()
    );
}

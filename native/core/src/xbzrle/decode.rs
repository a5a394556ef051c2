//! Applies a delta to the page that it was made against.

use super::copy::CopyRun;

/// Why a delta is refused. `offset` counts bytes of the delta; it is where the fault was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// QEMU loads no delta that is longer than its page.
    #[error("the delta has {length} bytes, more than its page of {page}")]
    LongerThanPage {
        /// The delta's length.
        length: usize,
        /// The page's length.
        page: usize,
    },
    /// The delta ends inside a length or a changed run, or after an unchanged one.
    #[error("the delta ends at {offset} where {expected} more bytes were expected")]
    Truncated {
        /// The delta's end.
        offset: usize,
        /// How many bytes more it should have, at least.
        expected: usize,
    },
    /// A length of more than two bytes.
    #[error("the run length at {offset} of the delta has more than two bytes")]
    LengthTooLong {
        /// Where the length begins.
        offset: usize,
    },
    /// A length of two bytes that fits into one.
    #[error("the run length at {offset} of the delta is longer than it needs to be")]
    LengthNotMinimal {
        /// Where the length begins.
        offset: usize,
    },
    /// An unchanged run of no bytes that is not the first, or a changed one.
    #[error("the run at {offset} of the delta is empty")]
    EmptyRun {
        /// Where its length begins.
        offset: usize,
    },
    /// A run goes beyond the page's end.
    #[error("the run at {offset} of the delta ends at {end}, beyond its page of {page} bytes")]
    BeyondPage {
        /// Where its length begins.
        offset: usize,
        /// Where the run would end in the page.
        end: usize,
        /// The page's length.
        page: usize,
    },
}

/// Applies `delta` to `page`, see [`decode`](super::decode).
///
/// # Safety
/// The processor has the instruction set that `C` copies with.
#[inline(always)]
pub(super) unsafe fn apply<C: CopyRun>(delta: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
    if delta.len() > page.len() {
        return Err(DecodeError::LongerThanPage {
            length: delta.len(),
            page: page.len(),
        });
    }
    let mut at = 0;
    let mut position = 0;
    while at < delta.len() {
        let offset = at;
        let same = length(delta, &mut at)?;
        if same == 0 && offset != 0 {
            return Err(DecodeError::EmptyRun { offset });
        }
        position += same;
        if position > page.len() {
            return Err(DecodeError::BeyondPage {
                offset,
                end: position,
                page: page.len(),
            });
        }

        let offset = at;
        let changed = length(delta, &mut at)?;
        if changed == 0 {
            return Err(DecodeError::EmptyRun { offset });
        }
        let (end, page_length) = (position + changed, page.len());
        let Some(target) = page.get_mut(position..end) else {
            return Err(DecodeError::BeyondPage {
                offset,
                end,
                page: page_length,
            });
        };
        let Some(bytes) = delta.get(at..at + changed) else {
            return Err(DecodeError::Truncated {
                offset: delta.len(),
                expected: at + changed - delta.len(),
            });
        };
        // SAFETY: the caller vouches for the instruction set; both are `changed` bytes, which is not 0.
        unsafe { C::copy_run(bytes, target) };
        at += changed;
        position = end;
    }
    Ok(())
}

/// Reads the length at `at` and steps over it.
#[inline(always)]
fn length(delta: &[u8], at: &mut usize) -> Result<usize, DecodeError> {
    let offset = *at;
    let truncated = DecodeError::Truncated {
        offset: delta.len(),
        expected: 1,
    };
    let low = *delta.get(offset).ok_or(truncated)?;
    if low < 0x80 {
        *at = offset + 1;
        return Ok(usize::from(low));
    }
    let high = *delta.get(offset + 1).ok_or(truncated)?;
    match high {
        0 => Err(DecodeError::LengthNotMinimal { offset }),
        1..0x80 => {
            *at = offset + 2;
            Ok(usize::from(low & 0x7f) | usize::from(high) << 7)
        }
        _ => Err(DecodeError::LengthTooLong { offset }),
    }
}

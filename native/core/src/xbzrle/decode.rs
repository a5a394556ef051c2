//! Applies a delta to the page that it was made against.

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

/// Makes the new version of `page` from the old one in place. An empty delta changes nothing.
///
/// # Errors
/// If `delta` is not exact in the format. Runs before the fault have been applied then, so the page is neither the old
/// nor the new version: it must not serve as a base any more.
pub fn decode(delta: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
    match super::tier() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `tier` is available.
        super::Tier::Avx2 => unsafe { decode_avx2(delta, page) },
        #[cfg(all(target_arch = "x86_64", pagewire_avx512))]
        // SAFETY: as above, and both have AVX-512F and AVX2.
        super::Tier::Avx512Bw | super::Tier::Avx512Vbmi2 => unsafe { decode_avx512(delta, page) },
        // SAFETY: it asks for nothing.
        _ => unsafe { apply::<Plain>(delta, page) },
    }
}

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn decode_avx2(delta: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
    // SAFETY: the caller's promise, passed on.
    unsafe { apply::<Avx2>(delta, page) }
}

/// # Safety
/// The processor has AVX-512F and AVX2.
#[cfg(all(target_arch = "x86_64", pagewire_avx512))]
#[target_feature(enable = "avx512f,avx2")]
unsafe fn decode_avx512(delta: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
    // SAFETY: the caller's promise, passed on.
    unsafe { apply::<Avx512>(delta, page) }
}

/// # Safety
/// The processor has the instruction set that `C` copies with.
#[inline(always)]
unsafe fn apply<C: CopyRun>(delta: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
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
        // SAFETY: the caller vouches for the instruction set; the two are equally long.
        unsafe { C::copy_run(bytes, target) };
        at += changed;
        position = end;
    }
    Ok(())
}

/// How a changed run is copied.
trait CopyRun {
    /// Copies `from` onto `to`.
    ///
    /// # Safety
    /// They are equally long and not empty, and the processor has the instruction set.
    unsafe fn copy_run(from: &[u8], to: &mut [u8]);
}

struct Plain;

impl CopyRun for Plain {
    /// A single byte, as many runs are, in line: a call costs more than it does.
    #[inline(always)]
    unsafe fn copy_run(from: &[u8], to: &mut [u8]) {
        if let ([from, ..], [to]) = (from, &mut *to) {
            *to = *from;
        } else {
            to.copy_from_slice(from);
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct Avx2;

#[cfg(target_arch = "x86_64")]
impl CopyRun for Avx2 {
    /// All in line: what `memcpy` spends on its call and on choosing a way is as much as copying 128 bytes takes.
    #[inline(always)]
    unsafe fn copy_run(from: &[u8], to: &mut [u8]) {
        use std::arch::x86_64::*;

        /// Two vectors: of a loop over single ones compilers make a call of `memcpy`.
        const TURN: usize = 64;
        let len = to.len();
        debug_assert!(from.len() == len && len > 0);
        if len < 32 {
            // SAFETY: the caller vouches for the lengths.
            unsafe { copy_short(from, to) };
            return;
        }
        let (from, to) = (from.as_ptr(), to.as_mut_ptr());
        // SAFETY: the caller vouches for AVX2 and for `len` bytes each. At least 32 are read and written at 0 and at
        // `len - 32`, and 64 at each `at` with `at + 64 <= len`.
        unsafe {
            let copy = |at: usize| {
                let bytes = _mm256_loadu_si256(from.add(at).cast());
                _mm256_storeu_si256(to.add(at).cast(), bytes);
            };
            let mut at = 0;
            while at + TURN <= len {
                copy(at);
                copy(at + 32);
                at += TURN;
            }
            if len - at > 32 {
                copy(at);
            }
            // Perhaps some of it once more.
            copy(len - 32);
        }
    }
}

#[cfg(all(target_arch = "x86_64", pagewire_avx512))]
struct Avx512;

#[cfg(all(target_arch = "x86_64", pagewire_avx512))]
#[allow(clippy::incompatible_msrv)] // the cfg is there only where the compiler has them
impl CopyRun for Avx512 {
    /// As AVX2 does it, with vectors of twice the size for long runs.
    #[inline(always)]
    unsafe fn copy_run(from: &[u8], to: &mut [u8]) {
        use std::arch::x86_64::*;

        let len = to.len();
        if len < 128 {
            // SAFETY: the caller vouches for the lengths, and the tiers have AVX2.
            unsafe { Avx2::copy_run(from, to) };
            return;
        }
        let (from, to) = (from.as_ptr(), to.as_mut_ptr());
        // SAFETY: the caller vouches for AVX-512F and for `len` bytes each. At least 64 are read and written at `len - 64`,
        // and 128 at each `at` with `at + 128 <= len`.
        unsafe {
            let copy = |at: usize| {
                let bytes = _mm512_loadu_si512(from.add(at).cast());
                _mm512_storeu_si512(to.add(at).cast(), bytes);
            };
            let mut at = 0;
            while at + 128 <= len {
                copy(at);
                copy(at + 64);
                at += 128;
            }
            if len - at > 64 {
                copy(at);
            }
            if len > at {
                copy(len - 64);
            }
        }
    }
}

/// Copies a run of less than 32 bytes: its first and its last bytes, which may be the same ones.
///
/// # Safety
/// `from` and `to` are equally long and not empty.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy_short(from: &[u8], to: &mut [u8]) {
    /// # Safety
    /// Both have `len` bytes, and `len` is at least as much as `N`.
    #[inline(always)]
    unsafe fn both_ends<const N: usize>(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: the caller vouches for `N` bytes from 0 and from `len - N` on.
        unsafe {
            let (first, last) = (
                from.cast::<[u8; N]>().read(),
                from.add(len - N).cast::<[u8; N]>().read(),
            );
            to.cast::<[u8; N]>().write(first);
            to.add(len - N).cast::<[u8; N]>().write(last);
        }
    }
    let len = to.len();
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    // SAFETY: the caller vouches for the lengths, and each is at least as long as the ends that are taken of it.
    unsafe {
        match len {
            1 => *to = *from,
            2..4 => both_ends::<2>(from, to, len),
            4..8 => both_ends::<4>(from, to, len),
            8..16 => both_ends::<8>(from, to, len),
            _ => both_ends::<16>(from, to, len),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Copies runs of all lengths that take another way, at all distances from a vector's border.
    fn copies<C: CopyRun>() {
        let from: Vec<u8> = (0..1024u32).map(|at| (at * 7 + at / 256) as u8).collect();
        for len in (1..=200).chain([255, 256, 257, 511, 512, 513]) {
            for shift in 0..33 {
                let mut to = [0xaa; 600];
                // SAFETY: equally long, not empty; the callers see to the instruction set.
                unsafe { C::copy_run(&from[shift..shift + len], &mut to[33..33 + len]) };
                assert_eq!(to[33..33 + len], from[shift..shift + len], "{len}");
                assert!(
                    to[..33]
                        .iter()
                        .chain(&to[33 + len..])
                        .all(|&byte| byte == 0xaa),
                    "{len}"
                );
            }
        }
    }

    #[test]
    fn a_run_is_copied_whole_and_nothing_beside_it() {
        copies::<Plain>();
        #[cfg(target_arch = "x86_64")]
        if crate::xbzrle::Tier::Avx2.is_available() {
            copies::<Avx2>();
        }
        #[cfg(all(target_arch = "x86_64", pagewire_avx512))]
        if crate::xbzrle::Tier::Avx512Bw.is_available() {
            copies::<Avx512>();
        }
    }
}

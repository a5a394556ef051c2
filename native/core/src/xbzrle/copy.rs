//! How a decoder copies a changed run, by instruction set: in line, as what a call of `memcpy` spends on itself and on
//! choosing a way is a tenth of copying 512 bytes, and more than copying a handful.

/// One way to copy.
pub(super) trait CopyRun {
    /// Copies `from` onto `to`.
    ///
    /// # Safety
    /// They are equally long and not empty, and the processor has the instruction set.
    unsafe fn copy_run(from: &[u8], to: &mut [u8]);
}

/// For every processor.
pub(super) struct Plain;

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
pub(super) mod x86_64 {
    use std::arch::x86_64::*;

    use super::CopyRun;

    /// By 32 bytes.
    pub(in super::super) struct Avx2;

    impl CopyRun for Avx2 {
        #[inline(always)]
        unsafe fn copy_run(from: &[u8], to: &mut [u8]) {
            debug_assert!(from.len() == to.len() && !to.is_empty());
            // SAFETY: the caller vouches for the lengths and for AVX2.
            unsafe {
                if to.len() < 32 {
                    copy_short(from, to);
                } else {
                    copy_long(from, to);
                }
            }
        }
    }

    /// Copies a run of 32 bytes or more. (By 64 it takes longer, as each write goes to two cache lines then.)
    ///
    /// # Safety
    /// The processor has AVX2; `from` and `to` are equally long.
    #[inline(always)]
    unsafe fn copy_long(from: &[u8], to: &mut [u8]) {
        /// Two vectors a turn: of a loop of one, compilers make a call of `memcpy`.
        const TURN: usize = 64;
        let len = to.len();
        let (from, to) = (from.as_ptr(), to.as_mut_ptr());
        // SAFETY: the caller vouches for AVX2 and for `len` bytes each: at least 32, which are read and written at the end;
        // before it, only where they fit.
        unsafe {
            let load = |at: usize| _mm256_loadu_si256(from.add(at).cast());
            let store = |at: usize, bytes| _mm256_storeu_si256(to.add(at).cast(), bytes);
            let last = load(len - 32);
            let mut at = 0;
            while at + TURN < len {
                let (first, second) = (load(at), load(at + 32));
                store(at, first);
                store(at + 32, second);
                at += TURN;
            }
            if len - at > 32 {
                store(at, load(at));
            }
            // Perhaps some of it once more.
            store(len - 32, last);
        }
    }

    /// Copies a run of less than 32 bytes: its first and its last bytes, which may be the same ones.
    ///
    /// # Safety
    /// `from` and `to` are equally long and not empty.
    #[inline(always)]
    unsafe fn copy_short(from: &[u8], to: &mut [u8]) {
        /// # Safety
        /// Both have `len` bytes, and `len` is at least as much as `N`.
        #[inline(always)]
        unsafe fn both_ends<const N: usize>(from: *const u8, to: *mut u8, len: usize) {
            // SAFETY: the caller vouches for `N` bytes from 0 and from `len - N` on.
            unsafe {
                let first = from.cast::<[u8; N]>().read();
                let last = from.add(len - N).cast::<[u8; N]>().read();
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

    /// Up to 64 bytes by a mask, without a branch: where lengths are random each is mispredicted.
    #[cfg(pagewire_avx512)]
    pub(in super::super) struct Avx512;

    #[cfg(pagewire_avx512)]
    #[allow(clippy::incompatible_msrv)] // the cfg is there only where the compiler has them
    impl CopyRun for Avx512 {
        #[inline(always)]
        unsafe fn copy_run(from: &[u8], to: &mut [u8]) {
            let len = to.len();
            debug_assert!(from.len() == len && len > 0);
            // SAFETY: the caller vouches for AVX-512BW, AVX2 and BMI2 and for `len` bytes each. Only those are read and written
            // that the mask has.
            unsafe {
                if len <= 64 {
                    let mask = _bzhi_u64(u64::MAX, len as u32);
                    let bytes = _mm512_maskz_loadu_epi8(mask, from.as_ptr().cast());
                    _mm512_mask_storeu_epi8(to.as_mut_ptr().cast(), mask, bytes);
                } else {
                    copy_long(from, to);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::xbzrle::Tier;

    /// Copies runs of all lengths that take another way, at all distances from a vector's border.
    fn copies<C: CopyRun>() {
        let from: Vec<u8> = (0..1024u32).map(|at| (at * 7 + at / 256) as u8).collect();
        for len in (1..=300).chain([383, 384, 385, 511, 512, 513]) {
            for shift in 0..65 {
                let mut to = [0xaa; 700];
                // SAFETY: equally long, not empty; the callers see to the instruction set.
                unsafe { C::copy_run(&from[shift..shift + len], &mut to[65..65 + len]) };
                assert_eq!(to[65..65 + len], from[shift..shift + len], "{len}");
                let mut beside = to[..65].iter().chain(&to[65 + len..]);
                assert!(beside.all(|&byte| byte == 0xaa), "{len}");
            }
        }
    }

    #[test]
    fn a_run_is_copied_whole_and_nothing_beside_it() {
        copies::<Plain>();
        #[cfg(target_arch = "x86_64")]
        if Tier::Avx2.is_available() {
            copies::<x86_64::Avx2>();
        }
        #[cfg(all(target_arch = "x86_64", pagewire_avx512))]
        if Tier::Avx512Bw.is_available() {
            copies::<x86_64::Avx512>();
        }
    }
}

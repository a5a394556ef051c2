//! Memory that begins as zeros and takes room only where it has been written.

use crate::descriptor::thread_cpu_ns;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What memory is taken in, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// It is read at random: huge pages save most of what the translation of addresses takes. See [`Mapping::take`].
    Huge,
    /// Much of it may never be written: only what is takes memory, and the kernel's time to clear it.
    Small,
}

/// A huge page, in bytes. Where they are larger, looking in these steps does no harm.
pub(super) const HUGE: usize = 2 << 20;

/// CPU time for the first touch of a huge page that the machine has: 0.1 ms. A virtual machine's host may have taken it back
/// (free page reporting), and gives it again in 512 pieces, which takes 4 to 6 ms. Small pages are often at hand then: what is
/// free in small pieces is not reported.
const SLOW_NS: u64 = 1_000_000;

pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    /// Huge pages that begin before this byte are not looked at any more.
    taken: AtomicUsize,
}

// SAFETY: the mapping belongs to this value alone; whoever turns `base` into references answers for them.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `pages`: what the memory is taken in.
    pub(super) fn new(len: u64, pages: Pages) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let mapped = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let advice = match pages {
            Pages::Huge => Advice::LinuxHugepage,
            Pages::Small => Advice::LinuxNoHugepage,
        };
        // SAFETY: the mapping is ours; advice changes no content. A kernel without huge pages refuses, which is fine.
        let _ = unsafe { madvise(mapped, len, advice) };
        let base = NonNull::new(mapped.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let taken = match pages {
            Pages::Huge => 0,
            Pages::Small => usize::MAX,
        };
        Ok(Mapping {
            base,
            len,
            taken: AtomicUsize::new(taken),
        })
    }

    /// Takes the huge pages that begin from byte `from` on, before byte `to`, by touching each; where one is slow to come, what
    /// lies behind it becomes small pages. To be called before these bytes are written for the first time, by one thread at a
    /// time.
    pub(super) fn take(&self, from: usize, to: usize) {
        self.take_by(from, to, |at| {
            let began = thread_cpu_ns();
            // SAFETY: within the mapping; nobody uses the byte yet, which is the caller's promise, and it is 0.
            unsafe { self.base.as_ptr().add(at).write_volatile(0) };
            thread_cpu_ns() - began
        });
    }

    /// `touch` touches a byte and tells what that took, in nanoseconds.
    fn take_by(&self, from: usize, to: usize, mut touch: impl FnMut(usize) -> u64) {
        let to = to.min(self.len);
        let mut at = from.max(self.taken.load(Ordering::Relaxed));
        while at < to {
            let address = self.base.as_ptr().addr() + at;
            at += address.next_multiple_of(HUGE) - address;
            // What is no whole huge page is made of small ones anyway.
            if at >= to || at + HUGE > self.len {
                break;
            }
            let took = touch(at);
            at += HUGE;
            if took > SLOW_NS {
                // SAFETY: within the mapping, which is ours; advice changes no content.
                let _ = unsafe {
                    let rest = self.base.as_ptr().add(at);
                    madvise(rest.cast(), self.len - at, Advice::LinuxNoHugepage)
                };
                at = usize::MAX;
            }
        }
        self.taken.fetch_max(at, Ordering::Relaxed);
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The words from byte `from` on, which is a multiple of 8, to the end. Nobody may use these bytes in another way.
    pub(super) unsafe fn words(&self, from: usize) -> &[AtomicU64] {
        assert!(from % 8 == 0 && from <= self.len);
        // SAFETY: within the mapping, which is aligned to pages, initialised (zeros), and lives as long as `self`; an atomic
        // word has the form of a plain one; that nobody uses them otherwise is the caller's promise.
        unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().add(from).cast(), (self.len - from) / 8)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and all borrows of it have ended.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what frames of this size need, one behind the other, round after round. Gives the bytes that were touched.
    fn touched(mapping: &Mapping, frame: usize, mut ns: impl FnMut(usize) -> u64) -> Vec<usize> {
        let mut touched = Vec::new();
        for _ in 0..2 {
            for from in (0..mapping.len).step_by(frame) {
                mapping.take_by(from, from + frame, |at| {
                    touched.push(at);
                    ns(at)
                });
            }
        }
        touched
    }

    #[test]
    fn each_huge_page_is_touched_once() {
        for frame in [4096, 1 << 20, 3 << 20, 1 << 25] {
            let mapping = Mapping::new((9 << 20) + 4096, Pages::Huge).expect("memory");
            let base = mapping.base.as_ptr().addr();
            let whole: Vec<usize> = (0..mapping.len.saturating_sub(HUGE - 1))
                .filter(|at| (base + at) % HUGE == 0)
                .collect();
            assert!(whole.len() >= 3);
            assert_eq!(touched(&mapping, frame, |_| 0), whole, "frames of {frame}");
        }
    }

    #[test]
    fn behind_one_that_is_slow_none_is_touched() {
        let mapping = Mapping::new(20 << 20, Pages::Huge).expect("memory");
        let mut left = 3;
        let touched = touched(&mapping, 1 << 20, |_| {
            left -= 1;
            if left == 0 { 2 * SLOW_NS } else { SLOW_NS }
        });
        assert_eq!(touched.len(), 3);
    }

    #[test]
    fn small_pages_are_not_touched() {
        let mapping = Mapping::new(20 << 20, Pages::Small).expect("memory");
        assert_eq!(touched(&mapping, 1 << 20, |_| 0), []);
    }
}

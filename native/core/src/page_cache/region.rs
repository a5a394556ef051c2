//! Memory for the copies of pages: one range of addresses, reserved once for all pages of the guest, that gets memory
//! from its front on as slots come into use and gives it back from its end.
//!
//! Reserved addresses cost nothing (`PROT_NONE`); memory comes 2 MiB at a time, as huge pages where the system gives
//! them, and is zeroed by nobody but the kernel.

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap,
};
use std::ffi::c_void;
use std::ptr::NonNull;

const HUGE_PAGE: usize = 2 << 20;
/// No system's own pages are larger: what is unmapped must begin at one.
const MAX_HOST_PAGE: usize = 64 << 10;
/// Cache lines of a copy to fetch ahead; the processor itself goes on from there.
const PREFETCHED_LINES: usize = 4;

pub(super) struct Region {
    page_size: usize,
    /// A multiple of [`HUGE_PAGE`]; dangling if nothing is reserved.
    base: NonNull<u8>,
    /// What was mapped, for the unmapping: address and length.
    mapping: (usize, usize),
    /// Bytes from `base` on that belong to us.
    reserved: usize,
    /// Bytes from `base` on that may be read and written.
    committed: usize,
    /// Bytes from `base` on that may become so.
    limit: usize,
}

// SAFETY: the memory belongs to the region alone, and is changed only through `&mut self`.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// A region without memory.
    pub(super) fn empty(page_size: usize) -> Self {
        Self {
            page_size,
            base: NonNull::dangling(),
            mapping: (0, 0),
            reserved: 0,
            committed: 0,
            limit: 0,
        }
    }

    /// Sets how many slots may get memory, and takes it from those beyond. Returns how many it can be: fewer if the
    /// system does not give the addresses. `most` is how many they may ever become.
    pub(super) fn set_limit(&mut self, slots: usize, most: usize) -> usize {
        if self.reserved == 0 && !(self.reserve(most) || self.reserve(slots)) {
            return 0;
        }
        let slots = slots.min(self.reserved / self.page_size);
        self.limit = slots * self.page_size;
        if self.committed > self.limit {
            self.release();
        }
        slots
    }

    /// Makes sure that a slot has memory. Slots come into use in their order.
    #[inline]
    pub(super) fn commit(&mut self, slot: usize) -> bool {
        (slot + 1) * self.page_size <= self.committed || self.commit_more()
    }

    /// Bytes that have memory, or get it when they are written.
    pub(super) fn committed(&self) -> usize {
        self.committed
    }

    #[inline]
    pub(super) fn page_mut(&mut self, slot: usize) -> &mut [u8] {
        let at = self.offset(slot);
        // SAFETY: `offset` has checked that the page lies within what is mapped readable and writable; anonymous memory
        // is initialised; `&mut self` makes the borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(at), self.page_size) }
    }

    /// Copies the page of one slot to another.
    pub(super) fn copy(&mut self, from: usize, to: usize) {
        let (from, to) = (self.offset(from), self.offset(to));
        assert_ne!(from, to);
        // SAFETY: `offset` has checked both; different slots do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.base.as_ptr().add(from),
                self.base.as_ptr().add(to),
                self.page_size,
            );
        }
    }

    #[inline]
    pub(super) fn prefetch(&self, slot: usize) {
        let at = self.offset(slot);
        #[cfg(target_arch = "x86_64")]
        for line in 0..PREFETCHED_LINES {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch touches nothing; the address is within the region, pages have 64 lines at least.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.base.as_ptr().add(at + line * 64).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, PREFETCHED_LINES);
    }

    #[inline(always)]
    fn offset(&self, slot: usize) -> usize {
        let at = slot * self.page_size;
        assert!(
            at + self.page_size <= self.committed,
            "a slot without memory"
        );
        at
    }

    fn reserve(&mut self, slots: usize) -> bool {
        let Some(reserved) = slots
            .checked_mul(self.page_size)
            .and_then(|bytes| bytes.checked_next_multiple_of(HUGE_PAGE))
        else {
            return false;
        };
        let Some(mapped) = reserved.checked_add(HUGE_PAGE) else {
            return false;
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        let Ok(address) = address else {
            return false;
        };
        self.mapping = (address as usize, mapped);
        // One huge page more was mapped than is needed, so there is an aligned address in it.
        let skip = address.align_offset(HUGE_PAGE);
        // SAFETY: `skip` is less than HUGE_PAGE, so it is inside of the mapping.
        let Some(base) = NonNull::new(unsafe { address.cast::<u8>().add(skip) }) else {
            return false;
        };
        self.base = base;
        self.reserved = reserved;
        self.committed = 0;
        true
    }

    /// Gives memory to the next 2 MiB, or to what the limit leaves of them.
    #[cold]
    fn commit_more(&mut self) -> bool {
        let chunk = self.committed / HUGE_PAGE * HUGE_PAGE;
        let end = (chunk + HUGE_PAGE).min(self.limit);
        if end <= self.committed {
            return false;
        }
        // SAFETY: within what is reserved; the memory is given rights, none is taken away.
        let done = unsafe {
            mprotect(
                self.base.as_ptr().add(chunk).cast(),
                end - chunk,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
        };
        if done.is_err() {
            return false;
        }
        // A huge page only where all of it may be used, or it would take more than the limit.
        let advice = if end == chunk + HUGE_PAGE {
            Advice::LinuxHugepage
        } else {
            Advice::LinuxNoHugepage
        };
        // SAFETY: as above; advice changes no content. Kernels without huge pages refuse it, which is fine.
        let _ = unsafe { madvise(self.base.as_ptr().add(chunk).cast(), end - chunk, advice) };
        self.committed = end;
        true
    }

    /// Takes the memory of all that is beyond the limit.
    fn release(&mut self) {
        let start = self.limit.next_multiple_of(MAX_HOST_PAGE);
        if start >= self.committed {
            self.committed = self.limit;
            return;
        }
        // SAFETY: the range is within what is reserved, and no slot beyond the limit is in use any more; a new mapping
        // without rights in its place gives the memory back.
        let address = unsafe {
            mmap_anonymous(
                self.base.as_ptr().add(start).cast(),
                self.reserved - start,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
            )
        };
        if address.is_ok() {
            self.committed = self.limit;
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.mapping.1 != 0 {
            // SAFETY: the mapping is ours, and nobody can hold a borrow of it any more.
            let _ = unsafe { munmap(self.mapping.0 as *mut c_void, self.mapping.1) };
        }
    }
}

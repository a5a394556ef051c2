//! Writes the runs that an encoder has found.

use super::MAX_RUN;
use super::masks::LATE;
use super::scalar::{differs, next_different, next_equal};
use super::vector::{Heads, RUNS, Runs};

/// A changed run up to this length is copied as a block of fixed size, of which the next run overwrites the excess.
/// 32 bytes are two SSE or one AVX2 register; with scattered changes hardly any run is longer.
const SHORT_CHANGED: usize = 32;

/// The same for runs that are written eight at a time. Half as many bytes cross the border of a cache line half as
/// often, and of eight runs with scattered changes hardly one is longer.
pub(super) const SHORTEST: usize = 16;

/// Lengths below this one are one ULEB byte.
pub(super) const TWO_BYTE_LENGTH: usize = 0x80;

/// The delta being written. Its `out` is the limit: a run that does not fit gives `None`, and the page is given up.
pub(super) struct Writer<'a> {
    pages: Pages<'a>,
    out: &'a mut [u8],
    written: usize,
    /// Where the last changed run ended in the page.
    end: usize,
}

impl<'a> Writer<'a> {
    #[inline(always)]
    pub(super) fn new(old: &'a [u8], new: &'a [u8], out: &'a mut [u8]) -> Self {
        let limit = out.len().min(new.len());
        Writer {
            pages: Pages { old, new },
            out: &mut out[..limit],
            written: 0,
            end: 0,
        }
    }

    #[inline(always)]
    pub(super) fn written(&self) -> usize {
        self.written
    }

    /// Where the last changed run ended in the page.
    #[inline(always)]
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// Writes `runs`, if they are short and neither the page's end nor the limit is near; else nothing.
    #[inline(always)]
    pub(super) fn short_runs(&mut self, runs: &Runs, heads: &Heads) -> bool {
        const ROOM: usize = 4 + SHORTEST;
        if !heads.short
            || self.written + RUNS * ROOM > self.out.len()
            || usize::from(runs[2 * RUNS]) + SHORTEST > self.pages.new.len()
        {
            return false;
        }
        // In 32 bits, so that the compiler sees that no sum overflows.
        let mut written = self.written as u32;
        for (run, head) in runs[2..].chunks_exact(2).zip(heads.of) {
            let (start, at) = (usize::from(run[0]), written as usize);
            let bytes = &self.pages.new[start..start + SHORTEST];
            let room = &mut self.out[at..at + ROOM];
            room[..4].copy_from_slice(&(head as u32).to_le_bytes());
            let two = (head >> 7 & 1) as usize;
            room[2 + two..2 + two + SHORTEST].copy_from_slice(bytes);
            written += (head >> 32) as u32;
        }
        self.written = written as usize;
        self.end = usize::from(runs[2 * RUNS + 1].wrapping_sub(LATE + 1)) + 1;
        true
    }

    /// Writes the changed run `start..end`, in which gaps of one and two equal bytes may be bridged, with the unchanged
    /// run before it.
    #[inline(always)]
    pub(super) fn run(&mut self, start: usize, end: usize) -> Option<()> {
        const ROOM: usize = 3 + SHORT_CHANGED;
        let (same, changed) = (start.wrapping_sub(self.end), end.wrapping_sub(start));
        let room = self
            .out
            .get_mut(self.written..self.written.wrapping_add(ROOM));
        let bytes = self.pages.new.get(start..start.wrapping_add(SHORT_CHANGED));
        match (room, bytes) {
            (Some(room), Some(bytes)) if (same < TWO_BYTE_LENGTH) & (changed <= SHORT_CHANGED) => {
                room[0] = same as u8;
                room[1] = changed as u8;
                room[2..2 + SHORT_CHANGED].copy_from_slice(bytes);
                self.written += 2 + changed;
            }
            (Some(room), Some(bytes)) if (same <= MAX_RUN) & (changed <= SHORT_CHANGED) => {
                // Without a branch: where changes are scattered, one length in eight or so takes two bytes.
                let two = usize::from(same >= TWO_BYTE_LENGTH);
                let length = same + (same & !0x7f) + (two << 7);
                room[..2].copy_from_slice(&(length as u16).to_le_bytes());
                room[1 + two] = changed as u8;
                room[2 + two..2 + two + SHORT_CHANGED].copy_from_slice(bytes);
                self.written += 2 + two + changed;
            }
            // By value, so that the loop around keeps the writer in registers.
            _ => {
                self.written = self
                    .pages
                    .any_run(self.out, self.written, self.end, start, end)?
            }
        }
        self.end = end;
        Some(())
    }
}

/// The two versions of the page.
#[derive(Clone, Copy)]
struct Pages<'a> {
    old: &'a [u8],
    new: &'a [u8],
}

impl Pages<'_> {
    /// A run of any length, anywhere: long ones, and those too near to the end of the page or the limit for a block.
    /// Returns what has been written then.
    #[inline(never)]
    fn any_run(
        self,
        out: &mut [u8],
        written: usize,
        before: usize,
        start: usize,
        end: usize,
    ) -> Option<usize> {
        let mut records = Records {
            new: self.new,
            out,
            written,
            end: before,
        };
        if end - start < TWO_BYTE_LENGTH || (end - start <= MAX_RUN && self.bridges_pay(start, end))
        {
            records.write(start, end)?;
        } else {
            self.write_apart(&mut records, start, end)?;
        }
        Some(records.written)
    }

    /// Whether the run `start..end`, whose length takes two bytes, is not larger than its parts written one by one.
    ///
    /// Bridging a gap of `g` bytes saves the `1 + 1` bytes of two lengths and costs `g`; the second length byte of the
    /// whole costs one more unless a part needs two as well. So the sum is negative only if all gaps are of two bytes
    /// and all parts are short.
    fn bridges_pay(self, mut start: usize, end: usize) -> bool {
        loop {
            // No further than the answer needs.
            let near = end.min(start + TWO_BYTE_LENGTH);
            let gap = next_equal(&self.old[..near], &self.new[..near], start + 1);
            if gap - start >= TWO_BYTE_LENGTH {
                return true;
            }
            if gap >= end {
                return false;
            }
            if differs(self.old, self.new, gap + 1) {
                return true;
            }
            start = gap + 2;
        }
    }

    /// Writes the run's parts, each as long as one length byte can name (no larger than the canonical encoding by the
    /// sum above), or one that is longer by itself.
    fn write_apart(self, records: &mut Records<'_>, mut start: usize, end: usize) -> Option<()> {
        while start < end {
            let mut stop = next_equal(self.old, self.new, start + 1);
            loop {
                let next = next_different(self.old, self.new, stop);
                if next >= end {
                    break;
                }
                let next_stop = next_equal(self.old, self.new, next + 1);
                if next_stop - start >= TWO_BYTE_LENGTH {
                    break;
                }
                stop = next_stop;
            }
            records.write(start, stop)?;
            start = next_different(self.old, self.new, stop);
        }
        Some(())
    }
}

/// Exact where [`Writer::run`] is quick.
struct Records<'a> {
    new: &'a [u8],
    out: &'a mut [u8],
    written: usize,
    end: usize,
}

impl Records<'_> {
    /// Writes one record, or several where the unchanged run before it is too long for one length: then it is cut by
    /// changed runs of one byte that did not change.
    fn write(&mut self, start: usize, end: usize) -> Option<()> {
        while start - self.end > MAX_RUN {
            // At least one byte is left for the next unchanged run, which must not be empty.
            let cut = self.end + MAX_RUN.min(start - self.end - 2);
            self.record(cut, cut + 1)?;
        }
        self.record(start, end)
    }

    fn record(&mut self, start: usize, end: usize) -> Option<()> {
        if end - start > MAX_RUN {
            return None;
        }
        self.length(start - self.end)?;
        self.length(end - start)?;
        let bytes = self.new.get(start..end)?;
        self.out
            .get_mut(self.written..self.written + bytes.len())?
            .copy_from_slice(bytes);
        self.written += bytes.len();
        self.end = end;
        Some(())
    }

    fn length(&mut self, length: usize) -> Option<()> {
        if length < TWO_BYTE_LENGTH {
            *self.out.get_mut(self.written)? = length as u8;
            self.written += 1;
        } else {
            let bytes = [length as u8 | 0x80, (length >> 7) as u8];
            self.out
                .get_mut(self.written..self.written + 2)?
                .copy_from_slice(&bytes);
            self.written += 2;
        }
        Some(())
    }
}

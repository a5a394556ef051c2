//! The last bytes of the original stream, as far as they may be referred to: a ring that many threads write and read at once.
//!
//! One thread gives out [`Place`]s for frames in the order of the stream; other threads put the frames' literals there, and
//! read what earlier frames have put. Two rules keep them from each other without a lock around the bytes:
//!
//! - The memory of a place, and of the window before it, is given to no other frame while the place lives.
//! - A granule is read only when its mark says that its bytes are there, and is never written after that.

use super::GRANULE;
use super::mapping::{Mapping, Pages};
use crate::lock::lock;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Granules of one word of marks, in bytes of the stream.
const WORD: u64 = 64 * GRANULE;

/// The window of one stream; see the module.
pub struct Window {
    /// The ring, and behind it the marks.
    memory: Mapping,
    /// Bytes of the ring: a multiple of [`WORD`].
    capacity: u64,
    /// How far back a reference may lead, in bytes.
    reach: u64,
    keeps: Keeps,
    live: Mutex<Live>,
}

/// Whose literals a window holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// All frames'.
    All,
    /// Those of frames that the encoder has looked through: in a session it leaves that be while the link takes all at once.
    Some,
}

#[derive(Default)]
struct Live {
    /// Offsets of the places that live; as many as frames on their way.
    places: Vec<u64>,
    /// Where the last place ended, and the next begins unless bytes have no place.
    end: u64,
    /// Where the bytes without a place end: what stands in the ring for them is of the round before.
    gap: u64,
}

impl Window {
    /// Bytes of memory for a window, beside which frames of `in_flight` raw bytes in all are on their way.
    pub fn bytes(reach: u64, in_flight: u64) -> u64 {
        let capacity = Self::capacity(reach, in_flight);
        capacity + capacity / WORD * 8
    }

    fn capacity(reach: u64, in_flight: u64) -> u64 {
        // A frame that does not begin on a granule touches one more.
        reach
            .saturating_add(in_flight)
            .saturating_add(2 * GRANULE)
            .div_ceil(WORD)
            .saturating_mul(WORD)
    }

    /// A window that reaches so many bytes back, with room for `in_flight` raw bytes of frames on their way. Memory is taken as
    /// the stream fills it.
    ///
    /// # Errors
    /// If the system does not give the addresses.
    pub fn new(reach: u64, in_flight: u64, keeps: Keeps) -> io::Result<Arc<Self>> {
        let capacity = Self::capacity(reach, in_flight);
        let pages = match keeps {
            Keeps::All => Pages::Huge,
            Keeps::Some => Pages::Small,
        };
        Ok(Arc::new(Window {
            memory: Mapping::new(Self::bytes(reach, in_flight), pages)?,
            capacity,
            reach,
            keeps,
            live: Mutex::default(),
        }))
    }

    /// The place of the next frame: `len` bytes from `offset` on. To be called in the order of the stream, before anyone works
    /// on the frame. `None` where more is on its way than there is room for; then nothing will refer to the frame, nor to what
    /// came before.
    pub fn open(self: &Arc<Self>, offset: u64, len: u32) -> Option<Place> {
        let mut live = lock(&self.live);
        let end = offset.checked_add(u64::from(len))?;
        if offset < live.end {
            return None;
        }
        let oldest = live.places.iter().copied().min().unwrap_or(offset);
        // In whole granules, as they are marked; the one before the oldest's reach is not read any more.
        let needed = end.checked_add(2 * GRANULE)? - oldest;
        if needed > self.capacity - self.reach {
            return None;
        }
        if offset > live.end {
            live.gap = offset;
        }
        self.unmark(offset, end);
        let start = offset % self.capacity;
        let in_ring = self.capacity.min(start + u64::from(len));
        self.memory.take(start as usize, in_ring as usize);
        live.end = end;
        live.places.push(offset);
        Some(Place {
            window: Arc::clone(self),
            offset,
            floor: offset.saturating_sub(self.reach).max(live.gap),
            len,
            filled: 0,
        })
    }

    fn marks(&self) -> &[AtomicU64] {
        // SAFETY: the bytes behind the ring are the marks, and are used through this function only; `capacity` is a multiple
        // of 8.
        unsafe { self.memory.words(self.capacity as usize) }
    }

    /// The word and the bit of a granule's mark.
    fn mark(&self, offset: u64) -> (&AtomicU64, u32) {
        let granule = offset % self.capacity / GRANULE;
        (
            &self.marks()[(granule / 64) as usize],
            (granule % 64) as u32,
        )
    }

    /// Takes away the marks of all granules that these bytes touch: they were of bytes that stood here one round ago.
    fn unmark(&self, from: u64, to: u64) {
        self.words_of(
            from / GRANULE * GRANULE,
            to.div_ceil(GRANULE) * GRANULE,
            |word, bits| {
                // Who works on this place, or a later one, hears of the place only after this.
                word.fetch_and(!bits, Ordering::Relaxed);
            },
        );
    }

    /// Marks these granules.
    fn set_marks(&self, from: u64, to: u64) {
        self.words_of(from, to, |word, bits| {
            word.fetch_or(bits, Ordering::Release);
        });
    }

    fn words_of(&self, mut from: u64, to: u64, mut each: impl FnMut(&AtomicU64, u64)) {
        while from < to {
            let (word, bit) = self.mark(from);
            let granules = ((to - from) / GRANULE).min(64 - u64::from(bit));
            each(word, u64::MAX >> (64 - granules) << bit);
            from += granules * GRANULE;
        }
    }

    /// Bytes from `offset` on, `most` at the most, that are marked and stand in one piece of the ring.
    fn marked_forward(&self, offset: u64, most: u64) -> u64 {
        let most = most.min(self.capacity - offset % self.capacity);
        let within = offset % GRANULE;
        let (mut run, start) = (0, offset - within);
        while run < most + within {
            let (word, bit) = self.mark(start + run);
            let ones = (word.load(Ordering::Acquire) >> bit).trailing_ones();
            run += u64::from(ones) * GRANULE;
            if ones < 64 - bit {
                break;
            }
        }
        run.saturating_sub(within).min(most)
    }

    /// Bytes before `offset`, `most` at the most, that are marked and stand in one piece of the ring.
    fn marked_backward(&self, offset: u64, most: u64) -> u64 {
        let in_ring = match offset % self.capacity {
            0 => self.capacity,
            n => n,
        };
        let most = most.min(in_ring);
        let end = offset.div_ceil(GRANULE) * GRANULE;
        let behind = end - offset;
        let mut run = 0;
        while run < most + behind {
            let (word, bit) = self.mark(end - run - 1);
            let ones = (word.load(Ordering::Acquire) << (63 - bit)).leading_ones();
            run += u64::from(ones) * GRANULE;
            if ones < bit + 1 {
                break;
            }
        }
        run.saturating_sub(behind).min(most)
    }

    /// Bytes of the ring.
    ///
    /// # Safety
    /// They must be in one piece of the ring, marked, and of the window of a place that lives for as long as the borrow.
    unsafe fn piece(&self, offset: u64, len: u64) -> &[u8] {
        let at = offset % self.capacity;
        assert!(at + len <= self.capacity);
        // SAFETY: within the ring; what is marked is not written while a place lives whose window it is in.
        unsafe {
            std::slice::from_raw_parts(self.memory.base().as_ptr().add(at as usize), len as usize)
        }
    }
}

/// One frame's place in a window, for whoever works on the frame.
pub struct Place {
    window: Arc<Window>,
    offset: u64,
    /// The first byte that the frame may refer to.
    floor: u64,
    len: u32,
    /// Bytes of the frame, from its start, that were put or passed over.
    filled: u32,
}

impl Place {
    /// Where the frame begins in the original stream.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How far back the stream's references may lead, in bytes.
    pub fn reach(&self) -> u64 {
        self.window.reach
    }

    /// Whose literals the window holds.
    pub fn keeps(&self) -> Keeps {
        self.window.keeps
    }

    /// The first byte that the frame may refer to.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Puts a run of the frame's literals, which begins `at` bytes into the frame. In their order, and each once.
    ///
    /// # Panics
    /// If the run is outside of the frame or stands before one that was put.
    pub fn put(&mut self, at: u32, bytes: &[u8]) {
        let end = u64::from(at) + bytes.len() as u64;
        assert!(
            at >= self.filled && end <= u64::from(self.len),
            "out of place"
        );
        self.filled = end as u32;
        let window = &*self.window;
        // Only whole granules can be referred to. Memory that would hold pieces of them alone is not even touched: of pages
        // that stand in the window already, but for a few words, that is most of it.
        let (run, end) = (self.offset + u64::from(at), self.offset + end);
        let (from, to) = (run.div_ceil(GRANULE) * GRANULE, end / GRANULE * GRANULE);
        if from >= to {
            return;
        }
        let bytes = &bytes[(from - run) as usize..(to - run) as usize];
        let start = from % window.capacity;
        let first = bytes.len().min((window.capacity - start) as usize);
        let base = window.memory.base().as_ptr();
        // SAFETY: both pieces lie within the ring; they belong to this place alone, no granule of theirs is marked yet
        // (`open` has taken the marks away and `filled` only grows), and nobody reads what is not marked.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.add(start as usize), first);
            std::ptr::copy_nonoverlapping(bytes.as_ptr().add(first), base, bytes.len() - first);
        }
        window.set_marks(from, to);
    }

    /// Copies bytes that the frame refers to. `false` where one of them is not there: not a literal, or out of reach, or of a
    /// frame that nobody has put yet.
    #[must_use]
    pub fn get(&self, mut from: u64, mut out: &mut [u8]) -> bool {
        if !self.reaches(from, out.len()) {
            return false;
        }
        while !out.is_empty() {
            let run = self.window.marked_forward(from, out.len() as u64);
            if run == 0 {
                return false;
            }
            let (now, rest) = out.split_at_mut(run as usize);
            // SAFETY: `marked_forward` has just said so, and `reaches` that it is in the window of this place.
            now.copy_from_slice(unsafe { self.window.piece(from, run) });
            (from, out) = (from + run, rest);
        }
        true
    }

    fn reaches(&self, from: u64, len: usize) -> bool {
        let end = self.offset + u64::from(self.len);
        from >= self.floor && from.checked_add(len as u64).is_some_and(|to| to <= end)
    }

    /// How many bytes from `from` on, before this frame, are literals and equal to those that `bytes` begins with.
    pub fn common_forward(&self, mut from: u64, bytes: &[u8]) -> usize {
        let mut common = 0;
        while from >= self.floor && from < self.offset && common < bytes.len() {
            let most = (self.offset - from).min((bytes.len() - common) as u64);
            // In steps: most runs are far shorter than what could be.
            let most = most.min(2 * WORD);
            let run = self.window.marked_forward(from, most);
            // SAFETY: it is marked, and between this place's floor and its offset.
            let there = unsafe { self.window.piece(from, run) };
            let same = common_prefix(there, &bytes[common..]);
            common += same;
            from += same as u64;
            if same < run as usize || run == 0 {
                break;
            }
        }
        common
    }

    /// How many bytes before `to`, before this frame, are literals and equal to those that `bytes` ends with.
    pub fn common_backward(&self, mut to: u64, bytes: &[u8]) -> usize {
        let mut common = 0;
        while to > self.floor && to <= self.offset && common < bytes.len() {
            let most = (to - self.floor).min((bytes.len() - common) as u64);
            let most = most.min(2 * WORD);
            let run = self.window.marked_backward(to, most);
            // SAFETY: it is marked, and between this place's floor and its offset.
            let there = unsafe { self.window.piece(to - run, run) };
            let same = common_suffix(there, &bytes[..bytes.len() - common]);
            common += same;
            to -= same as u64;
            if same < run as usize || run == 0 {
                break;
            }
        }
        common
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut live = lock(&self.window.live);
        if let Some(at) = live.places.iter().position(|&offset| offset == self.offset) {
            live.places.swap_remove(at);
        }
    }
}

/// Bytes that two slices begin with alike.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let mut at = 0;
    // Arrays are compared by the vector units, without a call.
    while let (Some(x), Some(y)) = (a[at..].first_chunk::<32>(), b[at..].first_chunk::<32>()) {
        if x != y {
            break;
        }
        at += 32;
    }
    while let (Some(x), Some(y)) = (a[at..].first_chunk::<8>(), b[at..].first_chunk::<8>()) {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return at + differ.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let tails = a[at..].iter().zip(&b[at..]);
    at + tails.take_while(|(x, y)| x == y).count()
}

/// Bytes that two slices end with alike.
fn common_suffix(mut a: &[u8], mut b: &[u8]) -> usize {
    let len = a.len();
    while let (Some((to, x)), Some((upto, y))) =
        (a.split_last_chunk::<32>(), b.split_last_chunk::<32>())
    {
        if x != y {
            break;
        }
        (a, b) = (to, upto);
    }
    while let (Some((to, x)), Some((upto, y))) =
        (a.split_last_chunk::<8>(), b.split_last_chunk::<8>())
    {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return len - a.len() + differ.leading_zeros() as usize / 8;
        }
        (a, b) = (to, upto);
    }
    let heads = a.iter().rev().zip(b.iter().rev());
    len - a.len() + heads.take_while(|(x, y)| x == y).count()
}

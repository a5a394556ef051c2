//! The mirror of the destination's RAM: what each page held when it was last sent.
//!
//! Pages have dense numbers, so the index is one word for each page of the guest rather than a hash table: a quarter of
//! an hash table's memory where the cache holds the whole guest, one cache line to touch, no hashing. The word says
//! where the page's copy is, or that the page is one byte all over (no copy needed), or, of a page that is not here,
//! when it was last seen.
//!
//! ```text
//!   index: a word for each page of the guest        slots: page and time for each copy
//!   ┌────────┬────────┬────────┬────────┐           ┌───────────┬───────────┬──
//!   │ copy 1 │ seen t │ fill 0 │ copy 0 │ …         │ 3, used t │ 0, used t │ …
//!   └────────┴────────┴────────┴────────┘           └───────────┴───────────┴──
//!                                            copies: ▓▓▓▓▓▓▓▓▓▓▓ ▓▓▓▓▓▓▓▓▓▓▓    2 MiB at a time
//! ```
//!
//! # Who stays
//! Migration sweeps the guest again and again, which is the worst case of LRU and CLOCK: a guest a little larger than
//! the cache would never hit. Here the cache compares intervals, as LIRS does. A page that misses while the cache is
//! full takes the place of another only if that one has gone unused for longer than the interval at which the new page
//! comes back. In an even sweep nobody has, so those who are in stay in, and hit; a working set that has moved is
//! taken in at its second touch, because what it replaces has become old.

mod region;

use region::Region;

/// The tag in a word's upper two bits.
const TAG: u32 = 3 << 30;
/// Not here; the rest is when it was seen last, 0 for never.
const ABSENT: u32 = 0;
/// One byte all over; the rest is the byte.
const FILL: u32 = 1 << 30;
/// Here; the rest is the slot.
const COPY: u32 = 2 << 30;

/// No page: in a slot that is free, and the end of the list of free slots.
const NONE: u32 = u32::MAX;

/// More slots than 30 bits number (4 TiB of 4 KiB pages) are not used.
const MAX_SLOTS: u64 = 1 << 30;
/// Guests of more pages (16 TiB of 4 KiB pages) get no cache: a slot names its page in 32 bits.
const MAX_PAGES: u64 = NONE as u64;

/// How many slots are looked at for the one to evict: 64 bytes, one cache line.
const SAMPLES: usize = 8;

/// Times are counted in lookups, and for guests of more than 2^20 pages in so many of them that the guest has 2^20 at
/// most. So 30 bits last for 1024 sweeps; what wraps is an age, which costs a wrong choice and nothing else.
const GUEST_TICKS_BITS: u32 = 20;
const TIME_MASK: u32 = !TAG;

#[derive(Clone, Copy)]
struct Slot {
    page: u32,
    /// When it was used last; of a free slot, the next free one.
    used: u32,
}

/// What the cache knows of a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Its content.
    Copy(&'a mut [u8]),
    /// It is this byte all over.
    Fill(u8),
    /// Nothing.
    Absent,
}

/// What the cache has done and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Pages looked up and found.
    pub hits: u64,
    /// Pages looked up and not found.
    pub misses: u64,
    /// Pages that had to go: for another page, or because the cache shrank.
    pub evictions: u64,
    /// Pages held as copies.
    pub copies: u64,
    /// Pages held as one byte.
    pub fills: u64,
    /// Bytes of memory in use, those of the index and the slots' table included.
    pub bytes: u64,
    /// Bytes of memory that may be used.
    pub budget: u64,
}

/// A bounded cache of pages, see the [module](self).
pub struct PageCache {
    page_size: usize,
    pages: u64,
    budget: u64,
    index: Vec<u32>,
    slots: Vec<Slot>,
    /// How many slots the budget allows.
    limit: usize,
    /// Head of the list of free slots among `slots`.
    free: u32,
    free_count: usize,
    copies: Region,
    /// Where the search for the next one to evict goes on.
    hand: usize,
    lookups: u64,
    tick_shift: u32,
    counters: CacheCounters,
}

impl PageCache {
    /// A cache for a guest of `pages` pages that takes at most `bytes`, or less if that is enough for all of them.
    /// Memory is taken as the cache fills. With too few bytes for the index and one page, it holds nothing.
    #[must_use]
    pub fn new(pages: u64, page_size: usize, bytes: u64) -> Self {
        let mut cache = Self {
            page_size,
            pages,
            budget: 0,
            index: Vec::new(),
            slots: Vec::new(),
            limit: 0,
            free: NONE,
            free_count: 0,
            copies: Region::empty(page_size),
            hand: 0,
            lookups: 0,
            tick_shift: pages.max(1).ilog2().saturating_sub(GUEST_TICKS_BITS),
            counters: CacheCounters::default(),
        };
        cache.resize(bytes);
        cache
    }

    /// The bytes that a cache takes when it holds every page of a guest.
    #[must_use]
    pub fn bytes_for(pages: u64, page_size: usize) -> u64 {
        pages.saturating_mul(page_size as u64 + (size_of::<u32>() + size_of::<Slot>()) as u64)
    }

    /// Looks a page up; counts, and notes when it was used.
    #[inline]
    pub fn get(&mut self, page: u64) -> Entry<'_> {
        let now = self.tick();
        let word = self.word(page);
        match word & TAG {
            COPY => {
                self.counters.hits += 1;
                let slot = (word & !TAG) as usize;
                self.slots[slot].used = now;
                Entry::Copy(self.copies.page_mut(slot))
            }
            FILL => {
                self.counters.hits += 1;
                Entry::Fill(word as u8)
            }
            _ => {
                self.counters.misses += 1;
                Entry::Absent
            }
        }
    }

    /// Whether something is known of a page. Neither counts nor notes it.
    #[must_use]
    pub fn knows(&self, page: u64) -> bool {
        matches!(self.word(page) & TAG, COPY | FILL)
    }

    /// Starts to fetch what [`get`](Self::get) and its caller will need of a page.
    #[inline]
    pub fn prefetch(&self, page: u64) {
        let word = self.word(page);
        if word & TAG == COPY {
            self.copies.prefetch((word & !TAG) as usize);
        }
    }

    /// Takes a page in, if the page deserves it; whatever was known of it before is forgotten. Says whether it was.
    #[inline]
    pub fn insert(&mut self, page: u64, content: &[u8]) -> bool {
        let word = self.word(page);
        let slot = match word & TAG {
            COPY => Some((word & !TAG) as usize),
            _ => self.admit(page, word),
        };
        if let Some(slot) = slot {
            self.copies.page_mut(slot).copy_from_slice(content);
        }
        slot.is_some()
    }

    /// Notes that a page is one byte all over.
    #[inline]
    pub fn insert_fill(&mut self, page: u64, byte: u8) {
        self.tick();
        let word = self.word(page);
        if let Some(entry) = self.index.get_mut(page as usize) {
            *entry = FILL | u32::from(byte);
            match word & TAG {
                FILL => {}
                tag => {
                    self.counters.fills += 1;
                    if tag == COPY {
                        self.free_slot(word & !TAG);
                    }
                }
            }
        }
    }

    /// Forgets a page, but for when it was seen.
    #[inline]
    pub fn remove(&mut self, page: u64) {
        let now = self.tick();
        let word = self.word(page);
        if let Some(entry) = self.index.get_mut(page as usize) {
            *entry = ABSENT | now;
            match word & TAG {
                COPY => self.free_slot(word & !TAG),
                FILL => self.counters.fills -= 1,
                _ => {}
            }
        }
    }

    /// Sets how many bytes the cache may take. Growing keeps every page, shrinking evicts the ones unused for longest
    /// and gives their memory back.
    pub fn resize(&mut self, bytes: u64) {
        let bytes = bytes.min(Self::bytes_for(self.pages, self.page_size));
        self.budget = bytes;
        let index_bytes = self.pages.saturating_mul(size_of::<u32>() as u64);
        let per_slot = (self.page_size + size_of::<Slot>()) as u64;
        let limit = bytes.saturating_sub(index_bytes) / per_slot;
        if limit == 0 || self.pages > MAX_PAGES {
            self.clear();
            return;
        }
        let limit = limit.min(MAX_SLOTS) as usize;
        if self.index.is_empty() {
            // A system that will not give so much is asked politely first: `vec!` would end the process.
            if Vec::<u32>::new()
                .try_reserve_exact(self.pages as usize)
                .is_err()
            {
                self.clear();
                return;
            }
            self.index = vec![0; self.pages as usize];
        }
        if limit < self.slots.len() {
            self.shrink(limit);
        }
        self.limit = self
            .copies
            .set_limit(limit, self.pages.min(MAX_SLOTS) as usize);
        if self.slots.capacity() < self.limit {
            if self
                .slots
                .try_reserve_exact(self.limit - self.slots.len())
                .is_err()
            {
                self.limit = self.slots.capacity();
            }
        } else {
            self.slots.shrink_to(self.limit);
        }
    }

    /// The counters as they are now.
    #[must_use]
    pub fn counters(&self) -> CacheCounters {
        CacheCounters {
            copies: (self.slots.len() - self.free_count) as u64,
            bytes: (self.index.len() * size_of::<u32>() + self.slots.len() * size_of::<Slot>())
                as u64
                + self.copies.committed() as u64,
            budget: self.budget,
            ..self.counters
        }
    }

    #[inline(always)]
    fn word(&self, page: u64) -> u32 {
        self.index.get(page as usize).copied().unwrap_or(ABSENT)
    }

    /// Time goes on; never 0.
    #[inline(always)]
    fn tick(&mut self) -> u32 {
        self.lookups += 1;
        self.now()
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        ((self.lookups >> self.tick_shift) as u32 & TIME_MASK).max(1)
    }

    /// A slot for a page that has none, or none for it: then its being seen is noted.
    #[inline]
    fn admit(&mut self, page: u64, word: u32) -> Option<usize> {
        let slot = self.find_slot(word);
        let now = self.now();
        let entry = self.index.get_mut(page as usize)?;
        if word & TAG == FILL {
            self.counters.fills -= 1;
        }
        match slot {
            Some(slot) => {
                *entry = COPY | slot as u32;
                self.slots[slot] = Slot {
                    page: page as u32,
                    used: now,
                };
            }
            None => *entry = ABSENT | now,
        }
        slot
    }

    #[inline]
    fn find_slot(&mut self, word: u32) -> Option<usize> {
        if self.free != NONE {
            let slot = self.free as usize;
            self.free = self.slots[slot].used;
            self.free_count -= 1;
            return Some(slot);
        }
        let slot = self.slots.len();
        if slot < self.limit {
            if self.copies.commit(slot) {
                self.slots.push(Slot {
                    page: NONE,
                    used: NONE,
                });
                return Some(slot);
            }
            // The system has no more memory: what there is must do.
            self.limit = slot;
        }
        self.evict_for(word)
    }

    /// The slot of a page that has been unused for longer than the page of this word was.
    fn evict_for(&mut self, word: u32) -> Option<usize> {
        if self.slots.is_empty() || word & TAG != ABSENT || word == ABSENT {
            return None;
        }
        let now = self.now();
        let age = |then: u32| now.wrapping_sub(then) & TIME_MASK;
        let interval = age(word);
        let mut oldest = (0, 0);
        for _ in 0..SAMPLES {
            self.hand = if self.hand + 1 < self.slots.len() {
                self.hand + 1
            } else {
                0
            };
            let slot = self.slots[self.hand];
            if slot.page != NONE && age(slot.used) >= oldest.0 {
                oldest = (age(slot.used), self.hand);
            }
        }
        // One more than the interval, as times are rounded.
        if oldest.0 <= interval + 1 {
            return None;
        }
        let slot = self.slots[oldest.1];
        self.index[slot.page as usize] = ABSENT | slot.used;
        self.counters.evictions += 1;
        Some(oldest.1)
    }

    fn free_slot(&mut self, slot: u32) {
        self.slots[slot as usize] = Slot {
            page: NONE,
            used: self.free,
        };
        self.free = slot;
        self.free_count += 1;
    }

    /// Keeps the `limit` slots used last, moves them to the front and forgets the others.
    fn shrink(&mut self, limit: usize) {
        let now = self.now();
        let age = |slot: &Slot| {
            if slot.page == NONE {
                u32::MAX
            } else {
                now.wrapping_sub(slot.used) & TIME_MASK
            }
        };
        let mut ages: Vec<u32> = self.slots.iter().map(age).collect();
        let (_, &mut threshold, _) = ages.select_nth_unstable(limit);
        drop(ages);
        // Among those of just that age, as many as there is room for.
        let mut room_at_threshold = limit
            - self
                .slots
                .iter()
                .filter(|slot| age(slot) < threshold)
                .count();
        let mut vacant = Vec::new();
        let mut moved = Vec::new();
        for at in 0..self.slots.len() {
            let slot = self.slots[at];
            let slot_age = age(&slot);
            let keep = slot.page != NONE
                && (slot_age < threshold
                    || (slot_age == threshold && room_at_threshold > 0 && {
                        room_at_threshold -= 1;
                        true
                    }));
            if keep && at >= limit {
                moved.push(at as u32);
            } else if !keep {
                if slot.page != NONE {
                    self.index[slot.page as usize] = ABSENT | slot.used;
                    self.counters.evictions += 1;
                    self.slots[at].page = NONE;
                }
                if at < limit {
                    vacant.push(at as u32);
                }
            }
        }
        for from in moved {
            let Some(to) = vacant.pop() else {
                unreachable!("no more slots are kept than there is room for")
            };
            let slot = self.slots[from as usize];
            self.copies.copy(from as usize, to as usize);
            self.slots[to as usize] = slot;
            self.index[slot.page as usize] = COPY | to;
        }
        self.slots.truncate(limit);
        self.free = NONE;
        self.free_count = 0;
        for slot in vacant {
            self.free_slot(slot);
        }
        self.hand = 0;
    }

    /// Holds nothing and takes nothing.
    fn clear(&mut self) {
        self.counters.evictions += (self.slots.len() - self.free_count) as u64;
        self.counters.fills = 0;
        self.index = Vec::new();
        self.slots = Vec::new();
        self.limit = 0;
        self.free = NONE;
        self.free_count = 0;
        self.copies = Region::empty(self.page_size);
        self.hand = 0;
    }
}

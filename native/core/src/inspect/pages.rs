//! The guest's pages: of which kind, in which pass, how often, and how they changed.

use super::{Contents, DeltaSizes, Size};
use crate::page_cache::{Entry, PageCache};
use crate::qemu::{Element, Found, GuestRam, PageAt};
use crate::xbzrle;

/// Passes told apart; the last one stands for all that follow.
pub const MAX_PASSES: usize = 256;

/// Pages of which it is counted how often they were sent, a byte each: 256 GiB of 4 KiB pages. Of larger guests it is not.
pub const MAX_COUNTED: u64 = 1 << 26;

/// Bytes that an XBZRLE record has more than a raw one: the encoding and the length.
const XBZRLE_FIELDS: usize = 3;

/// Page records by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pages as they are.
    pub raw: u64,
    /// Pages of zeros.
    pub zero: u64,
    /// Pages of one other byte.
    pub fill: u64,
    /// Differences that QEMU made.
    pub xbzrle: u64,
    /// Pages that QEMU compressed.
    pub compressed: u64,
    /// Bytes of all these records.
    pub bytes: u64,
}

impl Tally {
    #[inline]
    fn add(&mut self, found: &Found<'_>) {
        self.bytes += found.end - found.start;
        match found.element {
            Element::Page { .. } => self.raw += 1,
            Element::Fill { byte: 0, .. } => self.zero += 1,
            Element::Fill { .. } => self.fill += 1,
            Element::Xbzrle { .. } => self.xbzrle += 1,
            _ => self.compressed += 1,
        }
    }

    /// All of them.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.raw + self.zero + self.fill + self.xbzrle + self.compressed
    }
}

/// One way through the guest's RAM in rising order of block and address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Where its first page's record stands.
    pub offset: u64,
    /// What was in it.
    pub tally: Tally,
}

/// How often pages were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// Pages of the guest that were sent at all.
    pub sent: u64,
    /// Those of them that were sent more than once.
    pub more_than_once: u64,
    /// Records beyond the first of their page.
    pub records: u64,
    /// The most often that a page was sent; 255 stands for that and more.
    pub most: u8,
}

/// What is known of the guest's pages.
pub struct Pages {
    /// All of them.
    pub total: Tally,
    /// By block, in the stream's order.
    pub blocks: Vec<Tally>,
    /// At most [`MAX_PASSES`].
    pub passes: Vec<Pass>,
    /// Whether the last one of `passes` is several.
    pub passes_merged: bool,
    /// Differences of whole pages that were sent again.
    pub deltas: DeltaSizes,
    /// Whole pages that were sent again, and whose last version is not known.
    pub without_base: u64,
    /// Whole pages and their content; those that had not changed since they were sent last are not among them.
    pub contents: Contents,
    /// How often each page was sent; empty where the guest has more than [`MAX_COUNTED`].
    times: Vec<u8>,
    records_again: u64,
    last: Option<u64>,
    cache: PageCache,
    encoded: Box<[u8]>,
    /// A page of `filled_with`.
    filled: Box<[u8]>,
    filled_with: u8,
}

impl Pages {
    /// Of this guest; their last versions may take so many bytes.
    #[must_use]
    pub fn new(guest: &GuestRam, cache_bytes: u64) -> Self {
        let page_size = guest.page_size as usize;
        let counted = if guest.pages() <= MAX_COUNTED {
            guest.pages() as usize
        } else {
            0
        };
        Self {
            total: Tally::default(),
            blocks: vec![Tally::default(); guest.blocks.len()],
            passes: Vec::new(),
            passes_merged: false,
            deltas: DeltaSizes::new(guest.page_size),
            without_base: 0,
            contents: Contents::default(),
            // Zeroed memory that is not touched takes none, so a stream that only claims to be large costs nothing.
            times: vec![0; counted],
            records_again: 0,
            last: None,
            cache: PageCache::new(guest.pages(), page_size, cache_bytes),
            encoded: vec![0; page_size - XBZRLE_FIELDS].into(),
            filled: vec![0; page_size].into(),
            filled_with: 0,
        }
    }

    /// The next element, which may be no page. `false` where it is a difference that cannot be applied.
    #[inline]
    pub(super) fn add(&mut self, found: &Found<'_>) -> bool {
        match found.element {
            Element::Page { at, content } => {
                let again = self.count(at, found);
                self.page(at.number, content, again);
            }
            Element::Fill { at, byte } => {
                self.count(at, found);
                self.cache.insert_fill(at.number, byte);
            }
            Element::Xbzrle { at, delta } => {
                self.count(at, found);
                return self.apply(at.number, delta);
            }
            Element::CompressPage { at, .. } => {
                self.count(at, found);
                self.cache.remove(at.number);
            }
            _ => {}
        }
        true
    }

    /// How often pages were sent; `None` where the guest is too large to count.
    #[must_use]
    pub fn resent(&self) -> Option<Resent> {
        if self.times.is_empty() {
            return None;
        }
        let mut resent = Resent {
            records: self.records_again,
            ..Resent::default()
        };
        for times in self.times.iter().copied() {
            resent.sent += u64::from(times > 0);
            resent.more_than_once += u64::from(times > 1);
            resent.most = resent.most.max(times);
        }
        Some(resent)
    }

    /// Whether it is known that the page was sent before.
    #[inline]
    fn count(&mut self, at: PageAt, found: &Found<'_>) -> bool {
        if self.last.is_none_or(|last| at.number <= last) {
            self.begin_pass(found.start);
        }
        self.last = Some(at.number);
        self.total.add(found);
        if let Some(pass) = self.passes.last_mut() {
            pass.tally.add(found);
        }
        if let Some(block) = self.blocks.get_mut(at.block as usize) {
            block.add(found);
        }
        let Some(times) = self.times.get_mut(at.number as usize) else {
            return false;
        };
        let again = *times > 0;
        *times = times.saturating_add(1);
        self.records_again += u64::from(again);
        again
    }

    #[cold]
    fn begin_pass(&mut self, offset: u64) {
        if self.passes.len() < MAX_PASSES {
            self.passes.push(Pass {
                offset,
                tally: Tally::default(),
            });
        } else {
            self.passes_merged = true;
        }
    }

    #[inline]
    fn page(&mut self, page: u64, content: &[u8], again: bool) {
        let base = match self.cache.get(page) {
            Entry::Copy(base) => Some(base),
            Entry::Fill(byte) => {
                if byte != self.filled_with {
                    self.filled.fill(byte);
                    self.filled_with = byte;
                }
                None
            }
            Entry::Absent => {
                self.without_base += u64::from(again);
                self.cache.insert(page, content);
                self.contents.add(page, content);
                return;
            }
        };
        let size = match xbzrle::encode(
            base.as_deref().unwrap_or(&self.filled),
            content,
            &mut self.encoded,
        ) {
            Some(bytes) => Size::Bytes(bytes),
            None => Size::TooLarge,
        };
        self.deltas.add(size);
        if size == Size::Bytes(0) {
            return;
        }
        match base {
            Some(base) => base.copy_from_slice(content),
            None => {
                self.cache.insert(page, content);
            }
        }
        self.contents.add(page, content);
    }

    /// Keeps the last version of a page of which QEMU sent a difference.
    fn apply(&mut self, page: u64, delta: &[u8]) -> bool {
        let applied = match self.cache.get(page) {
            Entry::Copy(base) => xbzrle::decode(delta, base),
            Entry::Fill(byte) => {
                let mut content = vec![byte; self.filled.len()];
                let applied = xbzrle::decode(delta, &mut content);
                if applied.is_ok() {
                    self.cache.insert(page, &content);
                }
                applied
            }
            Entry::Absent => return true,
        };
        applied.is_ok()
    }
}

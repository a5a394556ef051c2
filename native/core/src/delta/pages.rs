//! The core: what becomes of a page.

use crate::page_cache::{CacheCounters, Entry, PageCache};
use crate::xbzrle;

/// What becomes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The destination has it.
    Skip,
    /// This difference makes it of what the destination has.
    Delta(&'a [u8]),
    /// It must go as it is.
    Raw,
}

/// A difference that does not fit its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed XBZRLE encoding")]
pub struct MalformedDelta;

/// Decides for each page whether it is left out, sent as a difference, or sent as it is, and keeps the cache the
/// mirror of what the destination holds. Each verdict must be carried out, in order.
pub struct Delta {
    cache: PageCache,
    page_size: usize,
    /// Room for the longest difference that may be sent.
    encoded: Box<[u8]>,
    /// A page of `filled_with`, the base of what was a fill page.
    filled: Box<[u8]>,
    filled_with: u8,
    takes_in: bool,
}

impl Delta {
    /// For a guest of `pages` pages, with a cache of `cache_bytes`; differences are at most `max_delta` bytes long.
    #[must_use]
    pub fn new(pages: u64, page_size: usize, cache_bytes: u64, max_delta: usize) -> Self {
        Self {
            cache: PageCache::new(pages, page_size, cache_bytes),
            page_size,
            encoded: vec![0; max_delta.min(page_size)].into(),
            filled: vec![0; page_size].into(),
            filled_with: 0,
            takes_in: true,
        }
    }

    /// Whether pages without a copy get one when they are seen. Without, they go as they are, now and the next time;
    /// those that have a copy keep it.
    pub fn set_takes_in(&mut self, on: bool) {
        self.takes_in = on;
    }

    /// What becomes of a page with this content. It is as long as a page.
    #[inline]
    pub fn page(&mut self, page: u64, content: &[u8]) -> Verdict<'_> {
        match self.cache.get(page) {
            Entry::Copy(base) => match xbzrle::encode(base, content, &mut self.encoded) {
                Some(0) => Verdict::Skip,
                Some(length) => {
                    base.copy_from_slice(content);
                    Verdict::Delta(&self.encoded[..length])
                }
                None => {
                    base.copy_from_slice(content);
                    Verdict::Raw
                }
            },
            Entry::Fill(_) if !self.takes_in => {
                self.cache.remove(page);
                Verdict::Raw
            }
            Entry::Fill(byte) => {
                if byte != self.filled_with {
                    self.filled.fill(byte);
                    self.filled_with = byte;
                }
                let length = xbzrle::encode(&self.filled, content, &mut self.encoded);
                if length != Some(0) {
                    self.cache.insert(page, content);
                }
                match length {
                    Some(0) => Verdict::Skip,
                    Some(length) => Verdict::Delta(&self.encoded[..length]),
                    None => Verdict::Raw,
                }
            }
            Entry::Absent => {
                if self.takes_in {
                    self.cache.insert(page, content);
                }
                Verdict::Raw
            }
        }
    }

    /// The destination gets a page that is this byte all over.
    pub fn fill(&mut self, page: u64, byte: u8) {
        self.cache.insert_fill(page, byte);
    }

    /// The destination gets a difference that somebody else made.
    ///
    /// # Errors
    /// If it does not fit the page; the page is forgotten then.
    pub fn apply(&mut self, page: u64, delta: &[u8]) -> Result<(), MalformedDelta> {
        let applied = match self.cache.get(page) {
            Entry::Copy(base) => xbzrle::decode(delta, base),
            Entry::Fill(byte) => {
                let mut content = vec![byte; self.page_size];
                let applied = xbzrle::decode(delta, &mut content);
                if applied.is_ok() {
                    self.cache.insert(page, &content);
                }
                applied
            }
            Entry::Absent => return Ok(()),
        };
        applied.map_err(|_| {
            self.cache.remove(page);
            MalformedDelta
        })
    }

    /// The destination gets a page in a way that is not followed.
    #[inline]
    pub fn forget(&mut self, page: u64) {
        self.cache.remove(page);
    }

    /// Whether the page will go as it is, whatever its content, if it is the next to come.
    #[must_use]
    pub fn will_go_raw(&self, page: u64) -> bool {
        !self.cache.knows(page)
    }

    /// Starts to fetch what the next call of [`page`](Self::page) will need.
    #[inline]
    pub fn prefetch(&self, page: u64) {
        self.cache.prefetch(page);
    }

    /// Sets how many bytes the cache may take.
    pub fn set_cache_bytes(&mut self, bytes: u64) {
        self.cache.resize(bytes);
    }

    /// The cache's counters.
    #[must_use]
    pub fn cache(&self) -> CacheCounters {
        self.cache.counters()
    }
}

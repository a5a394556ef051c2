//! What a destination's QEMU would have in its RAM: a stream applied to memory, record by record.
//!
//! It is the check on `delta` (a filtered stream must leave the same RAM as the stream it was made from), so it shares
//! nothing with it but the [`Reader`].

use crate::checksum::ContentHash;

use super::{Element, GuestRam, MAX_ELEMENT, PageAt, Parsed, Reader, Reason};

/// Why a stream cannot be applied. The offset is that of the record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The guest is larger than the limit.
    #[error("the guest has {ram} bytes of RAM, more than the limit of {limit} bytes")]
    TooLarge {
        /// What the stream says that the guest has.
        ram: u64,
        /// What was allowed.
        limit: u64,
    },
    /// An XBZRLE record that does not fit the format or its page.
    #[error("malformed XBZRLE record at byte {offset} of the stream")]
    Xbzrle {
        /// Where the record begins.
        offset: u64,
    },
    /// A compressed page that is not one page of zlib.
    #[error("malformed compressed page at byte {offset} of the stream")]
    Zlib {
        /// Where the record begins.
        offset: u64,
    },
}

/// How many page records of each kind were applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Applied {
    pub raw: u64,
    pub fill: u64,
    pub xbzrle: u64,
    pub compressed: u64,
}

/// A guest's RAM, as far as a stream has brought it.
pub struct RamImage {
    reader: Reader,
    limit: u64,
    /// The start of an element that has not come as a whole.
    held: Vec<u8>,
    blocks: Vec<Vec<u8>>,
    inflate: libdeflater::Decompressor,
    applied: Applied,
    pages_elsewhere: bool,
    failed: Option<ReplayError>,
}

impl RamImage {
    /// RAM of at most `limit` bytes, still unknown.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            reader: Reader::new(),
            limit,
            held: Vec::new(),
            blocks: Vec::new(),
            inflate: libdeflater::Decompressor::new(),
            applied: Applied::default(),
            pages_elsewhere: false,
            failed: None,
        }
    }

    /// Applies the next bytes of the stream, cut anyhow. What follows the RAM is not looked at.
    ///
    /// # Errors
    /// At a record that cannot be applied, and at any call after that.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), ReplayError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        while !self.held.is_empty() && !bytes.is_empty() {
            // Enough to end the element that is held, whatever it is.
            let before = self.held.len();
            let more = bytes.len().min(MAX_ELEMENT);
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(&bytes[..more]);
            let taken = self.apply(&held)?;
            if taken < before {
                bytes = &bytes[more..];
                held.drain(..taken);
                self.held = held;
            } else {
                bytes = &bytes[taken - before..];
            }
        }
        let taken = self.apply(bytes)?;
        self.held.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    /// The guest's blocks, once the stream has named them.
    #[must_use]
    pub fn guest(&self) -> Option<&GuestRam> {
        self.reader.guest()
    }

    /// The content of a block, by its index in [`GuestRam::blocks`].
    #[must_use]
    pub fn block(&self, index: usize) -> Option<&[u8]> {
        self.blocks.get(index).map(Vec::as_slice)
    }

    /// XXH3-128 of each block.
    #[must_use]
    pub fn digests(&self) -> Vec<u128> {
        self.blocks
            .iter()
            .map(|block| {
                let mut hash = ContentHash::new();
                hash.update(block);
                hash.digest()
            })
            .collect()
    }

    /// What was applied.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// Why the stream is not followed any further, if so; [`Reason::DeviceState`] is the regular end of RAM.
    #[must_use]
    pub fn ended(&self) -> Option<Reason> {
        self.reader.reason()
    }

    /// Whether pages came over other channels, so that this image lacks them.
    #[must_use]
    pub fn pages_elsewhere(&self) -> bool {
        self.pages_elsewhere
    }

    /// Applies all whole elements and returns how many bytes they take (all, where the stream is not parsed any more).
    fn apply(&mut self, bytes: &[u8]) -> Result<usize, ReplayError> {
        let mut at = 0;
        loop {
            let offset = self.reader.offset();
            match self.reader.next(&bytes[at..]) {
                Parsed::NeedMore => return Ok(at),
                Parsed::Verbatim(_) => return Ok(bytes.len()),
                Parsed::Element(element, length) => {
                    at += length;
                    if let Err(error) = self.apply_element(element, offset) {
                        self.failed = Some(error.clone());
                        return Err(error);
                    }
                }
            }
        }
    }

    fn apply_element(&mut self, element: Element<'_>, offset: u64) -> Result<(), ReplayError> {
        if let Element::MemSize(ram) = element {
            if ram > self.limit {
                return Err(ReplayError::TooLarge {
                    ram,
                    limit: self.limit,
                });
            }
        }
        if self.blocks.is_empty() {
            if let Some(guest) = self.reader.guest() {
                self.blocks = guest
                    .blocks
                    .iter()
                    .map(|block| vec![0; block.used_length as usize])
                    .collect();
            }
        }
        match element {
            Element::Page { at, content } => {
                self.page(at).copy_from_slice(content);
                self.applied.raw += 1;
            }
            Element::Fill { at, byte } => {
                self.page(at).fill(byte);
                self.applied.fill += 1;
            }
            Element::Xbzrle { at, delta } => {
                apply_xbzrle(delta, self.page(at)).ok_or(ReplayError::Xbzrle { offset })?;
                self.applied.xbzrle += 1;
            }
            Element::CompressPage { at, zlib } => {
                let mut inflate = std::mem::take(&mut self.inflate);
                let page = self.page(at);
                let length = inflate.zlib_decompress(zlib, page);
                if length != Ok(page.len()) {
                    return Err(ReplayError::Zlib { offset });
                }
                self.inflate = inflate;
                self.applied.compressed += 1;
            }
            Element::Hook | Element::MultifdFlush => self.pages_elsewhere = true,
            _ => {}
        }
        Ok(())
    }

    fn page(&mut self, at: PageAt) -> &mut [u8] {
        let page_size = self
            .reader
            .guest()
            .map_or(0, |guest| guest.page_size as usize);
        &mut self.blocks[at.block as usize][at.address as usize..][..page_size]
    }
}

/// XBZRLE as the format says: runs of unchanged and of new bytes, each length one or two ULEB bytes, only the first
/// unchanged run may be empty.
fn apply_xbzrle(delta: &[u8], page: &mut [u8]) -> Option<()> {
    fn length(delta: &mut &[u8]) -> Option<usize> {
        let (&low, rest) = delta.split_first()?;
        if low < 0x80 {
            *delta = rest;
            return Some(low.into());
        }
        let (&high, rest) = rest.split_first()?;
        *delta = rest;
        (high < 0x80).then_some(usize::from(low & 0x7f) | usize::from(high) << 7)
    }
    let mut rest = delta;
    let mut at = 0;
    while !rest.is_empty() {
        let first = rest.len() == delta.len();
        let unchanged = length(&mut rest)?;
        let new = length(&mut rest)?;
        if (unchanged == 0 && !first) || new == 0 || new > rest.len() {
            return None;
        }
        at += unchanged;
        page.get_mut(at..at + new)?.copy_from_slice(&rest[..new]);
        rest = &rest[new..];
        at += new;
    }
    Some(())
}

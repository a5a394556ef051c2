//! QEMU's record syntax around [`Delta`].

use std::time::Instant;

use super::counters::{Counters, MAX_PASSES, Pass, Tally, Verbatim};
use super::pages::{Delta, Verdict};
use super::{Host, Options, Settings, Stopped};
use crate::qemu::wire::{XBZRLE_ENCODING, flag};
use crate::qemu::{Element, MAX_RECORD_HEAD, PageAt, Parsed, Place, Reader, Reason, record_head};

/// Bytes that an XBZRLE record has more than a raw one: the encoding and the length.
const XBZRLE_FIELDS: usize = 3;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// Its end mark came, or something after which the end is not known.
    Complete,
    /// In the middle of what is parsed.
    Truncated {
        /// What it stands in.
        within: Place,
        /// Offset in the input of the element that must have followed.
        element: u64,
        /// Offset in the input of the end: the same, or behind it by what there was of the element.
        end: u64,
    },
    /// It was no QEMU stream.
    NotQemu,
}

/// Reads a QEMU stream, writes a smaller one.
///
/// The caller owns the input's buffer: it offers what it has, and what is not consumed it offers again with more behind
/// it. At most [`MAX_ELEMENT`](crate::qemu::MAX_ELEMENT) bytes are left over.
///
/// # The last block
/// A record with CONTINUE belongs to the block of the record before it. Where records were left out, that is another
/// one on the output than on the input; then the next record gets its block's name. If something else comes first (the
/// section's end, or the point from which all is copied), a record is put before it that names the block and changes
/// nothing: a difference of one byte that is what it was, to the last page left out. So all that is not a page record
/// can be copied without a thought.
pub struct Filter {
    options: Options,
    reader: Reader,
    delta: Option<Delta>,
    enabled: bool,
    verbatim: bool,
    /// How many of the bytes that will be offered next are out already: the start of one element that is copied in any
    /// case.
    ahead: usize,
    /// The block of the last record on the output.
    out_block: Option<u32>,
    /// The last page left out: its address and first byte.
    skipped: (u64, u8),
    /// The last page on the input.
    last_page: Option<u64>,
    started: Instant,
    /// What has not been added to the counters yet.
    tally: Tally,
    counters: Counters,
}

impl Filter {
    /// A filter at the very start of a stream.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            reader: Reader::new(),
            delta: None,
            enabled: true,
            verbatim: false,
            ahead: 0,
            out_block: None,
            skipped: (0, 0),
            last_page: None,
            started: Instant::now(),
            tally: Tally::default(),
            counters: Counters {
                passes: vec![Pass::default()],
                ..Counters::default()
            },
        }
    }

    /// Takes input. Returns how much of it was consumed; the rest must be offered again with more behind it.
    ///
    /// # Errors
    /// If the host stops.
    pub fn push<H: Host>(&mut self, input: &[u8], host: &mut H) -> Result<usize, Stopped> {
        let mut work = Work {
            input,
            at: 0,
            copied: self.ahead,
            host,
        };
        let result = self.run(&mut work);
        self.ahead = work.copied - work.at.min(work.copied);
        let consumed = work.at;
        self.settle();
        result.map(|()| consumed)
    }

    /// Input has paused: writes what need not wait. `held` is what the last [`push`](Self::push) left; it must be
    /// offered again all the same.
    ///
    /// # Errors
    /// If the host stops.
    pub fn pause<H: Host>(&mut self, held: &[u8], host: &mut H) -> Result<(), Stopped> {
        // What becomes of a record can be told only when it is whole, but for what `run` has written. All else is copied
        // in any case.
        if self.reader.place() != Place::Records && held.len() > self.ahead {
            host.put(&held[self.ahead..])?;
            self.ahead = held.len();
        }
        Ok(())
    }

    /// The input is at its end. `held` is what the last [`push`](Self::push) left; it goes out as it is.
    ///
    /// # Errors
    /// If the host stops.
    pub fn finish<H: Host>(&mut self, held: &[u8], host: &mut H) -> Result<StreamEnd, Stopped> {
        let element = self.reader.offset();
        let place = self.reader.place();
        let mut work = Work {
            input: held,
            at: 0,
            copied: self.ahead,
            host,
        };
        if !held.is_empty() {
            self.align_block(&mut work)?;
        }
        work.at = held.len();
        work.copy()?;
        self.ahead = 0;
        self.tally.bytes_in += held.len() as u64;
        self.tally.bytes_out += held.len() as u64;
        let end = match place {
            Place::Header => {
                self.counters.verbatim = Some(Verbatim {
                    reason: Reason::NotQemu,
                    offset: 0,
                });
                StreamEnd::NotQemu
            }
            _ if self.reader.reason() == Some(Reason::NotQemu) => StreamEnd::NotQemu,
            _ if self.verbatim || place == Place::Verbatim => StreamEnd::Complete,
            _ => StreamEnd::Truncated {
                within: place,
                element,
                end: element + held.len() as u64,
            },
        };
        self.verbatim = true;
        self.settle();
        Ok(end)
    }

    /// Whether all input from here on is copied, so that the caller can do it without the filter.
    #[must_use]
    pub fn is_verbatim(&self) -> bool {
        self.verbatim
    }

    /// Changes what there is of these.
    pub fn set(&mut self, settings: Settings) {
        self.enabled = settings.enabled.unwrap_or(self.enabled);
        let Some(delta) = &mut self.delta else {
            return;
        };
        if let Some(on) = settings.takes_in {
            delta.set_takes_in(on);
        }
        if let Some(bytes) = settings.cache_bytes {
            delta.set_cache_bytes(bytes);
            self.counters.cache = delta.cache();
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn run<H: Host>(&mut self, work: &mut Work<'_, H>) -> Result<(), Stopped> {
        while !self.verbatim {
            let (element, length) = match self.reader.next(&work.input[work.at..]) {
                Parsed::Element(element, length) => (element, length),
                Parsed::NeedMore => {
                    if self.is_copied(&work.input[work.at..]) {
                        work.copy_ahead()?;
                    }
                    return work.copy();
                }
                Parsed::Verbatim(reason) => {
                    self.go_verbatim(reason, work)?;
                    break;
                }
            };
            if self.delta.is_none() {
                self.meet_guest(work)?;
            }
            match element {
                Element::Page { at, content } => self.page(at, content, length, work)?,
                Element::Fill { at, byte } => {
                    self.begin_page(at, length);
                    self.tally.fill += 1;
                    if let Some(delta) = &mut self.delta {
                        delta.fill(at.number, byte);
                    }
                    self.copy_record(at, flag::FILL, length, work)?;
                }
                Element::Xbzrle { at, delta } => {
                    let applied = match &mut self.delta {
                        Some(pages) => pages.apply(at.number, delta),
                        None => Ok(()),
                    };
                    if applied.is_err() {
                        // The destination will refuse the record.
                        self.note_verbatim(Reason::Delta);
                    }
                    self.begin_page(at, length);
                    self.tally.xbzrle_in += 1;
                    self.copy_record(at, flag::XBZRLE, length, work)?;
                }
                Element::CompressPage { at, .. } => {
                    self.begin_page(at, length);
                    self.tally.compressed_in += 1;
                    if let Some(delta) = &mut self.delta {
                        delta.forget(at.number);
                    }
                    self.copy_record(at, flag::COMPRESS_PAGE, length, work)?;
                }
                Element::Hook | Element::MultifdFlush => {
                    self.go_verbatim(Reason::PagesElsewhere, work)?;
                    break;
                }
                _ => {
                    self.align_block(work)?;
                    work.at += length;
                    self.tally.bytes_in += length as u64;
                    self.tally.bytes_out += length as u64;
                    if element == Element::EndOfStream {
                        self.go_verbatim(Reason::EndOfStream, work)?;
                    }
                }
            }
        }
        let rest = work.input.len() - work.at;
        work.at = work.input.len();
        self.tally.bytes_in += rest as u64;
        self.tally.bytes_out += rest as u64;
        work.copy()
    }

    /// Whether the element that begins here, and is not whole, is a page that will be copied, head and all. Then it need not
    /// be waited for: a stream of which nothing is changed comes out as it is cut, which in libvirt's tunnel keeps its
    /// packets whole.
    fn is_copied(&self, begun: &[u8]) -> bool {
        let Some(at) = self.reader.begun_page(begun) else {
            return false;
        };
        // Where the output's last block is another one than the input's, something else must come first.
        self.out_block == self.reader.last_block()
            && self
                .delta
                .as_ref()
                .is_some_and(|delta| delta.will_go_raw(at.number))
    }

    /// A page as it is: the heart of it all.
    #[inline]
    fn page<H: Host>(
        &mut self,
        at: PageAt,
        content: &[u8],
        length: usize,
        work: &mut Work<'_, H>,
    ) -> Result<(), Stopped> {
        self.begin_page(at, length);
        let verdict = match &mut self.delta {
            Some(delta) if self.enabled => {
                if let Some(next) = work.next_page(at, length) {
                    delta.prefetch(next);
                }
                delta.page(at.number, content)
            }
            Some(delta) => {
                delta.forget(at.number);
                Verdict::Raw
            }
            None => Verdict::Raw,
        };
        match verdict {
            Verdict::Raw => {
                self.tally.raw += 1;
                self.copy_record(at, flag::PAGE, length, work)
            }
            Verdict::Skip => {
                self.tally.skipped += 1;
                self.skipped = (at.address, content[0]);
                work.leave_out(length)
            }
            Verdict::Delta(encoded) => {
                self.tally.delta += 1;
                self.tally.delta_payload += encoded.len() as u64;
                let name =
                    (self.out_block != Some(at.block)).then(|| block_name(&self.reader, at.block));
                self.out_block = Some(at.block);
                work.leave_out(length)?;
                self.tally.bytes_out += put_xbzrle(at.address, name, encoded, work.host)?;
                Ok(())
            }
        }
    }

    /// Copies a page's record; only its head may have to change.
    #[inline]
    fn copy_record<H: Host>(
        &mut self,
        at: PageAt,
        kind: u64,
        length: usize,
        work: &mut Work<'_, H>,
    ) -> Result<(), Stopped> {
        self.tally.bytes_out += length as u64;
        if !at.named && self.out_block != Some(at.block) {
            let mut head = [0; MAX_RECORD_HEAD];
            let named = record_head(
                &mut head,
                at.address,
                kind,
                Some(block_name(&self.reader, at.block)),
            );
            self.tally.bytes_out += (named - usize::from(at.head)) as u64;
            work.leave_out(at.head.into())?;
            work.host.put(&head[..named])?;
            work.at += length - usize::from(at.head);
        } else {
            work.at += length;
        }
        self.out_block = Some(at.block);
        Ok(())
    }

    /// Makes the output's last block the input's, before something that is not a page record.
    fn align_block<H: Host>(&mut self, work: &mut Work<'_, H>) -> Result<(), Stopped> {
        let Some(block) = self.reader.last_block() else {
            return Ok(());
        };
        if self.out_block == Some(block) {
            return Ok(());
        }
        let (address, first) = self.skipped;
        work.copy()?;
        let name = block_name(&self.reader, block);
        self.tally.bytes_out += put_xbzrle(address, Some(name), &[0, 1, first], work.host)?;
        self.out_block = Some(block);
        Ok(())
    }

    /// From here on, at the start of an element, everything is copied.
    #[cold]
    fn go_verbatim<H: Host>(
        &mut self,
        reason: Reason,
        work: &mut Work<'_, H>,
    ) -> Result<(), Stopped> {
        self.note_verbatim(reason);
        self.align_block(work)
    }

    /// Parsing has ended at the start of this element.
    #[cold]
    fn note_verbatim(&mut self, reason: Reason) {
        self.verbatim = true;
        let offset = self.counters.total.bytes_in + self.tally.bytes_in;
        self.counters.verbatim = Some(Verbatim { reason, offset });
    }

    /// Once the stream has named the guest's RAM, makes the cache.
    #[cold]
    fn meet_guest<H: Host>(&mut self, work: &mut Work<'_, H>) -> Result<(), Stopped> {
        if let Some(guest) = self.reader.guest() {
            let bytes = work.host.guest(guest)?;
            let page_size = guest.page_size as usize;
            // A difference must be smaller than the page after what its record has more.
            let max_delta = self.options.max_delta.min(page_size - XBZRLE_FIELDS - 1);
            self.delta = Some(Delta::new(guest.pages(), page_size, bytes, max_delta));
        }
        Ok(())
    }

    /// Accounts for a page's record on the input.
    #[inline]
    fn begin_page(&mut self, at: PageAt, length: usize) {
        if self.last_page.is_some_and(|last| at.number <= last) {
            self.begin_pass();
        }
        self.last_page = Some(at.number);
        self.tally.bytes_in += length as u64;
    }

    #[cold]
    fn begin_pass(&mut self) {
        self.settle();
        if self.counters.passes.len() < MAX_PASSES {
            self.counters.passes.push(Pass {
                start: self.started.elapsed(),
                tally: Tally::default(),
            });
        } else {
            self.counters.passes_merged = true;
        }
    }

    fn settle(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        self.counters.total.add(&tally);
        if let Some(pass) = self.counters.passes.last_mut() {
            pass.tally.add(&tally);
        }
        if let Some(delta) = &self.delta {
            self.counters.cache = delta.cache();
        }
    }
}

/// A run over one piece of input.
struct Work<'a, H> {
    input: &'a [u8],
    /// Up to here it is dealt with.
    at: usize,
    /// Up to here it is dealt with and out. What is between the two is to be copied, in one go when that ends.
    copied: usize,
    host: &'a mut H,
}

impl<H: Host> Work<'_, H> {
    /// Writes what is to be copied.
    #[inline]
    fn copy(&mut self) -> Result<(), Stopped> {
        if self.copied < self.at {
            self.host.put(&self.input[self.copied..self.at])?;
            self.copied = self.at;
        }
        Ok(())
    }

    /// Writes what is to be copied, and all that has come of the element behind it.
    fn copy_ahead(&mut self) -> Result<(), Stopped> {
        if self.copied < self.input.len() {
            self.host.put(&self.input[self.copied..])?;
            self.copied = self.input.len();
        }
        Ok(())
    }

    /// Goes on by some bytes that are not to be copied.
    #[inline]
    fn leave_out(&mut self, length: usize) -> Result<(), Stopped> {
        self.copy()?;
        self.at += length;
        self.copied = self.at;
        Ok(())
    }

    /// The number of the page in the record after this one, if it has come and is of the same block.
    #[inline]
    fn next_page(&self, at: PageAt, length: usize) -> Option<u64> {
        let word = u64::from_be_bytes(*self.input.get(self.at + length..)?.first_chunk()?);
        // The length of a raw record tells the page size without a look at the guest.
        let page_size = (length - usize::from(at.head)) as u64;
        (word & flag::MASK == flag::PAGE | flag::CONTINUE).then(|| {
            let ahead =
                (word & !flag::MASK).wrapping_sub(at.address) as i64 >> page_size.trailing_zeros();
            at.number.wrapping_add_signed(ahead)
        })
    }
}

fn block_name(reader: &Reader, block: u32) -> &[u8] {
    reader
        .guest()
        .map_or(&[], |guest| &guest.blocks[block as usize].name)
}

/// Writes a record with a difference; returns its length.
#[inline]
fn put_xbzrle<H: Host>(
    address: u64,
    name: Option<&[u8]>,
    encoded: &[u8],
    host: &mut H,
) -> Result<u64, Stopped> {
    let mut head = [0; MAX_RECORD_HEAD + XBZRLE_FIELDS];
    let length = match head.first_chunk_mut::<MAX_RECORD_HEAD>() {
        Some(head) => record_head(head, address, flag::XBZRLE, name),
        None => 0,
    };
    head[length] = XBZRLE_ENCODING;
    head[length + 1..length + 3].copy_from_slice(&(encoded.len() as u16).to_be_bytes());
    host.put(&head[..length + XBZRLE_FIELDS])?;
    host.put(encoded)?;
    Ok((length + XBZRLE_FIELDS + encoded.len()) as u64)
}

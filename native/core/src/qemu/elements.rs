//! The elements of a stream that comes in pieces, cut anyhow.

use super::{Element, MAX_ELEMENT, Parsed, Reader, Reason};
use std::ops::ControlFlow;

/// How much is taken at a time to complete an element that the bytes before broke off: a page with its head.
const STEP: usize = 4096 + 272;

/// An element and where it stands in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// What it is.
    pub element: Element<'a>,
    /// Offset of its first byte. It may be up to [`MAX_ELEMENT`] bytes before those that were fed last: an element is told
    /// when it has come as a whole.
    pub start: u64,
    /// Offset of the byte behind it.
    pub end: u64,
    /// The bytes between the two.
    pub bytes: &'a [u8],
}

/// What a stream is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// What was understood.
    Element(Found<'a>),
    /// What was not parsed: behind the RAM, or from where the stream is not understood.
    Opaque(&'a [u8]),
}

/// Reads a stream as it goes by. It stops for good where the stream is not understood ([`reason`](Self::reason)), or
/// where whoever listens has enough: nothing is told of what comes behind.
#[derive(Clone, Debug, Default)]
pub struct Elements {
    reader: Reader,
    /// The start of an element that has not come as a whole.
    held: Vec<u8>,
    reason: Option<Reason>,
}

impl Elements {
    /// At the very start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the next bytes of the stream and tells of each element that ends in them, in their order. A reason that
    /// `each` breaks with ends it.
    #[inline]
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&Reader, Found<'_>) -> ControlFlow<Reason>,
    ) {
        self.feed_all(bytes, |reader, part| match part {
            Part::Element(found) => each(reader, found),
            Part::Opaque(_) => ControlFlow::Continue(()),
        });
    }

    /// As [`feed`](Self::feed), and tells of what is not parsed too: together the parts are the stream, but for what is
    /// [`held`](Self::held) in the end. What is broken with then counts for elements alone.
    #[inline]
    pub fn feed_all(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&Reader, Part<'_>) -> ControlFlow<Reason>,
    ) {
        let mut at = 0;
        while self.reason.is_none() {
            if self.held.is_empty() {
                match self.element(&bytes[at..], &mut each) {
                    Some(0) => {
                        if self.reason.is_none() {
                            self.held.extend_from_slice(&bytes[at..]);
                        }
                        break;
                    }
                    Some(taken) => at += taken,
                    None => break,
                }
            } else {
                let more = (bytes.len() - at).min(STEP);
                if more == 0 {
                    break;
                }
                let mut held = std::mem::take(&mut self.held);
                let before = held.len();
                held.extend_from_slice(&bytes[at..at + more]);
                match self.element(&held, &mut each) {
                    // It did not end in what was held, so it ends in what was added.
                    Some(taken) if taken > 0 => {
                        at += taken.saturating_sub(before);
                        held.clear();
                    }
                    Some(_) => at += more,
                    None => {
                        at += more;
                        let _ = each(&self.reader, Part::Opaque(&held));
                    }
                }
                self.held = held;
            }
        }
        debug_assert!(self.held.len() < MAX_ELEMENT || self.reason.is_some());
        if self.reason.is_some() {
            self.held = Vec::new();
            if at < bytes.len() {
                let _ = each(&self.reader, Part::Opaque(&bytes[at..]));
            }
        }
    }

    /// What has come of an element that is not whole.
    #[must_use]
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// What has been read.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Bytes of the stream that were understood.
    #[must_use]
    pub fn understood(&self) -> u64 {
        self.reader.offset()
    }

    /// Why nothing more will be told, if so.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// Reads the element that `input` begins with and tells of it. Returns its length: 0 where it has not come as a
    /// whole, `None` where the stream is not understood.
    #[inline]
    fn element(
        &mut self,
        input: &[u8],
        each: &mut impl FnMut(&Reader, Part<'_>) -> ControlFlow<Reason>,
    ) -> Option<usize> {
        let start = self.reader.offset();
        let (element, length) = match self.reader.next(input) {
            Parsed::Element(element, length) => (element, length),
            Parsed::NeedMore => return Some(0),
            Parsed::Verbatim(reason) => {
                self.reason = Some(reason);
                return None;
            }
        };
        let end = self.reader.offset();
        let found = Found {
            element,
            start,
            end,
            bytes: &input[..length],
        };
        if let ControlFlow::Break(reason) = each(&self.reader, Part::Element(found)) {
            self.reason = Some(reason);
        }
        Some(length)
    }
}

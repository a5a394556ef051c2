//! The body of a frame with references: bytes to values and back, no I/O and no window.
//!
//! ```text
//! u32 bytes of the list │ list │ literals
//! list: (literals before it, length − 32, where) … as LEB128 numbers; what is left of the literals ends the frame
//! ```

use super::{MIN_REFERENCE, Place};
use crate::leb128::{self, unzigzag, zigzag};
use thiserror::Error;

/// Bytes before the list.
const PREFIX: usize = 4;

/// A stretch of a frame that stands elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where in the frame it begins, in bytes.
    pub at: u32,
    /// Bytes.
    pub len: u32,
    /// Where its bytes are.
    pub source: Source,
}

impl Reference {
    /// The first byte of the frame behind it.
    pub fn end(&self) -> u32 {
        self.at + self.len
    }
}

/// Where the bytes of a reference are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From this offset of the original stream on.
    Window(u64),
    /// From this offset of the base's original stream on.
    Base(u64),
}

/// `where` is the same as of the reference before: how far back, or how far into the base.
const AGAIN: u64 = 0;
const WINDOW: u64 = 1;
const BASE: u64 = 2;

/// Why bytes are not the body of a frame with references.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReferenceError {
    /// A number that does not end, or a list that is not all there.
    #[error("the list of references is cut off or damaged at its byte {at}")]
    List {
        /// Where in the list, in bytes.
        at: usize,
    },
    /// Literals and references do not make up the frame.
    #[error("literals and references make up {actual} bytes or more, the frame has {expected}")]
    Length {
        /// As the frame's header says.
        expected: u64,
        /// As far as they were added up.
        actual: u64,
    },
    /// A reference to what stands in the original stream at itself, behind itself, or before its beginning.
    #[error("the reference at byte {at} of the stream leads {distance} bytes back for {len} bytes")]
    Distance {
        /// Where in the original stream the reference stands.
        at: u64,
        /// How far back it leads.
        distance: u64,
        /// Bytes that it stands for.
        len: u64,
    },
    /// A reference to what the window does not hold, or to what is a reference itself.
    #[error(
        "the reference at byte {at} of the stream leads to byte {to}, where within the window of {window} bytes there are no \
         {len} literals"
    )]
    Target {
        /// Where in the original stream the reference stands.
        at: u64,
        /// Where it leads.
        to: u64,
        /// Bytes that it stands for.
        len: u32,
        /// The stream's window, in bytes.
        window: u64,
    },
    /// A reference into a base, where there is none, or one that cannot be read.
    #[error("the reference at byte {at} of the stream leads into a base: {reason}")]
    Base {
        /// Where in the original stream the reference stands.
        at: u64,
        /// Why the base does not help.
        reason: String,
    },
}

/// Writes the body for a frame's bytes and the references that stand for parts of them, in their order. Gives its length;
/// `None` where it does not fit into `out`.
pub fn write(references: &[Reference], offset: u64, raw: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut to = Writer { out, at: PREFIX };
    let (mut literal, mut before) = (0, None);
    for reference in references {
        to.number(u64::from(reference.at - literal))?;
        to.number(u64::from(reference.len) - MIN_REFERENCE as u64)?;
        let here = offset + u64::from(reference.at);
        let place = match reference.source {
            Source::Window(from) => (here - from) << 2 | WINDOW,
            Source::Base(from) => zigzag(here.wrapping_sub(from) as i64) << 2 | BASE,
        };
        to.number(if before == Some(place) { AGAIN } else { place })?;
        (literal, before) = (reference.end(), Some(place));
    }
    let list = (to.at - PREFIX) as u32;
    to.out
        .get_mut(..PREFIX)?
        .copy_from_slice(&list.to_le_bytes());
    let mut literal = 0;
    for reference in references {
        to.bytes(&raw[literal as usize..reference.at as usize])?;
        literal = reference.end();
    }
    to.bytes(&raw[literal as usize..])?;
    Some(to.at)
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn number(&mut self, number: u64) -> Option<()> {
        leb128::write(number, |byte| {
            *self.out.get_mut(self.at)? = byte;
            self.at += 1;
            Some(())
        })
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at + bytes.len();
        self.out.get_mut(self.at..end)?.copy_from_slice(bytes);
        self.at = end;
        Some(())
    }
}

/// Reads the body of a frame that stands at `offset` of the original stream and has `raw_len` bytes of it. Fills `into` with
/// its references, in their order, and gives its literals: the bytes between the references, and those behind the last.
///
/// All that can be known without the window is checked: a reference leads back, to bytes before itself, and everything adds
/// up to the frame.
///
/// # Errors
/// If the bytes are no such body.
pub fn read<'a>(
    body: &'a [u8],
    offset: u64,
    raw_len: u32,
    into: &mut Vec<Reference>,
) -> Result<&'a [u8], ReferenceError> {
    into.clear();
    let (list, literals) = body
        .split_first_chunk::<PREFIX>()
        .and_then(|(len, rest)| rest.split_at_checked(u32::from_le_bytes(*len) as usize))
        .ok_or(ReferenceError::List { at: 0 })?;
    let mut from = Reader { list, at: 0 };
    let (expected, mut at) = (u64::from(raw_len), 0u64);
    let (mut of_references, mut before) = (0u64, None);
    while from.at < list.len() {
        let start = at.saturating_add(from.number()?);
        let len = from.number()?.saturating_add(MIN_REFERENCE as u64);
        at = start.saturating_add(len);
        if at > expected {
            return Err(ReferenceError::Length {
                expected,
                actual: at,
            });
        }
        let mistaken = ReferenceError::List { at: from.at };
        let place = match (from.number()?, before) {
            (AGAIN, Some(place)) => place,
            (place, _) => place,
        };
        before = Some(place);
        let here = offset + start;
        let source = match (place & 3, place >> 2) {
            (WINDOW, distance) if distance < len || distance > here => {
                return Err(ReferenceError::Distance {
                    at: here,
                    distance,
                    len,
                });
            }
            (WINDOW, distance) => Source::Window(here - distance),
            (BASE, displacement) => Source::Base(here.wrapping_sub(unzigzag(displacement) as u64)),
            _ => return Err(mistaken),
        };
        of_references += len;
        into.push(Reference {
            at: start as u32,
            len: len as u32,
            source,
        });
    }
    let actual = of_references + literals.len() as u64;
    if actual != expected {
        return Err(ReferenceError::Length { expected, actual });
    }
    Ok(literals)
}

struct Reader<'a> {
    list: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn number(&mut self) -> Result<u64, ReferenceError> {
        let mut rest = &self.list[self.at..];
        let number = leb128::read(&mut rest).map_err(|_| ReferenceError::List { at: self.at })?;
        self.at = self.list.len() - rest.len();
        Ok(number)
    }
}

/// The bytes of a base's original stream, for references into it.
pub trait Base: Send + Sync {
    /// Reads `out.len()` bytes from `offset` on. Called on worker threads, several at once.
    ///
    /// # Errors
    /// Why that cannot be, for people.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), String>;
}

/// Puts the literals of a frame where they belong in its bytes, and into the window for the frames that refer to them.
///
/// # Panics
/// If references, literals and `out` are not those of one body, as [`read`] has checked.
pub fn place_literals(
    references: &[Reference],
    mut literals: &[u8],
    place: &mut Place,
    out: &mut [u8],
) {
    let mut at = 0;
    let ends = references
        .iter()
        .map(|reference| (reference.at, reference.end()));
    for (to, next) in ends.chain([(out.len() as u32, 0)]) {
        let (run, rest) = literals.split_at((to - at) as usize);
        out[at as usize..to as usize].copy_from_slice(run);
        place.put(at, run);
        (literals, at) = (rest, next);
    }
}

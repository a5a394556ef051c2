//! A stream read element by element, from wherever it comes.

use crate::qemu::{Element, MAX_ELEMENT, Parsed, Reader, Reason};
use std::io::{self, Read};

/// What is read at once: large enough for any element, and for the parser to be what takes the time.
const BUFFER: usize = 1 << 20;
const _: () = assert!(BUFFER > MAX_ELEMENT);

/// A piece of the stream with its bytes.
pub(super) enum Piece<'a> {
    Element(Element<'a>),
    /// Not parsed: behind the RAM, or from where the stream is not understood.
    Opaque,
}

/// Gives every piece of the stream, with its offset and bytes, until the stream or `visit` ends it (by `false`).
/// Returns why parsing ended, if it did before the stream.
pub(super) fn walk<E: From<io::Error>>(
    mut input: impl Read,
    mut visit: impl FnMut(&Reader, Piece<'_>, u64, &[u8]) -> Result<bool, E>,
) -> Result<Option<Reason>, E> {
    let mut reader = Reader::new();
    let mut buffer = vec![0; BUFFER];
    let (mut offset, mut held) = (0u64, 0);
    loop {
        let read = input.read(&mut buffer[held..])?;
        if read == 0 {
            // What is left is no whole element.
            if held > 0 {
                visit(&reader, Piece::Opaque, offset, &buffer[..held])?;
            }
            return Ok(reader.reason());
        }
        let end = held + read;
        let mut at = 0;
        while at < end {
            let bytes = &buffer[at..end];
            let (piece, length) = match reader.next(bytes) {
                Parsed::NeedMore => break,
                Parsed::Verbatim(_) => (Piece::Opaque, bytes.len()),
                Parsed::Element(element, length) => (Piece::Element(element), length),
            };
            if !visit(&reader, piece, offset, &bytes[..length])? {
                return Ok(reader.reason());
            }
            at += length;
            offset += length as u64;
        }
        buffer.copy_within(at..end, 0);
        held = end - at;
    }
}

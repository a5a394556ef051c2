//! A stream read element by element, from wherever it comes.

use crate::qemu::{Elements, Found, Part, Reader, Reason};
use std::io::{self, Read};
use std::ops::ControlFlow;

/// What is read at once: large enough for the parser to be what takes the time.
const BUFFER: usize = 1 << 20;

/// How far a stream was gone over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// Bytes that were understood.
    pub understood: u64,
    /// Why what follows them was not, if so.
    pub reason: Option<Reason>,
}

/// Gives every part of the stream, with its offset and bytes, until the stream or `visit` ends it (by `false`).
pub(super) fn walk<E: From<io::Error>>(
    mut input: impl Read,
    mut visit: impl FnMut(&Reader, Part<'_>, u64, &[u8]) -> Result<bool, E>,
) -> Result<Walked, E> {
    let mut elements = Elements::new();
    let mut buffer = vec![0; BUFFER];
    let mut offset = 0;
    let mut goes_on = Ok(true);
    loop {
        let length = input.read(&mut buffer)?;
        elements.feed_all(&buffer[..length], |reader, part| {
            if matches!(goes_on, Ok(true)) {
                let (Part::Element(Found { bytes, .. }) | Part::Opaque(bytes)) = part;
                goes_on = visit(reader, part, offset, bytes);
                offset += bytes.len() as u64;
            }
            match goes_on {
                Ok(true) => ControlFlow::Continue(()),
                // Any reason: it is not told.
                _ => ControlFlow::Break(Reason::EndOfStream),
            }
        });
        let held = elements.held();
        if length == 0 && !held.is_empty() && matches!(goes_on, Ok(true)) {
            // No whole element.
            goes_on = visit(elements.reader(), Part::Opaque(held), offset, held);
        }
        if length == 0 || !matches!(goes_on, Ok(true)) {
            let reader = elements.reader();
            return goes_on.map(|_| Walked {
                understood: reader.offset(),
                reason: reader.reason(),
            });
        }
    }
}

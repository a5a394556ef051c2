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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::Writer;
    use proptest::prelude::*;

    /// Gives so many bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(buffer.len());
            self.0.read(&mut buffer[..length])
        }
    }

    fn stream() -> Vec<u8> {
        let mut writer = Writer::new();
        writer.header().configuration(b"pc-test");
        writer.ram_start(2, &[(b"one", 64 << 12)]);
        writer.end_of_section().footer(2).section_end(2);
        for n in 0..64 {
            writer.page(b"one", n << 12, &[n as u8; 4096]);
        }
        writer.end_of_section().footer(2).raw(&[4]).raw(b"devices");
        writer.take()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_parts_are_the_stream_however_it_comes_and_whatever_is_in_it(
            at in 0usize..200_000, byte in any::<u8>(), length in 0usize..300_000, step in 1usize..9000,
        ) {
            let mut stream = stream();
            stream.truncate(length);
            if let Some(damaged) = stream.get_mut(at) {
                *damaged = byte;
            }
            let parts = |step| {
                let mut all = Vec::new();
                let walked = walk(Slow(&stream, step), |_, _, offset, bytes| {
                    assert_eq!(offset, all.len() as u64);
                    all.extend_from_slice(bytes);
                    Ok::<bool, io::Error>(true)
                });
                (all, walked.expect("reads"))
            };
            let (whole, walked) = parts(usize::MAX);
            prop_assert!(whole == stream);
            prop_assert!(parts(step) == (whole, walked));
        }
    }
}

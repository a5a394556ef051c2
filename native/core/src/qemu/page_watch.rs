//! Where pages stand in a stream that is only watched, never changed.

use super::{Element, Elements, GuestRam, PageAt, Reason};
use std::ops::{ControlFlow, Range};

/// A page record that went by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A page as it is.
    Page {
        /// Which.
        at: PageAt,
        /// Where its first byte stands in the stream. It may be up to [`MAX_ELEMENT`](super::MAX_ELEMENT) bytes before those that were fed
        /// last: a page is told when it has come as a whole.
        offset: u64,
        /// As long as the page size says.
        content: &'a [u8],
    },
    /// A page that is one byte all over.
    Fill {
        /// Which.
        at: PageAt,
        /// The byte.
        byte: u8,
    },
    /// A page in a form of QEMU's own, XBZRLE or zlib: its content does not stand in the stream.
    Packed {
        /// Which.
        at: PageAt,
    },
}

/// Watches a stream go by, cut anyhow, and tells where its pages stand. It stops for good where the stream is not
/// understood ([`reason`](Self::reason)): nothing is told of what comes behind.
#[derive(Clone, Debug, Default)]
pub struct PageWatch {
    elements: Elements,
    configuration_end: u64,
}

impl PageWatch {
    /// A watch at the very start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the next bytes of the stream and tells of each page record that ends in them, in their order.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Seen<'_>)) {
        let configuration_end = &mut self.configuration_end;
        self.elements.feed(bytes, |_, found| {
            match found.element {
                Element::Page { at, content } => each(Seen::Page {
                    at,
                    offset: found.start + u64::from(at.head),
                    content,
                }),
                Element::Fill { at, byte } => each(Seen::Fill { at, byte }),
                Element::Xbzrle { at, .. } | Element::CompressPage { at, .. } => {
                    each(Seen::Packed { at });
                }
                Element::Machine(_)
                | Element::TargetPageBits(_)
                | Element::Uuid(_)
                | Element::Capabilities(_) => *configuration_end = found.end,
                // The content of pages that are not seen is not known.
                Element::Hook | Element::MultifdFlush => {
                    return ControlFlow::Break(Reason::PagesElsewhere);
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
    }

    /// The guest's RAM, once its list is complete.
    #[must_use]
    pub fn guest(&self) -> Option<&GuestRam> {
        self.elements.reader().guest()
    }

    /// Where the configuration stands: the machine's name and what belongs to it. Empty where there is none.
    #[must_use]
    pub fn configuration(&self) -> Range<u64> {
        let start = super::wire::HEADER.len() as u64;
        start..self.configuration_end.max(start)
    }

    /// Where the devices' states begin, which go on to the end of the stream.
    #[must_use]
    pub fn device_state(&self) -> Option<u64> {
        (self.reason() == Some(Reason::DeviceState)).then(|| self.understood())
    }

    /// Bytes of the stream that were understood.
    #[must_use]
    pub fn understood(&self) -> u64 {
        self.elements.understood()
    }

    /// Why nothing more will be told, if so.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.elements.reason()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Writer;
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;

    /// A small guest's stream, and what it holds: the offset of each page's content, or its fill byte.
    fn stream() -> Writer {
        let mut s = Writer::new();
        s.header().configuration(b"pc-q35-9.2");
        s.subsection(b"configuration/uuid", 1, &[7; 16]);
        s.ram_start(2, &[(b"pc.ram", 6 * PAGE), (b"vga", 2 * PAGE)]);
        s.end_of_section().footer(2).section_part(2);
        s.page(b"pc.ram", 0, &[1; 4096])
            .page(b"pc.ram", PAGE, &[2; 4096])
            .fill(b"pc.ram", 2 * PAGE, 0)
            .page(b"vga", PAGE, &[3; 4096])
            .xbzrle(b"vga", PAGE, &[1, 1, 5])
            .page(b"pc.ram", 0, &[4; 4096]);
        s.end_of_section().footer(2);
        s.section_end(2).end_of_section().footer(2);
        s.full_section(5, b"timer", 2, &[9; 300])
            .end_of_stream(None);
        s
    }

    /// A record: the page's number, and where it stands or what it is full of.
    type Record = (u64, Result<u64, u8>);

    fn watch(pieces: &[&[u8]]) -> (PageWatch, Vec<Record>) {
        let all = pieces.concat();
        let mut watch = PageWatch::new();
        let mut seen = Vec::new();
        for piece in pieces {
            watch.feed(piece, |page| {
                seen.push(match page {
                    Seen::Page {
                        at,
                        offset,
                        content,
                    } => {
                        assert_eq!(&all[offset as usize..][..content.len()], content);
                        (at.number, Ok(offset))
                    }
                    Seen::Fill { at, byte } => (at.number, Err(byte)),
                    Seen::Packed { at } => (at.number, Err(255)),
                });
            });
        }
        (watch, seen)
    }

    #[test]
    fn pages_are_told_where_they_stand() {
        let bytes = stream().bytes;
        let (watch, seen) = watch(&[&bytes]);
        let numbers: Vec<u64> = seen.iter().map(|page| page.0).collect();
        assert_eq!(numbers, [0, 1, 2, 7, 7, 0]);
        assert_eq!((seen[2].1, seen[4].1), (Err(0), Err(255)));
        let configuration = watch.configuration();
        assert_eq!((configuration.start, bytes[8]), (8, 0x07));
        assert_eq!(bytes[configuration.end as usize], 0x01, "the RAM section");
        let devices = watch.device_state().expect("devices");
        assert_eq!(bytes[devices as usize], 0x04);
        assert_eq!(watch.understood(), devices);
        let guest = watch.guest().expect("a guest");
        assert_eq!((guest.pages(), guest.page_size), (8, 4096));
    }

    #[test]
    fn one_byte_at_a_time_it_sees_the_same() {
        let bytes = stream().bytes;
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(watch(&[&bytes]).1, watch(&single).1);
    }

    #[test]
    fn what_is_not_qemu_is_not_looked_at() {
        let (watch, seen) = watch(&[b"hello, ", &[0; 100_000]]);
        assert_eq!(watch.reason(), Some(Reason::NotQemu));
        assert!(seen.is_empty() && watch.guest().is_none() && watch.configuration().is_empty());
    }

    #[test]
    fn pages_behind_a_flush_of_multifd_are_not_told() {
        let mut s = stream();
        let devices = watch(&[&s.bytes]).0.device_state().expect("devices") as usize;
        s.bytes.truncate(devices - 5 - 8);
        s.be64(crate::qemu::wire::flag::MULTIFD_FLUSH);
        s.page(b"pc.ram", PAGE, &[6; 4096]);
        let (watch, seen) = watch(&[&s.bytes]);
        assert_eq!(watch.reason(), Some(Reason::PagesElsewhere));
        assert_eq!(seen.len(), 6);
    }

    proptest! {
        #[test]
        fn how_the_stream_is_cut_does_not_matter(cuts in proptest::collection::vec(1usize..9000, 0..20)) {
            let bytes = stream().bytes;
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            pieces.push(rest);
            prop_assert_eq!(watch(&pieces).1, watch(&[&bytes]).1);
        }

        #[test]
        fn a_damaged_stream_is_no_harm(at in 0usize..30_000, byte in any::<u8>(), piece in 1usize..20_000) {
            let mut bytes = stream().bytes;
            let at = at % bytes.len();
            bytes[at] = byte;
            let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
            watch(&pieces);
        }
    }
}

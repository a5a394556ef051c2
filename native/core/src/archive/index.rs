//! The payloads of INDEX frames: bytes to values and back, no I/O. Every number is held against a bound.
//!
//! ```text
//! kind u8 │ codec u8 │ 0 u16 │ body length u32 │ body, packed by the codec
//! ```

use super::page_hash::PageHash;
use crate::codec::{Codec, Packer, Unpacker};
use crate::frame::{FrameType, Header, MAX_RAW};
use crate::leb128::{self, unzigzag, zigzag};

/// The type of an INDEX frame.
pub const INDEX: u8 = 0x81;
/// The most frames, and the most page records, of a part.
pub const PART_ENTRIES: usize = 1 << 16;
/// The most parts that a directory lists: 2³² pages. A file with more has no directory.
pub const MAX_PARTS: usize = 1 << 16;
/// As many as a stream may name.
const MAX_BLOCKS: u64 = 4096;
/// Longest text in a directory.
const MAX_TEXT: u64 = 256;
/// Bytes before the body.
const PREFIX: usize = 8;
/// How the body is packed: it is small, and most of it are hashes.
pub(super) const LEVEL: i32 = 1;
/// The longest payload of a part: counts and where it begins, each frame's two lengths, each page record's number, kind, offset
/// and hash.
pub(super) const LARGEST_PART: usize = PREFIX + 40 + PART_ENTRIES * (4 + 4 + 10 + 1 + 10 + 16);
const _: () = assert!(LARGEST_PART <= MAX_RAW);

/// What an INDEX frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Part = 1,
    Directory = 2,
}

/// Where a frame with a piece of the original stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameAt {
    /// Its header's first byte, counted from that of START.
    pub position: u64,
    /// Its first byte in the original stream.
    pub offset: u64,
    /// Bytes of the original stream.
    pub raw_len: u32,
    /// Bytes of its payload.
    pub packed_len: u32,
}

impl FrameAt {
    /// That of a frame whose header stands there.
    pub(super) fn of(position: u64, header: &Header) -> Self {
        FrameAt {
            position,
            offset: header.offset,
            raw_len: header.raw_len,
            packed_len: header.packed_len,
        }
    }
}

/// What a page record brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The page itself, from this offset of the original stream on.
    At {
        /// Of its first byte.
        offset: u64,
        /// Its hash, where hashes are kept.
        hash: Option<PageHash>,
    },
    /// The same, and its hash is that of the base's page of the same block and address.
    AsInBase {
        /// Of its first byte.
        offset: u64,
    },
    /// One byte all over.
    Fill(u8),
    /// QEMU's own XBZRLE or zlib.
    Packed,
}

/// A page record of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRecord {
    /// The page, counted over all blocks in their order.
    pub number: u64,
    /// What the record brought.
    pub content: Content,
}

/// A stretch of the index: frames and page records, each in the order of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Frames that stand between the part before and this one, without a gap.
    pub frames: Vec<FrameAt>,
    /// Page records. One belongs to the frame in which it ends.
    pub pages: Vec<PageRecord>,
}

/// A part, as the directory knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartAt {
    /// Its frame's first byte, counted from that of START.
    pub position: u64,
    /// Bytes of the original stream before its first frame.
    pub offset: u64,
    /// Its frames.
    pub frames: u32,
    /// Its page records.
    pub pages: u32,
    /// The lowest page number in it; 0 if it has none.
    pub lowest: u64,
    /// The highest page number in it.
    pub highest: u64,
}

/// The index's last frame: what is known of the stream, and where the parts stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// From START's first byte to the directory's.
    pub from_start: u64,
    /// Bytes in a page; 0 where the stream named no RAM.
    pub page_size: u32,
    /// The machine type; empty if the stream does not tell it.
    pub machine: Vec<u8>,
    /// The RAM blocks in the stream's order: name, bytes.
    pub blocks: Vec<(Vec<u8>, u64)>,
    /// Where the configuration stands.
    pub configuration: (u64, u64),
    /// Where the devices' states begin.
    pub device_state: Option<u64>,
    /// Bytes of the stream that were understood.
    pub understood: u64,
    /// Why no more; empty if it ended where it could.
    pub reason: Vec<u8>,
    /// Whether pages have hashes.
    pub hashes: bool,
    /// What frames and page records there are.
    pub tally: Tally,
    /// The parts in their order.
    pub parts: Vec<PartAt>,
}

/// Counts of a stream's frames and page records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames by their codec's number.
    pub codecs: [u64; 4],
    /// Those of them with references.
    pub matched: u64,
    /// The level of the last frame that was packed.
    pub level: i8,
    /// Page records: whole, fill, QEMU's own.
    pub records: [u64; 3],
}

impl Tally {
    /// Another frame with a piece of the stream.
    pub(super) fn frame(&mut self, header: &Header) {
        self.codecs[header.codec as usize] += 1;
        self.matched += u64::from(header.kind == FrameType::Matched);
        if header.codec != Codec::None {
            self.level = header.level;
        }
    }

    /// Another page record.
    pub(super) fn record(&mut self, content: &Content) {
        let kind = match content {
            Content::At { .. } | Content::AsInBase { .. } => 0,
            Content::Fill(_) => 1,
            Content::Packed => 2,
        };
        self.records[kind] += 1;
    }
}

impl Directory {
    /// Whether both say the same of the stream itself.
    pub(super) fn agrees(&self, other: &Directory) -> bool {
        let facts = |of: &Directory| Directory {
            from_start: 0,
            tally: Tally::default(),
            parts: Vec::new(),
            ..of.clone()
        };
        facts(self) == facts(other)
    }

    /// How many pages all blocks have.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.ram_bytes() / u64::from(self.page_size.max(1))
    }

    /// The guest's RAM in bytes.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.1).sum()
    }

    /// The number of the page at this address of a block.
    #[must_use]
    pub fn number(&self, block: &[u8], address: u64) -> Option<u64> {
        let mut first = 0;
        for (name, length) in &self.blocks {
            if name == block {
                let inside = address < *length && address % u64::from(self.page_size.max(1)) == 0;
                return inside.then(|| first + address / u64::from(self.page_size.max(1)));
            }
            first += length / u64::from(self.page_size.max(1));
        }
        None
    }

    /// Block and address of a page's number.
    #[must_use]
    pub fn place(&self, number: u64) -> Option<(&[u8], u64)> {
        let mut first = 0;
        for (name, length) in &self.blocks {
            let pages = length / u64::from(self.page_size.max(1));
            if number < first + pages {
                return Some((name, (number - first) * u64::from(self.page_size)));
            }
            first += pages;
        }
        None
    }

    /// The payload of its frame.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        let mut to = Writer::default();
        for number in [
            self.from_start,
            self.page_size.into(),
            self.configuration.0,
            self.configuration.1,
            self.device_state.map_or(0, |offset| offset + 1),
            self.understood,
            self.hashes.into(),
            self.tally.matched,
        ] {
            to.number(number);
        }
        self.tally.codecs.iter().for_each(|n| to.number(*n));
        to.0.push(self.tally.level as u8);
        self.tally.records.iter().for_each(|n| to.number(*n));
        to.text(&self.machine);
        to.text(&self.reason);
        to.number(self.blocks.len() as u64);
        for (name, length) in &self.blocks {
            to.text(name);
            to.number(*length);
        }
        to.number(self.parts.len() as u64);
        let (mut position, mut offset) = (0, 0);
        for part in &self.parts {
            to.number(part.position - position);
            to.number(part.offset - offset);
            to.number(part.frames.into());
            to.number(part.pages.into());
            to.number(part.lowest);
            to.number(part.highest - part.lowest);
            (position, offset) = (part.position, part.offset);
        }
        seal(Kind::Directory, &to.0)
    }

    /// The directory in a payload, every number of it within its bounds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_payload(payload: &[u8]) -> Result<Self, &'static str> {
        let body = open(Kind::Directory, payload)?;
        let mut from = Reader(&body);
        let mut directory = Directory {
            from_start: from.number()?,
            page_size: from.below(1 << 16)? as u32,
            configuration: (from.number()?, from.number()?),
            device_state: from.number()?.checked_sub(1),
            understood: from.number()?,
            hashes: from.below(1)? == 1,
            ..Directory::default()
        };
        let tally = &mut directory.tally;
        tally.matched = from.number()?;
        for count in &mut tally.codecs {
            *count = from.number()?;
        }
        tally.level = from.bytes(1)?[0] as i8;
        for count in &mut tally.records {
            *count = from.number()?;
        }
        directory.machine = from.text()?;
        directory.reason = from.text()?;
        let sized = directory.page_size == 0
            || (directory.page_size >= 4096 && directory.page_size.is_power_of_two());
        if !sized {
            return Err("a page size that cannot be");
        }
        let mut ram = 0u64;
        for _ in 0..from.below(MAX_BLOCKS)? {
            let (name, length) = (from.text()?, from.number()?);
            let whole = directory.page_size > 0 && length % u64::from(directory.page_size) == 0;
            ram = ram.checked_add(length).ok_or("blocks beyond all bounds")?;
            if !whole {
                return Err("a block that is not made of pages");
            }
            directory.blocks.push((name, length));
        }
        let (mut position, mut offset) = (0u64, 0u64);
        for _ in 0..from.below(MAX_PARTS as u64)? {
            let after = |before: u64, more: u64| before.checked_add(more).ok_or("a part nowhere");
            position = after(position, from.number()?)?;
            offset = after(offset, from.number()?)?;
            let (frames, pages) = (
                from.below(PART_ENTRIES as u64)?,
                from.below(PART_ENTRIES as u64)?,
            );
            let lowest = from.number()?;
            let highest = after(lowest, from.number()?)?;
            if position >= directory.from_start || (pages > 0 && highest >= directory.pages()) {
                return Err("a part out of its place");
            }
            directory.parts.push(PartAt {
                position,
                offset,
                frames: frames as u32,
                pages: pages as u32,
                lowest,
                highest,
            });
        }
        from.end()?;
        Ok(directory)
    }
}

impl Part {
    /// The page numbers in it, lowest and highest.
    pub(super) fn range(&self) -> (u64, u64) {
        let numbers = || self.pages.iter().map(|page| page.number);
        (numbers().min().unwrap_or(0), numbers().max().unwrap_or(0))
    }

    /// The payload of its frame. `page_size` is that of the guest; 0 where there are no pages.
    #[must_use]
    pub fn to_payload(&self, page_size: u32) -> Vec<u8> {
        let mut to = Writer::default();
        let first = self.frames.first();
        to.number(self.frames.len() as u64);
        to.number(first.map_or(0, |frame| frame.position));
        to.number(first.map_or(0, |frame| frame.offset));
        for frame in &self.frames {
            to.number(frame.packed_len.into());
            to.number(frame.raw_len.into());
        }
        to.number(self.pages.len() as u64);
        // Column by column: each is nearly the same all over.
        let mut expected = 0u64;
        for page in &self.pages {
            to.signed(page.number.wrapping_sub(expected) as i64);
            expected = page.number.wrapping_add(1);
        }
        for page in &self.pages {
            to.0.push(match page.content {
                Content::At { hash: None, .. } => 0,
                Content::At { hash: Some(_), .. } => 1,
                Content::AsInBase { .. } => 2,
                Content::Fill(_) => 3,
                Content::Packed => 4,
            });
        }
        let mut expected = 0u64;
        for page in &self.pages {
            match page.content {
                Content::At { offset, .. } | Content::AsInBase { offset } => {
                    to.signed(offset.wrapping_sub(expected) as i64);
                    expected = next_page(offset, page_size);
                }
                Content::Fill(byte) => to.0.push(byte),
                Content::Packed => {}
            }
        }
        for page in &self.pages {
            if let Content::At {
                hash: Some(hash), ..
            } = page.content
            {
                to.0.extend_from_slice(&hash);
            }
        }
        seal(Kind::Part, &to.0)
    }

    /// The part in a payload. `pages` is how many pages the guest has, `upto` how long the original stream is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_payload(
        payload: &[u8],
        page_size: u32,
        pages: u64,
        upto: u64,
    ) -> Result<Self, &'static str> {
        let body = open(Kind::Part, payload)?;
        let mut from = Reader(&body);
        let count = from.below(PART_ENTRIES as u64)? as usize;
        let (mut position, mut offset) = (from.number()?, from.number()?);
        // The counts are bounded, and each entry has a byte that must be there.
        let mut part = Part::default();
        for _ in 0..count {
            let packed_len = from.below(MAX_RAW as u64)? as u32;
            let raw_len = from.below(MAX_RAW as u64)? as u32;
            part.frames.push(FrameAt {
                position,
                offset,
                raw_len,
                packed_len,
            });
            let next = |at: u64, length: u64| at.checked_add(length).ok_or("a frame nowhere");
            position = next(
                position,
                crate::frame::HEADER_LEN as u64 + u64::from(packed_len),
            )?;
            offset = next(offset, raw_len.into())?;
        }
        if count > 0 && offset > upto {
            return Err("a frame behind the stream's end");
        }
        let count = from.below(PART_ENTRIES as u64)? as usize;
        let mut expected = 0u64;
        for _ in 0..count {
            let number = expected.wrapping_add(from.signed()? as u64);
            if number >= pages {
                return Err("a page that the guest does not have");
            }
            let content = Content::Packed;
            part.pages.push(PageRecord { number, content });
            expected = number.wrapping_add(1);
        }
        let kinds = from.bytes(count)?.to_vec();
        let mut expected = 0u64;
        for (page, kind) in part.pages.iter_mut().zip(&kinds) {
            page.content = match kind {
                0..=2 => {
                    let offset = expected.wrapping_add(from.signed()? as u64);
                    let inside = offset
                        .checked_add(page_size.into())
                        .is_some_and(|end| end <= upto);
                    if !inside {
                        return Err("a page behind the stream's end");
                    }
                    expected = next_page(offset, page_size);
                    if *kind == 2 {
                        Content::AsInBase { offset }
                    } else {
                        Content::At { offset, hash: None }
                    }
                }
                3 => Content::Fill(from.bytes(1)?[0]),
                4 => Content::Packed,
                _ => return Err("a page record of unknown kind"),
            };
        }
        for (page, _) in part
            .pages
            .iter_mut()
            .zip(&kinds)
            .filter(|(_, kind)| **kind == 1)
        {
            if let Content::At { hash, .. } = &mut page.content {
                *hash = from.bytes(16)?.first_chunk().copied();
            }
        }
        from.end()?;
        Ok(part)
    }
}

/// Where the next page most likely stands: behind a record's head without a name.
fn next_page(offset: u64, page_size: u32) -> u64 {
    offset.wrapping_add(u64::from(page_size) + 8)
}

/// The payload with this body.
fn seal(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; PREFIX + body.len()];
    let packed = Packer::new().pack(Codec::Zstd, LEVEL, body, &mut payload[PREFIX..]);
    let codec = match packed {
        Some(n) => {
            payload.truncate(PREFIX + n);
            Codec::Zstd
        }
        None => {
            payload[PREFIX..].copy_from_slice(body);
            Codec::None
        }
    };
    payload[0] = kind as u8;
    payload[1] = codec.to_byte();
    payload[4..PREFIX].copy_from_slice(&(body.len() as u32).to_le_bytes());
    payload
}

/// Whether the payload is a directory's.
pub(crate) fn is_directory(payload: &[u8]) -> bool {
    payload.first() == Some(&(Kind::Directory as u8))
}

fn open(kind: Kind, payload: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (prefix, packed) = payload
        .split_first_chunk::<PREFIX>()
        .ok_or("it is too short")?;
    if prefix[0] != kind as u8 {
        return Err("it is of another kind");
    }
    let codec = Codec::from_byte(prefix[1]).ok_or("an unknown codec")?;
    let length = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
    if prefix[2..4] != [0, 0] || length > MAX_RAW {
        return Err("a length beyond its bounds");
    }
    let mut body = vec![0; length];
    Unpacker::new()
        .unpack(codec, packed, &mut body)
        .map_err(|_| "it cannot be unpacked")?;
    Ok(body)
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, number: u64) {
        let _ = leb128::write(number, |byte| {
            self.0.push(byte);
            Some(())
        });
    }

    fn signed(&mut self, number: i64) {
        self.number(zigzag(number));
    }

    fn text(&mut self, text: &[u8]) {
        let text = &text[..text.len().min(MAX_TEXT as usize)];
        self.number(text.len() as u64);
        self.0.extend_from_slice(text);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or("it is cut off")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        leb128::read(&mut self.0)
    }

    fn signed(&mut self) -> Result<i64, &'static str> {
        self.number().map(unzigzag)
    }

    fn below(&mut self, limit: u64) -> Result<u64, &'static str> {
        self.number().and_then(|number| {
            if number <= limit {
                Ok(number)
            } else {
                Err("a number beyond its bounds")
            }
        })
    }

    fn text(&mut self) -> Result<Vec<u8>, &'static str> {
        let length = self.below(MAX_TEXT)? as usize;
        self.bytes(length).map(<[u8]>::to_vec)
    }

    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err("bytes behind its end")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn directory() -> Directory {
        Directory {
            from_start: 90_000,
            page_size: 4096,
            machine: b"pc-q35-9.2".to_vec(),
            blocks: vec![(b"pc.ram".to_vec(), 8 << 20), (b"vga".to_vec(), 4096)],
            configuration: (8, 30),
            device_state: Some(70_000),
            understood: 70_000,
            reason: b"device state".to_vec(),
            hashes: true,
            tally: Tally {
                codecs: [1, 0, 0, 9],
                matched: 3,
                level: -1,
                records: [10, 20, 0],
            },
            parts: vec![
                PartAt {
                    position: 5000,
                    offset: 0,
                    frames: 4,
                    pages: 3,
                    lowest: 1,
                    highest: 2048,
                },
                PartAt {
                    position: 80_000,
                    offset: 40_000,
                    frames: 6,
                    pages: 0,
                    lowest: 0,
                    highest: 0,
                },
            ],
        }
    }

    fn part() -> Part {
        Part {
            frames: vec![
                FrameAt {
                    position: 64,
                    offset: 0,
                    raw_len: 4096,
                    packed_len: 100,
                },
                FrameAt {
                    position: 64 + 148,
                    offset: 4096,
                    raw_len: 90_000,
                    packed_len: 90_000,
                },
            ],
            pages: [
                (
                    0,
                    Content::At {
                        offset: 300,
                        hash: Some([7; 16]),
                    },
                ),
                (1, Content::AsInBase { offset: 4404 }),
                (2, Content::Fill(9)),
                (7, Content::Packed),
                (
                    1,
                    Content::At {
                        offset: 50_000,
                        hash: None,
                    },
                ),
            ]
            .map(|(number, content)| PageRecord { number, content })
            .to_vec(),
        }
    }

    #[test]
    fn a_directory_survives_its_bytes() {
        assert_eq!(
            Directory::from_payload(&directory().to_payload()),
            Ok(directory())
        );
        assert_eq!(directory().number(b"vga", 0), Some(2048));
        assert_eq!(directory().place(2048), Some((&b"vga"[..], 0)));
        assert_eq!(
            (directory().number(b"vga", 4096), directory().place(2049)),
            (None, None)
        );
    }

    #[test]
    fn a_part_survives_its_bytes() {
        let read = |pages, upto| Part::from_payload(&part().to_payload(4096), 4096, pages, upto);
        assert_eq!(read(8, 94_096), Ok(part()));
        assert!(read(7, 94_096).is_err() && read(8, 94_095).is_err());
    }

    #[test]
    fn the_largest_part_is_a_frame_that_may_be() {
        let frame = FrameAt {
            position: u64::MAX >> 1,
            offset: u64::MAX >> 1,
            raw_len: MAX_RAW as u32,
            packed_len: MAX_RAW as u32,
        };
        // Hashes, numbers and offsets that nothing can pack.
        let mut random = 1u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let pages = (0..PART_ENTRIES).map(|_| PageRecord {
            number: next(),
            content: Content::At {
                offset: next(),
                hash: [next().to_le_bytes(), next().to_le_bytes()]
                    .concat()
                    .first_chunk()
                    .copied(),
            },
        });
        let part = Part {
            frames: vec![frame; PART_ENTRIES],
            pages: pages.collect(),
        };
        assert!(part.to_payload(4096).len() <= LARGEST_PART);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            mut payload in proptest::collection::vec(any::<u8>(), 0..300), of_part in any::<bool>(),
        ) {
            let good = if of_part { part().to_payload(4096) } else { directory().to_payload() };
            let _ = Part::from_payload(&payload, 4096, 8, 100_000);
            let _ = Directory::from_payload(&payload);
            // Behind a good prefix, stored.
            payload.splice(0..0, [good[0], 0, 0, 0].into_iter().chain((payload.len() as u32).to_le_bytes()));
            let _ = Part::from_payload(&payload, 4096, 8, 100_000);
            let _ = Directory::from_payload(&payload);
        }

        #[test]
        fn a_flipped_bit_of_a_body_is_no_harm(bit in 0usize..4000, of_part in any::<bool>()) {
            let payload = if of_part { part().to_payload(4096) } else { directory().to_payload() };
            let kind = if of_part { Kind::Part } else { Kind::Directory };
            let mut body = open(kind, &payload).expect("a body");
            let bit = bit % (body.len() * 8);
            body[bit / 8] ^= 1 << (bit % 8);
            let payload = seal(kind, &body);
            let _ = Part::from_payload(&payload, 4096, 8, 100_000);
            let _ = Directory::from_payload(&payload);
        }
    }
}

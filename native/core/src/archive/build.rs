//! Makes the index while a stream is encoded: each thread does its part.
//!
//! | thread | what                                                                        |
//! | ------ | --------------------------------------------------------------------------- |
//! | source | [`Watcher::sealed`]: which pages a frame brings                             |
//! | worker | [`Builder::look`]: their hashes, and which of them the base has             |
//! | sink   | [`Scribe::before`]: where the frame stands; writes what has been gathered   |

use super::base::{BaseName, BasePages};
use super::index::{
    Content, Directory, FrameAt, INDEX, LARGEST_PART, LEVEL, MAX_PARTS, PART_ENTRIES, PageRecord,
    Part, PartAt,
};
use super::page_hash::{hash_page, hash_pages};
use super::records::{Gathering, LEAST_RECORD, Records};
use crate::checksum::xxh3_64;
use crate::codec::Codec;
use crate::frame::{End, FrameType, HEADER_LEN, Header, MAX_RAW};
use crate::lock::lock;
use crate::matching::{MIN_REFERENCE, Reference, Source};
use crate::qemu::{PageWatch, Seen};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Bytes of memory that making an index takes at the most, with so many frames on their way and threads that pack them. What is
/// kept of a base itself is not in it.
#[must_use]
pub fn index_bytes(frame_size: usize, in_flight: u32, packers: u32, has_base: bool) -> u64 {
    let records = Records::bytes(frame_size);
    // Those of frames on their way, and those that the source gathers.
    let waiting = records as u64 * (u64::from(in_flight) + 1);
    let references = frame_size / MIN_RUN * size_of::<Reference>();
    let of_base = if has_base { references as u64 } else { 0 };
    // A page each: where it is, its content, its hash.
    let looked_at = Records::most_whole(frame_size) * 64;
    let looking = u64::from(packers) * (of_base + looked_at as u64);
    waiting + looking + Scribe::bytes(frame_size)
}

/// What the threads share while the index is made.
#[derive(Debug)]
pub struct Builder {
    hashes: bool,
    base: Option<BasePages>,
    /// Page records of frames that are on their way, by the frames' offsets.
    frames: Mutex<HashMap<u64, Records>>,
    /// What the source knows at the end.
    facts: Mutex<Option<Directory>>,
}

impl Builder {
    /// An index with or without hashes of pages; with a base, pages are looked for in it.
    #[must_use]
    pub fn new(hashes: bool, base: Option<BasePages>) -> Self {
        Builder {
            hashes,
            base,
            frames: Mutex::default(),
            facts: Mutex::default(),
        }
    }

    /// The base as START names it, if there is one.
    #[must_use]
    pub fn base_name(&self) -> Option<BaseName> {
        let archive = self.base.as_ref()?.archive();
        Some(BaseName::new(archive.end()?, archive.path()))
    }

    /// The page records that belong to the frame at this offset.
    pub(super) fn take(&self, offset: u64) -> Records {
        lock(&self.frames).remove(&offset).unwrap_or_default()
    }

    /// Worker: hashes the pages that stand in this frame as a whole, and gives references to what of them the base has.
    /// They are in their order and do not overlap.
    pub fn look(&self, offset: u64, raw: &[u8]) -> Vec<Reference> {
        let mut references = Vec::new();
        if !self.hashes && self.base.is_none() {
            return references;
        }
        // They are gathered by one thread and taken by another; in between they are ours.
        let Some(mut records) = lock(&self.frames).remove(&offset) else {
            return references;
        };
        let page_size = records_page_size(&self.facts);
        let pages = records.whole.iter_mut().filter_map(|record| {
            let Content::At { offset: at, .. } = record.content else {
                return None;
            };
            let from = at.checked_sub(offset)? as usize;
            Some((record, at, raw.get(from..from + page_size)?))
        });
        let pages: Vec<(&mut PageRecord, u64, &[u8])> = pages.collect();
        let contents: Vec<&[u8]> = pages.iter().map(|(_, _, page)| *page).collect();
        for ((record, at, page), own) in pages.into_iter().zip(hash_pages(&contents)) {
            let from = (at - offset) as u32;
            record.content = Content::At {
                offset: at,
                hash: Some(own),
            };
            let Some(base) = &self.base else { continue };
            // Two records of one page in a frame would not be in order; the stream's order is that of their offsets.
            let place = base.same_place(record.number);
            match place {
                Some((there, hash)) if hash == own => {
                    references.push(whole(from, page_size, there));
                    record.content = Content::AsInBase { offset: at };
                }
                _ => match base.anywhere(&own) {
                    Some(there) => references.push(whole(from, page_size, there)),
                    None => {
                        if let Some((there, _)) = place {
                            base.nearly(there, page, from, &mut references);
                        }
                    }
                },
            }
        }
        lock(&self.frames).insert(offset, records);
        references
    }
}

/// The page size that the source has noted; 4096 where it has not, and then there are no records.
fn records_page_size(facts: &Mutex<Option<Directory>>) -> usize {
    lock(facts)
        .as_ref()
        .map_or(4096, |facts| facts.page_size.max(4096) as usize)
}

fn whole(at: u32, len: usize, there: u64) -> Reference {
    Reference {
        at,
        len: len as u32,
        source: Source::Base(there),
    }
}

/// Source: watches the stream for pages.
pub struct Watcher {
    builder: Arc<Builder>,
    watch: PageWatch,
    gathering: Gathering,
    knows_guest: bool,
}

impl Watcher {
    /// At the stream's start.
    #[must_use]
    pub fn new(builder: Arc<Builder>) -> Self {
        Watcher {
            builder,
            watch: PageWatch::new(),
            gathering: Gathering::default(),
            knows_guest: false,
        }
    }

    /// A frame with these bytes of the stream is about to leave. Frames are told of in their order.
    pub fn sealed(&mut self, offset: u64, raw: &[u8]) {
        let (hashes, gathering) = (self.builder.hashes, &mut self.gathering);
        gathering.begin(raw.len());
        self.watch.feed(raw, |seen| {
            gathering.push(match seen {
                Seen::Page {
                    at,
                    offset: page,
                    content,
                } => PageRecord {
                    number: at.number,
                    content: Content::At {
                        offset: page,
                        // A page that the frame before begins with is whole here only.
                        hash: (hashes && page < offset).then(|| hash_page(content)),
                    },
                },
                Seen::Fill { at, byte } => PageRecord {
                    number: at.number,
                    content: Content::Fill(byte),
                },
                Seen::Packed { at } => PageRecord {
                    number: at.number,
                    content: Content::Packed,
                },
            });
        });
        if !self.knows_guest {
            if let Some(guest) = self.watch.guest() {
                self.knows_guest = true;
                if let Some(base) = &self.builder.base {
                    base.meet(guest);
                }
                *lock(&self.builder.facts) = Some(self.facts());
            }
        }
        let records = self.gathering.end();
        lock(&self.builder.frames).insert(offset, records);
    }

    /// Behind the last frame, before END.
    pub fn finish(self) {
        *lock(&self.builder.facts) = Some(self.facts());
    }

    pub(super) fn facts(&self) -> Directory {
        let (watch, configuration) = (&self.watch, self.watch.configuration());
        let mut facts = Directory {
            configuration: (configuration.start, configuration.end),
            device_state: watch.device_state(),
            understood: watch.understood(),
            hashes: self.builder.hashes,
            ..Directory::default()
        };
        if let Some(reason) = watch.reason() {
            if !reason.is_regular() {
                facts.reason = reason.as_str().as_bytes().to_vec();
            }
        }
        if let Some(guest) = watch.guest() {
            facts.page_size = guest.page_size;
            facts.machine = guest.machine.to_vec();
            facts.blocks = guest
                .blocks
                .iter()
                .map(|block| (block.name.to_vec(), block.used_length))
                .collect();
        }
        facts
    }
}

/// Sink: knows where frames stand, and writes the index between and behind them.
pub struct Scribe {
    builder: Arc<Builder>,
    /// Bytes written since START, and INDEX frames among them.
    position: u64,
    inserted: u32,
    part: Part,
    directory: Directory,
    /// There are more parts than a directory lists.
    beyond: bool,
}

impl Scribe {
    /// Bytes of memory that it takes at the most.
    fn bytes(frame_size: usize) -> u64 {
        let part = PART_ENTRIES * (size_of::<PageRecord>() + size_of::<FrameAt>());
        let listed = MAX_PARTS * size_of::<PartAt>();
        // Its body, its payload, and what is written of it; the same of a directory takes no more beside the list. A frame with more
        // page records than a part may have makes several: its shortest become 10 bytes there.
        let written = 3 * LARGEST_PART + frame_size / LEAST_RECORD * 10;
        (part + listed + written) as u64 + Codec::Zstd.packer_bytes(LEVEL, LARGEST_PART)
    }

    /// Before the first frame.
    #[must_use]
    pub fn new(builder: Arc<Builder>) -> Self {
        Scribe {
            builder,
            position: 0,
            inserted: 0,
            part: Part::default(),
            directory: Directory::default(),
            beyond: false,
        }
    }

    /// What is to be written before this frame: INDEX frames, as they stand on the wire. Gives the frame its number, and
    /// END what it says of the index. `payload` begins with the frame's payload.
    pub fn before(&mut self, header: &mut Header, payload: &mut [u8]) -> Vec<u8> {
        let mut frames = Vec::new();
        match header.kind {
            FrameType::End => self.end(header, payload, &mut frames),
            kind if kind.is_content() => self.data(header, &mut frames),
            _ => {}
        }
        header.sequence = header.sequence.wrapping_add(self.inserted);
        self.position += HEADER_LEN as u64 + u64::from(header.packed_len);
        frames
    }

    fn data(&mut self, header: &Header, frames: &mut Vec<u8>) {
        for record in self.builder.take(header.offset).iter() {
            self.directory.tally.record(&record.content);
            if self.part.pages.len() == PART_ENTRIES {
                self.part(header, frames);
            }
            self.part.pages.push(record);
        }
        if self.part.frames.len() == PART_ENTRIES {
            self.part(header, frames);
        }
        self.part.frames.push(FrameAt::of(self.position, header));
        self.directory.tally.frame(header);
    }

    /// Writes what has been gathered.
    fn part(&mut self, next: &Header, frames: &mut Vec<u8>) {
        let part = std::mem::take(&mut self.part);
        if part == Part::default() {
            return;
        }
        let (lowest, highest) = part.range();
        let page_size = records_page_size(&self.builder.facts) as u32;
        self.beyond |= self.directory.parts.len() == MAX_PARTS;
        if !self.beyond {
            self.directory.parts.push(PartAt {
                position: self.position,
                offset: part
                    .frames
                    .first()
                    .map_or(next.offset, |frame| frame.offset),
                frames: part.frames.len() as u32,
                pages: part.pages.len() as u32,
                lowest,
                highest,
            });
        }
        self.insert(next, &part.to_payload(page_size), frames);
    }

    fn insert(&mut self, next: &Header, payload: &[u8], frames: &mut Vec<u8>) {
        let sequence = next.sequence.wrapping_add(self.inserted);
        let header = Header::stored(FrameType::Other(INDEX), sequence, next.offset, payload);
        frames.extend_from_slice(&header.to_bytes());
        frames.extend_from_slice(payload);
        self.position += (HEADER_LEN + payload.len()) as u64;
        self.inserted = self.inserted.wrapping_add(1);
    }

    fn end(&mut self, header: &mut Header, payload: &mut [u8], frames: &mut Vec<u8>) {
        self.part(header, frames);
        let gathered = std::mem::take(&mut self.directory);
        let facts = lock(&self.builder.facts).take().unwrap_or_default();
        let directory = Directory {
            from_start: self.position,
            tally: gathered.tally,
            parts: gathered.parts,
            ..facts
        };
        let index = directory.to_payload();
        let fits = !self.beyond && index.len() <= MAX_RAW;
        if fits {
            self.insert(header, &index, frames);
        }
        let own = payload
            .get_mut(..End::LEN)
            .and_then(|bytes| End::from_bytes(bytes).ok().map(|end| (bytes, end)));
        if let Some((bytes, mut end)) = own {
            end.frames += u64::from(self.inserted);
            end.index = if fits {
                (HEADER_LEN + index.len()) as u64
            } else {
                0
            };
            bytes.copy_from_slice(&end.to_bytes());
            header.payload_hash = xxh3_64(bytes);
        }
    }
}

/// Shortest run in a page that is worth a reference: a reference takes 3 to 6 bytes before the codec, and what stands
/// between two runs packs better in one piece.
pub(super) const MIN_RUN: usize = 2 * MIN_REFERENCE;

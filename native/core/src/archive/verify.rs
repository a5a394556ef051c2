//! Reads all of a file and holds it against what it says of itself; [`Check`] alone where a flow reads it anyway.

use super::base::{BasePages, Bases};
use super::build::{Builder, Watcher};
use super::error::ArchiveError;
use super::file::Archive;
use super::index::{Content, FrameAt, INDEX, PART_ENTRIES, PageRecord, Tally, is_directory};
use crate::checksum::ContentHash;
use crate::frame::{Ending, FrameError, FrameType, HEADER_LEN, Header, MAX_RAW};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// What was found to be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Streams in the file.
    pub streams: u64,
    /// Frames of all streams.
    pub frames: u64,
    /// Bytes of the original streams.
    pub raw_bytes: u64,
    /// Page records that the indexes tell of.
    pub pages: u64,
    /// Streams without an index.
    pub without_index: u64,
    /// Streams whose input ended inside of what was parsed.
    pub truncated_inputs: u64,
}

/// Reads every frame, resolves every reference, and holds totals, content and index against them.
///
/// # Errors
/// At the first thing that is not right.
pub fn verify(path: &Path, bases: &Bases) -> Result<Verified, ArchiveError> {
    let mut verified = Verified::default();
    let last = Archive::open_alone(path)?;
    let (only, size) = last.extent();
    // In front of the first stream another program may have put something; the last one's index knows.
    let begins = last.header(0).is_ok();
    let mut at = if begins { 0 } else { only };
    let mut archive = last;
    loop {
        let mut index = Vec::new();
        let mut frames = 0;
        let mut stream = archive.walk(at, |archive, found| {
            frames += 1;
            // Frames with data are read below; all others here.
            if !found.header.kind.is_content() {
                let payload = archive.payload(found.position, &found.header)?;
                if found.header.kind == FrameType::Other(INDEX) {
                    index.push((found.position, is_directory(&payload)));
                }
            }
            Ok(())
        })?;
        stream.open_base(bases, 0)?;
        verified.streams += 1;
        verified.frames += frames;
        at = stream.extent().1;
        one(stream, &index, &mut verified)?;
        if at >= size {
            return Ok(verified);
        }
        archive = Archive::unread(path)?;
    }
}

/// One stream, whose frames are in order.
fn one(
    mut stream: Archive,
    index: &[(u64, bool)],
    verified: &mut Verified,
) -> Result<(), ArchiveError> {
    let (start, behind) = stream.extent();
    let Some(end) = stream.end().copied() else {
        return Ok(());
    };
    let end_at = behind - (HEADER_LEN + crate::frame::End::LEN) as u64;
    if end.index > 0 {
        let (position, directory) = stream.directory_before(end_at, end.index)?;
        let from_start = directory.from_start;
        stream.set_directory(directory);
        if position - from_start != start {
            return Err(stream.damaged_index("it belongs to another stream"));
        }
    }
    let stream = Arc::new(stream);
    let mut check = (end.index > 0).then(|| Check::new(Arc::clone(&stream)));
    if let Some(check) = &mut check {
        for (position, is_directory) in index {
            check.index(position - start, *is_directory)?;
        }
    }
    let mut content = ContentHash::new();
    let mut raw = Vec::new();
    for frame in stream.frames()? {
        raw.resize(frame.raw_len as usize, 0);
        stream.read(frame.offset, &mut raw)?;
        content.update(&raw);
        if let Some(check) = &mut check {
            check.frame(frame.position, &stream.header(start + frame.position)?);
            check.content(frame.offset, &raw)?;
        }
    }
    let actual = content.digest();
    if actual != end.content_hash {
        return Err(stream.wrong(
            end_at,
            FrameError::Total {
                what: "content hash",
                expected: format!("{:032x}", end.content_hash),
                actual: format!("{actual:032x}"),
            },
        ));
    }
    if let Some(check) = &mut check {
        check.end()?;
        verified.pages += check.tally.records.iter().sum::<u64>();
    }
    verified.raw_bytes += end.raw_bytes;
    verified.without_index += u64::from(check.is_none());
    verified.truncated_inputs += u64::from(end.ending == Ending::TruncatedInput);
    Ok(())
}

/// Holds a stream against its index while it is read.
pub struct Check {
    stream: Arc<Archive>,
    told: Told,
    /// Frames whose headers were seen, and whose content was not yet.
    seen: VecDeque<FrameAt>,
    builder: Arc<Builder>,
    watcher: Watcher,
    /// Parts that have come.
    parts: usize,
    /// Of frames that came, and of page records that were right.
    tally: Tally,
}

impl Check {
    /// Of a file whose only stream begins with it. `None` where there is no such index, or it cannot be read: what is wrong
    /// with it then, [`verify`] tells.
    #[must_use]
    pub fn open(path: &Path, bases: &Bases) -> Option<Self> {
        // Without an index, where the last stream begins would take a look at every header.
        if Archive::identify(path).ok()?.index == 0 {
            return None;
        }
        let mut stream = Archive::open_alone(path).ok()?;
        stream.open_base(bases, 0).ok()?;
        (stream.extent().0 == 0).then(|| Self::new(Arc::new(stream)))
    }

    /// Of a stream with a directory.
    fn new(stream: Arc<Archive>) -> Self {
        let directory = stream.directory();
        let hashes = directory.is_some_and(|directory| directory.hashes);
        let builder = Arc::new(Builder::new(hashes, None));
        Check {
            told: Told::new(Arc::clone(&stream)),
            seen: VecDeque::new(),
            watcher: Watcher::new(Arc::clone(&builder)),
            builder,
            parts: 0,
            tally: Tally::default(),
            stream,
        }
    }

    /// An INDEX frame; positions are counted from START.
    ///
    /// # Errors
    /// If the directory does not name it.
    pub fn index(&mut self, position: u64, is_directory: bool) -> Result<(), ArchiveError> {
        if is_directory {
            return Ok(());
        }
        if self.part(self.parts) != Some(position) {
            return Err(self.other_parts());
        }
        self.parts += 1;
        Ok(())
    }

    /// The header of the next frame with a piece of the stream; it is looked at with its content.
    pub fn frame(&mut self, position: u64, header: &Header) {
        self.tally.frame(header);
        self.seen.push_back(FrameAt::of(position, header));
    }

    /// What the next of those frames stands for.
    ///
    /// # Errors
    /// If the index tells of another frame, or of other pages.
    pub fn content(&mut self, offset: u64, raw: &[u8]) -> Result<(), ArchiveError> {
        let seen = self.seen.pop_front();
        if seen.is_none() || self.told.frame()? != seen {
            return Err(self
                .stream
                .damaged_index("it tells of other frames than there are"));
        }
        self.watcher.sealed(offset, raw);
        self.builder.look(offset, raw);
        for record in self.builder.take(offset).iter() {
            let (stored, content) = (self.told.page()?, record.content);
            if !self.told.same(stored, record)? {
                return Err(self
                    .stream
                    .damaged_index("it tells of other pages than there are"));
            }
            self.tally.record(&content);
        }
        Ok(())
    }

    /// Behind the last frame.
    ///
    /// # Errors
    /// If the index tells of more, or of another stream.
    pub fn end(&mut self) -> Result<(), ArchiveError> {
        if self.part(self.parts).is_some() {
            return Err(self.other_parts());
        }
        let facts = self.watcher.facts();
        let same = self.seen.is_empty()
            && self.told.frame()?.is_none()
            && self.told.page()?.is_none()
            && self
                .stream
                .directory()
                .is_some_and(|directory| self.tally == directory.tally && facts.agrees(directory));
        if same {
            Ok(())
        } else {
            Err(self.stream.damaged_index("it tells of another stream"))
        }
    }

    /// Where the directory has this part.
    fn part(&self, at: usize) -> Option<u64> {
        let part = self.stream.directory()?.parts.get(at)?;
        Some(part.position)
    }

    fn other_parts(&self) -> ArchiveError {
        self.stream
            .damaged_index("it does not name the parts that are there")
    }
}

/// What parts tell of that the frame of the moment does not have: no more than is in two of them, and in the page records of a
/// frame, of which the shortest have 9 bytes.
const MOST_AHEAD: usize = 2 * PART_ENTRIES + MAX_RAW / 9;

/// What the index's parts tell, one after the other.
struct Told {
    archive: Arc<Archive>,
    parts: std::ops::Range<usize>,
    frames: VecDeque<FrameAt>,
    pages: VecDeque<PageRecord>,
    base: Option<BasePages>,
}

impl Told {
    fn new(archive: Arc<Archive>) -> Self {
        let parts = archive
            .directory()
            .map_or(0, |directory| directory.parts.len());
        Told {
            archive,
            parts: 0..parts,
            frames: VecDeque::new(),
            pages: VecDeque::new(),
            base: None,
        }
    }

    fn more(&mut self) -> Result<bool, ArchiveError> {
        let Some(at) = self.parts.next() else {
            return Ok(false);
        };
        let part = self.archive.part(at)?;
        self.frames.extend(part.frames);
        self.pages.extend(part.pages);
        if self.frames.len().max(self.pages.len()) > MOST_AHEAD {
            return Err(self
                .archive
                .damaged_index("it tells of more than its frames have room for"));
        }
        Ok(true)
    }

    fn frame(&mut self) -> Result<Option<FrameAt>, ArchiveError> {
        while self.frames.is_empty() && self.more()? {}
        Ok(self.frames.pop_front())
    }

    fn page(&mut self) -> Result<Option<PageRecord>, ArchiveError> {
        while self.pages.is_empty() && self.more()? {}
        Ok(self.pages.pop_front())
    }

    /// Whether what is stored is what was found.
    fn same(
        &mut self,
        stored: Option<PageRecord>,
        found: PageRecord,
    ) -> Result<bool, ArchiveError> {
        let Some(stored) = stored else {
            return Ok(false);
        };
        let (
            Content::AsInBase { offset },
            Content::At {
                offset: actual,
                hash,
            },
        ) = (stored.content, found.content)
        else {
            return Ok(stored == found);
        };
        if self.base.is_none() {
            let Some(base) = self.archive.base() else {
                return Ok(false);
            };
            self.base = Some(BasePages::load(Arc::clone(base))?);
        }
        let place = self
            .archive
            .directory()
            .and_then(|directory| directory.place(stored.number));
        let expected = self.base.as_ref().zip(place);
        let expected = expected.and_then(|(base, (block, address))| base.hash_at(block, address));
        Ok((stored.number, offset) == (found.number, actual) && hash.is_some() && hash == expected)
    }
}

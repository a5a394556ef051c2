//! Reads all of a file and holds it against what it says of itself.

use super::base::{BasePages, Bases};
use super::build::{Builder, Watcher};
use super::error::ArchiveError;
use super::file::Archive;
use super::index::{Content, FrameAt, INDEX, PageRecord, is_directory};
use crate::checksum::ContentHash;
use crate::frame::{Ending, FrameError, FrameType, HEADER_LEN};
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
        one(&mut stream, &index, &mut verified)?;
        at = stream.extent().1;
        if at >= size {
            return Ok(verified);
        }
        archive = stream;
    }
}

/// One stream, whose frames are in order.
fn one(
    stream: &mut Archive,
    index: &[(u64, bool)],
    verified: &mut Verified,
) -> Result<(), ArchiveError> {
    let (start, behind) = stream.extent();
    let Some(end) = stream.end().copied() else {
        return Ok(());
    };
    let directory = match end.index {
        0 => None,
        distance => {
            let end_at = behind - (HEADER_LEN + crate::frame::End::LEN) as u64;
            let (position, directory) = stream.directory_before(end_at, distance)?;
            stream.set_directory(directory.clone());
            if position - directory.from_start != start {
                return Err(stream.damaged_index("it belongs to another stream"));
            }
            Some(directory)
        }
    };
    if let Some(directory) = &directory {
        let parts: Vec<u64> = index
            .iter()
            .filter(|part| !part.1)
            .map(|part| part.0 - start)
            .collect();
        let named: Vec<u64> = directory.parts.iter().map(|part| part.position).collect();
        if parts != named {
            return Err(stream.damaged_index("it does not name the parts that are there"));
        }
    }
    let hashes = directory.as_ref().is_some_and(|directory| directory.hashes);
    let builder = Arc::new(Builder::new(hashes, None));
    let mut watcher = Watcher::new(Arc::clone(&builder));
    let mut told = Told::new(stream, directory.as_ref().map_or(0, |d| d.parts.len()));
    let mut content = ContentHash::new();
    let mut raw = Vec::new();
    let (mut codecs, mut matched) = ([0u64; 4], 0u64);
    for frame in stream.frames()? {
        raw.resize(frame.raw_len as usize, 0);
        stream.read(frame.offset, &mut raw)?;
        content.update(&raw);
        if directory.is_none() {
            continue;
        }
        let header = stream.header(start + frame.position)?;
        codecs[header.codec as usize] += 1;
        matched += u64::from(header.kind == FrameType::Matched);
        if told.frame()? != Some(frame) {
            return Err(stream.damaged_index("it tells of other frames than there are"));
        }
        watcher.sealed(frame.offset, &raw);
        builder.look(frame.offset, &raw);
        for record in builder.take(frame.offset) {
            let stored = told.page()?;
            if !told.same(stored, record)? {
                return Err(stream.damaged_index("it tells of other pages than there are"));
            }
            verified.pages += 1;
        }
    }
    let actual = content.digest();
    if actual != end.content_hash {
        let end_at = behind - (HEADER_LEN + crate::frame::End::LEN) as u64;
        return Err(stream.wrong(
            end_at,
            FrameError::Total {
                what: "content hash",
                expected: format!("{:032x}", end.content_hash),
                actual: format!("{actual:032x}"),
            },
        ));
    }
    if let Some(directory) = &directory {
        let facts = watcher.facts();
        let same = told.frame()?.is_none()
            && told.page()?.is_none()
            && (codecs, matched) == (directory.codecs, directory.matched)
            && facts.agrees(directory);
        if !same {
            return Err(stream.damaged_index("it tells of another stream"));
        }
    }
    verified.raw_bytes += end.raw_bytes;
    verified.without_index += u64::from(directory.is_none());
    verified.truncated_inputs += u64::from(end.ending == Ending::TruncatedInput);
    Ok(())
}

/// What the index's parts tell, one after the other.
struct Told<'a> {
    archive: &'a Archive,
    parts: std::ops::Range<usize>,
    frames: VecDeque<FrameAt>,
    pages: VecDeque<PageRecord>,
    base: Option<BasePages>,
}

impl<'a> Told<'a> {
    fn new(archive: &'a Archive, parts: usize) -> Self {
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

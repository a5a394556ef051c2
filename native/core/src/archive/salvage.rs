//! What is whole of a file that was cut short or damaged.
//!
//! A frame counts if its header and its payload have their hashes, and everything that it refers to is there as well.
//! Frames are found
//!
//! 1. from the front on, header by header, past damaged payloads;
//! 2. where the index names them, as far as the index is whole;
//! 3. from the end back: behind a damaged header, frames that follow one another without a gap up to the end mark. Without
//!    the end mark nothing proves that what looks like a frame is not a file of ours in the guest's own memory.

use super::base::{BaseName, Bases};
use super::error::ArchiveError;
use super::file::{Archive, order};
use super::index::{Directory, FrameAt};
use crate::checksum::ContentHash;
use crate::frame::{End, FrameType, HEADER_LEN, MAGIC};
use rustix::fs::{CWD, RenameFlags, rename, renameat_with};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How far into a file its START is looked for, behind another program's header.
const SEARCH_START: u64 = 16 << 20;
/// What is searched at once.
const STRETCH: usize = 1 << 20;

/// Bytes of the original stream that are there without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of the first byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// What of a file is whole.
#[derive(Debug)]
pub struct Salvaged {
    archive: Archive,
    /// In the order of the stream.
    pub pieces: Vec<Piece>,
    /// How long the stream was; `None` where the end mark is lost.
    pub raw_bytes: Option<u64>,
    /// Whether all is there, and has the hash that the end mark tells.
    pub whole: bool,
    /// What was wrong, where; the first hundred.
    pub faults: Vec<String>,
}

/// As many faults as are told.
const MAX_FAULTS: usize = 100;

/// Finds out what is whole. A base that is missing is a fault like others: what refers to it is not whole.
///
/// # Errors
/// If the file cannot be read, or holds no frame of ours.
pub fn salvage(path: &Path, bases: &Bases) -> Result<Salvaged, ArchiveError> {
    let mut search = Search {
        archive: Archive::unread(path)?,
        size: 0,
        frames: BTreeMap::new(),
        faults: Vec::new(),
    };
    search.size = search.archive.extent().1;
    let end = search.end();
    let index = end.and_then(|(position, end)| search.directory(position, &end));
    let start = search.start(index.as_ref())?;
    if let Some(start) = start {
        search.forward(start);
    }
    if let Some((position, directory)) = &index {
        search.parts(*position, directory);
    }
    if let Some((position, end)) = end {
        search.backward(position, &end);
    }
    let Search {
        archive,
        frames,
        mut faults,
        ..
    } = search;
    let payload = start.and_then(|start| archive.start_payload(start).ok());
    let base = payload.as_deref().map(BaseName::from_start);
    let frames: Vec<FrameAt> = {
        // Positions are counted from START, wherever that is.
        let from = start.unwrap_or(0);
        frames
            .into_values()
            .filter(|frame| frame.position >= from)
            .map(|frame| FrameAt {
                position: frame.position - from,
                ..frame
            })
            .collect()
    };
    let mut archive = archive.with_frames(start, payload.as_deref(), frames);
    if let Some(Ok(Some(_))) = base {
        if let Err(error) = archive.open_base(bases, 0) {
            faults.push(error.to_string());
        }
    }
    let mut pieces: Vec<Piece> = Vec::new();
    let mut content = ContentHash::new();
    let mut raw = Vec::new();
    for frame in archive.frames()? {
        raw.resize(frame.raw_len as usize, 0);
        if let Err(error) = archive.read(frame.offset, &mut raw) {
            if faults.len() < MAX_FAULTS {
                faults.push(error.to_string());
            }
            continue;
        }
        content.update(&raw);
        let length = u64::from(frame.raw_len);
        match pieces.last_mut() {
            Some(last) if last.offset + last.length == frame.offset => last.length += length,
            _ => pieces.push(Piece {
                offset: frame.offset,
                length,
            }),
        }
    }
    let raw_bytes = end.map(|(_, end)| end.raw_bytes);
    let whole = end.is_some_and(|(_, end)| {
        let all = match pieces[..] {
            [] => end.raw_bytes == 0,
            [piece] => (piece.offset, piece.length) == (0, end.raw_bytes),
            _ => false,
        };
        all && content.digest() == end.content_hash && faults.is_empty()
    });
    Ok(Salvaged {
        archive,
        pieces,
        raw_bytes,
        whole,
        faults,
    })
}

impl Salvaged {
    /// Hands a piece on, bit by bit.
    ///
    /// # Errors
    /// If it cannot be read any more, and those of `to`.
    pub fn copy(
        &self,
        piece: Piece,
        mut to: impl FnMut(&[u8]) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let mut buffer = vec![0; STRETCH];
        let (mut at, end) = (piece.offset, piece.offset + piece.length);
        while at < end {
            let length = buffer.len().min((end - at) as usize);
            self.archive.read(at, &mut buffer[..length])?;
            to(&buffer[..length])?;
            at += length as u64;
        }
        Ok(())
    }

    /// Writes a piece to a file, which gets its name when all of it is there. A file of that name is not replaced.
    ///
    /// # Errors
    /// As [`copy`](Self::copy), and if the file cannot be made or written, or is there already.
    pub fn copy_to_file(&self, piece: Piece, path: &Path) -> Result<(), ArchiveError> {
        let failed = |operation| {
            move |source| ArchiveError::Write {
                path: path.to_owned(),
                operation,
                source,
            }
        };
        let exists = || ArchiveError::Exists {
            path: path.to_owned(),
        };
        // Told before the work, not after it. What comes there meanwhile is seen when the file gets its name.
        if path.symlink_metadata().is_ok() {
            return Err(exists());
        }
        let unfinished = unfinished(path).map_err(failed("make a name for it"))?;
        let mut file = File::create_new(&unfinished).map_err(ArchiveError::io(path, "open"))?;
        let written = self
            .copy(piece, |bytes| {
                file.write_all(bytes).map_err(failed("write"))
            })
            .and_then(|()| file.sync_all().map_err(failed("write")))
            .and_then(|()| match rename_to_free(&unfinished, path) {
                Err(Errno::EXIST) => Err(exists()),
                renamed => renamed.map_err(|error| failed("give it its name")(error.into())),
            });
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }
}

/// Renames a file, unless there is one of the new name.
fn rename_to_free(from: &Path, to: &Path) -> Result<(), Errno> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot, NFS among them: there it takes two steps.
        Err(Errno::INVAL) if to.symlink_metadata().is_ok() => Err(Errno::EXIST),
        Err(Errno::INVAL) => rename(from, to),
        renamed => renamed,
    }
}

/// What a file is called until all of it is there. Not by the process's number: in a container that is the same every time,
/// and what a killed one left is in the way.
fn unfinished(path: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 4];
    getrandom(&mut random, GetRandomFlags::empty())?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:08x}.part", u32::from_ne_bytes(random)));
    Ok(name.into())
}

struct Search {
    archive: Archive,
    size: u64,
    /// By offset; positions are those in the file.
    frames: BTreeMap<u64, FrameAt>,
    faults: Vec<String>,
}

impl Search {
    fn fault(&mut self, error: &ArchiveError) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(error.to_string());
        }
    }

    /// The end mark, where it stands at the end.
    fn end(&mut self) -> Option<(u64, End)> {
        match self.archive.end_mark(self.size) {
            Ok(end) => Some(end),
            Err(error) => {
                self.fault(&error);
                None
            }
        }
    }

    /// The directory, where it is whole.
    fn directory(&mut self, end_at: u64, end: &End) -> Option<(u64, Directory)> {
        if end.index == 0 {
            return None;
        }
        match self.archive.directory_before(end_at, end.index) {
            Ok(found) => Some(found),
            Err(error) => {
                self.fault(&error);
                None
            }
        }
    }

    /// Where START stands, or what comes first if START is damaged.
    fn start(&mut self, index: Option<&(u64, Directory)>) -> Result<Option<u64>, ArchiveError> {
        if let Some(start) =
            index.and_then(|(position, directory)| position.checked_sub(directory.from_start))
        {
            return Ok(Some(start));
        }
        let first = self.next_header(0, self.size.min(SEARCH_START), |kind, sequence| {
            kind == FrameType::Start && sequence == 0
        });
        match first {
            Some(start) => Ok(Some(start)),
            // Frames of ours without a START: its damage is a fault, and what follows it is found.
            None => match self.next_header(0, self.size.min(SEARCH_START), |_, _| true) {
                Some(_) => {
                    if let Err(error) = self.archive.header(0) {
                        self.fault(&error);
                    }
                    Ok(None)
                }
                None => match self.archive.header(0) {
                    Ok(header) => Err(self.archive.wrong(0, order("START", header.kind))),
                    Err(error) => Err(error),
                },
            },
        }
    }

    /// From START on, header by header, until one is damaged or out of order.
    fn forward(&mut self, start: u64) {
        let (mut position, mut sequence, mut offset) = (start, 0u32, 0u64);
        while position < self.size {
            let header = match self.archive.header(position) {
                Ok(header) => header,
                Err(error) => return self.fault(&error),
            };
            if (header.sequence, header.offset, header.channel) != (sequence, offset, 0) {
                let error = order("the stream's next frame", header.kind);
                return self.fault(&self.archive.wrong(position, error));
            }
            match self.archive.payload(position, &header) {
                Ok(_) if header.kind.is_content() => self.found(position, &header),
                Ok(_) => {}
                Err(error) => self.fault(&error),
            }
            if matches!(header.kind, FrameType::End | FrameType::Abort) {
                return;
            }
            if header.kind.is_content() {
                offset += u64::from(header.raw_len);
            }
            sequence = sequence.wrapping_add(1);
            position += HEADER_LEN as u64 + u64::from(header.packed_len);
        }
    }

    /// The frames that the index names. Each is looked at; the index alone is not believed.
    fn parts(&mut self, directory_at: u64, directory: &Directory) {
        let start = directory_at - directory.from_start;
        for part in &directory.parts {
            let frames = match self.archive.part_at(start, directory, part) {
                Ok(part) => part.frames,
                Err(error) => {
                    self.fault(&error);
                    continue;
                }
            };
            for frame in frames {
                let position = start.saturating_add(frame.position);
                if self.frames.contains_key(&frame.offset) {
                    continue;
                }
                let header = self.archive.header(position).and_then(|header| {
                    let named = (frame.offset, frame.raw_len, frame.packed_len);
                    if (header.offset, header.raw_len, header.packed_len) != named {
                        let error = order("the frame that the index names", header.kind);
                        return Err(self.archive.wrong(position, error));
                    }
                    self.archive.payload(position, &header).map(|_| header)
                });
                match header {
                    Ok(header) if header.kind.is_content() => self.found(position, &header),
                    Ok(_) => {}
                    Err(error) => self.fault(&error),
                }
            }
        }
    }

    /// Behind what the way from the front has reached: the first frame from which on the frames follow one another up to the
    /// end mark.
    fn backward(&mut self, end_at: u64, end: &End) {
        let reached = self
            .frames
            .values()
            .map(|frame| frame.position + HEADER_LEN as u64 + u64::from(frame.packed_len));
        let mut from = reached.max().unwrap_or(0);
        while from < end_at {
            let Some(first) = self.next_header(from, end_at, |_, _| true) else {
                return;
            };
            if let Some(frames) = self.chain(first, end_at, end) {
                for (position, header) in frames {
                    match self.archive.payload(position, &header) {
                        Ok(_) if !self.frames.contains_key(&header.offset) => {
                            self.found(position, &header);
                        }
                        Ok(_) => {}
                        Err(error) => self.fault(&error),
                    }
                }
                return;
            }
            from = first + 1;
        }
    }

    /// The frames with data from here to the end mark, if they lead there without a gap.
    fn chain(
        &self,
        first: u64,
        end_at: u64,
        end: &End,
    ) -> Option<Vec<(u64, crate::frame::Header)>> {
        let mut frames = Vec::new();
        let mut position = first;
        let mut expected = None;
        while position < end_at {
            let header = self.archive.header(position).ok()?;
            let here = (header.sequence, header.offset);
            if expected.is_some_and(|expected| expected != here) || header.channel != 0 {
                return None;
            }
            let mut next = header.offset;
            if header.kind.is_content() {
                next = next.checked_add(header.raw_len.into())?;
                frames.push((position, header));
            } else if !matches!(header.kind, FrameType::Other(_) | FrameType::Start) {
                return None;
            }
            expected = Some((header.sequence.wrapping_add(1), next));
            position += HEADER_LEN as u64 + u64::from(header.packed_len);
        }
        let totals = Some((end.frames as u32, end.raw_bytes));
        (position == end_at && expected == totals).then_some(frames)
    }

    fn found(&mut self, position: u64, header: &crate::frame::Header) {
        self.frames.insert(
            header.offset,
            FrameAt {
                position,
                offset: header.offset,
                raw_len: header.raw_len,
                packed_len: header.packed_len,
            },
        );
    }

    /// The first position in `from..upto` where a good header stands that is wanted.
    fn next_header(
        &self,
        mut from: u64,
        upto: u64,
        wanted: impl Fn(FrameType, u32) -> bool,
    ) -> Option<u64> {
        let mut buffer = vec![0; STRETCH];
        while from < upto {
            let length = buffer.len().min((upto - from) as usize);
            let bytes = &mut buffer[..length];
            self.archive.bytes_at(from, bytes).ok()?;
            let magics = bytes.windows(MAGIC.len()).enumerate();
            for (at, _) in magics.filter(|(_, window)| *window == MAGIC) {
                let position = from + at as u64;
                let header = self.archive.header(position);
                if header.is_ok_and(|header| wanted(header.kind, header.sequence)) {
                    return Some(position);
                }
            }
            if length < STRETCH {
                return None;
            }
            from += (length - MAGIC.len() + 1) as u64;
        }
        None
    }
}

//! A file of frames, read anywhere.

use super::base::{BaseName, Bases};
use super::error::ArchiveError;
use super::index::{Content, Directory, FrameAt, INDEX, Part, PartAt};
use crate::codec::Unpacker;
use crate::frame::{End, FrameError, FrameType, HEADER_LEN, Header, MAX_CONTROL, MAX_RAW, Start};
use crate::lock::lock;
use crate::matching::references::{self, Base};
use crate::matching::{Reference, ReferenceError, Source};
use crate::text::readable;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// Bytes of unpacked frames that are kept: what a window of references mostly leads to. Each base of a chain keeps half of
/// what the one before it does, down to [`LEAST_CACHE`], so that all of a usual chain keep less than twice as much.
const CACHE: usize = 160 << 20;
/// A few frames of the largest size.
const LEAST_CACHE: usize = 10 << 20;
/// What a file and its bases keep of what is read, in bytes: of a chain of up to five.
pub const CHAIN_BYTES: u64 = 2 * CACHE as u64;
/// The longest chain of bases.
pub(super) const MAX_CHAIN: usize = 64;

/// One stream of a file, and the bases that it refers to. Nothing of its content is read before it is asked for.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    file: fs::File,
    /// Where START stands in the file.
    start: u64,
    /// Where the frame behind END begins.
    behind: u64,
    frame_size: u32,
    /// How far back references may lead.
    window: u64,
    minor: u8,
    end: Option<End>,
    directory: Option<Directory>,
    frames: Frames,
    base_name: Option<BaseName>,
    base: Option<Arc<Archive>>,
    cache: Mutex<Cache>,
}

/// The frames with pieces of the stream, in its order.
#[derive(Debug)]
enum Frames {
    /// All of them, as they were found.
    Listed(Vec<FrameAt>),
    /// As the directory's parts have them, each read when it is needed.
    Parts(Vec<OnceLock<Vec<FrameAt>>>),
}

/// A frame's bytes as far as they are literals, and the references between them.
#[derive(Debug)]
struct Body {
    offset: u64,
    raw: Vec<u8>,
    references: Vec<Reference>,
}

impl Body {
    /// Bytes of memory that it takes. Of a frame that is all short references those take three quarters of its bytes more.
    fn bytes(&self) -> usize {
        self.raw.len() + self.references.capacity() * size_of::<Reference>()
    }
}

#[derive(Debug)]
struct Cache {
    room: usize,
    bodies: HashMap<u64, (Arc<Body>, u64)>,
    bytes: usize,
    clock: u64,
}

/// What a file is, without its content.
#[derive(Clone, Debug)]
pub struct Info {
    /// Bytes of the file, and of them those of this stream.
    pub file_bytes: u64,
    /// Where the stream's START stands; not 0 behind another program's header or another stream.
    pub start: u64,
    /// The format's minor version.
    pub minor: u8,
    /// The most raw bytes of a frame.
    pub frame_size: u32,
    /// How far back references lead, in bytes; 0: there are none.
    pub window: u64,
    /// The end mark.
    pub end: End,
    /// The base that it needs.
    pub base: Option<BaseName>,
    /// The index's directory.
    pub directory: Option<Directory>,
}

/// A frame as it was found on a walk.
pub(super) struct Found {
    /// In the file.
    pub position: u64,
    pub header: Header,
}

impl Archive {
    /// Opens the last stream of a file, and the bases that it refers to.
    ///
    /// # Errors
    /// If it is no whole file of ours, or a base is missing or wrong.
    pub fn open(path: &Path, bases: &Bases) -> Result<Archive, ArchiveError> {
        Self::open_at_depth(path, bases, 0)
    }

    /// Opens the base that a stream names which is read from a pipe, or from the front.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_named(base: &BaseName, bases: &Bases) -> Result<Archive, ArchiveError> {
        bases.open(base, Path::new("the input"), 0)
    }

    /// Bytes that it and its bases keep of what is read, at the most.
    pub fn cache_bytes(&self) -> u64 {
        lock(&self.cache).room as u64 + self.base.as_ref().map_or(0, |base| base.cache_bytes())
    }

    pub(super) fn open_at_depth(
        path: &Path,
        bases: &Bases,
        depth: usize,
    ) -> Result<Archive, ArchiveError> {
        let mut archive = Self::open_alone(path)?;
        archive.cache = Mutex::new(Cache::new(depth));
        archive.open_base(bases, depth)?;
        Ok(archive)
    }

    /// Opens the base that START names, if it does.
    pub(super) fn open_base(&mut self, bases: &Bases, depth: usize) -> Result<(), ArchiveError> {
        if let Some(name) = &self.base_name {
            if depth == MAX_CHAIN {
                return Err(ArchiveError::Chain {
                    path: self.path.clone(),
                    limit: MAX_CHAIN,
                });
            }
            self.base = Some(Arc::new(bases.open(name, &self.path, depth)?));
        }
        Ok(())
    }

    /// Opens the last stream of a file without its base: what it is can be told, its content only as far as it is its own.
    ///
    /// # Errors
    /// If it is no whole file of ours.
    pub fn open_alone(path: &Path) -> Result<Archive, ArchiveError> {
        let (file, size) = open_file(path)?;
        let mut archive = Self::bare(path, file);
        let (position, end) = archive.end_mark(size)?;
        match end.index {
            0 => {
                // The streams from the front on, up to the last.
                let mut at = 0;
                loop {
                    archive = archive.walk(at, |_, _| Ok(()))?;
                    at = archive.behind;
                    if at >= size {
                        return Ok(archive);
                    }
                }
            }
            distance => {
                archive.behind = size;
                archive.end = Some(end);
                let (_, directory) = archive.directory_before(position, distance)?;
                archive.follow(position - distance, directory)?;
                Ok(archive)
            }
        }
    }

    /// The end mark of a file's last stream: enough to know the file by.
    ///
    /// # Errors
    /// If there is none.
    pub fn identify(path: &Path) -> Result<End, ArchiveError> {
        let (file, size) = open_file(path)?;
        Self::bare(path, file).end_mark(size).map(|(_, end)| end)
    }

    fn bare(path: &Path, file: fs::File) -> Archive {
        Archive {
            path: path.to_owned(),
            file,
            start: 0,
            behind: 0,
            frame_size: MAX_RAW as u32,
            window: u64::MAX,
            minor: 0,
            end: None,
            directory: None,
            frames: Frames::Listed(Vec::new()),
            base_name: None,
            base: None,
            cache: Mutex::new(Cache::new(0)),
        }
    }

    /// A file of which nothing is known yet; its extent is all of it.
    pub(super) fn unread(path: &Path) -> Result<Archive, ArchiveError> {
        let (file, size) = open_file(path)?;
        let mut archive = Self::bare(path, file);
        archive.behind = size;
        Ok(archive)
    }

    /// The file with the frames that were found in it, and with the START that was.
    pub(super) fn with_frames(
        mut self,
        start: Option<u64>,
        payload: Option<&[u8]>,
        frames: Vec<FrameAt>,
    ) -> Self {
        self.start = start.unwrap_or(0);
        if let Some(payload) = payload {
            // A START that cannot be read leaves the bounds that any stream has.
            let _ = self.begin(self.start, payload);
        }
        self.frames = Frames::Listed(frames);
        self
    }

    /// The last 96 bytes: where END stands and what it says.
    pub(super) fn end_mark(&self, size: u64) -> Result<(u64, End), ArchiveError> {
        let length = (HEADER_LEN + End::LEN) as u64;
        let missing = |position, missing| ArchiveError::Frame {
            path: self.path.clone(),
            position,
            source: FrameError::Truncated {
                within: "without an end mark behind its last frame",
                missing,
            },
        };
        if size == 0 {
            return Err(self.wrong(0, FrameError::Empty));
        }
        let Some(position) = size.checked_sub(length) else {
            return Err(self.no_end(size));
        };
        let header = match self.header(position) {
            Ok(header) => header,
            Err(_) => return Err(self.no_end(size)),
        };
        if header.kind != FrameType::End || header.packed_len as usize != End::LEN {
            return Err(missing(size, length));
        }
        let payload = self.payload(position, &header)?;
        let end = End::from_bytes(&payload).map_err(|source| self.wrong(position, source))?;
        Ok((position, end))
    }

    /// The file does not end with END: is it ours at all?
    fn no_end(&self, size: u64) -> ArchiveError {
        let mut magic = [0; 4];
        let read = self.file.read_exact_at(&mut magic, 0);
        let source = if read.is_ok() && magic != crate::frame::MAGIC {
            FrameError::Magic { found: magic }
        } else {
            FrameError::Truncated {
                within: "without an end mark behind its last frame",
                missing: (HEADER_LEN + End::LEN) as u64,
            }
        };
        let position = if matches!(source, FrameError::Magic { .. }) {
            0
        } else {
            size
        };
        self.wrong(position, source)
    }

    /// The directory that stands so far before END, and where it does.
    pub(super) fn directory_before(
        &self,
        end: u64,
        distance: u64,
    ) -> Result<(u64, Directory), ArchiveError> {
        let damaged = |position, what| ArchiveError::Index {
            path: self.path.clone(),
            position,
            what,
        };
        let position = end
            .checked_sub(distance)
            .ok_or_else(|| damaged(end, "it would stand before the file"))?;
        let header = self.header(position)?;
        if header.kind != FrameType::Other(INDEX)
            || distance != HEADER_LEN as u64 + u64::from(header.packed_len)
        {
            return Err(damaged(position, "there is no such frame"));
        }
        let payload = self.payload(position, &header)?;
        let directory =
            Directory::from_payload(&payload).map_err(|what| damaged(position, what))?;
        if directory.from_start > position {
            return Err(damaged(
                position,
                "it belongs to a stream that begins before the file",
            ));
        }
        Ok((position, directory))
    }

    /// Takes the frames to be where this directory says.
    fn follow(&mut self, position: u64, directory: Directory) -> Result<(), ArchiveError> {
        let start = position - directory.from_start;
        let payload = self.start_payload(start)?;
        self.begin(start, &payload)?;
        // Behind another stream of ours its END stands; else the end mark is one inside of that stream's content, where
        // the file was cut off.
        if start > 0 && self.header(0).is_ok() {
            let before = (HEADER_LEN + End::LEN) as u64;
            let end = start.checked_sub(before).map(|at| self.header(at));
            if !matches!(end, Some(Ok(header)) if header.kind == FrameType::End) {
                return Err(self.no_end(self.behind));
            }
        }
        self.frames = Frames::Parts(directory.parts.iter().map(|_| OnceLock::new()).collect());
        self.directory = Some(directory);
        Ok(())
    }

    pub(super) fn start_payload(&self, position: u64) -> Result<Vec<u8>, ArchiveError> {
        let header = self.header(position)?;
        if header.kind != FrameType::Start || header.sequence != 0 || header.offset != 0 {
            return Err(self.wrong(position, order("START", header.kind)));
        }
        self.payload(position, &header)
    }

    fn begin(&mut self, position: u64, payload: &[u8]) -> Result<(), ArchiveError> {
        let wrong = |source| ArchiveError::Frame {
            path: self.path.clone(),
            position,
            source,
        };
        let parameters = Start::from_bytes(payload).map_err(wrong)?;
        let base_name = BaseName::from_start(payload).map_err(wrong)?;
        (self.start, self.minor) = (position, payload[1]);
        (self.frame_size, self.base_name) = (parameters.frame_size, base_name);
        self.window = parameters.window;
        Ok(())
    }

    /// Goes through the stream that begins at `start`, header by header, and holds each against the one before; tells
    /// `each` of them. Gives the stream with the frames that it found.
    pub(super) fn walk(
        self,
        start: u64,
        mut each: impl FnMut(&Archive, &Found) -> Result<(), ArchiveError>,
    ) -> Result<Archive, ArchiveError> {
        let mut archive = Self::bare(&self.path, self.file);
        let payload = archive.start_payload(start)?;
        archive.begin(start, &payload)?;
        let (mut position, mut frames) = (start, Vec::new());
        let (mut count, mut offset) = (0u64, 0u64);
        loop {
            let header = archive.header(position)?;
            let wrong = |source| Err(archive.wrong(position, source));
            let expected = (count as u32, offset, 0);
            let found = (header.sequence, header.offset, header.channel);
            if found != expected {
                return wrong(FrameError::Order {
                    expected: format!("frame {} at byte {} of the stream", expected.0, expected.1),
                    found: format!("frame {} at byte {}", found.0, found.1),
                });
            }
            each(&archive, &Found { position, header })?;
            let next = position + HEADER_LEN as u64 + u64::from(header.packed_len);
            match header.kind {
                FrameType::Start if count > 0 => {
                    return wrong(order("a frame of the stream", header.kind));
                }
                FrameType::Start | FrameType::Other(_) => {}
                FrameType::Session(_) => return wrong(order("a frame of a stream", header.kind)),
                FrameType::Abort => {
                    let reason = archive.payload(position, &header)?;
                    let reason = readable(&reason);
                    return wrong(FrameError::Aborted { reason });
                }
                FrameType::End => {
                    let payload = archive.payload(position, &header)?;
                    let end = End::from_bytes(&payload)
                        .map_err(|source| archive.wrong(position, source))?;
                    if (end.frames, end.raw_bytes) != (count, offset) {
                        return wrong(FrameError::Total {
                            what: "frames and bytes of the stream",
                            expected: format!("{} and {}", end.frames, end.raw_bytes),
                            actual: format!("{count} and {offset}"),
                        });
                    }
                    (archive.behind, archive.end) = (next, Some(end));
                    archive.frames = Frames::Listed(frames);
                    return Ok(archive);
                }
                // DATA, and DATA with references.
                _ => {
                    if header.raw_len > archive.frame_size {
                        return wrong(FrameError::Field {
                            field: "raw length",
                            value: header.raw_len.into(),
                            limit: archive.frame_size.into(),
                        });
                    }
                    frames.push(FrameAt::of(position - start, &header));
                    offset += u64::from(header.raw_len);
                }
            }
            (position, count) = (next, count + 1);
        }
    }

    /// The file's name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The base that it refers to, opened.
    #[must_use]
    pub fn base(&self) -> Option<&Arc<Archive>> {
        self.base.as_ref()
    }

    /// The base that it names.
    #[must_use]
    pub fn base_name(&self) -> Option<&BaseName> {
        self.base_name.as_ref()
    }

    /// The index's directory, if there is one.
    #[must_use]
    pub fn directory(&self) -> Option<&Directory> {
        self.directory.as_ref()
    }

    /// The end mark.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Where START stands in the file, and where this stream ends.
    #[must_use]
    pub fn extent(&self) -> (u64, u64) {
        (self.start, self.behind)
    }

    /// What the file is.
    ///
    /// # Errors
    /// If the file's size cannot be had.
    pub fn info(&self) -> Result<Info, ArchiveError> {
        let size = self.file.metadata();
        let end = self.end.ok_or_else(|| self.no_end(0))?;
        Ok(Info {
            file_bytes: size
                .map_err(ArchiveError::io(&self.path, "look at the file"))?
                .len(),
            start: self.start,
            minor: self.minor,
            frame_size: self.frame_size,
            window: self.window,
            end,
            base: self.base_name.clone(),
            directory: self.directory.clone(),
        })
    }

    /// Where the frames with pieces of the stream stand, in its order.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn frames(&self) -> Result<Vec<FrameAt>, ArchiveError> {
        match &self.frames {
            Frames::Listed(frames) => Ok(frames.clone()),
            Frames::Parts(parts) => {
                let mut frames = Vec::new();
                for at in 0..parts.len() {
                    frames.extend_from_slice(self.frames_of(parts, at)?);
                }
                Ok(frames)
            }
        }
    }

    /// A part of the index.
    ///
    /// # Errors
    /// If it cannot be read, or is not what the directory says.
    pub fn part(&self, at: usize) -> Result<Part, ArchiveError> {
        let known = self
            .directory
            .as_ref()
            .and_then(|directory| directory.parts.get(at).map(|part| (directory, part)));
        let Some((directory, known)) = known else {
            return Err(self.damaged_index("a part that it does not have"));
        };
        self.part_at(self.start, directory, known)
    }

    /// The part of a directory whose stream begins at `start`.
    pub(super) fn part_at(
        &self,
        start: u64,
        directory: &Directory,
        known: &PartAt,
    ) -> Result<Part, ArchiveError> {
        let position = start.saturating_add(known.position);
        let damaged = |what| ArchiveError::Index {
            path: self.path.clone(),
            position,
            what,
        };
        let header = self.header(position)?;
        if header.kind != FrameType::Other(INDEX) {
            return Err(damaged("there is no such frame"));
        }
        let payload = self.payload(position, &header)?;
        let upto = self.end.map_or(u64::MAX, |end| end.raw_bytes);
        let part = Part::from_payload(&payload, directory.page_size, directory.pages(), upto)
            .map_err(damaged)?;
        let same = (part.frames.len(), part.pages.len())
            == (known.frames as usize, known.pages as usize)
            && part.range() == (known.lowest, known.highest)
            && part
                .frames
                .first()
                .is_none_or(|frame| frame.offset == known.offset);
        if same {
            Ok(part)
        } else {
            Err(damaged("it is another one than the directory says"))
        }
    }

    fn frames_of<'a>(
        &self,
        parts: &'a [OnceLock<Vec<FrameAt>>],
        at: usize,
    ) -> Result<&'a [FrameAt], ArchiveError> {
        let Some(part) = parts.get(at) else {
            return Ok(&[]);
        };
        if let Some(frames) = part.get() {
            return Ok(frames);
        }
        let frames = self.part(at)?.frames;
        Ok(part.get_or_init(|| frames))
    }

    /// The frame with this byte of the stream.
    fn frame_at(&self, offset: u64) -> Result<Option<FrameAt>, ArchiveError> {
        let within = |frames: &[FrameAt]| {
            let next = frames.partition_point(|frame| frame.offset <= offset);
            let frame = frames.get(next.wrapping_sub(1))?;
            (offset < frame.offset + u64::from(frame.raw_len)).then_some(*frame)
        };
        match &self.frames {
            Frames::Listed(frames) => Ok(within(frames)),
            Frames::Parts(parts) => {
                let known = self.directory.as_ref().map_or(&[][..], |d| &d.parts);
                let mut at = known.partition_point(|part| part.offset <= offset);
                // Parts without frames have the offset of the one behind.
                while at > 0 {
                    at -= 1;
                    if known[at].frames > 0 {
                        return Ok(within(self.frames_of(parts, at)?));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Reads bytes of the original stream. Unpacks the frames that they stand in, and those that these refer to.
    ///
    /// # Errors
    /// If there are no such bytes, or a frame that they need is damaged.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), ArchiveError> {
        self.pieces(offset, out, |body, at, out| {
            let mut at = at;
            let end = at + out.len() as u32;
            let first = body
                .references
                .partition_point(|reference| reference.end() <= at);
            let mut done = 0;
            for reference in &body.references[first..] {
                if reference.at >= end {
                    break;
                }
                let literals = reference.at.saturating_sub(at) as usize;
                out[done..done + literals]
                    .copy_from_slice(&body.raw[at as usize..at as usize + literals]);
                (at, done) = (at + literals as u32, done + literals);
                let length = (reference.end().min(end) - at) as usize;
                let skipped = u64::from(at - reference.at);
                let into = &mut out[done..done + length];
                match reference.source {
                    Source::Window(from) => self.literals(from.saturating_add(skipped), into)?,
                    Source::Base(from) => self.read_base(
                        body.offset + u64::from(at),
                        from.saturating_add(skipped),
                        into,
                    )?,
                }
                (at, done) = (at + length as u32, done + length);
            }
            let rest = end as usize;
            out[done..].copy_from_slice(&body.raw[at as usize..rest]);
            Ok(())
        })
    }

    fn read_base(&self, at: u64, from: u64, out: &mut [u8]) -> Result<(), ArchiveError> {
        let reason = match &self.base {
            Some(base) => return base.read(from, out),
            None => "the base is not open".to_owned(),
        };
        Err(self.bad_reference(at, ReferenceError::Base { at, reason }))
    }

    /// Reads bytes that are literals in their frames.
    fn literals(&self, offset: u64, out: &mut [u8]) -> Result<(), ArchiveError> {
        let length = out.len() as u32;
        self.pieces(offset, out, |body, at, out| {
            let end = at + out.len() as u32;
            let next = body
                .references
                .partition_point(|reference| reference.end() <= at);
            if body
                .references
                .get(next)
                .is_some_and(|reference| reference.at < end)
            {
                return Err(self.bad_reference(
                    offset,
                    ReferenceError::Target {
                        at: offset,
                        to: offset,
                        len: length,
                        window: self.window,
                    },
                ));
            }
            out.copy_from_slice(&body.raw[at as usize..end as usize]);
            Ok(())
        })
    }

    /// Cuts `out` where frames are cut: `each` gets a frame, where in it, and the piece to fill.
    fn pieces(
        &self,
        mut offset: u64,
        mut out: &mut [u8],
        mut each: impl FnMut(&Body, u32, &mut [u8]) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        while !out.is_empty() {
            let Some(frame) = self.frame_at(offset)? else {
                return Err(ArchiveError::Absent {
                    path: self.path.clone(),
                    what: format!("byte {offset} of the stream is not in it"),
                });
            };
            let body = self.body(&frame)?;
            let at = (offset - frame.offset) as usize;
            let length = out.len().min(frame.raw_len as usize - at);
            let (piece, rest) = out.split_at_mut(length);
            each(&body, at as u32, piece)?;
            (offset, out) = (offset + length as u64, rest);
        }
        Ok(())
    }

    fn body(&self, frame: &FrameAt) -> Result<Arc<Body>, ArchiveError> {
        if let Some(body) = lock(&self.cache).get(frame.offset) {
            return Ok(body);
        }
        let body = Arc::new(self.unpack(frame)?);
        lock(&self.cache).put(Arc::clone(&body));
        Ok(body)
    }

    fn unpack(&self, frame: &FrameAt) -> Result<Body, ArchiveError> {
        // As the index says, which may be anything.
        let position = self.start.saturating_add(frame.position);
        let header = self.header(position)?;
        let known = (header.offset, header.raw_len, header.packed_len);
        if !header.kind.is_content() || known != (frame.offset, frame.raw_len, frame.packed_len) {
            return Err(self.wrong(
                position,
                order("the frame that the index names", header.kind),
            ));
        }
        let payload = self.payload(position, &header)?;
        let unpack = |packed: &[u8], length: usize| {
            let mut raw = vec![0; length];
            Unpacker::new()
                .unpack(header.codec, packed, &mut raw)
                .map(|()| raw)
                .map_err(|error| {
                    let codec = header.codec.name();
                    let reason = error.to_string();
                    self.wrong(position, FrameError::Unpack { codec, reason })
                })
        };
        let (offset, raw_len) = (header.offset, header.raw_len as usize);
        if header.kind == FrameType::Data {
            return Ok(Body {
                offset,
                raw: unpack(&payload, raw_len)?,
                references: Vec::new(),
            });
        }
        let wrong = |source| ArchiveError::Reference {
            path: self.path.clone(),
            position,
            source,
        };
        let (length, packed) = payload
            .split_first_chunk::<4>()
            .ok_or_else(|| wrong(ReferenceError::List { at: 0 }))?;
        let length = u32::from_le_bytes(*length);
        if length >= header.raw_len {
            return Err(wrong(ReferenceError::Length {
                expected: header.raw_len.into(),
                actual: length.into(),
            }));
        }
        let body = unpack(packed, length as usize)?;
        let mut references = Vec::new();
        let mut literals =
            references::read(&body, offset, header.raw_len, &mut references).map_err(wrong)?;
        let mut raw = vec![0; raw_len];
        let mut at = 0;
        for reference in &references {
            if let Source::Window(to) = reference.source {
                let here = offset + u64::from(reference.at);
                // Counted from the frame's first byte, whatever of it the reference stands for.
                if offset.saturating_sub(self.window) > to {
                    return Err(wrong(ReferenceError::Target {
                        at: here,
                        to,
                        len: reference.len,
                        window: self.window,
                    }));
                }
            }
            let (run, rest) = literals.split_at((reference.at - at) as usize);
            raw[at as usize..reference.at as usize].copy_from_slice(run);
            (at, literals) = (reference.end(), rest);
        }
        raw[at as usize..].copy_from_slice(literals);
        Ok(Body {
            offset,
            raw,
            references,
        })
    }

    /// The last version of a page, as the stream leaves it.
    ///
    /// # Errors
    /// If the index does not tell it, or the file does not have it.
    pub fn page(&self, block: &[u8], address: u64) -> Result<Vec<u8>, ArchiveError> {
        let no_index = |what| ArchiveError::NoIndex {
            path: self.path.clone(),
            what,
        };
        let name = readable(block);
        let absent = |what: &str| ArchiveError::Absent {
            path: self.path.clone(),
            what: what.to_owned(),
        };
        let Some(directory) = &self.directory else {
            return Err(no_index(
                "it has no index of pages (it was not written by pagewire -c)",
            ));
        };
        if directory.page_size == 0 {
            return Err(no_index("it holds no QEMU stream whose pages are known"));
        }
        if !directory.reason.is_empty() {
            return Err(no_index(
                "its stream was not understood to its end, so which version of a page is the last is not known",
            ));
        }
        let Some(number) = directory.number(block, address) else {
            let all = directory
                .blocks
                .iter()
                .map(|(name, length)| format!("{} ({length} bytes)", readable(name)));
            let all: Vec<String> = all.collect();
            return Err(absent(&format!(
                "no page at {address:#x} of block {name}: it has pages of {} bytes in {}",
                directory.page_size,
                all.join(", ")
            )));
        };
        for (at, part) in directory.parts.iter().enumerate().rev() {
            if part.pages == 0 || !(part.lowest..=part.highest).contains(&number) {
                continue;
            }
            let records = self.part(at)?.pages;
            let Some(record) = records.iter().rev().find(|record| record.number == number) else {
                continue;
            };
            let mut page = vec![0; directory.page_size as usize];
            return match record.content {
                Content::At { offset, .. } | Content::AsInBase { offset } => {
                    self.read(offset, &mut page).map(|()| page)
                }
                Content::Fill(byte) => {
                    page.fill(byte);
                    Ok(page)
                }
                Content::Packed => Err(absent(
                    "the page is there in a form of QEMU's own (XBZRLE or zlib) only",
                )),
            };
        }
        Err(absent(&format!(
            "the stream never brought the page at {address:#x} of block {name}"
        )))
    }

    /// The header at this position of the file, checked by itself.
    pub(super) fn header(&self, position: u64) -> Result<Header, ArchiveError> {
        let mut bytes = [0; HEADER_LEN];
        self.exact(position, &mut bytes, "inside a frame's header")?;
        Header::from_bytes(&bytes).map_err(|source| self.wrong(position, source))
    }

    /// The payload behind that header, held against its hash. Its length was checked with the header.
    pub(super) fn payload(&self, position: u64, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        debug_assert!(header.packed_len as usize <= MAX_RAW.max(MAX_CONTROL));
        let mut payload = vec![0; header.packed_len as usize];
        self.exact(
            position + HEADER_LEN as u64,
            &mut payload,
            "inside a frame's payload",
        )?;
        header
            .check_payload(&payload)
            .map_err(|source| self.wrong(position, source))?;
        Ok(payload)
    }

    /// Bytes of the file as they are.
    pub(super) fn bytes_at(&self, position: u64, out: &mut [u8]) -> Result<(), ArchiveError> {
        self.exact(position, out, "where it was to be searched")
    }

    fn exact(
        &self,
        position: u64,
        out: &mut [u8],
        within: &'static str,
    ) -> Result<(), ArchiveError> {
        match self.file.read_exact_at(out, position) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                let missing = out.len() as u64;
                Err(self.wrong(position, FrameError::Truncated { within, missing }))
            }
            Err(error) => Err(ArchiveError::io(&self.path, "read")(error)),
        }
    }

    pub(super) fn wrong(&self, position: u64, source: FrameError) -> ArchiveError {
        ArchiveError::Frame {
            path: self.path.clone(),
            position,
            source,
        }
    }

    fn bad_reference(&self, offset: u64, source: ReferenceError) -> ArchiveError {
        let frame = self.frame_at(offset).ok().flatten();
        ArchiveError::Reference {
            path: self.path.clone(),
            position: frame.map_or(self.start, |frame| {
                self.start.saturating_add(frame.position)
            }),
            source,
        }
    }

    pub(super) fn damaged_index(&self, what: &'static str) -> ArchiveError {
        let from_start = self
            .directory
            .as_ref()
            .map_or(0, |directory| directory.from_start);
        ArchiveError::Index {
            path: self.path.clone(),
            position: self.start + from_start,
            what,
        }
    }

    /// Puts a directory that was read on the way into its place.
    pub(super) fn set_directory(&mut self, directory: Directory) {
        self.directory = Some(directory);
    }
}

impl Base for Archive {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), String> {
        Archive::read(self, offset, out).map_err(|error| error.to_string())
    }
}

impl Cache {
    /// For a file that is so deep in a chain.
    fn new(depth: usize) -> Self {
        Cache {
            room: (CACHE >> depth.min(8)).max(LEAST_CACHE),
            bodies: HashMap::new(),
            bytes: 0,
            clock: 0,
        }
    }

    fn get(&mut self, offset: u64) -> Option<Arc<Body>> {
        self.clock += 1;
        let (body, used) = self.bodies.get_mut(&offset)?;
        *used = self.clock;
        Some(Arc::clone(body))
    }

    fn put(&mut self, body: Arc<Body>) {
        self.clock += 1;
        self.bytes += body.bytes();
        if let Some((before, _)) = self.bodies.insert(body.offset, (body, self.clock)) {
            self.bytes -= before.bytes();
        }
        while self.bytes > self.room && self.bodies.len() > 1 {
            let oldest = self.bodies.iter().min_by_key(|(_, (_, used))| *used);
            let Some(offset) = oldest.map(|(offset, _)| *offset) else {
                break;
            };
            if let Some((body, _)) = self.bodies.remove(&offset) {
                self.bytes -= body.bytes();
            }
        }
    }
}

fn open_file(path: &Path) -> Result<(fs::File, u64), ArchiveError> {
    // A FIFO would wait for its writer.
    let file = fs::metadata(path).map_err(ArchiveError::io(path, "open"))?;
    if !file.is_file() {
        return Err(ArchiveError::NotAFile {
            path: path.to_owned(),
        });
    }
    let file = fs::File::open(path).map_err(ArchiveError::io(path, "open"))?;
    let size = file.metadata();
    let size = size.map_err(ArchiveError::io(path, "look at"))?.len();
    Ok((file, size))
}

pub(super) fn order(expected: &str, found: FrameType) -> FrameError {
    FrameError::Order {
        expected: expected.to_owned(),
        found: format!("a frame of type {:#04x}", found.to_byte()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of which every 32 bytes are a reference.
    fn dense(number: u64) -> Arc<Body> {
        let reference = |at| Reference {
            at,
            len: 32,
            source: Source::Window(0),
        };
        Arc::new(Body {
            offset: number << 20,
            raw: vec![0; 1 << 20],
            references: (0..1 << 20).step_by(32).map(reference).collect(),
        })
    }

    #[test]
    fn a_cache_takes_no_more_than_it_may_with_its_references() {
        let mut cache = Cache::new(8);
        for number in [0, 1, 2, 1].into_iter().chain(3..20) {
            cache.put(dense(number));
            let bodies = || cache.bodies.values().map(|(body, _)| body);
            let raw: usize = bodies().map(|body| body.raw.len()).sum();
            let references: usize = bodies().map(|body| body.references.len()).sum();
            assert_eq!(cache.bytes, raw + references * 24);
            assert!(cache.bytes <= LEAST_CACHE);
        }
        assert!(cache.get(19 << 20).is_some() && cache.get(0).is_none());
    }
}

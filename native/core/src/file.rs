//! Regular files at the ends of a flow: holes where a stream has zeros, and direct I/O, past the page cache.
//!
//! Direct I/O is asked for by the descriptor itself ([`open_direct`]): what is open with O_DIRECT is read and written as
//! that needs it. What stands at an offset that is not aligned (the head, where a descriptor begins inside a block, and
//! a file's tail) goes by the page cache, as does all where the file system refuses.

use rustix::fs::{
    Advice, FileType, Mode, OFlags, SeekFrom, Timestamps, fadvise, fcntl_getfl, fcntl_setfl, fstat,
    ftruncate, futimens, open, seek, tell,
};
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::time::Timespec;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What direct I/O may ask for, of address, offset and length: a page is enough for every common file system and
/// device. Holes begin and end at such places, too.
const ALIGN: usize = 4096;

/// What direct I/O moves at once. Devices split larger requests; smaller ones leave them idle in between.
const BUFFER: usize = 1 << 20;

/// The shortest run of zeros that becomes a hole: shorter ones cost more extents and calls than they save.
const HOLE: usize = 32 << 10;

/// Opens a regular file or a block device again, with O_DIRECT, at the position where `fd` stands. `None` where that
/// cannot be had: another kind of file, or a file system that refuses.
///
/// # Errors
/// If the position cannot be told.
pub fn open_direct(fd: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let fd = fd.as_fd();
    let stat = fstat(fd)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
        return Ok(None);
    }
    let flags = fcntl_getfl(fd)?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let wanted = (flags & OFlags::ACCMODE) | OFlags::DIRECT | OFlags::CLOEXEC;
    let Ok(direct) = open(path, wanted, Mode::empty()) else {
        return Ok(None);
    };
    let position = match flags.contains(OFlags::APPEND) {
        true => stat.st_size as u64,
        false => tell(fd)?,
    };
    seek(&direct, SeekFrom::Start(position))?;
    Ok(Some(direct))
}

/// Whether direct I/O is on, and still on: it is switched off where the file system turns out to refuse.
#[must_use]
pub fn is_direct(fd: impl AsFd) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::DIRECT))
}

/// Puts a descriptor where another one stands in the same file.
///
/// # Errors
/// If one of them has no position.
pub fn copy_position(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    seek(to, SeekFrom::Start(tell(from)?))?;
    Ok(())
}

/// Takes what is cached of a file, and is on the disk, out of the page cache: for what cannot be read directly.
///
/// # Errors
/// If it is no file.
pub fn uncache(fd: impl AsFd) -> io::Result<()> {
    Ok(fadvise(fd, 0, None, Advice::DontNeed)?)
}

/// Gives a file the times of another one, to the nanosecond.
///
/// # Errors
/// If it is not ours.
pub fn copy_times(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let stat = fstat(from)?;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime as _,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime as _,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    };
    Ok(futimens(to, &times)?)
}

/// A position in a file that is open with O_DIRECT, and memory to read to or to write from there.
struct Direct {
    memory: Vec<u8>,
    /// Where the aligned part of the memory begins.
    start: usize,
    /// Where in the file the next read or write goes.
    offset: u64,
    is_on: bool,
    is_refused: bool,
}

impl Direct {
    /// `None` for a descriptor that is not open with O_DIRECT, or is no file: for a pipe that flag means packets.
    fn new(fd: BorrowedFd<'_>) -> Option<Self> {
        let kind = FileType::from_raw_mode(fstat(fd).ok()?.st_mode);
        let is_file = matches!(kind, FileType::RegularFile | FileType::BlockDevice);
        if !is_file || !is_direct(fd) {
            return None;
        }
        let memory = vec![0; BUFFER + ALIGN];
        Some(Direct {
            start: memory.as_ptr().align_offset(ALIGN),
            memory,
            offset: tell(fd).ok()?,
            is_on: true,
            is_refused: false,
        })
    }

    fn memory(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..BUFFER]
    }

    /// Bytes between the offset and the last aligned place before it.
    fn misaligned(&self) -> usize {
        (self.offset % ALIGN as u64) as usize
    }

    /// Switches O_DIRECT. It belongs to the open file, which is [`open_direct`]'s own.
    fn switch(&mut self, fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
        if on != self.is_on {
            let mut flags = fcntl_getfl(fd)?;
            flags.set(OFlags::DIRECT, on);
            fcntl_setfl(fd, flags)?;
            self.is_on = on;
        }
        Ok(())
    }

    /// Reads or writes `len` bytes of the memory at the most, directly where the offset allows it.
    fn transfer(
        &mut self,
        fd: BorrowedFd<'_>,
        len: usize,
        call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let misaligned = self.misaligned();
            let is_direct = !self.is_refused && misaligned == 0 && len >= ALIGN;
            let len = match is_direct {
                true => len - len % ALIGN,
                // From an aligned place on it can be direct again.
                false if !self.is_refused => len.min(ALIGN - misaligned),
                false => len,
            };
            self.switch(fd, is_direct)?;
            let bytes = &mut self.memory()[..len];
            match retry_on_intr(|| call(bytes)) {
                Err(Errno::INVAL) if is_direct => self.is_refused = true,
                result => {
                    let n = result?;
                    self.offset += n as u64;
                    return Ok(n);
                }
            }
        }
    }
}

/// Reads a file past the page cache.
pub(crate) struct DirectReader {
    direct: Direct,
    at: usize,
    filled: usize,
}

impl DirectReader {
    /// `None` for what is not open with O_DIRECT.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> Option<Self> {
        Direct::new(fd).map(|direct| DirectReader {
            direct,
            at: 0,
            filled: 0,
        })
    }

    /// As `read`: what is there, 0 at the end.
    pub(crate) fn read(&mut self, fd: BorrowedFd<'_>, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.filled {
            (self.at, self.filled) = (0, 0);
            self.filled = self
                .direct
                .transfer(fd, BUFFER, |memory| read(fd, memory))?;
            if self.filled == 0 && !self.direct.is_refused {
                // For whoever asks whether it was direct: only the tail was not.
                self.direct.switch(fd, true)?;
            }
        }
        let n = out.len().min(self.filled - self.at);
        let end = self.at + n;
        out[..n].copy_from_slice(&self.direct.memory()[self.at..end]);
        self.at = end;
        Ok(n)
    }
}

/// Writes a regular file: zeros as holes, where nothing is there yet, and past the page cache where that is asked for.
pub(crate) struct FileWriter {
    /// Where the next byte stands in the file.
    offset: u64,
    /// Whether zeros may become holes: all behind the first offset is still empty.
    is_sparse: bool,
    /// Zeros before `offset` that were not written.
    hole: u64,
    direct: Option<(Direct, usize)>,
}

impl FileWriter {
    /// `None` for what is neither a regular file nor open with O_DIRECT.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> Option<Self> {
        let (stat, direct) = (fstat(fd).ok()?, Direct::new(fd));
        let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_regular && direct.is_none() {
            return None;
        }
        let offset = tell(fd).ok()?;
        let appends = fcntl_getfl(fd).ok()?.contains(OFlags::APPEND);
        Some(FileWriter {
            offset,
            is_sparse: is_regular && !appends && offset >= stat.st_size as u64,
            hole: 0,
            direct: direct.map(|direct| (direct, 0)),
        })
    }

    /// As `write`: how many of the bytes were taken.
    pub(crate) fn write(&mut self, fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        let (zeros, data) = match self.is_sparse {
            true => split(bytes, (self.offset % ALIGN as u64) as usize, self.hole > 0),
            false => (0, bytes.len()),
        };
        if zeros > 0 {
            self.hole += zeros as u64;
            self.offset += zeros as u64;
            return Ok(zeros);
        }
        self.skip_hole(fd)?;
        let n = match &mut self.direct {
            None => retry_on_intr(|| write(fd, &bytes[..data]))?,
            Some((direct, filled)) => {
                let n = data.min(BUFFER - *filled);
                direct.memory()[*filled..*filled + n].copy_from_slice(&bytes[..n]);
                *filled += n;
                n
            }
        };
        self.offset += n as u64;
        if matches!(self.direct, Some((_, BUFFER))) {
            self.flush(fd, ALIGN)?;
        }
        Ok(n)
    }

    /// Writes what is still here, up to the file's end. Nothing is to be written after it.
    pub(crate) fn finish(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if self.hole > 0 {
            self.skip_hole(fd)?;
            if (fstat(fd)?.st_size as u64) < self.offset {
                ftruncate(fd, self.offset)?;
            }
        }
        self.flush(fd, 1)?;
        match &mut self.direct {
            // For whoever asks whether it was direct: only head and tail were not.
            Some((direct, _)) if !direct.is_refused => direct.switch(fd, true),
            _ => Ok(()),
        }
    }

    fn skip_hole(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if self.hole == 0 {
            return Ok(());
        }
        // A hole begins at an aligned place: nothing of the buffer is left for the page cache.
        self.flush(fd, 1)?;
        seek(fd, SeekFrom::Current(self.hole as i64))?;
        if let Some((direct, _)) = &mut self.direct {
            direct.offset += self.hole;
        }
        self.hole = 0;
        Ok(())
    }

    /// Writes the buffer until fewer bytes than `least` are in it.
    fn flush(&mut self, fd: BorrowedFd<'_>, least: usize) -> io::Result<()> {
        let Some((direct, filled)) = &mut self.direct else {
            return Ok(());
        };
        while *filled >= least {
            let n = direct.transfer(fd, *filled, |memory| write(fd, memory))?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            direct.memory().copy_within(n..*filled, 0);
            *filled -= n;
        }
        Ok(())
    }
}

/// How many of the bytes are zeros that become a hole; where none are, how many come before the next hole. The first
/// byte stands `misaligned` behind an aligned place; a hole that is `begun` goes on however short the rest of it is.
fn split(bytes: &[u8], misaligned: usize, begun: bool) -> (usize, usize) {
    let head = (ALIGN - misaligned) % ALIGN;
    if head >= bytes.len() {
        return (0, bytes.len());
    }
    // Where the run of zero blocks begins that the last block belongs to.
    let mut run = head;
    let mut at = head;
    loop {
        let is_zero = bytes.get(at..at + ALIGN).is_some_and(is_zero);
        if is_zero {
            at += ALIGN;
            continue;
        }
        let zeros = at - run;
        // A run that reaches the end may be longer than what is seen of it.
        let is_hole = zeros >= HOLE || zeros > 0 && (at == bytes.len() || begun && run == 0);
        match is_hole {
            true if run == 0 => return (zeros, 0),
            true => return (0, run),
            false if at + ALIGN >= bytes.len() => return (0, bytes.len()),
            false => (run, at) = (at + ALIGN, at + ALIGN),
        }
    }
}

fn is_zero(block: &[u8]) -> bool {
    // A line at a time: that is as fast as memory, and over at the first byte of most data.
    block
        .chunks(64)
        .all(|line| line.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions, remove_file};
    use std::io::{Read, Seek, Write};
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    /// A file that goes with the test.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            let name = format!("pagewire-file-{}-{name}", std::process::id());
            Temporary(std::env::temp_dir().join(name))
        }

        fn create(&self, head: &[u8]) -> File {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&self.0)
                .expect("a file in the folder for temporary ones");
            file.write_all(head).expect("room");
            file
        }

        fn content(&self) -> Vec<u8> {
            std::fs::read(&self.0).expect("it is there")
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = remove_file(&self.0);
        }
    }

    /// Runs of zeros and of other bytes whose lengths lie around what matters here.
    fn content(mut seed: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < 3 << 20 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let unit = [1, ALIGN, HOLE, BUFFER][(seed >> 33) as usize % 4];
            let len = unit + (seed >> 40) as usize % 5000;
            let byte = if seed >> 63 == 0 {
                0
            } else {
                (seed >> 50) as u8
            };
            bytes.resize(bytes.len() + len, byte);
        }
        bytes
    }

    fn write_all(fd: BorrowedFd<'_>, bytes: &[u8], piece: usize) {
        let mut writer = FileWriter::new(fd).expect("a regular file");
        for mut piece in bytes.chunks(piece) {
            while !piece.is_empty() {
                let n = writer.write(fd, piece).expect("room");
                piece = &piece[n..];
            }
        }
        writer.finish(fd).expect("room");
    }

    fn read_all(fd: BorrowedFd<'_>, piece: usize) -> Vec<u8> {
        let mut reader = DirectReader::new(fd).expect("open with O_DIRECT");
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            match reader.read(fd, &mut buffer).expect("it can be read") {
                0 => return bytes,
                n => bytes.extend_from_slice(&buffer[..n]),
            }
        }
    }

    const PIECES: [usize; 4] = [1 << 20, 4096, 4097, 333];
    const HEADS: [usize; 4] = [0, 1, 4095, 10_000];

    #[test]
    fn what_is_written_is_in_the_file_and_the_next_writer_goes_on_behind_it() {
        let file = Temporary::new("written");
        for (seed, (piece, head)) in PIECES.into_iter().zip(HEADS).enumerate() {
            let expected = content(seed as u64);
            let mut plain = file.create(&vec![7; head]);
            write_all(plain.as_fd(), &expected, piece);
            plain.write_all(b"behind").expect("room");
            let found = file.content();
            assert_eq!(found.len(), head + expected.len() + 6);
            assert!(found[head..].starts_with(&expected) && found.ends_with(b"behind"));
        }
    }

    #[test]
    fn zeros_are_holes_and_a_file_may_end_in_one() {
        let file = Temporary::new("holes");
        let mut bytes = vec![1; 8192];
        bytes.resize(8 << 20, 0);
        let plain = file.create(b"");
        write_all(plain.as_fd(), &bytes, 1 << 20);
        let stat = plain.metadata().expect("it is there");
        assert_eq!(stat.len(), 8 << 20);
        assert!(stat.blocks() * 512 < 1 << 20, "{} blocks", stat.blocks());
        assert!(file.content() == bytes);
    }

    #[test]
    fn zeros_over_what_is_there_are_written() {
        let file = Temporary::new("over");
        let mut plain = file.create(&[9; 200_000]);
        plain.rewind().expect("a file");
        write_all(plain.as_fd(), &[0; 100_000], 5000);
        assert!(file.content() == [vec![0; 100_000], vec![9; 100_000]].concat());
    }

    #[test]
    fn directly_it_is_the_same_from_any_offset_on() {
        let file = Temporary::new("direct");
        for (seed, (piece, head)) in PIECES.into_iter().zip(HEADS).enumerate() {
            let expected = content(seed as u64);
            let plain = file.create(&vec![7; head]);
            // Where the file system refuses there is nothing to test.
            let Some(direct) = open_direct(&plain).expect("a position") else {
                return;
            };
            write_all(direct.as_fd(), &expected, piece);
            assert!(is_direct(&direct));
            assert_eq!(tell(&direct), Ok((head + expected.len()) as u64));
            assert!(file.content()[head..] == expected);
            copy_position(&direct, &plain).expect("a position");

            let mut plain = File::open(&file.0).expect("it is there");
            plain.read_exact(&mut vec![0; head]).expect("it is there");
            let direct = open_direct(&plain).expect("a position").expect("as before");
            assert!(read_all(direct.as_fd(), piece) == expected);
            assert!(is_direct(&direct));
        }
    }

    #[test]
    fn what_is_no_file_is_not_opened_directly() {
        let (read, _write) = rustix::pipe::pipe().expect("a pipe");
        assert!(open_direct(&read).expect("no error").is_none());
        assert!(DirectReader::new(read.as_fd()).is_none());
    }

    #[test]
    fn times_are_kept_to_the_nanosecond() {
        let (one, two) = (Temporary::new("one"), Temporary::new("two"));
        let (from, to) = (one.create(b""), two.create(b"x"));
        copy_times(&from, &to).expect("ours");
        let times = |file: &File| {
            let stat = file.metadata().expect("it is there");
            (stat.atime_nsec(), stat.mtime(), stat.mtime_nsec())
        };
        assert_eq!(times(&from), times(&to));
    }
}

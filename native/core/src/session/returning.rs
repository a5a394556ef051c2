//! The return path: what the destination's QEMU says to the source's. A few bytes at a time, and each of them may decide
//! which of two guests runs: they go on at once, by threads of their own.

use super::daemon::Replies;
use super::receiver::{Broken, Receiver};
use super::watch::Watch;
use super::{Shared, WireError, lock};
use crate::checksum::ContentHash;
use crate::descriptor::{Input, Output};
use crate::frame::{End, Ending, FrameType, HEADER_LEN, Header, Start};
use crate::matching::Keeps;
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

/// The most that one frame of the return path carries. Requests are 20 bytes; a bitmap after a recovery is large.
const FRAME_BYTES: usize = 64 << 10;

/// On the destination: from QEMU to the peer.
pub(super) fn from_qemu(shared: &Shared, fd: OwnedFd) {
    match copy_from_qemu(shared, fd) {
        Ok(()) | Err(WireError::Closed) => {}
        Err(error) => shared.failed(error.to_string()),
    }
}

fn copy_from_qemu(shared: &Shared, fd: OwnedFd) -> Result<(), WireError> {
    let input = Input::new(fd).map_err(|error| WireError::Protocol(error.to_string()))?;
    let mut stream = Stream {
        shared,
        frame: Vec::with_capacity(HEADER_LEN + FRAME_BYTES),
        sequence: 0,
        offset: 0,
        content: ContentHash::new(),
    };
    let start = Start {
        frame_size: FRAME_BYTES as u32,
        window: 0,
        keeps: Keeps::All,
    };
    stream.send(FrameType::Start, &start.to_bytes())?;
    let mut replies = shared.options.libvirt.then(Replies::default);
    let mut buffer = vec![0; FRAME_BYTES];
    loop {
        if shared.closed() {
            return Err(WireError::Closed);
        }
        match input.wait(&shared.return_wake, true) {
            Ok(true) => {}
            Ok(false) => {
                stream.say(&[], &mut replies)?;
                continue;
            }
            Err(_) => break,
        }
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                shared.return_bytes.fetch_add(n as u64, Ordering::Relaxed);
                stream.say(&buffer[..n], &mut replies)?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // QEMU is gone, and whatever it said before has been read.
            Err(_) => break,
        }
    }
    if replies.is_some() {
        // Before the source hears of it, which may give up for it. One that was told the end of what comes, or whose source gave
        // up, goes for that.
        shared.flag(|flags| flags.daemon_gone = !flags.ended && flags.peer_abort.is_none());
    }
    let end = End {
        raw_bytes: stream.offset,
        frames: stream.sequence.into(),
        content_hash: stream.content.digest(),
        ending: Ending::Complete,
        index: 0,
    };
    stream.send(FrameType::End, &end.to_bytes())
}

struct Stream<'a> {
    shared: &'a Shared,
    frame: Vec<u8>,
    sequence: u32,
    offset: u64,
    content: ContentHash,
}

impl Stream<'_> {
    /// What was said here, and among a libvirt daemon's packets the answers to calls that were refused.
    fn say(&mut self, said: &[u8], replies: &mut Option<Replies>) -> Result<(), WireError> {
        let (before, answers, behind) = match replies {
            Some(replies) => replies.pieces(said, &self.shared.daemon)?,
            None => (said, Vec::new(), &[][..]),
        };
        for piece in [before, &answers, behind] {
            for bytes in piece.chunks(FRAME_BYTES) {
                self.send(FrameType::Data, bytes)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, kind: FrameType, payload: &[u8]) -> Result<(), WireError> {
        let mut header = Header::stored(kind, self.sequence, self.offset, payload);
        header.channel = self.shared.options.channel;
        self.sequence = self.sequence.wrapping_add(1);
        if kind == FrameType::Data {
            self.offset += payload.len() as u64;
            self.content.update(payload);
        }
        self.frame.clear();
        self.frame.extend_from_slice(&header.to_bytes());
        self.frame.extend_from_slice(payload);
        self.shared.outgoing.send(
            self.shared,
            &self.frame,
            self.offset,
            kind == FrameType::End,
        )
    }
}

/// On the source: from the peer to QEMU.
pub(super) fn to_qemu(shared: &Shared, fd: OwnedFd) {
    match copy_to_qemu(shared, fd) {
        Ok(()) | Err(WireError::Closed) => {}
        Err(error) => shared.failed(error.to_string()),
    }
}

fn copy_to_qemu(shared: &Shared, fd: OwnedFd) -> Result<(), WireError> {
    let output = Output::new(fd).map_err(|error| WireError::Protocol(error.to_string()))?;
    let mut receiver = Receiver::new(shared);
    let mut payload = vec![0; crate::frame::MAX_CONTROL.max(FRAME_BYTES)];
    let (mut sequence, mut offset) = (0u32, 0u64);
    let mut content = ContentHash::new();
    // QEMU has closed its socket: what comes is of no use to it, but ACKs still come between.
    let mut deaf = false;
    loop {
        let header = match receiver.header() {
            Ok(header) => header,
            Err(Broken::Link) => continue,
            Err(Broken::Ended(error)) => return Err(error),
        };
        let wrong = |what: &str| WireError::Protocol(format!("the return path: {what}"));
        let Some(bytes) = payload.get_mut(..header.packed_len as usize) else {
            return Err(wrong("a frame that is too large"));
        };
        match receiver.payload(&header, bytes) {
            Ok(()) => {}
            Err(Broken::Link) => continue,
            Err(Broken::Ended(error)) => return Err(error),
        }
        if header.sequence != sequence || header.offset != offset {
            return Err(wrong("a frame out of order"));
        }
        match (header.kind, sequence) {
            (FrameType::Start, 0) => {
                Start::from_bytes(bytes).map_err(|error| wrong(&error.to_string()))?;
            }
            (FrameType::Data, 1..) if header.codec == crate::codec::Codec::None => {
                offset += bytes.len() as u64;
                content.update(bytes);
                // Nobody else writes to it meanwhile.
                let mut socket = shared.daemon.socket();
                if !deaf {
                    deaf = match deliver(shared, &output, bytes) {
                        Ok(()) => false,
                        Err(error) if is_gone(&error) => true,
                        // QEMU is there and does not have it: nothing that comes later may be taken for an answer.
                        Err(error) => return Err(wrong(&error.to_string())),
                    };
                }
                shared
                    .return_bytes
                    .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                // QEMU has them: they may be the answer to what let the destination's guest run.
                if deaf {
                    lock(&shared.doubt).unheard(bytes);
                } else {
                    shared.settle_doubt(|doubt| {
                        doubt.returned(bytes);
                        if let Some(doubt) = doubt.libvirt() {
                            socket.at_border = doubt.at_border();
                        }
                    });
                }
            }
            (FrameType::End, 1..) => {
                let end = End::from_bytes(bytes).map_err(|error| wrong(&error.to_string()))?;
                if end.raw_bytes != offset || end.content_hash != content.digest() {
                    return Err(wrong("its end does not match what came"));
                }
                // A half-close. Something that is no socket has no other half to keep open.
                // Told first: what QEMU may see of it must not look as if it had gone without an answer.
                shared.settle_doubt(Watch::return_ended);
                let waits = lock(&shared.doubt)
                    .libvirt()
                    .is_some_and(|doubt| doubt.needs_answers());
                if waits && !deaf && !shared.outgoing.is_complete() {
                    // Its socket stays open: it is told why its calls fail, which is more than the end of what comes. Or it
                    // is told nothing, as the guest may run there.
                    shared.flag(|flags| flags.daemon_gone = true);
                } else {
                    let _ = output.as_socket().map(|fd| shutdown(fd, Shutdown::Write));
                    shared.flag(|flags| flags.ended = true);
                }
            }
            _ => return Err(wrong("a frame where it may not stand")),
        }
        sequence = sequence.wrapping_add(1);
        shared.delivered(sequence.into(), header.kind == FrameType::End);
    }
}

/// QEMU has closed its socket.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionReset | NotConnected | ConnectionAborted
    )
}

/// Writes all of it, or tells that QEMU takes no more.
fn deliver(shared: &Shared, output: &Output, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if shared.closed() {
                    return Err(io::ErrorKind::NotConnected.into());
                }
                output.wait(&shared.reader_wake)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

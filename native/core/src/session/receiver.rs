//! The peer's direction: frames read from the link of the moment, whichever that is.

use super::{Shared, WireError, lock};
use crate::descriptor::Ready;
use crate::frame::{FrameError, FrameType, HEADER_LEN, Header, MAX_CONTROL, SessionFrame};
use crate::net::Link;
use crate::text::readable;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What is read at once. Small frames come several to a read; of a large one, the rest goes straight into its slot: the
/// less stands here, the less is copied.
const BUFFER: usize = 16 << 10;

/// A link that cannot be written any more may still hold what the peer sent before: it is read until it ends, or is
/// quiet for this long.
const DRAIN_QUIET: Duration = Duration::from_millis(200);

/// Why there is no frame.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The link is lost; the next call waits for another, and begins with the frame that was not whole.
    Link,
    /// There will be none.
    Ended(WireError),
}

impl From<WireError> for Broken {
    fn from(error: WireError) -> Self {
        Broken::Ended(error)
    }
}

/// Reads the frames of the peer's direction in their order; takes care of the session's own on the way.
pub(crate) struct Receiver<'a> {
    shared: &'a Shared,
    link: Option<(Arc<Link>, u64)>,
    /// The number of the last link.
    last: u64,
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Receiver {
            shared,
            link: None,
            last: 0,
            buffer: vec![0; BUFFER],
            at: 0,
            filled: 0,
        }
    }

    /// The next frame's header; its payload must be read next.
    pub(crate) fn header(&mut self) -> Result<Header, Broken> {
        loop {
            let mut bytes = [0; HEADER_LEN];
            self.fill(&mut bytes)?;
            let header = match Header::from_bytes(&bytes) {
                Ok(header) => header,
                Err(error) => return Err(self.wrong(error)),
            };
            if header.channel != self.shared.options.channel {
                let reason = format!(
                    "a frame of channel {} came over the connection of channel {}",
                    header.channel, self.shared.options.channel
                );
                return Err(WireError::Protocol(reason).into());
            }
            match header.kind {
                FrameType::Session(kind) => {
                    let payload = self.small_payload(&header)?;
                    self.session(kind, &payload)?;
                }
                FrameType::Abort => {
                    let payload = self.small_payload(&header)?;
                    let reason = readable(&payload);
                    self.shared
                        .flag(|flags| flags.peer_abort = Some(reason.clone()));
                    return Err(WireError::Protocol(format!("the peer gave up: {reason}")).into());
                }
                _ if self.is_repeated(&header) => self.skip_payload(&header)?,
                _ => return Ok(header),
            }
        }
    }

    /// The payload of the frame whose header was read last, held against its checksum. The frame then counts as come.
    pub(crate) fn payload(&mut self, header: &Header, into: &mut [u8]) -> Result<(), Broken> {
        self.fill(into)?;
        if let Err(error) = header.check_payload(into) {
            return Err(self.wrong(error));
        }
        self.shared.received.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Reads the next frame of the stream for nobody.
    pub(crate) fn skip(&mut self) -> Result<(), Broken> {
        let header = self.header()?;
        self.skip_payload(&header)
    }

    /// Reads the payload of the frame whose header was read last, for nobody.
    pub(crate) fn skip_payload(&mut self, header: &Header) -> Result<(), Broken> {
        let mut left = header.packed_len as usize;
        let mut scratch = [0; 4096];
        while left > 0 {
            let n = left.min(scratch.len());
            self.fill(&mut scratch[..n])?;
            left -= n;
        }
        Ok(())
    }

    /// Whether a link before this one brought the frame already: it was on its way when the peer was told what to send.
    fn is_repeated(&self, header: &Header) -> bool {
        let expected = self.shared.received.load(Ordering::SeqCst) as u32;
        (header.sequence.wrapping_sub(expected) as i32) < 0
    }

    fn small_payload(&mut self, header: &Header) -> Result<Vec<u8>, Broken> {
        let len = header.packed_len as usize;
        debug_assert!(len <= MAX_CONTROL);
        let mut payload = vec![0; len];
        self.fill(&mut payload)?;
        match header.check_payload(&payload) {
            Ok(()) => Ok(payload),
            Err(error) => Err(self.wrong(error)),
        }
    }

    fn session(&mut self, kind: SessionFrame, payload: &[u8]) -> Result<(), Broken> {
        let shared = self.shared;
        let word = || {
            payload.first_chunk::<8>().copied().ok_or_else(|| {
                WireError::Protocol(format!("a {kind:?} frame of {} bytes", payload.len()))
            })
        };
        match kind {
            SessionFrame::Ack => {
                if let Some(waits) = payload.get(8..16).and_then(<[u8]>::first_chunk) {
                    let waits = Duration::from_nanos(u64::from_le_bytes(*waits));
                    let ours = shared.outgoing.waited();
                    shared.holdup.look(shared.now_ns(), ours, waits);
                }
                if shared.outgoing.acknowledged(u64::from_le_bytes(word()?))? {
                    shared.flag(|flags| flags.confirmed = true);
                }
            }
            SessionFrame::Ping => shared.keeper.pong(word()?),
            SessionFrame::Pong => {
                let sent = u64::from_le_bytes(word()?);
                let round_trip = shared.now_ns().saturating_sub(sent);
                shared
                    .round_trip
                    .store(round_trip.max(1), Ordering::Relaxed);
            }
            SessionFrame::Doubt if shared.options.side == super::Side::Source => {
                let reason = "only the source knows of a doubt".to_owned();
                return Err(WireError::Protocol(reason).into());
            }
            SessionFrame::Doubt => {
                let doubt = payload.first() == Some(&1);
                if lock(&shared.flags).doubt != doubt {
                    shared.flag(|flags| {
                        flags.doubt = doubt;
                        flags.doubts_over += u64::from(!doubt);
                    });
                }
            }
            SessionFrame::Bye => shared.flag(|flags| flags.peer_bye = true),
            SessionFrame::Hello | SessionFrame::Welcome | SessionFrame::Refuse => {
                let reason = format!("a {kind:?} frame in the middle of a session");
                return Err(WireError::Protocol(reason).into());
            }
        }
        Ok(())
    }

    /// Bytes that cannot be a frame of this session were damaged on their way: the link is no good, the session may be.
    fn wrong(&mut self, error: FrameError) -> Broken {
        match error {
            FrameError::Magic { .. }
            | FrameError::HeaderHash { .. }
            | FrameError::PayloadHash { .. } => {
                self.give_up(format!("damaged on its way: {error}"));
                Broken::Link
            }
            error => WireError::Protocol(error.to_string()).into(),
        }
    }

    fn give_up(&mut self, reason: String) {
        // What else came over it may be as wrong, and the next link begins with a frame of its own.
        (self.at, self.filled) = (0, 0);
        if let Some((_, generation)) = self.link.take() {
            self.shared.lost(generation, reason);
        }
    }

    /// Fills `out` from the link of the moment.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Broken> {
        let mut done = 0;
        while done < out.len() {
            if self.at == self.filled {
                done += self.read_some(&mut out[done..])?;
                continue;
            }
            let n = (out.len() - done).min(self.filled - self.at);
            out[done..done + n].copy_from_slice(&self.buffer[self.at..self.at + n]);
            (self.at, done) = (self.at + n, done + n);
        }
        Ok(())
    }

    /// Reads what there is, at least one byte, into the buffer; what would only be copied out of it again goes to `out`.
    /// Returns how much that was.
    fn read_some(&mut self, out: &mut [u8]) -> Result<usize, Broken> {
        let shared = self.shared;
        if shared.closed() {
            return Err(WireError::Closed.into());
        }
        if self.link.is_none() {
            let (link, generation) = shared.next_link(self.last)?;
            self.last = generation;
            self.link = Some((link, generation));
        }
        let Some((link, generation)) = self.link.clone() else {
            return Err(Broken::Link);
        };
        let straight = if out.len() < BUFFER { 0 } else { out.len() };
        let came = read(shared, generation, &link, || match straight {
            0 => link.try_read(&mut self.buffer),
            _ => link.try_read_more(out, &mut self.buffer),
        });
        match came {
            Ok(n) => {
                (self.at, self.filled) = (0, n.saturating_sub(straight));
                Ok(n.min(straight))
            }
            Err(reason) => {
                if shared.closed() {
                    return Err(WireError::Closed.into());
                }
                self.give_up(reason);
                Err(Broken::Link)
            }
        }
    }
}

/// At least one byte, or why there will be none.
fn read(
    shared: &Shared,
    generation: u64,
    link: &Link,
    mut try_read: impl FnMut() -> io::Result<usize>,
) -> Result<usize, String> {
    loop {
        match try_read() {
            Ok(0) => {
                return Err(lock(&shared.links)
                    .write_error(generation)
                    .unwrap_or_else(|| "the peer closed the connection".into()));
            }
            Ok(n) => {
                shared.heard_at.store(shared.now_ns(), Ordering::Relaxed);
                shared.wire_bytes_in.fetch_add(n as u64, Ordering::Relaxed);
                return Ok(n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(describe(&error)),
        }
        let (patience, over) = match lock(&shared.links).write_error(generation) {
            Some(reason) => (DRAIN_QUIET, reason),
            None => {
                let silence = shared.options.silence;
                let over = format!("nothing came for {:.1} s", silence.as_secs_f64());
                (silence, over)
            }
        };
        let (ready, _) = shared
            .waits
            .during(|| link.wait_readable(&shared.reader_wake, Some(patience)));
        match ready.map_err(|error| describe(&error))? {
            Ready::Yes => {}
            Ready::TimedOut => return Err(over),
            Ready::Woken => {
                if shared.closed() || shared.link().is_none_or(|(_, now)| now != generation) {
                    return Err("given up".into());
                }
            }
        }
    }
}

/// A system's error in a few words.
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "the connection was reset".into(),
        io::ErrorKind::BrokenPipe => "the connection is closed".into(),
        io::ErrorKind::UnexpectedEof => "the connection was cut off".into(),
        _ => error.to_string(),
    }
}

//! The source of a decoder: reads frames, checks their headers and their order, and fills slots with their payloads.

use super::arena::{Origin, Slot};
use super::order::{Order, name};
use super::{FlowError, Shared, StreamEnd, lock};
use crate::archive::{self, Archive, BaseName, Check};
use crate::descriptor::Input;
use crate::frame::{End, Ending, FrameError, FrameType, HEADER_LEN, Header, Start};
use crate::matching::{Base, Window};
use crate::text::readable;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// What is read at once. Small frames come several to a read; of a large one, the rest goes straight into its slot.
const BUFFER: usize = 64 << 10;

pub(super) fn run(
    shared: &Shared,
    input: Input,
    file: Option<&Path>,
) -> Result<StreamEnd, FlowError> {
    if let Some(check) = file.and_then(|file| Check::open(file, &shared.bases)) {
        let _ = shared.check.set(Mutex::new(check)); // before any frame is on its way to the sink
    }
    let mut source = Source {
        shared,
        bytes: Bytes {
            shared,
            input,
            buffer: vec![0; BUFFER],
            at: 0,
            filled: 0,
            taken: 0,
        },
        origin: Origin::default(),
        frames: 0,
    };
    let mut first = true;
    while source.stream(first)? {
        first = false;
    }
    Ok(StreamEnd {
        ending: Ending::Complete,
        within: None,
    })
}

struct Source<'a> {
    shared: &'a Shared,
    bytes: Bytes<'a>,
    /// Of the frame that is being read.
    origin: Origin,
    /// Frames begun, over all concatenated streams.
    frames: u64,
}

impl Source<'_> {
    /// One stream, from START to END. `false` where there is none: the input has ended.
    fn stream(&mut self, first: bool) -> Result<bool, FlowError> {
        let Some(header) = self.header(if first {
            Expect::First
        } else {
            Expect::Another
        })?
        else {
            return Ok(false);
        };
        if header.kind != FrameType::Start {
            let expected = if first {
                "START"
            } else {
                "the end of the input, or the START of another stream"
            };
            return Err(self.wrong(FrameError::Order {
                expected: expected.into(),
                found: name(header.kind),
            }));
        }
        let slot = self.slot(header, None)?;
        let start = self.checked(Start::from_bytes(slot.payload()))?;
        // The window of the stream before goes with the last of its frames: two at once would be more than was promised.
        if !first && start.window > 0 && !self.shared.arena.wait_for_all_but(1) {
            return Err(FlowError::Stopped);
        }
        let base = self.base(slot.payload())?;
        let of_base = base.as_ref().map_or(0, |base| base.cache_bytes());
        let window = self.shared.window_of(&start, of_base, self.origin)?;
        let base = base.map(|base| base as Arc<dyn Base>);
        let mut order = Order::default();
        self.in_order(&order, &header)?;
        order.begin(&start, window);
        order.advance(&header);
        self.shared.pass(slot)?;
        loop {
            let header = self.header(Expect::Next)?;
            let Some(header) = header else {
                return Err(self.cut_off("where a frame was expected", HEADER_LEN as u64));
            };
            if let FrameType::Session(_) = header.kind {
                let expected = "a frame of a stream, not of a session".into();
                let found = name(header.kind);
                return Err(self.wrong(FrameError::Order { expected, found }));
            }
            self.in_order(&order, &header)?;
            let window = order.window.as_ref().filter(|_| header.kind.is_content());
            let mut slot = self.slot(header, window)?;
            match header.kind {
                FrameType::Data | FrameType::Matched => {
                    if let Some(check) = self.shared.check.get() {
                        lock(check).frame(self.origin.offset, &header);
                    }
                    slot.base = base.clone();
                    self.shared.pass(slot)?;
                }
                FrameType::End => {
                    let end = self.checked(End::from_bytes(slot.payload()))?;
                    self.total("number of frames", end.frames, order.frames)?;
                    self.total("bytes of the stream", end.raw_bytes, order.offset)?;
                    if end.index > 0 && self.shared.check.get().is_none() {
                        self.shared.index_left.store(true, Ordering::SeqCst);
                    }
                    self.shared.pass(slot)?;
                    return Ok(true);
                }
                FrameType::Abort => {
                    let reason = readable(slot.payload());
                    return Err(self.wrong(FrameError::Aborted { reason }));
                }
                FrameType::Other(archive::INDEX) => {
                    if let Some(check) = self.shared.check.get() {
                        let is_directory = archive::is_directory(slot.payload());
                        lock(check).index(self.origin.offset, is_directory)?;
                    }
                }
                // What may be skipped: it was read and checked. No other kind is in order here.
                _ => {}
            }
            order.advance(&header);
        }
    }

    /// The base that a START payload names, opened.
    fn base(&self, start: &[u8]) -> Result<Option<Arc<Archive>>, FlowError> {
        let Some(base) = self.checked(BaseName::from_start(start))? else {
            return Ok(None);
        };
        let opened = Archive::open_named(&base, &self.shared.bases)?;
        Ok(Some(Arc::new(opened)))
    }

    /// The next frame's header; `None` where the input ends before its first byte.
    fn header(&mut self, expect: Expect) -> Result<Option<Header>, FlowError> {
        self.origin = Origin {
            number: self.frames,
            offset: self.bytes.taken,
        };
        self.frames += 1;
        let mut bytes = [0; HEADER_LEN];
        let n = self.bytes.fill(&mut bytes)?;
        match n {
            HEADER_LEN => {}
            0 if expect == Expect::First => return Err(self.wrong(FrameError::Empty)),
            0 => return Ok(None),
            // A file that is not ours is not a truncated one of ours.
            4.. if bytes[..4] != crate::frame::MAGIC => {
                let found = [bytes[0], bytes[1], bytes[2], bytes[3]];
                return Err(self.wrong(FrameError::Magic { found }));
            }
            n => return Err(self.cut_off("inside a frame's header", (HEADER_LEN - n) as u64)),
        }
        self.checked(Header::from_bytes(&bytes)).map(Some)
    }

    /// The frame is the stream's next one, and of no session's further connection.
    fn in_order(&self, order: &Order, header: &Header) -> Result<(), FlowError> {
        if header.channel != 0 {
            return Err(self.wrong(FrameError::Order {
                expected: "a frame of channel 0".into(),
                found: format!("one of channel {}", header.channel),
            }));
        }
        self.checked(order.check(header))
    }

    /// A slot with the frame's payload in it, and its place in the window. Control frames are small, and are checked here and now.
    fn slot(&mut self, header: Header, window: Option<&Arc<Window>>) -> Result<Slot, FlowError> {
        let mut slot = self.shared.arena.acquire().ok_or(FlowError::Stopped)?;
        let len = header.packed_len as usize;
        let n = self.bytes.fill(&mut slot.room()[..len])?;
        if n < len {
            return Err(self.cut_off("inside a frame's payload", (len - n) as u64));
        }
        slot.header = header;
        slot.origin = self.origin;
        slot.place = window.and_then(|window| window.open(header.offset, header.raw_len));
        if !header.kind.is_content() {
            self.checked(header.check_payload(slot.payload()))?;
        }
        Ok(slot)
    }

    fn total(&self, what: &'static str, expected: u64, actual: u64) -> Result<(), FlowError> {
        if expected == actual {
            return Ok(());
        }
        self.checked(Err(FrameError::Total {
            what,
            expected: expected.to_string(),
            actual: actual.to_string(),
        }))
    }

    fn checked<T>(&self, result: Result<T, FrameError>) -> Result<T, FlowError> {
        result.map_err(|source| self.wrong(source))
    }

    fn wrong(&self, source: FrameError) -> FlowError {
        self.origin.error(source)
    }

    fn cut_off(&self, within: &'static str, missing: u64) -> FlowError {
        self.wrong(FrameError::Truncated { within, missing })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    First,
    Next,
    Another,
}

/// The input, buffered, interruptible.
struct Bytes<'a> {
    shared: &'a Shared,
    input: Input,
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
    /// Bytes given out.
    taken: u64,
}

impl Bytes<'_> {
    /// Fills `out`, or as much of it as there is before the input ends.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, FlowError> {
        let mut done = 0;
        while done < out.len() {
            if self.at == self.filled {
                let rest = &mut out[done..];
                // A large rest would only be copied through the buffer.
                let n = if rest.len() >= BUFFER {
                    let n = read(self.shared, &self.input, rest, self.taken)?;
                    done += n;
                    self.taken += n as u64;
                    n
                } else {
                    (self.at, self.filled) = (
                        0,
                        read(self.shared, &self.input, &mut self.buffer, self.taken)?,
                    );
                    self.filled
                };
                if n == 0 {
                    break;
                }
                continue;
            }
            let n = (out.len() - done).min(self.filled - self.at);
            out[done..done + n].copy_from_slice(&self.buffer[self.at..self.at + n]);
            (self.at, done, self.taken) = (self.at + n, done + n, self.taken + n as u64);
        }
        Ok(done)
    }
}

fn read(
    shared: &Shared,
    input: &Input,
    buffer: &mut [u8],
    offset: u64,
) -> Result<usize, FlowError> {
    let failed = |source: io::Error| FlowError::Read { offset, source };
    loop {
        if shared.stopped() {
            return Err(FlowError::Stopped);
        }
        if !input.wait(&shared.source_wake, true).map_err(failed)? {
            continue;
        }
        match input.read(buffer) {
            Ok(n) => {
                shared
                    .counters
                    .bytes_in
                    .fetch_add(n as u64, Ordering::Relaxed);
                return Ok(n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

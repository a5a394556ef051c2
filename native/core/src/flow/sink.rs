//! The sink thread: takes slots in the order of their frames and writes them.

use super::arena::Slot;
use super::{FlowError, Shared, lock};
use crate::checksum::ContentHash;
use crate::descriptor::{Output, thread_cpu_ns};
use crate::frame::{End, Ending, FrameError, FrameType};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, PoisonError};

/// What is written of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Header and payload.
    Frames,
    /// The payloads of DATA frames.
    Content,
    /// The same, and END is held against what was written.
    VerifiedContent,
}

/// The slots that wait to be written. As long as the arena, so it needs no bound of its own.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    slots: VecDeque<Slot>,
    finished: bool,
    closed: bool,
}

enum Next {
    Slot(Slot),
    Finished,
    Closed,
}

impl Queue {
    pub(super) fn push(&self, slot: Slot) {
        let mut state = lock(&self.state);
        if !state.closed {
            state.slots.push_back(slot);
            self.changed.notify_one();
        }
    }

    /// No slot will follow those that are here.
    pub(super) fn finish(&self) {
        lock(&self.state).finished = true;
        self.changed.notify_one();
    }

    /// Drops what is here, and all that comes.
    pub(super) fn close(&self) {
        let dropped = {
            let mut state = lock(&self.state);
            state.closed = true;
            std::mem::take(&mut state.slots)
        };
        drop(dropped);
        self.changed.notify_one();
    }

    fn next(&self) -> Next {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return Next::Closed;
            }
            if let Some(slot) = state.slots.pop_front() {
                return Next::Slot(slot);
            }
            if state.finished {
                return Next::Finished;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Runs until the queue is finished. Where content is verified, returns what the last END said of the original stream.
pub(super) fn run(
    shared: &Shared,
    output: &Output,
    form: Form,
) -> Result<Option<Ending>, FlowError> {
    let mut content = ContentHash::new();
    let mut ending = None;
    loop {
        let mut slot = match shared.sink.next() {
            Next::Slot(slot) => slot,
            Next::Finished => return Ok(ending),
            Next::Closed => return Err(FlowError::Stopped),
        };
        match (form, slot.header.kind) {
            (Form::Frames, _) => write_all(shared, output, slot.wire())?,
            (Form::Content, FrameType::Data) => write_all(shared, output, slot.payload())?,
            (Form::VerifiedContent, FrameType::Data) => {
                // Hashed before it is written: the bytes are in this core's cache then.
                content.update(slot.payload());
                write_all(shared, output, slot.payload())?;
            }
            (Form::VerifiedContent, FrameType::End) => {
                let ended = verify(&slot, content.digest())?;
                content = ContentHash::new();
                // Of concatenated streams, one that was cut off is not made whole by the next.
                if ending != Some(Ending::TruncatedInput) {
                    ending = Some(ended);
                }
            }
            _ => {}
        }
        shared
            .counters
            .sink_cpu_ns
            .store(thread_cpu_ns(), Ordering::Relaxed);
        drop(slot);
        shared.landed();
    }
}

/// Holds the content's hash against END. The other totals were the source's to check.
fn verify(slot: &Slot, actual: u128) -> Result<Ending, FlowError> {
    let end = End::from_bytes(slot.payload()).map_err(|source| slot.origin.error(source))?;
    if end.content_hash == actual {
        return Ok(end.ending);
    }
    let (expected, actual) = (
        format!("{:032x}", end.content_hash),
        format!("{actual:032x}"),
    );
    Err(slot.origin.error(FrameError::Total {
        what: "content hash",
        expected,
        actual,
    }))
}

fn write_all(shared: &Shared, output: &Output, mut bytes: &[u8]) -> Result<(), FlowError> {
    let counter = &shared.counters.bytes_out;
    let failed = |source: io::Error| {
        let offset = counter.load(Ordering::Relaxed);
        match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                FlowError::OutputClosed { offset }
            }
            _ => FlowError::Write { offset, source },
        }
    };
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(n) => {
                bytes = &bytes[n..];
                counter.fetch_add(n as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                output.wait(&shared.sink_wake).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        if shared.stopped() {
            return Err(FlowError::Stopped);
        }
    }
    Ok(())
}

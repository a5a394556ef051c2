//! The sink thread: takes slots in the order of their frames and writes them.

use super::arena::Slot;
use super::{Event, FlowError, Shared, SharedDoubt, gate, lock, pack};
use crate::archive::Scribe;
use crate::checksum::ContentHash;
use crate::descriptor::{Output, thread_cpu_ns};
use crate::frame::{End, Ending, FrameError, FrameType};
use crate::libvirt::Gate;
use crate::session::Wire;
use rustix::net::{Shutdown, shutdown};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Where the slots' frames go, and what of them.
pub(super) enum Target {
    /// Header and payload.
    Frames(Output),
    /// The payloads of DATA frames, followed by what knows which guest may run.
    Content(Output, Option<SharedDoubt>),
    /// The same, and END is held against what was written.
    VerifiedContent(Output),
    /// Frames, to the peer of a session.
    ToWire(Arc<Wire>),
    /// Verified content that came over a session, to a socket of QEMU's that is opened when there is something for it.
    /// A gate stands before a libvirt daemon's.
    FromWire(Arc<Wire>, Option<Box<Gate>>),
}

impl Target {
    fn output(&self) -> Option<&Output> {
        match self {
            Target::Frames(output)
            | Target::Content(output, _)
            | Target::VerifiedContent(output) => Some(output),
            Target::ToWire(_) | Target::FromWire(..) => None,
        }
    }
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
    poked: bool,
}

enum Next {
    Slot(Slot),
    /// There is something else to look at.
    Poked,
    Finished,
    Closed,
}

impl Queue {
    pub(super) fn push(&self, slot: Slot) {
        let mut state = lock(&self.state);
        if !state.closed && !state.finished {
            state.slots.push_back(slot);
            self.changed.notify_one();
        }
    }

    /// No slot will follow those that are here.
    pub(super) fn finish(&self) {
        lock(&self.state).finished = true;
        self.changed.notify_one();
    }

    /// For a sink that has all it will get and nowhere to write it yet.
    fn until_poked(&self) {
        let mut state = lock(&self.state);
        while !state.poked && !state.closed {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes the sink to look around.
    pub(super) fn poke(&self) {
        lock(&self.state).poked = true;
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
            if std::mem::take(&mut state.poked) {
                return Next::Poked;
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
pub(super) fn run(shared: &Shared, mut target: Target) -> Result<Option<Ending>, FlowError> {
    let mut content = ContentHash::new();
    let mut ending = None;
    let mut frames = 0;
    // A session's: what has come before there is an output, and whether the listener knows.
    let (mut late, mut wanted) = (None, false);
    let mut waiting = VecDeque::new();
    let mut scribe = shared.index.clone().map(Scribe::new);
    loop {
        match shared.sink.next() {
            Next::Slot(slot) => waiting.push_back(slot),
            Next::Poked => {}
            // What was asked for is waited for; a stream that failed before that leaves nothing to write.
            Next::Finished if !wants_output(&waiting) => {
                if let Some(output) = target.output().or(late.as_ref()) {
                    output.finish().map_err(|e| write_failed(shared, e))?;
                }
                return Ok(ending);
            }
            Next::Finished => shared.sink.until_poked(),
            Next::Closed => return Err(FlowError::Stopped),
        }
        if matches!(target, Target::FromWire(..)) && late.is_none() {
            late = lock(&shared.late_output).take();
            if late.is_none() {
                if !wanted && wants_output(&waiting) {
                    wanted = true;
                    shared.tell(Event::OutputWanted);
                }
                continue;
            }
        }
        for mut slot in waiting.drain(..) {
            let started = Instant::now();
            slot = pack::resolve(slot)?;
            let (kind, raw_len) = (slot.header.kind, slot.header.raw_len);
            // How long a link takes for the frame is known better than how long it took to give it to the kernel.
            let mut on_link = None;
            match (&mut target, kind) {
                (Target::Frames(output), _) => {
                    if let Some(scribe) = &mut scribe {
                        let mut header = slot.header;
                        let index = scribe.before(&mut header, slot.room());
                        slot.header = header;
                        write_all(shared, output, &index)?;
                    }
                    write_all(shared, output, slot.wire())?;
                }
                (Target::ToWire(wire), _) => {
                    slot.header.channel = wire.channel();
                    let upto = slot.header.offset + u64::from(slot.header.raw_len);
                    let last = matches!(kind, FrameType::End | FrameType::Abort);
                    let bytes = slot.wire();
                    wire.send(bytes, upto, last)?;
                    on_link = wire.time_for(bytes.len());
                    let counter = &shared.counters.bytes_out;
                    counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
                (Target::Content(output, doubt), FrameType::Data) => {
                    if let Some(doubt) = doubt {
                        // Before it is written: from then on the far guest may run.
                        lock(doubt).sent(slot.payload());
                    }
                    write_all(shared, output, slot.payload())?;
                }
                (Target::VerifiedContent(output), FrameType::Data) => {
                    // Hashed before it is written: the bytes are in this core's cache then.
                    content.update(slot.payload());
                    if let Some(check) = &shared.check {
                        lock(check).content(slot.header.offset, slot.payload())?;
                    }
                    write_all(shared, output, slot.payload())?;
                }
                (Target::FromWire(wire, gate), FrameType::Data) => {
                    content.update(slot.payload());
                    match (&late, gate) {
                        (Some(output), Some(gate)) => {
                            gate::pass(shared, gate, output, wire, slot.payload())?;
                        }
                        (Some(output), None) => {
                            write_all(shared, output, slot.payload())?;
                        }
                        (None, _) => {}
                    }
                }
                (Target::VerifiedContent(_), FrameType::End) => {
                    let ended = verify(&slot, content.digest())?;
                    content = ContentHash::new();
                    if let Some(check) = &shared.check {
                        lock(check).end()?;
                    }
                    // Of concatenated streams, one that was cut off is not made whole by the next.
                    if ending != Some(Ending::TruncatedInput) {
                        ending = Some(ended);
                    }
                }
                (Target::FromWire(wire, _), FrameType::End) => {
                    ending = Some(verify(&slot, content.digest())?);
                    // The other half stays open: QEMU may still have something to say.
                    if let Some(socket) = late.as_ref().and_then(Output::as_socket) {
                        let _ = shutdown(socket, Shutdown::Write);
                    }
                    wire.ended();
                }
                _ => {}
            }
            frames += 1;
            if let Target::FromWire(wire, _) = &target {
                wire.delivered(frames, kind == FrameType::End);
            }
            let time = on_link.unwrap_or_else(|| started.elapsed());
            shared.pressure.drained(raw_len, time);
            shared
                .counters
                .sink_cpu_ns
                .store(thread_cpu_ns(), Ordering::Relaxed);
            drop(slot);
            shared.landed(raw_len);
        }
    }
}

/// QEMU looks at the first four bytes of a connection in its main loop, deaf to everything else: a connection is opened
/// when they are there, or the end is.
fn wants_output(waiting: &VecDeque<Slot>) -> bool {
    let of = |kind| waiting.iter().filter(move |slot| slot.header.kind == kind);
    let bytes: u64 = of(FrameType::Data)
        .map(|slot| u64::from(slot.header.raw_len))
        .sum();
    bytes >= 4 || of(FrameType::End).next().is_some()
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

fn write_failed(shared: &Shared, source: io::Error) -> FlowError {
    let offset = shared.counters.bytes_out.load(Ordering::Relaxed);
    match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            FlowError::OutputClosed { offset }
        }
        _ => FlowError::Write { offset, source },
    }
}

pub(super) fn write_all(
    shared: &Shared,
    output: &Output,
    mut bytes: &[u8],
) -> Result<(), FlowError> {
    let counter = &shared.counters.bytes_out;
    let failed = |source: io::Error| write_failed(shared, source);
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

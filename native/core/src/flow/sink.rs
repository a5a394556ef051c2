//! The sink: takes slots in the order of their frames and writes them, on a thread of its own or on the source's.

use super::arena::Slot;
use super::{Event, FlowError, Shared, SharedDoubt, gate, guarded, lock, pack, tell_cpu};
use crate::archive::Scribe;
use crate::checksum::ContentHash;
use crate::descriptor::Output;
use crate::frame::{End, Ending, FrameError, FrameType};
use crate::libvirt::Gate;
use crate::lock::Awaited;
use crate::session::Wire;
use rustix::net::{Shutdown, shutdown};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
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
    /// The sink's thread waits for it.
    state: Awaited<State>,
    /// Who holds it writes; slots are taken out of the queue by nobody else, and so go out in their order.
    writer: Mutex<Option<Writer>>,
}

#[derive(Default)]
struct State {
    slots: VecDeque<Slot>,
    finished: bool,
    closed: bool,
    poked: bool,
    /// What the source's thread failed with when it wrote; the sink's ends with it.
    failed: Option<FlowError>,
}

impl State {
    fn is_idle(&self) -> bool {
        self.slots.is_empty() && !self.has_word()
    }

    /// Whether there is something else to look at than slots.
    fn has_word(&self) -> bool {
        self.finished || self.closed || self.poked || self.failed.is_some()
    }
}

enum Next {
    Slot(Slot),
    /// There is something else to look at.
    Poked,
    Finished,
    /// Nothing more is written, for this reason.
    Failed(FlowError),
}

impl Queue {
    /// For [`run`], before it is called.
    pub(super) fn open(&self, target: Target, scribe: Option<Scribe>) {
        *lock(&self.writer) = Some(Writer {
            target,
            scribe,
            content: ContentHash::new(),
            ending: None,
            frames: 0,
            late: None,
            wanted: false,
            waiting: VecDeque::new(),
        });
    }

    /// Behind [`run`], whatever has ended it: lets go of what was written to.
    pub(super) fn leave(&self) {
        drop(lock(&self.writer).take());
    }

    pub(super) fn push(&self, slot: Slot) {
        let mut state = self.state.lock();
        if !state.closed && !state.finished {
            state.slots.push_back(slot);
            state.wake();
        }
    }

    /// Writes a slot on the calling thread, or gives it to the sink's, where that has something to do still or would have to
    /// wait before it could begin.
    pub(super) fn write_or_push(&self, shared: &Shared, slot: Slot) {
        let Ok(mut writer) = self.writer.try_lock() else {
            return self.push(slot);
        };
        match writer.as_mut() {
            Some(writer) if self.state.lock().is_idle() && writer.can_begin(&slot) => {
                if let Err(error) = guarded(|| writer.write(shared, slot, Whose::Source)) {
                    self.tell(|state| state.failed = Some(error));
                }
            }
            _ => self.push(slot),
        }
    }

    /// No slot will follow those that are here.
    pub(super) fn finish(&self) {
        self.tell(|state| state.finished = true);
    }

    /// Changes what the sink's thread is to look at.
    fn tell(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        state.wake();
    }

    /// For a sink that has all it will get and nowhere to write it yet.
    fn until_poked(&self) {
        let mut state = self.state.lock();
        while !state.poked && !state.closed {
            state = state.wait();
        }
    }

    /// Wakes the sink to look around.
    pub(super) fn poke(&self) {
        self.tell(|state| state.poked = true);
    }

    /// Drops what is here, and all that comes.
    pub(super) fn close(&self) {
        let mut dropped = VecDeque::new();
        self.tell(|state| {
            state.closed = true;
            std::mem::swap(&mut state.slots, &mut dropped);
        });
    }

    /// Waits until there is something to do, and becomes the one who writes.
    fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        let mut state = self.state.lock();
        while state.is_idle() {
            state = state.wait();
        }
        drop(state);
        lock(&self.writer)
    }

    /// What is to be done, for the one who writes; there is something.
    fn next(&self) -> Next {
        let mut state = self.state.lock();
        if state.closed {
            Next::Failed(FlowError::Stopped)
        } else if let Some(error) = state.failed.take() {
            Next::Failed(error)
        } else if std::mem::take(&mut state.poked) {
            Next::Poked
        } else if let Some(slot) = state.slots.pop_front() {
            Next::Slot(slot)
        } else {
            Next::Finished
        }
    }
}

/// Runs until the queue is finished. Where content is verified, returns what the last END said of the original stream.
pub(super) fn run(shared: &Shared) -> Result<Option<Ending>, FlowError> {
    loop {
        let mut held = shared.sink.writer();
        let Some(writer) = held.as_mut() else {
            return Err(FlowError::Stopped);
        };
        let ended = match shared.sink.next() {
            Next::Slot(slot) => {
                writer.waiting.push_back(slot);
                None
            }
            Next::Poked => None,
            // What was asked for is waited for; a stream that failed before that leaves nothing to write.
            Next::Finished if !wants_output(&writer.waiting) => Some(writer.finish(shared)),
            Next::Finished => {
                drop(held);
                shared.sink.until_poked();
                continue;
            }
            Next::Failed(error) => Some(Err(error)),
        };
        let ended = ended.or_else(|| writer.write_waiting(shared).err().map(Err));
        if let Some(ended) = ended {
            // Before anybody else can write: nothing goes out behind a frame that did not.
            *held = None;
            return ended;
        }
        tell_cpu(&shared.counters.sink_cpu_ns);
    }
}

/// The thread that writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Sink,
    Source,
}

/// Where slots go, and what has gone there.
struct Writer {
    target: Target,
    scribe: Option<Scribe>,
    content: ContentHash,
    ending: Option<Ending>,
    frames: u64,
    /// A session's: what has come before there is an output, and whether the listener knows.
    late: Option<Output>,
    wanted: bool,
    waiting: VecDeque<Slot>,
}

impl Writer {
    /// Whether nothing has to be waited for before a slot can be written but room for all of it.
    fn can_begin(&self, slot: &Slot) -> bool {
        match &self.target {
            Target::ToWire(wire) => wire.takes(slot.wire_len()),
            Target::FromWire(..) => self.late.is_some() && self.waiting.is_empty(),
            _ => true,
        }
    }

    /// Writes what waits, if there is an output.
    fn write_waiting(&mut self, shared: &Shared) -> Result<(), FlowError> {
        if matches!(self.target, Target::FromWire(..)) && self.late.is_none() {
            self.late = lock(&shared.late_output).take();
            if self.late.is_none() {
                if !self.wanted && wants_output(&self.waiting) {
                    self.wanted = true;
                    shared.tell(Event::OutputWanted);
                }
                return Ok(());
            }
        }
        while let Some(slot) = self.waiting.pop_front() {
            self.write(shared, slot, Whose::Sink)?;
        }
        Ok(())
    }

    /// All is written.
    fn finish(&self, shared: &Shared) -> Result<Option<Ending>, FlowError> {
        if let Some(output) = self.target.output().or(self.late.as_ref()) {
            output.finish().map_err(|e| write_failed(shared, e))?;
        }
        Ok(self.ending)
    }

    fn write(&mut self, shared: &Shared, slot: Slot, whose: Whose) -> Result<(), FlowError> {
        let started = Instant::now();
        let mut slot = pack::resolve(slot)?;
        let (kind, raw_len) = (slot.header.kind, slot.header.raw_len);
        // How long a link takes for the frame is known better than how long it took to give it to the kernel.
        let mut on_link = None;
        match (&mut self.target, kind) {
            (Target::Frames(output), _) => {
                if let Some(scribe) = &mut self.scribe {
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
                match whose {
                    Whose::Sink => wire.send(bytes, upto, last)?,
                    Whose::Source => wire.send_or_keep(bytes, upto, last),
                }
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
                self.content.update(slot.payload());
                if let Some(check) = shared.check.get() {
                    lock(check).content(slot.header.offset, slot.payload())?;
                }
                write_all(shared, output, slot.payload())?;
            }
            (Target::FromWire(wire, gate), FrameType::Data) => {
                self.content.update(slot.payload());
                match (&self.late, gate) {
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
                let ended = verify(&slot, self.content.digest())?;
                self.content = ContentHash::new();
                if let Some(check) = shared.check.get() {
                    lock(check).end()?;
                }
                // Of concatenated streams, one that was cut off is not made whole by the next.
                if self.ending != Some(Ending::TruncatedInput) {
                    self.ending = Some(ended);
                }
            }
            (Target::FromWire(wire, _), FrameType::End) => {
                self.ending = Some(verify(&slot, self.content.digest())?);
                // The other half stays open: QEMU may still have something to say.
                if let Some(socket) = self.late.as_ref().and_then(Output::as_socket) {
                    let _ = shutdown(socket, Shutdown::Write);
                }
                wire.ended();
            }
            _ => {}
        }
        self.frames += 1;
        if let Target::FromWire(wire, _) = &self.target {
            wire.delivered(self.frames, kind == FrameType::End);
        }
        let time = on_link.unwrap_or_else(|| started.elapsed());
        shared.pressure.drained(raw_len, time);
        drop(slot);
        shared.landed(raw_len);
        Ok(())
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

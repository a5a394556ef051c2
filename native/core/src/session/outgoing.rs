//! Our direction: the frames that the peer has not acknowledged, and the one who writes to the link.

use super::pace::{Bandwidth, Rate};
use super::wait::Waits;
use super::{Shared, Status, WireError, lock};
use crate::descriptor::{Ready, Wake};
use crate::frame::HEADER_LEN;
use crate::net::Link;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// What the kernel may hold unsent: so many seconds of what the link takes, within these bounds. It is on its way, and
/// late, when the guest stops.
const UNSENT_SECONDS: f64 = 0.02;
const UNSENT_LEAST: u32 = 64 << 10;
const UNSENT_MOST: u32 = 2 << 20;
/// Until the link's rate is known.
const UNSENT_FIRST: u32 = 128 << 10;

/// How long the frame that is being written may take when no more are wanted: it is better whole than the link broken,
/// over which the peer can still be told why.
const LAST_FRAME: Duration = Duration::from_millis(300);

pub(super) struct Outgoing {
    limit_bytes: usize,
    replay: Mutex<Replay>,
    /// Something was acknowledged or written, or the wait is over.
    changed: Condvar,
    writer: Mutex<Writer>,
    /// Wakes whoever holds `writer`.
    wake: Wake,
    /// Ours for the link's room, and for what a limit on the bandwidth allows.
    waits: Waits,
    /// Nothing of the stream is given to a link any more.
    stopped: AtomicBool,
    written_bytes: AtomicU64,
    /// Nanoseconds since the start when something was written last.
    pub(super) wrote_at: AtomicU64,
    /// What the link was seen to take, in bytes a second: bits of an f64, 0.0 until it was.
    rate_bits: AtomicU64,
    bandwidth: Arc<Bandwidth>,
}

#[derive(Default)]
struct Replay {
    frames: VecDeque<Arc<Frame>>,
    /// The number of the first frame in `frames`: all before it are acknowledged.
    first: u64,
    /// The next frame to be written to the link of the moment.
    to_write: u64,
    bytes: usize,
    spare: Spare,
    /// The last frame of the stream is among those that were sent.
    complete: bool,
    /// Threads that wait for a change; where there are none, waking them is a system call for nothing.
    waiting: usize,
}

/// Buffers that acknowledged frames leave behind. They are used again, the last one first: it is warm, and memory that comes
/// anew from the kernel costs more than the copying.
#[derive(Default)]
struct Spare {
    buffers: Vec<Buffer>,
    /// Of memory in them.
    bytes: usize,
}

/// Room for a frame.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// So much of it was ever written to, and takes memory.
    touched: usize,
}

/// What a buffer has room for at least. A frame that does not fit into one that is left needs a new one, and frames that go
/// over a link as they are come in all sizes up to this.
const USUAL: usize = (256 << 10) + HEADER_LEN;

impl Spare {
    /// A buffer with a copy of this frame.
    fn take(&mut self, frame: &[u8]) -> Buffer {
        let fits = |buffer: &Buffer| buffer.bytes.capacity() >= frame.len();
        let mut buffer = match self.buffers.iter().rposition(fits) {
            Some(at) => self.buffers.remove(at),
            None => Buffer {
                bytes: Vec::with_capacity(frame.len().max(USUAL)),
                touched: 0,
            },
        };
        self.bytes -= buffer.touched;
        buffer.bytes.extend_from_slice(frame);
        buffer.touched = buffer.touched.max(frame.len());
        buffer
    }

    fn put(&mut self, mut buffer: Buffer) {
        buffer.bytes.clear();
        self.bytes += buffer.touched;
        self.buffers.push(buffer);
    }

    /// Takes so many bytes of memory at the most.
    fn keep_within(&mut self, bytes: usize) {
        while self.bytes > bytes {
            let Some(buffer) = self.buffers.pop() else {
                return;
            };
            self.bytes -= buffer.touched;
        }
    }
}

struct Frame {
    buffer: Buffer,
    /// Where its last byte stands in the stream.
    upto: u64,
}

impl Frame {
    fn bytes(&self) -> &[u8] {
        &self.buffer.bytes
    }
}

impl Replay {
    fn next(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    fn has_room(&self, bytes: usize, limit: usize) -> bool {
        self.frames.is_empty() || self.bytes + bytes <= limit
    }

    /// Keeps a frame; returns its number. All that is kept and the buffers that are left take so many bytes at the most.
    fn keep(&mut self, frame: &[u8], upto: u64, last: bool, limit: usize) -> u64 {
        let buffer = self.spare.take(frame);
        self.frames.push_back(Arc::new(Frame { buffer, upto }));
        self.bytes += frame.len();
        self.spare.keep_within(limit.saturating_sub(self.bytes));
        self.complete |= last;
        self.next() - 1
    }

    /// Bytes that are kept and not written to the link of the moment.
    fn unwritten(&self) -> usize {
        let skip = self.to_write.saturating_sub(self.first) as usize;
        self.frames
            .iter()
            .skip(skip)
            .map(|frame| frame.bytes().len())
            .sum()
    }
}

/// Who holds it writes to the link, a frame at a time.
struct Writer {
    rate: Rate,
    /// What the link was last told that it may hold unsent, and which link that was.
    unsent: (u64, u32),
}

impl Outgoing {
    pub(super) fn new(limit_bytes: usize, bandwidth: Arc<Bandwidth>) -> io::Result<Self> {
        Ok(Outgoing {
            limit_bytes,
            replay: Mutex::default(),
            changed: Condvar::new(),
            writer: Mutex::new(Writer {
                rate: Rate::default(),
                unsent: (0, 0),
            }),
            wake: Wake::new()?,
            waits: Waits::default(),
            stopped: AtomicBool::new(false),
            written_bytes: AtomicU64::new(0),
            wrote_at: AtomicU64::new(0),
            rate_bits: AtomicU64::new(0),
            bandwidth,
        })
    }

    /// Ends waits, for those to look around who wait.
    pub(super) fn wake(&self) {
        // Whoever has looked and not yet begun to wait must not miss it.
        drop(lock(&self.replay));
        self.changed.notify_all();
        self.wake.signal();
    }

    /// How long writing has waited for links, and for the limit.
    pub(super) fn waited(&self) -> Duration {
        self.waits.total()
    }

    /// What may be written in a second: what the link takes, and no more than the limit; 0.0 where there is neither.
    pub(super) fn bytes_per_second(&self) -> f64 {
        let rate = self.measured_rate();
        match self.bandwidth.limit() {
            Some(limit) if rate == 0.0 || limit < rate => limit,
            _ => rate,
        }
    }

    fn measured_rate(&self) -> f64 {
        f64::from_bits(self.rate_bits.load(Ordering::Relaxed))
    }

    pub(super) fn status(&self, status: &mut Status) {
        let replay = lock(&self.replay);
        status.sent = replay.next();
        status.acked = replay.first;
        status.unacked_bytes = replay.bytes as u64;
        status.queue_bytes += replay.unwritten() as u64;
        status.wire_bytes_out = self.written_bytes.load(Ordering::Relaxed);
        status.bytes_per_second = self.measured_rate();
        let rate = self.bytes_per_second();
        if rate > 0.0 {
            status.queue_seconds = status.queue_bytes as f64 / rate;
        }
    }

    /// Keeps a frame, whose last byte stands at `upto` in the stream, and writes it; returns when it is written. `last`: it
    /// ends the stream.
    pub(super) fn send(
        &self,
        shared: &Shared,
        frame: &[u8],
        upto: u64,
        last: bool,
    ) -> Result<(), WireError> {
        let number = {
            let mut replay = lock(&self.replay);
            while !replay.has_room(frame.len(), self.limit_bytes) {
                if shared.closed() {
                    return Err(WireError::Closed);
                }
                replay = self.wait(replay, None);
            }
            replay.keep(frame, upto, last, self.limit_bytes)
        };
        loop {
            self.pump(shared);
            let replay = lock(&self.replay);
            if replay.to_write > number {
                return Ok(());
            }
            if shared.closed() {
                return Err(WireError::Closed);
            }
            // There is no link: whoever attaches the next one wakes us, or the keeper writes it for us.
            drop(self.wait(replay, Some(Duration::from_secs(1))));
        }
    }

    /// Waits for a change.
    fn wait<'a>(
        &self,
        mut replay: MutexGuard<'a, Replay>,
        most: Option<Duration>,
    ) -> MutexGuard<'a, Replay> {
        replay.waiting += 1;
        replay = match most {
            None => self
                .changed
                .wait(replay)
                .unwrap_or_else(PoisonError::into_inner),
            Some(most) => {
                self.changed
                    .wait_timeout(replay, most)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        replay.waiting -= 1;
        replay
    }

    /// The same, but returns when there is no link, too: whoever attaches the next one writes the frame.
    pub(super) fn send_or_keep(&self, shared: &Shared, frame: &[u8], upto: u64, last: bool) {
        lock(&self.replay).keep(frame, upto, last, self.limit_bytes);
        self.pump(shared);
    }

    /// Whether a frame of so many bytes may be kept now.
    pub(super) fn may_keep(&self, bytes: usize) -> bool {
        lock(&self.replay).has_room(bytes, self.limit_bytes)
    }

    /// Writes what is to be written, as long as there is a link.
    pub(super) fn pump(&self, shared: &Shared) {
        let mut writer = lock(&self.writer);
        while let Some((link, generation)) = shared.link_to_write() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let (frame, number) = {
                let replay = lock(&self.replay);
                let at = replay.to_write.saturating_sub(replay.first) as usize;
                match replay.frames.get(at) {
                    Some(frame) => (Arc::clone(frame), replay.to_write),
                    None => return,
                }
            };
            // What is not given to a link cannot let a guest run.
            let doubt = shared.comes_into_doubt(frame.upto);
            let written = match &doubt {
                Some(note) => self.write(shared, &mut writer, &link, generation, note),
                None => Ok(()),
            };
            let written = written
                .and_then(|()| self.write(shared, &mut writer, &link, generation, frame.bytes()));
            if let Err(error) = written {
                shared.write_failed(generation, &error);
                return;
            }
            let is_awaited = {
                let mut replay = lock(&self.replay);
                // A new link may have begun elsewhere meanwhile.
                if replay.to_write == number {
                    replay.to_write += 1;
                }
                replay.waiting > 0
            };
            if is_awaited {
                self.changed.notify_all();
            }
        }
    }

    /// From its return on no frame of the stream is given to a link. A frame that a link does not take in time is cut off,
    /// with the link: the peer drops what is not whole.
    pub(super) fn stop(&self, shared: &Shared) {
        self.stopped.store(true, Ordering::SeqCst);
        let until = Instant::now() + LAST_FRAME;
        while let Err(TryLockError::WouldBlock) = self.writer.try_lock() {
            if Instant::now() > until {
                if let Some((_, generation)) = shared.link_to_write() {
                    shared.lost(generation, "given up in the middle of a frame".into());
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Writes bytes that are not kept, if there is a link: the session's own frames.
    pub(super) fn write_now(&self, shared: &Shared, bytes: &[u8]) {
        self.write_held(shared, lock(&self.writer), bytes);
    }

    /// The same, unless somebody is just writing.
    pub(super) fn try_write_now(&self, shared: &Shared, bytes: &[u8]) {
        let writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.write_held(shared, writer, bytes);
    }

    fn write_held(&self, shared: &Shared, mut writer: MutexGuard<'_, Writer>, bytes: &[u8]) {
        if let Some((link, generation)) = shared.link_to_write() {
            if let Err(error) = self.write(shared, &mut writer, &link, generation, bytes) {
                shared.write_failed(generation, &error);
            }
        }
    }

    fn write(
        &self,
        shared: &Shared,
        writer: &mut Writer,
        link: &Link,
        generation: u64,
        frame: &[u8],
    ) -> io::Result<()> {
        if writer.unsent.0 != generation {
            link.set_unsent_limit(UNSENT_FIRST);
            writer.rate = Rate::default();
            writer.unsent = (generation, UNSENT_FIRST);
        }
        let mut waited = false;
        let mut bytes = frame;
        while !bytes.is_empty() {
            let allowed = match self.bandwidth.allowance() {
                Ok(allowed) => allowed,
                Err(wait) => {
                    self.pause(shared, writer, link, wait)?;
                    waited = true;
                    continue;
                }
            };
            match link.try_write(&bytes[..bytes.len().min(allowed)]) {
                Ok(n) => {
                    self.bandwidth.spend(n);
                    writer.rate.took(n);
                    bytes = &bytes[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for_room(shared, writer, link)?;
                    waited = true;
                }
                Err(error) => return Err(error),
            }
        }
        loop {
            match link.try_flush() {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for_room(shared, writer, link)?;
                    waited = true;
                }
                Err(error) => return Err(error),
            }
        }
        self.written_bytes
            .fetch_add(frame.len() as u64, Ordering::Relaxed);
        self.wrote_at.store(shared.now_ns(), Ordering::Relaxed);
        writer.rate.has_room(Instant::now());
        let rate = writer.rate.bytes_per_second();
        self.rate_bits.store(rate.to_bits(), Ordering::Relaxed);
        if waited && rate > 0.0 {
            let unsent = ((rate * UNSENT_SECONDS) as u32).clamp(UNSENT_LEAST, UNSENT_MOST);
            let (_, told) = writer.unsent;
            if unsent.abs_diff(told) > told / 4 {
                link.set_unsent_limit(unsent);
                writer.unsent = (generation, unsent);
            }
        }
        Ok(())
    }

    fn wait_for_room(&self, shared: &Shared, writer: &mut Writer, link: &Link) -> io::Result<()> {
        let (outcome, time) = self.waits.during(|| -> io::Result<()> {
            loop {
                let ready = link.wait_writable(&self.wake, None)?;
                self.still_there(shared, link)?;
                if ready == Ready::Yes {
                    return Ok(());
                }
            }
        });
        outcome?;
        writer.rate.had_no_room(Instant::now(), time);
        Ok(())
    }

    /// Waits for the limit's sake.
    fn pause(
        &self,
        shared: &Shared,
        writer: &mut Writer,
        link: &Link,
        time: Duration,
    ) -> io::Result<()> {
        let (outcome, time) = self.waits.during(|| self.wake.sleep(time));
        outcome?;
        self.still_there(shared, link)?;
        writer.rate.had_no_room(Instant::now(), time);
        Ok(())
    }

    /// Whether the link is still the one to write to.
    fn still_there(&self, shared: &Shared, link: &Link) -> io::Result<()> {
        match shared.link() {
            Some((current, _)) if std::ptr::eq(Arc::as_ptr(&current), link) => Ok(()),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The peer has written so many frames to its QEMU. Returns whether that is all of the stream.
    pub(super) fn acknowledged(&self, frames: u64) -> Result<bool, WireError> {
        let mut replay = lock(&self.replay);
        if frames > replay.next() {
            return Err(WireError::Protocol(format!(
                "the peer acknowledges {frames} frames, sent were {}",
                replay.next()
            )));
        }
        while replay.first < frames {
            if let Some(frame) = replay.frames.pop_front() {
                replay.bytes -= frame.bytes().len();
                if let Ok(Frame { buffer, .. }) = Arc::try_unwrap(frame) {
                    replay.spare.put(buffer);
                }
            }
            replay.first += 1;
        }
        replay.to_write = replay.to_write.max(replay.first);
        let all = replay.complete && replay.frames.is_empty();
        drop(replay);
        self.changed.notify_all();
        Ok(all)
    }

    /// A new link begins behind the frames that the peer has.
    pub(super) fn rewind(&self, peer_received: u64) -> Result<(), WireError> {
        // Whoever still writes to the link before it has noticed that it is gone.
        self.wake.signal();
        let _writer = lock(&self.writer);
        let mut replay = lock(&self.replay);
        let next = replay.next();
        if peer_received > next {
            return Err(WireError::Replay {
                peer: peer_received,
                next,
            });
        }
        // It may have acknowledged more since it told, over the link before.
        replay.to_write = peer_received.max(replay.first);
        Ok(())
    }
}

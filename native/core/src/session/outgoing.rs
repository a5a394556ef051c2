//! Our direction: the frames that the peer has not acknowledged, and the one who writes to the link.

use super::pace::{Bandwidth, Rate};
use super::wait::Waits;
use super::{Shared, Side, Status, Stopped, WireError, lock};
use crate::descriptor::{Ready, Wake};
use crate::frame::HEADER_LEN;
use crate::lock::Awaited;
use crate::net::Link;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

/// What the kernel may hold unsent: so many seconds of what the link takes, within these bounds. It is on its way, and
/// late, when the guest stops.
const UNSENT_SECONDS: f64 = 0.02;
const UNSENT_LEAST: u32 = 64 << 10;
const UNSENT_MOST: u32 = 2 << 20;
/// Until the link's rate is known.
const UNSENT_FIRST: u32 = 128 << 10;

pub(super) struct Outgoing {
    limit_bytes: usize,
    /// Those are woken who wait for it when something was acknowledged or written, and when the wait is over.
    replay: Awaited<Replay>,
    writer: Mutex<Writer>,
    /// Wakes whoever holds `writer`.
    wake: Wake,
    /// Ours for the link's room, and for what a limit on the bandwidth allows.
    waits: Waits,
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
    /// In `frames`, and the memory that they take.
    bytes: usize,
    memory: usize,
    spare: Spare,
    /// The last frame of the stream is among those that were sent.
    complete: bool,
}

/// Buffers that acknowledged frames leave behind, of those that the allocator would take from the kernel anew each time: that
/// costs more than the copying. They are used again, the last one first, as it is warm.
#[derive(Default)]
struct Spare {
    buffers: VecDeque<Vec<u8>>,
    /// Of memory in them.
    bytes: usize,
}

/// Frames up to this size get a buffer of their own size, and leave none: an allocator has room for such at hand. (Of those of
/// 64 KiB glibc's gives much back to the kernel, each time that the end of its heap is free.)
const SMALL: usize = 8 << 10;

/// How much memory a frame of so many bytes is given. Frames that go over a link as they are come in all sizes; few sizes of
/// buffers fit them all, four for each power of two.
fn memory_for(frame: usize) -> usize {
    if frame <= SMALL {
        frame
    } else {
        let payload = frame - HEADER_LEN;
        HEADER_LEN + payload.next_multiple_of(payload.next_power_of_two() / 8)
    }
}

impl Spare {
    /// A buffer with a copy of this frame.
    fn take(&mut self, frame: &[u8]) -> Vec<u8> {
        let memory = memory_for(frame.len());
        let fitting = (frame.len() > SMALL)
            .then(|| self.buffers.iter().rposition(|it| it.capacity() == memory))
            .flatten();
        let mut buffer = match fitting.and_then(|at| self.buffers.remove(at)) {
            Some(buffer) => {
                self.bytes -= memory;
                buffer
            }
            None => Vec::with_capacity(memory),
        };
        buffer.extend_from_slice(frame);
        buffer
    }

    fn put(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > SMALL {
            buffer.clear();
            self.bytes += buffer.capacity();
            self.buffers.push_back(buffer);
        }
    }

    /// Takes so many bytes of memory at the most: those go that were used least lately.
    fn keep_within(&mut self, bytes: usize) {
        while self.bytes > bytes {
            let Some(buffer) = self.buffers.pop_front() else {
                return;
            };
            self.bytes -= buffer.capacity();
        }
    }
}

struct Frame {
    bytes: Vec<u8>,
    /// Where its last byte stands in the stream.
    upto: u64,
}

impl Replay {
    fn next(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    fn has_room(&self, frame: usize, limit: usize) -> bool {
        self.frames.is_empty() || self.memory + memory_for(frame) <= limit
    }

    /// Keeps a frame; returns its number. All that is kept and the buffers that are left take so much memory at the most.
    fn keep(&mut self, frame: &[u8], upto: u64, last: bool, limit: usize) -> u64 {
        let bytes = self.spare.take(frame);
        self.bytes += bytes.len();
        self.memory += bytes.capacity();
        self.frames.push_back(Arc::new(Frame { bytes, upto }));
        self.spare.keep_within(limit.saturating_sub(self.memory));
        self.complete |= last;
        self.next() - 1
    }

    /// What a frame that was kept leaves behind.
    fn forget(&mut self, frame: Arc<Frame>) {
        self.bytes -= frame.bytes.len();
        self.memory -= frame.bytes.capacity();
        // Else it is being written at this moment.
        if let Ok(Frame { bytes, .. }) = Arc::try_unwrap(frame) {
            self.spare.put(bytes);
        }
    }

    /// Bytes that are kept and not written to the link of the moment.
    fn unwritten(&self) -> usize {
        let skip = self.to_write.saturating_sub(self.first) as usize;
        self.frames
            .iter()
            .skip(skip)
            .map(|frame| frame.bytes.len())
            .sum()
    }
}

/// Who holds it writes to the link, a frame at a time.
struct Writer {
    rate: Rate,
    /// What the link was last told that it may hold unsent, and which link that was.
    unsent: (u64, u32),
    /// The link on which it was said last whether there is a doubt.
    told_doubt: u64,
}

impl Outgoing {
    pub(super) fn new(limit_bytes: usize, bandwidth: Arc<Bandwidth>) -> io::Result<Self> {
        Ok(Outgoing {
            limit_bytes,
            replay: Awaited::default(),
            writer: Mutex::new(Writer {
                rate: Rate::default(),
                unsent: (0, 0),
                told_doubt: 0,
            }),
            wake: Wake::new()?,
            waits: Waits::default(),
            written_bytes: AtomicU64::new(0),
            wrote_at: AtomicU64::new(0),
            rate_bits: AtomicU64::new(0),
            bandwidth,
        })
    }

    /// Ends waits, for those to look around who wait.
    pub(super) fn wake(&self) {
        self.replay.lock().wake();
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
        let replay = self.replay.lock();
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

    /// Whether the last frame of the stream has been taken.
    pub(super) fn is_complete(&self) -> bool {
        self.replay.lock().complete
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
            let mut replay = self.replay.lock();
            while !replay.has_room(frame.len(), self.limit_bytes) {
                if shared.closed() {
                    return Err(WireError::Closed);
                }
                replay = replay.wait();
            }
            replay.keep(frame, upto, last, self.limit_bytes)
        };
        loop {
            self.pump(shared);
            let replay = self.replay.lock();
            if replay.to_write > number {
                return Ok(());
            }
            if shared.closed() {
                return Err(WireError::Closed);
            }
            // There is no link: whoever attaches the next one wakes us, or the keeper writes it for us.
            drop(replay.wait_for(Duration::from_secs(1)));
        }
    }

    /// The same, but returns when there is no link, too: whoever attaches the next one writes the frame.
    pub(super) fn send_or_keep(&self, shared: &Shared, frame: &[u8], upto: u64, last: bool) {
        self.replay.lock().keep(frame, upto, last, self.limit_bytes);
        self.pump(shared);
    }

    /// Whether a frame of so many bytes may be kept now.
    pub(super) fn may_keep(&self, bytes: usize) -> bool {
        self.replay.lock().has_room(bytes, self.limit_bytes)
    }

    /// Writes what is to be written, as long as there is a link.
    pub(super) fn pump(&self, shared: &Shared) {
        let mut writer = lock(&self.writer);
        while let Some((link, generation)) = shared.link_to_write() {
            // The last word on it may have gone down with the link before.
            if shared.options.side == Side::Source && writer.told_doubt != generation {
                writer.told_doubt = generation;
                let word = shared.doubt_frame();
                if let Err(error) = self.write(shared, &mut writer, &link, generation, &word) {
                    shared.write_failed(generation, &error);
                    return;
                }
            }
            let (frame, number) = {
                let replay = self.replay.lock();
                let at = replay.to_write.saturating_sub(replay.first) as usize;
                match replay.frames.get(at) {
                    Some(frame) => (Arc::clone(frame), replay.to_write),
                    None => return,
                }
            };
            // What is not given to a link cannot let a guest run.
            let written = match shared.comes_into_doubt(frame.upto) {
                Err(Stopped) => return,
                Ok(None) => Ok(()),
                Ok(Some(note)) => self.write(shared, &mut writer, &link, generation, &note),
            };
            let written = written
                .and_then(|()| self.write(shared, &mut writer, &link, generation, &frame.bytes));
            if let Err(error) = written {
                shared.write_failed(generation, &error);
                return;
            }
            let mut replay = self.replay.lock();
            // A new link may have begun elsewhere meanwhile.
            if replay.to_write == number {
                replay.to_write += 1;
            }
            replay.wake();
        }
    }

    /// Writes a frame that is not kept, one of the session's own, if there is a link. It is made at its turn: nothing is
    /// written between what it says and itself.
    pub(super) fn write_now(&self, shared: &Shared, frame: impl FnOnce() -> Vec<u8>) {
        let mut writer = lock(&self.writer);
        if let Some((link, generation)) = shared.link_to_write() {
            if let Err(error) = self.write(shared, &mut writer, &link, generation, &frame()) {
                shared.write_failed(generation, &error);
            }
        }
    }

    /// The same, for whoever must not wait: no limit holds them up. Returns whether the link has taken them; not where somebody
    /// is just writing.
    pub(super) fn try_write_now(&self, shared: &Shared, bytes: &[u8]) -> bool {
        let _writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let Some((link, generation)) = shared.link_to_write() else {
            return false;
        };
        let taken = match link.try_write(bytes) {
            // Nothing can follow a part of a frame but its rest.
            Ok(n) if n < bytes.len() => Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                self.bandwidth.spend(n);
                self.written_bytes.fetch_add(n as u64, Ordering::Relaxed);
                link.try_flush()
            }
            Err(error) => Err(error),
        };
        match taken {
            Ok(()) => true,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    shared.write_failed(generation, &error);
                }
                false
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
        let mut replay = self.replay.lock();
        if frames > replay.next() {
            return Err(WireError::Protocol(format!(
                "the peer acknowledges {frames} frames, sent were {}",
                replay.next()
            )));
        }
        while replay.first < frames {
            if let Some(frame) = replay.frames.pop_front() {
                replay.forget(frame);
            }
            replay.first += 1;
        }
        replay.to_write = replay.to_write.max(replay.first);
        let all = replay.complete && replay.frames.is_empty();
        replay.wake();
        Ok(all)
    }

    /// A new link begins behind the frames that the peer has.
    pub(super) fn rewind(&self, peer_received: u64) -> Result<(), WireError> {
        // Whoever still writes to the link before it has noticed that it is gone.
        self.wake.signal();
        let _writer = lock(&self.writer);
        let mut replay = self.replay.lock();
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 8 << 20;

    impl Replay {
        /// Keeps frames of this size as long as there is room.
        fn fill(&mut self, frame: usize) {
            let frame = vec![7; frame];
            while self.has_room(frame.len(), LIMIT) {
                self.keep(&frame, 0, false, LIMIT);
                self.check();
            }
        }

        fn acknowledge(&mut self, frames: usize) {
            for _ in 0..frames {
                self.first += 1;
                let frame = self.frames.pop_front().expect("kept");
                self.forget(frame);
                self.check();
            }
        }

        fn check(&self) {
            let kept: usize = self.frames.iter().map(|frame| frame.bytes.capacity()).sum();
            let left: usize = self.spare.buffers.iter().map(Vec::capacity).sum();
            assert_eq!((kept, left), (self.memory, self.spare.bytes));
            assert!(kept + left <= LIMIT, "{kept} and {left}");
        }
    }

    #[test]
    fn what_is_kept_and_what_is_left_of_it_take_no_more_than_the_limit() {
        let mut replay = Replay::default();
        let large = (256 << 10) + HEADER_LEN;
        for small in [92, 2048, 70_000, SMALL, SMALL + 1, 300_000] {
            for _ in 0..3 {
                replay.fill(large);
                assert!(replay.bytes > LIMIT / 10 * 9);
                // Each makes room for one of another size.
                for _ in 0..replay.frames.len() / 2 {
                    replay.acknowledge(1);
                    if replay.has_room(small, LIMIT) {
                        replay.keep(&vec![7; small], 0, false, LIMIT);
                        replay.check();
                    }
                }
                replay.fill(small);
                replay.acknowledge(replay.frames.len());
            }
        }
        assert_eq!((replay.bytes, replay.memory), (0, 0));
    }

    #[test]
    fn a_buffer_is_used_again_by_a_frame_that_it_fits() {
        let mut replay = Replay::default();
        let large = vec![7; (256 << 10) + HEADER_LEN];
        replay.keep(&large, 0, false, LIMIT);
        let at = replay.frames[0].bytes.as_ptr();
        replay.acknowledge(1);
        replay.keep(&[7; 92], 0, false, LIMIT);
        assert_eq!(replay.frames[0].bytes.capacity(), 92);
        replay.keep(&large[..240_000], 0, false, LIMIT);
        assert_eq!(replay.frames[1].bytes.as_ptr(), at);
    }
}

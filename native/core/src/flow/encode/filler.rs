//! What the source has read, and delta has written, stands in slots, which are sealed as frames and sent on their way.

use super::grant::grant;
use super::options::{CacheSize, DeltaOptions, EncodeOptions};
use crate::archive::Watcher;
use crate::checksum::ContentHash;
use crate::delta::{self, Stopped};
use crate::flow::arena::Slot;
use crate::flow::crew::Job;
use crate::flow::{Direct, Event, FlowError, STRAIGHT_BYTES, Shared, lock, tell_cpu};
use crate::frame::{End, Ending, FrameType, Header, MAX_CONTROL};
use crate::libvirt::{self, Call, Growing};
use crate::qemu::GuestRam;
use crate::session::Wire;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a frame holds that nothing packs: it stays in a core's cache on its way from read to write.
const AS_IT_IS_FRAME: usize = 256 << 10;

/// Whether somebody may be waiting for a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// The stream has paused behind it.
    Now,
    /// There is more where it comes from.
    None,
}

/// Fills slots with the stream's bytes and sends them on their way.
pub(super) struct Filler<'a> {
    pub(super) shared: &'a Shared,
    /// The session that the frames go to, which follows what they hold.
    pub(super) wire: Option<Arc<Wire>>,
    slot: Option<Slot>,
    filled: usize,
    /// What the slot is to hold at the most.
    limit: usize,
    /// Frames sent.
    frames: u64,
    /// Bytes of the original stream in the frames that were sealed.
    offset: u64,
    /// Of those bytes; not kept where no frames are written.
    content: Option<ContentHash>,
    delta: Option<DeltaOptions>,
    /// Bytes that the page caches of guests before may still take.
    pub(super) granted: u64,
    /// Why the filter was told to stop.
    refused: Option<FlowError>,
    /// Of the pages in the stream, where it gets an index.
    watcher: Option<Watcher>,
    /// The packet at the end of what the slot holds, in a conversation of libvirt's.
    growing: Growing,
}

impl<'a> Filler<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        wire: Option<Arc<Wire>>,
        options: &EncodeOptions,
    ) -> Self {
        let index = shared.index.as_ref();
        Filler {
            shared,
            wire,
            slot: None,
            filled: 0,
            limit: options.frame_size,
            frames: 0,
            offset: 0,
            content: options.frames.then(ContentHash::new),
            delta: options.delta.clone(),
            granted: 0,
            refused: None,
            watcher: index.map(|index| Watcher::new(Arc::clone(index))),
            growing: Growing::default(),
        }
    }

    /// The slot that is being filled, or a new one; waits for one where all are in flight, or enough for the sink.
    pub(super) fn take_slot(&mut self) -> Result<Slot, FlowError> {
        if let Some(slot) = self.slot.take() {
            return Ok(slot);
        }
        let shared = self.shared;
        shared.pressure.wait(|| shared.stopped());
        let slot = shared.arena.acquire().ok_or(FlowError::Stopped)?;
        self.limit = shared.pressure.frame_size(shared.arena.frame_size());
        if self.goes_as_it_is(shared.direct()) {
            self.limit = self.limit.min(AS_IT_IS_FRAME);
        }
        Ok(slot)
    }

    /// Whether a frame of any size goes over the link as it is: nothing is packed, and the link gives no reason to ask whether
    /// something should be.
    fn goes_as_it_is(&self, direct: Direct) -> bool {
        direct == Direct::AsItIs && self.wire.as_ref().is_some_and(|wire| !wire.is_full())
    }

    /// Whether the slot holds anything.
    pub(super) fn holds(&self) -> bool {
        self.filled > 0
    }

    /// Where the next bytes go in the slot that was taken.
    pub(super) fn free(&self) -> Range<usize> {
        self.filled..self.limit
    }

    /// Takes the slot back, with so many bytes more in it; a full one is sealed.
    pub(super) fn put_back(&mut self, slot: Slot, more: usize) -> Result<(), FlowError> {
        self.slot = Some(slot);
        self.filled += more;
        if self.filled >= self.limit {
            self.seal(Urgency::None)
        } else {
            Ok(())
        }
    }

    /// Makes a frame of what the slot holds, if it holds anything.
    pub(super) fn seal(&mut self, urgency: Urgency) -> Result<(), FlowError> {
        self.growing.end();
        let len = std::mem::take(&mut self.filled);
        let Some(mut slot) = self.slot.take() else {
            return Ok(());
        };
        if len == 0 {
            return Ok(());
        }
        slot.header = Header {
            sequence: self.frames as u32,
            offset: self.offset,
            raw_len: len as u32,
            packed_len: len as u32,
            ..Header::EMPTY
        };
        if let Some(content) = &mut self.content {
            content.update(slot.payload());
        }
        if let Some(wire) = &self.wire {
            wire.follow(slot.payload());
        }
        if let Some(watcher) = &mut self.watcher {
            watcher.sealed(self.offset, slot.payload());
        }
        if let Some(matcher) = &self.shared.matcher {
            slot.place = matcher.open(self.offset, len as u32);
        }
        self.offset += len as u64;
        self.shared
            .counters
            .raw_bytes
            .store(self.offset, Ordering::Relaxed);
        self.send(slot, urgency)
    }

    pub(super) fn end(&mut self, ending: Ending) -> Result<(), FlowError> {
        if let Some(watcher) = self.watcher.take() {
            watcher.finish();
        }
        let content_hash = self.content.as_ref().map_or(0, ContentHash::digest);
        let end = End {
            raw_bytes: self.offset,
            frames: self.frames,
            content_hash,
            ending,
            index: 0,
        };
        self.send_control(FrameType::End, &end.to_bytes())
    }

    /// A frame that is no piece of the stream; goes to the sink as it is.
    pub(super) fn send_control(
        &mut self,
        kind: FrameType,
        payload: &[u8],
    ) -> Result<(), FlowError> {
        self.seal(Urgency::None)?;
        let mut slot = self.take_slot()?;
        let payload = &payload[..payload.len().min(MAX_CONTROL).min(slot.room().len())];
        slot.room()[..payload.len()].copy_from_slice(payload);
        slot.header = Header::stored(kind, self.frames as u32, self.offset, payload);
        self.send(slot, Urgency::Now)
    }

    fn send(&mut self, slot: Slot, urgency: Urgency) -> Result<(), FlowError> {
        self.frames += 1;
        self.tell_cpu_time();
        let is_small = slot.header.raw_len <= STRAIGHT_BYTES;
        // Once: the listener may change it at any time.
        let direct = self.shared.direct();
        let is_done_soon = urgency == Urgency::Now && is_small || self.goes_as_it_is(direct);
        // Without frames there is nothing to pack or to checksum.
        let is_packed = slot.header.kind == FrameType::Data && self.content.is_some();
        if is_done_soon && self.shared.may_go_straight() {
            let slot = match is_packed {
                true => self.shared.pack_as(slot, direct)?,
                false => slot,
            };
            self.shared.send_straight(slot);
        } else {
            let work = slot.header.raw_len;
            let job = is_packed.then_some(Job::Pack(direct));
            self.shared.send(slot, work, job);
        }
        Ok(())
    }

    pub(super) fn tell_cpu_time(&self) {
        tell_cpu(&self.shared.counters.source_cpu_ns);
    }

    /// The filter's result, with our own reason where it was told to stop.
    pub(super) fn host<T>(&mut self, result: Result<T, Stopped>) -> Result<T, FlowError> {
        result.map_err(|_| self.refused.take().unwrap_or(FlowError::Stopped))
    }

    /// What the filter is told of this, for [`host`](Self::host) to say why.
    fn told(&mut self, result: Result<(), FlowError>) -> Result<(), Stopped> {
        result.map_err(|error| {
            self.refused = Some(error);
            Stopped
        })
    }

    fn fill(&mut self, mut bytes: &[u8]) -> Result<(), FlowError> {
        self.growing.end();
        while !bytes.is_empty() {
            let mut slot = self.take_slot()?;
            let room = &mut slot.room()[self.free()];
            let n = bytes.len().min(room.len());
            room[..n].copy_from_slice(&bytes[..n]);
            self.put_back(slot, n)?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Puts a piece of a stream into the slot in packets, each of which lies in one frame. The last of them grows with what
    /// comes next, until the frame is sealed: a daemon has less to do for what comes in fewer packets.
    fn fill_packets(&mut self, of: &Call, mut bytes: &[u8]) -> Result<(), FlowError> {
        while !bytes.is_empty() {
            let mut slot = self.take_slot()?;
            let room = &mut slot.room()[..self.limit];
            let (filled, taken) = self.growing.put(of, bytes, room, self.filled);
            self.slot = Some(slot);
            bytes = &bytes[taken..];
            self.filled = filled;
            if taken == 0 || filled == self.limit {
                self.seal(Urgency::None)?;
            }
        }
        Ok(())
    }
}

impl delta::Host for Filler<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        let filled = self.fill(bytes);
        self.told(filled)
    }

    fn guest(&mut self, guest: &GuestRam) -> Result<u64, Stopped> {
        let Some(delta) = &self.delta else {
            return Ok(0);
        };
        let delta = DeltaOptions {
            fixed_memory: delta.fixed_memory.saturating_add(self.granted),
            ..delta.clone()
        };
        let report = grant(guest, &delta);
        let granted = report.cache_granted;
        self.granted += granted;
        if let (CacheSize::Bytes(_), true) = (delta.cache, granted < report.cache_wanted) {
            self.refused = Some(FlowError::CacheRefused {
                cache: report.cache_wanted,
                fixed: report.fixed_memory,
                limit: report.memory_limit,
            });
        }
        *lock(&self.shared.guest) = Some(report);
        self.shared.tell(Event::Guest);
        if self.refused.is_some() {
            Err(Stopped)
        } else {
            Ok(granted)
        }
    }
}

impl libvirt::Host for Filler<'_> {
    fn piece(&mut self, of: &Call, bytes: &[u8]) -> Result<(), Stopped> {
        let filled = self.fill_packets(of, bytes);
        self.told(filled)
    }
}

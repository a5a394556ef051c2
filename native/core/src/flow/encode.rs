//! The source of an encoder: reads any stream, puts it through delta where it is QEMU's, and fills slots.

mod tunnel;

pub(super) use tunnel::LastWord;

use super::arena::Slot;
use super::crew::Job;
use super::{Direct, Event, FlowError, STRAIGHT_BYTES, Shared, StreamEnd, lock, tell_cpu};
use crate::archive::{Builder, Watcher};
use crate::checksum::ContentHash;
use crate::delta::{self, Filter, Host, Stopped};
use crate::descriptor::Input;
use crate::frame::{End, Ending, FrameType, Header, Start};
use crate::libvirt::Growing;
use crate::matching::Effort;
use crate::qemu::GuestRam;
use crate::session::Wire;
use crate::text::readable;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The sink is about to run dry when it has no more frames than this before it: one that is being written while the
/// next is being packed. With 0, the wire would stand still while each frame is packed; with more, frames get smaller
/// than they need be.
pub(super) const DRY: usize = 1;

/// What the parser reads at once: a stretch of the stream that stays in the L2 cache while it is parsed, and larger
/// than any element of a QEMU stream.
const PARSE_BUFFER: usize = 256 << 10;
const _: () = assert!(PARSE_BUFFER >= 2 * crate::qemu::MAX_ELEMENT);

/// What a frame holds that nothing packs: it stays in a core's cache on its way from read to write.
const AS_IT_IS_FRAME: usize = 256 << 10;

/// How a stream is to be encoded.
#[derive(Clone, Debug)]
pub struct EncodeOptions {
    /// The raw bytes that a frame holds at the most; from [`crate::frame::MIN_FRAME_SIZE`] to [`crate::frame::MAX_RAW`].
    pub frame_size: usize,
    /// Whether frames are written, or only the filtered stream itself (`--stock`).
    pub frames: bool,
    /// Delta, where the input is a QEMU stream; `None`: byte-exact.
    pub delta: Option<DeltaOptions>,
    /// Whether the input is the conversation of two libvirt daemons, with QEMU streams in it.
    pub libvirt: bool,
    /// Match, where frames are written.
    pub matching: Option<MatchOptions>,
    /// Makes the index of the file, where frames are written to one. With a base, match must be on.
    pub index: Option<Arc<Builder>>,
    /// What becomes of frames that do not go by the listener, until [`super::Flow::set_direct`] says otherwise.
    pub direct: Direct,
}

/// How match is to work.
#[derive(Clone, Copy, Debug)]
pub struct MatchOptions {
    /// How far back in the stream references may lead, in bytes: up to [`crate::matching::MAX_WINDOW`].
    pub window: u64,
    /// How hard to look.
    pub effort: Effort,
}

/// How delta is to work.
#[derive(Clone, Debug)]
pub struct DeltaOptions {
    /// The largest encoding of a page that is worth sending, in bytes.
    pub max_delta: usize,
    /// How large the page cache is to be.
    pub cache: CacheSize,
    /// Bytes of memory that cache and everything else may take together.
    pub memory_limit: u64,
    /// Bytes of memory that everything else takes.
    pub fixed_memory: u64,
}

/// A cache's size, as users ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSize {
    /// In bytes, metadata included. Refused if it does not fit into the memory limit.
    Bytes(u64),
    /// In percent of what the guest's whole RAM would take. Made smaller to fit into the memory limit.
    Percent(u32),
}

/// What is known once the stream has named the guest's RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestReport {
    /// The machine type; empty where the stream does not tell it.
    pub machine: String,
    /// Bytes of guest RAM in all blocks.
    pub ram_bytes: u64,
    /// Number of RAM blocks.
    pub blocks: u64,
    /// Bytes in a page.
    pub page_size: u32,
    /// Bytes that a cache for every page would take.
    pub cache_for_all: u64,
    /// Bytes that were asked for.
    pub cache_wanted: u64,
    /// Bytes that the cache may take.
    pub cache_granted: u64,
    /// Bytes that everything else takes.
    pub fixed_memory: u64,
    /// Bytes that all of it may take.
    pub memory_limit: u64,
}

/// The size of the cache for this guest: what was asked for, within the limit.
fn grant(guest: &GuestRam, options: &DeltaOptions) -> GuestReport {
    let cache_for_all = delta::full_cache(guest);
    let cache_wanted = match options.cache {
        CacheSize::Bytes(bytes) => bytes.min(cache_for_all),
        CacheSize::Percent(percent) => {
            u64::try_from(u128::from(cache_for_all) * u128::from(percent) / 100)
                .unwrap_or(u64::MAX)
                .min(cache_for_all)
        }
    };
    GuestReport {
        machine: readable(&guest.machine),
        ram_bytes: guest.total_bytes,
        blocks: guest.blocks.len() as u64,
        page_size: guest.page_size,
        cache_for_all,
        cache_wanted,
        cache_granted: cache_wanted.min(options.memory_limit.saturating_sub(options.fixed_memory)),
        fixed_memory: options.fixed_memory,
        memory_limit: options.memory_limit,
    }
}

/// `last_word`: what is left to be said where it fails.
pub(super) fn run(
    shared: &Shared,
    input: Input,
    options: EncodeOptions,
    wire: Option<Arc<Wire>>,
    last_word: &mut Option<LastWord>,
) -> Result<StreamEnd, FlowError> {
    let mut source = Source {
        input,
        filler: Filler {
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
            watcher: shared
                .index
                .as_ref()
                .map(|index| Watcher::new(Arc::clone(index))),
            growing: Growing::default(),
        },
        bytes_in: 0,
        paused: false,
        is_empty: false,
        was_full: false,
        unsaid: None,
    };
    let result = source.run(&options);
    let Source {
        input,
        filler,
        unsaid,
        ..
    } = source;
    if let (Some(unsaid), Some(wire)) = (unsaid, filler.wire) {
        *last_word = Some(LastWord {
            unsaid,
            input,
            wire,
        });
    }
    result
}

struct Source<'a> {
    input: Input,
    filler: Filler<'a>,
    bytes_in: u64,
    /// There was no input at the last look.
    paused: bool,
    /// The last read has found nothing.
    is_empty: bool,
    /// The link has held the stream up at some time.
    was_full: bool,
    /// In a conversation of libvirt's that has failed.
    unsaid: Option<tunnel::Unsaid>,
}

/// Why a wait for input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// There is input, or its end.
    Readable,
    /// There is none just now: what need not wait should go into the slot. Told once for each pause.
    Paused,
}

impl Source<'_> {
    fn run(&mut self, options: &EncodeOptions) -> Result<StreamEnd, FlowError> {
        if options.frames {
            let start = Start {
                frame_size: options.frame_size as u32,
                window: options.matching.map_or(0, |matching| matching.window),
                keeps: self.filler.shared.keeps,
            };
            let mut payload = start.to_bytes().to_vec();
            let index = self.filler.shared.index.as_ref();
            if let Some(base) = index.and_then(|index| index.base_name()) {
                payload.extend_from_slice(&base.to_bytes());
            }
            self.filler.send_control(FrameType::Start, &payload)?;
        }
        let result = self.read_all(options);
        // Whatever came before a failure is good, and belongs to whoever reads the output.
        self.filler.seal(Urgency::None)?;
        self.filler.tell_cpu_time();
        // A stream that is copied may still be a QEMU's, followed by the session.
        let cut_off = self.filler.wire.as_ref().and_then(|wire| wire.cut_off());
        let result = result.map(|end| match cut_off {
            Some(within) if end.ending == Ending::Complete => StreamEnd {
                ending: Ending::TruncatedInput,
                within: Some(within),
            },
            _ => end,
        });
        match result {
            Ok(end) => {
                if options.frames {
                    self.filler.end(end.ending)?;
                }
                Ok(end)
            }
            Err(error) => {
                // Where the far guest may run, whether to give up is for the listener to say.
                let waits = self.filler.wire.as_ref().is_some_and(|wire| wire.unread());
                if options.frames && !waits && !matches!(error, FlowError::Stopped) {
                    self.filler
                        .send_control(FrameType::Abort, error.to_string().as_bytes())?;
                }
                Err(error)
            }
        }
    }

    fn read_all(&mut self, options: &EncodeOptions) -> Result<StreamEnd, FlowError> {
        if options.libvirt {
            return self.tunnelled(options);
        }
        if let Some(delta) = &options.delta {
            let filter = Filter::new(delta::Options {
                max_delta: delta.max_delta,
            });
            if let Some(end) = self.filtered(filter)? {
                return Ok(end);
            }
        }
        self.copied()
    }

    /// Through the parser and delta, until the end or until the rest is only to be copied (`None`): then parser and
    /// page cache go.
    fn filtered(&mut self, mut filter: Filter) -> Result<Option<StreamEnd>, FlowError> {
        let mut buffer = vec![0; PARSE_BUFFER];
        let mut held = 0;
        // Bytes of input when delta's counters were last published.
        let mut published_at = 0;
        loop {
            if self.wait()? == Wait::Paused {
                let paused = filter.pause(&buffer[..held], &mut self.filler);
                self.filler.host(paused)?;
                self.filler
                    .publish_counters(filter.counters(), Publish::IfFree);
                continue;
            }
            let Some(n) = self.read(&mut buffer[held..])? else {
                continue;
            };
            if n == 0 {
                let ended = filter.finish(&buffer[..held], &mut self.filler);
                let ended = self.filler.host(ended)?;
                self.filler
                    .publish_counters(filter.counters(), Publish::Last);
                return Ok(Some(match ended {
                    delta::StreamEnd::Truncated { within, .. } => StreamEnd {
                        ending: Ending::TruncatedInput,
                        within: Some(within.to_string()),
                    },
                    _ => StreamEnd {
                        ending: Ending::Complete,
                        within: None,
                    },
                }));
            }
            let changed = self.filler.shared.changed_settings();
            if let Some(on) = changed.delta {
                filter.set_enabled(on);
            }
            if let Some(bytes) = changed.cache_bytes {
                filter.set_cache_bytes(bytes);
            }
            filter.set_takes_in(self.takes_in());
            let end = held + n;
            let used = filter.push(&buffer[..end], &mut self.filler);
            let used = self.filler.host(used)?;
            buffer.copy_within(used..end, 0);
            held = end - used;
            if filter.is_verbatim() && held == 0 {
                self.filler
                    .publish_counters(filter.counters(), Publish::Last);
                return Ok(None);
            }
            if self.bytes_in - published_at >= PUBLISH_EVERY {
                published_at = self.bytes_in;
                self.filler
                    .publish_counters(filter.counters(), Publish::IfFree);
            }
        }
    }

    /// Whether pages without a copy get one. A link that takes all at once leaves nothing to gain by differences: copies
    /// would only cost time. One that was full once may be hungry because of them.
    fn takes_in(&mut self) -> bool {
        self.filler.wire.as_ref().is_none_or(|wire| {
            self.was_full |= wire.is_full();
            self.was_full
        })
    }

    /// Straight from the descriptor into slots.
    fn copied(&mut self) -> Result<StreamEnd, FlowError> {
        loop {
            if self.wait()? == Wait::Readable && self.read_into_slot()? == Some(0) {
                return Ok(StreamEnd {
                    ending: Ending::Complete,
                    within: None,
                });
            }
        }
    }

    /// Waits for input. Where it pauses, the slot is sealed as soon as the sink is about to run dry; there is no timer:
    /// either the input or the sink ends the wait.
    fn wait(&mut self) -> Result<Wait, FlowError> {
        let shared = self.filler.shared;
        loop {
            if shared.stopped() {
                return Err(FlowError::Stopped);
            }
            let holds = self.filler.filled > 0;
            shared.source_holds.store(holds, Ordering::SeqCst);
            if self.paused && holds && shared.in_flight.load(Ordering::SeqCst) <= DRY {
                // Nobody need wake this thread for it.
                shared.source_holds.store(false, Ordering::SeqCst);
                self.filler.seal(Urgency::Now)?;
                continue;
            }
            let ready = if !self.paused && self.input.never_blocks() {
                // The read that comes next tells.
                Ok(!std::mem::take(&mut self.is_empty))
            } else {
                self.input.wait(&shared.source_wake, self.paused)
            };
            if ready.map_err(|e| self.failed(e))? {
                shared.source_holds.store(false, Ordering::SeqCst);
                return Ok(Wait::Readable);
            }
            if !self.paused {
                self.paused = true;
                return Ok(Wait::Paused);
            }
        }
    }

    /// `None` where there turns out to be nothing yet.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, FlowError> {
        match self.input.read(buffer) {
            Ok(n) => {
                (self.paused, self.is_empty) = (false, false);
                self.bytes_in += n as u64;
                self.filler
                    .shared
                    .counters
                    .bytes_in
                    .store(self.bytes_in, Ordering::Relaxed);
                Ok(Some(n))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_empty = true;
                Ok(None)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn read_into_slot(&mut self) -> Result<Option<usize>, FlowError> {
        let filled = self.filler.filled;
        let mut slot = self.filler.take_slot()?;
        let limit = self.filler.limit;
        let result = self.read(&mut slot.room()[filled..limit]);
        self.filler.slot = Some(slot);
        if let Ok(Some(n)) = result {
            self.filler.filled(n)?;
        }
        result
    }

    fn failed(&self, source: io::Error) -> FlowError {
        FlowError::Read {
            offset: self.bytes_in,
            source,
        }
    }
}

/// Whether delta's counters may be left for the next time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Publish {
    IfFree,
    Last,
}

/// How many bytes of input may pass until delta's counters are published, if it does not pause: with hundreds of
/// passes they are tens of KiB to copy.
const PUBLISH_EVERY: u64 = 4 << 20;

/// Whether somebody may be waiting for a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    /// The stream has paused behind it.
    Now,
    /// There is more where it comes from.
    None,
}

/// Fills slots with the stream's bytes and sends them on their way.
struct Filler<'a> {
    shared: &'a Shared,
    /// The session that the frames go to, which follows what they hold.
    wire: Option<Arc<Wire>>,
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
    granted: u64,
    /// Why the filter was told to stop.
    refused: Option<FlowError>,
    /// Of the pages in the stream, where it gets an index.
    watcher: Option<Watcher>,
    /// The packet at the end of what the slot holds, in a conversation of libvirt's.
    growing: Growing,
}

impl Filler<'_> {
    /// The slot that is being filled, or a new one; waits for one where all are in flight, or enough for the sink.
    fn take_slot(&mut self) -> Result<Slot, FlowError> {
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

    fn filled(&mut self, n: usize) -> Result<(), FlowError> {
        self.filled += n;
        if self.filled >= self.limit {
            self.seal(Urgency::None)
        } else {
            Ok(())
        }
    }

    /// Makes a frame of what the slot holds, if it holds anything.
    fn seal(&mut self, urgency: Urgency) -> Result<(), FlowError> {
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

    fn end(&mut self, ending: Ending) -> Result<(), FlowError> {
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
    fn send_control(&mut self, kind: FrameType, payload: &[u8]) -> Result<(), FlowError> {
        self.seal(Urgency::None)?;
        let mut slot = self.take_slot()?;
        let payload = &payload[..payload
            .len()
            .min(crate::frame::MAX_CONTROL)
            .min(slot.room().len())];
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

    fn tell_cpu_time(&self) {
        tell_cpu(&self.shared.counters.source_cpu_ns);
    }

    fn publish_counters(&self, counters: &delta::Counters, when: Publish) {
        match when {
            Publish::Last => lock(&self.shared.delta).clone_from(counters),
            // A reader that holds the lock just now gets the next ones.
            Publish::IfFree => {
                if let Ok(mut published) = self.shared.delta.try_lock() {
                    published.clone_from(counters);
                }
            }
        }
    }

    /// The filter's result, with our own reason where it was told to stop.
    fn host<T>(&mut self, result: Result<T, Stopped>) -> Result<T, FlowError> {
        result.map_err(|_| self.refused.take().unwrap_or(FlowError::Stopped))
    }

    fn fill(&mut self, mut bytes: &[u8]) -> Result<(), FlowError> {
        self.growing.end();
        while !bytes.is_empty() {
            let filled = self.filled;
            let mut slot = self.take_slot()?;
            let room = &mut slot.room()[filled..self.limit];
            let n = bytes.len().min(room.len());
            room[..n].copy_from_slice(&bytes[..n]);
            self.slot = Some(slot);
            self.filled(n)?;
            bytes = &bytes[n..];
        }
        Ok(())
    }
}

impl Host for Filler<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        self.fill(bytes).map_err(|error| {
            self.refused = Some(error);
            Stopped
        })
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

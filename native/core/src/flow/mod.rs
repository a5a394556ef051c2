//! The threads that move a stream, and the arena that its frames stand in meanwhile.
//!
//! ```text
//!            source thread                workers            sink thread
//! encode:  fd → [delta] → slot ──frame──▶ [match] pack ──in order──▶ fd
//! decode:  fd → frame   → slot ──frame──▶ unpack       ──in order──▶ fd
//! ```
//! A source fills slots. Where something may have to be decided for each, in a session, it tells of them by an [`Event`];
//! whoever listens (JavaScript) has them packed or unpacked on any thread ([`Flow::pack`], [`Flow::unpack`]) and hands them to
//! the sink in their order ([`Flow::write`]); only slot numbers pass through the listener, never bytes. Else the flow has
//! threads of its own for that ([`Capacity::threads`]). A slot has one owner at a time; when all are on their way, the source
//! waits: that is the back-pressure.
//!
//! Source and sink are threads of their own, never a worker or the event loop: each polls its descriptor together
//! with an eventfd, so that both can be stopped at any time ([`Flow::stop`]). In libvirt's tunnel the source's thread writes
//! what goes to the sink straight: two daemons, two QEMUs and the threads between them share a host's processors, and a frame
//! costs a switch of threads, and of the cache that it stands in, less.

mod arena;
mod copy;
mod crew;
mod decode;
mod encode;
mod error;
mod gate;
mod order;
mod pack;
mod pressure;
mod receive;
mod sink;

pub use copy::{Copy, half_close};
pub use encode::{CacheSize, DeltaOptions, EncodeOptions, GuestReport, MatchOptions};
pub use error::FlowError;

use crate::archive::{Bases, Builder, Check, Scribe};
use crate::codec::Codec;
use crate::delta;
use crate::descriptor::{Input, Output, Wake, thread_cpu_ns};
use crate::fault::caught;
use crate::frame::{Ending, FrameError, FrameType, Start};
use crate::libvirt::{self, Allow, Gate};
use crate::lock::lock;
use crate::matching::{self, Keeps, Matcher, Window};
use crate::qemu::Doubt;
use crate::session::Wire;
use arena::{Arena, Slot};
use crew::Job;
use pressure::Pressure;
use sink::Target;
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What follows both directions between two QEMUs, where no session does.
pub type SharedDoubt = Arc<Mutex<Doubt>>;

/// What the threads of a flow tell their listener: as many frames as there are, and each of the others once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A slot holds a piece of the stream, to be packed or unpacked before it goes to the sink.
    Data {
        /// The slot's number.
        slot: u32,
        /// Bytes that are to be packed or unpacked; 0 where the payload is only to be checked.
        work: u32,
    },
    /// A slot holds a frame that is no piece of the stream, and goes to the sink as it is.
    Control {
        /// The slot's number.
        slot: u32,
    },
    /// The stream has named the guest's RAM ([`Flow::guest`]). It is sent before the cache is made, which waits for nobody.
    Guest,
    /// The source has read all, or failed ([`Flow::source_result`]); no frame comes after it.
    SourceEnded,
    /// Migrations in a conversation of libvirt's have begun or ended ([`Flow::tunnel`]).
    Tunnel,
    /// What came over a session waits for a socket of QEMU's ([`Flow::set_output`]).
    OutputWanted,
    /// The sink has written all that it was given, or failed ([`Flow::sink_result`]).
    SinkEnded,
}

/// How the stream ended, where it ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEnd {
    /// Whether the original stream was cut off inside what was parsed.
    pub ending: Ending,
    /// Where in the QEMU stream it was cut off, for people (encode only).
    pub within: Option<String>,
}

/// What has moved so far. Bytes, frames and CPU time since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Bytes read from the input descriptor.
    pub bytes_in: u64,
    /// Bytes written to the output descriptor.
    pub bytes_out: u64,
    /// Frames that left the source.
    pub frames: u64,
    /// Bytes of the original stream: after delta, before the codec.
    pub raw_bytes: u64,
    /// The same bytes as they stand in DATA frames' payloads.
    pub packed_bytes: u64,
    /// Bytes of the original stream that references stand for.
    pub matched_bytes: u64,
    /// Frames that have left the source and are not written yet, at this moment.
    pub in_flight: u64,
    /// How long it will take to write what is in flight, in seconds; 0 until the sink's rate is known.
    pub queue_seconds: f64,
    /// CPU time of the source thread (reading, parsing, delta, hashing), in nanoseconds.
    pub source_cpu_ns: u64,
    /// CPU time spent in the codecs, over all threads, in nanoseconds.
    pub codec_cpu_ns: u64,
    /// CPU time of the sink thread, in nanoseconds.
    pub sink_cpu_ns: u64,
}

/// The counters behind [`Totals`]; readers may be a moment late.
#[derive(Default)]
struct Counters {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    frames: AtomicU64,
    raw_bytes: AtomicU64,
    packed_bytes: AtomicU64,
    matched_bytes: AtomicU64,
    source_cpu_ns: AtomicU64,
    codec_cpu_ns: AtomicU64,
    sink_cpu_ns: AtomicU64,
}

/// What the threads of one flow share.
struct Shared {
    arena: Arc<Arena>,
    sink: sink::Queue,
    /// What finds references, when encoding with match.
    matcher: Option<Matcher>,
    /// Whether it may be left out of frames: in a session.
    keeps: Keeps,
    /// Makes the index, when encoding to a file.
    index: Option<Arc<Builder>>,
    /// Where a decoder looks for what a stream refers to.
    bases: Bases,
    /// What a decoder holds against its index: the source the frames, the sink what they stand for.
    check: OnceLock<Mutex<Check>>,
    /// A decoder's stream had an index that nothing was held against.
    index_left: AtomicBool,
    /// Bytes of memory that a decoder's window may take.
    window_limit: u64,
    source_wake: Wake,
    sink_wake: Wake,
    stopped: AtomicBool,
    /// Not all of its threads could be started: nobody was given the flow, and nobody is to hear of it.
    stillborn: AtomicBool,
    /// The flow's own threads, where frames do not go by the listener.
    crew: Option<crew::Crew>,
    /// Frames that left the source and have not been written yet.
    in_flight: AtomicUsize,
    /// Those of them that the listener has, or the crew.
    in_lane: AtomicUsize,
    /// The source's thread itself writes what goes to the sink straight.
    source_writes: bool,
    /// What the source packs with where the listener need not be asked: [`Direct`] in a word.
    direct: AtomicU32,
    pressure: Pressure,
    /// Where a session's content goes, until the sink takes it.
    late_output: Mutex<Option<Output>>,
    /// The source holds a frame that is not full, and waits for input or for the sink to run dry.
    source_holds: AtomicBool,
    counters: Counters,
    settings_changed: AtomicBool,
    /// What changes for delta; the source looks at it at its next read.
    settings: Mutex<delta::Settings>,
    delta: Mutex<delta::Counters>,
    guest: Mutex<Option<GuestReport>>,
    tunnel: Mutex<libvirt::Report>,
    /// Packets of libvirt's that were not let through.
    refused: AtomicU64,
    source_result: Mutex<SourceResult>,
    sink_result: Mutex<Option<Result<Option<Ending>, FlowError>>>,
    listener: Box<dyn Fn(Event) + Send + Sync>,
}

/// The result of a thread's work.
fn guarded<T>(work: impl FnOnce() -> Result<T, FlowError>) -> Result<T, FlowError> {
    caught(work).unwrap_or_else(|message| Err(FlowError::Panicked { message }))
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn tell(&self, event: Event) {
        if !self.stillborn.load(Ordering::SeqCst) {
            (self.listener)(event);
        }
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.arena.close();
        self.pressure.wake();
        if let Some(crew) = &self.crew {
            crew.close();
        }
        self.sink.close();
        self.source_wake.signal();
        self.sink_wake.signal();
    }

    /// What was changed since the last time that somebody asked.
    fn changed_settings(&self) -> delta::Settings {
        if self.settings_changed.swap(false, Ordering::AcqRel) {
            std::mem::take(&mut lock(&self.settings))
        } else {
            delta::Settings::default()
        }
    }

    /// Sends a filled slot on its way: `work`, as in [`Event::Data`], is what the listener hears, `job` what a crew does.
    fn send(&self, slot: Slot, work: u32, job: Option<Job>) {
        self.counters.frames.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.pressure.left(slot.header.raw_len);
        self.in_lane.fetch_add(1, Ordering::SeqCst);
        let kind = slot.header.kind;
        if let Some(crew) = &self.crew {
            crew.take(self, slot, job);
            return;
        }
        let slot = self.arena.park(slot);
        self.tell(if kind.is_content() {
            Event::Data { slot, work }
        } else {
            Event::Control { slot }
        });
    }

    /// Whether a frame may go to the sink past the listener, or the crew: no frame before it is still there.
    fn may_go_straight(&self) -> bool {
        self.in_lane.load(Ordering::SeqCst) == 0
    }

    /// What becomes of a frame that goes to the sink without the listener.
    fn direct(&self) -> Direct {
        Direct::from_word(self.direct.load(Ordering::Relaxed))
    }

    fn pack_as(&self, slot: Slot, direct: Direct) -> Result<Slot, FlowError> {
        match direct {
            Direct::Packed(codec, level) => pack::pack(self, slot, codec, level),
            Direct::AsItIs => Ok(pack::store(self, slot)),
        }
    }

    fn send_straight(&self, slot: Slot) {
        self.counters.frames.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.pressure.left(slot.header.raw_len);
        if self.source_writes {
            self.sink.write_or_push(self, slot);
        } else {
            self.sink.push(slot);
        }
    }

    /// A decoder's frame, on its way to be checked and unpacked.
    fn pass(&self, slot: Slot) -> Result<(), FlowError> {
        let (header, counters) = (slot.header, &self.counters);
        if header.kind.is_content() {
            let add = |counter: &AtomicU64, n: u32| {
                counter.fetch_add(n.into(), Ordering::Relaxed);
            };
            add(&counters.raw_bytes, header.raw_len);
            add(&counters.packed_bytes, header.packed_len);
        }
        tell_cpu(&counters.source_cpu_ns);
        let work = if header.codec == Codec::None && header.kind == FrameType::Data {
            0
        } else {
            header.raw_len
        };
        let is_done_soon = header.raw_len <= STRAIGHT_BYTES || work == 0 && slot.checked;
        if is_done_soon && self.may_go_straight() {
            let slot = match header.kind {
                kind if kind.is_content() => pack::unpack(self, slot)?,
                _ => slot,
            };
            self.send_straight(slot);
        } else {
            self.send(slot, work, header.kind.is_content().then_some(Job::Unpack));
        }
        Ok(())
    }

    /// The window that a decoder needs for a stream that begins so; `None` where it has no references. Those into a base
    /// need `of_base` bytes of memory besides.
    fn window_of(
        &self,
        start: &Start,
        of_base: u64,
        origin: arena::Origin,
    ) -> Result<Option<Arc<Window>>, FlowError> {
        if start.window == 0 {
            return Ok(None);
        }
        let in_flight = u64::from(self.arena.in_flight()) * u64::from(start.frame_size);
        let window = start.window;
        let needed = matching::decoder_bytes(window, in_flight) + of_base;
        if needed > self.window_limit {
            let limit = self.window_limit;
            return Err(origin.error(FrameError::Window {
                window,
                needed,
                of_base,
                limit,
            }));
        }
        let made =
            Window::new(window, in_flight, start.keeps).map_err(|source| FlowError::Memory {
                bytes: needed,
                source,
            });
        made.map(Some)
    }

    fn waiting(&self) -> u64 {
        let in_lane = self.in_lane.load(Ordering::SeqCst);
        self.in_flight
            .load(Ordering::SeqCst)
            .saturating_sub(in_lane) as u64
    }

    /// A frame that the listener or the crew had is with the sink now, or dropped.
    fn left_lane(&self) {
        self.in_lane.fetch_sub(1, Ordering::SeqCst);
    }

    fn source_ended(&self, result: Result<StreamEnd, FlowError>) {
        let first = {
            let mut ended = lock(&self.source_result);
            match &mut *ended {
                SourceResult::Running => {
                    *ended = SourceResult::Ended(result);
                    true
                }
                _ => false,
            }
        };
        if first {
            self.tell(Event::SourceEnded);
        }
    }

    /// A frame was written or dropped; wakes a source that holds a frame back until the sink has nothing to do.
    fn landed(&self, raw_len: u32) {
        self.pressure.landed(raw_len);
        let before = self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before <= encode::DRY + 1 && self.source_holds.load(Ordering::SeqCst) {
            self.source_wake.signal();
        }
    }
}

/// How long a counter of CPU time may stand still: asking for it is a system call, in a small frame's time a good part.
const CPU_EVERY: Duration = Duration::from_millis(1);

/// Tells the calling thread's CPU time, unless it did just now.
fn tell_cpu(counter: &AtomicU64) {
    thread_local! {
        static TOLD: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    TOLD.with(|told| {
        if told.get().is_none_or(|at| now - at >= CPU_EVERY) {
            told.set(Some(now));
            counter.store(thread_cpu_ns(), Ordering::Relaxed);
        }
    });
}

/// Up to this size a frame is packed or unpacked by the thread that has it: that takes no longer than to wake another. A page
/// that a guest waits for is such a frame.
pub const STRAIGHT_BYTES: u32 = 16 << 10;

/// What becomes of a frame that goes to the sink without the listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direct {
    /// See [`Flow::store`].
    #[default]
    AsItIs,
    /// See [`Flow::pack`].
    Packed(Codec, i32),
}

impl Direct {
    const PACKED: u32 = 1 << 16;

    fn to_word(self) -> u32 {
        match self {
            Direct::AsItIs => 0,
            Direct::Packed(codec, level) => {
                Self::PACKED | u32::from(codec.to_byte()) << 8 | u32::from(level as i8 as u8)
            }
        }
    }

    fn from_word(word: u32) -> Self {
        match Codec::from_byte((word >> 8) as u8) {
            Some(codec) if word & Self::PACKED != 0 => {
                Direct::Packed(codec, i32::from(word as u8 as i8))
            }
            _ => Direct::AsItIs,
        }
    }
}

/// How the source ended: told once, taken once.
#[derive(Default)]
enum SourceResult {
    #[default]
    Running,
    Ended(Result<StreamEnd, FlowError>),
    Taken,
}

/// What a flow's source thread does, and with what.
enum SourceWork {
    Encode(Input, EncodeOptions, Option<Arc<Wire>>),
    /// With the file that the input is, where it is to be held against its index.
    Decode(Input, Bases, Option<PathBuf>),
    /// With the raw bytes that a frame holds at the most.
    FromWire(Arc<Wire>, u32),
}

/// How many frames a flow has on its way at the most, and who works on them.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Frames that may be on their way at once.
    pub in_flight: u32,
    /// Those of them that may be packed or unpacked at once.
    pub packers: u32,
    /// Threads of the flow's own that do it, in the frames' order as far as the output goes; 0: the listener sees to it.
    pub threads: u32,
}

/// The sizes of a flow: see [`Flow::encode`].
#[derive(Clone, Copy, Debug)]
struct Sizes {
    frame: usize,
    capacity: Capacity,
    /// Bytes of memory that a decoder's window may take.
    window_limit: u64,
}

/// One stream on its way: source thread, arena, sink thread. Stops and joins its threads when dropped.
pub struct Flow {
    shared: Arc<Shared>,
    /// The session that it reads from or writes to, which ends with it.
    wire: Option<Arc<Wire>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Flow {
    /// Starts to encode: `input` is any stream, QEMU's or not; `output` gets frames, or the QEMU stream itself
    /// where `options.frames` is off; `doubt` follows that.
    pub fn encode(
        input: OwnedFd,
        output: OwnedFd,
        options: EncodeOptions,
        doubt: Option<SharedDoubt>,
        capacity: Capacity,
        listener: Box<dyn Fn(Event) + Send + Sync>,
    ) -> Result<Flow, FlowError> {
        let output = Output::new(output)?;
        let target = if options.frames {
            Target::Frames(output)
        } else {
            Target::Content(output, doubt)
        };
        let sizes = Sizes {
            frame: options.frame_size,
            capacity,
            window_limit: 0,
        };
        let work = SourceWork::Encode(Input::new(input)?, options, None);
        Self::start(work, target, sizes, listener)
    }

    /// The same, with the frames going to the peer of a session.
    pub fn encode_to_wire(
        input: OwnedFd,
        wire: Arc<Wire>,
        options: EncodeOptions,
        capacity: Capacity,
        listener: Box<dyn Fn(Event) + Send + Sync>,
    ) -> Result<Flow, FlowError> {
        let sizes = Sizes {
            frame: options.frame_size,
            capacity,
            window_limit: 0,
        };
        let work = SourceWork::Encode(Input::new(input)?, options, Some(Arc::clone(&wire)));
        Self::start(work, Target::ToWire(wire), sizes, listener)
    }

    /// Starts to decode: frames in, the original stream out, held against their checksums and totals. A stream with
    /// references needs memory for what they lead back to and for what of a base is read, `window_limit`
    /// bytes at the most. The base of one that has a base is looked for as `bases` says. With `file` the input is that
    /// file, from its first byte on, and is held against its index.
    pub fn decode(
        input: OwnedFd,
        output: OwnedFd,
        capacity: Capacity,
        window_limit: u64,
        bases: Bases,
        file: Option<PathBuf>,
        listener: Box<dyn Fn(Event) + Send + Sync>,
    ) -> Result<Flow, FlowError> {
        let work = SourceWork::Decode(Input::new(input)?, bases, file);
        let target = Target::VerifiedContent(Output::new(output)?);
        Self::start(
            work,
            target,
            Self::any_frame(capacity, window_limit),
            listener,
        )
    }

    /// The same, of frames that the peer of a session sends. The output comes later: [`Event::OutputWanted`]. With `allow`
    /// it is a libvirt daemon, which gets only what that lets through. Frames of more than `frame_size` raw bytes are refused.
    pub fn decode_from_wire(
        wire: Arc<Wire>,
        allow: Option<Allow>,
        frame_size: u32,
        capacity: Capacity,
        window_limit: u64,
        listener: Box<dyn Fn(Event) + Send + Sync>,
    ) -> Result<Flow, FlowError> {
        let work = SourceWork::FromWire(Arc::clone(&wire), frame_size);
        let target = Target::FromWire(wire, allow.map(Gate::new).map(Box::new));
        Self::start(
            work,
            target,
            Self::any_frame(capacity, window_limit),
            listener,
        )
    }

    /// Slots as large as the format allows; memory is touched, and so used, only as far as frames fill them.
    fn any_frame(capacity: Capacity, window_limit: u64) -> Sizes {
        Sizes {
            frame: crate::frame::MAX_RAW,
            capacity,
            window_limit,
        }
    }

    fn start(
        work: SourceWork,
        target: Target,
        sizes: Sizes,
        listener: Box<dyn Fn(Event) + Send + Sync>,
    ) -> Result<Flow, FlowError> {
        let keeps = match target {
            Target::ToWire(_) => Keeps::Some,
            _ => Keeps::All,
        };
        let matcher = match &work {
            SourceWork::Encode(
                _,
                EncodeOptions {
                    matching: Some(m),
                    frames: true,
                    ..
                },
                _,
            ) => {
                let in_flight = u64::from(sizes.capacity.in_flight) * sizes.frame as u64;
                let bytes = matching::encoder_bytes(m.window, m.effort, in_flight);
                let made = Matcher::new(m.window, m.effort, in_flight, keeps);
                Some(made.map_err(|source| FlowError::Memory { bytes, source })?)
            }
            _ => None,
        };
        let index = match &work {
            SourceWork::Encode(_, options, None) if options.frames => options.index.clone(),
            _ => None,
        };
        let bases = match &work {
            SourceWork::Decode(_, bases, _) => bases.clone(),
            _ => Bases::default(),
        };
        let direct = match &work {
            SourceWork::Encode(_, options, _) => options.direct,
            _ => Direct::default(),
        };
        let Capacity {
            in_flight,
            packers,
            threads,
        } = sizes.capacity;
        // Without frames nothing is ever packed: the crew hands on what it gets, and needs no thread for that.
        let working = match target {
            Target::Content(..) => 0,
            _ => threads,
        };
        let wake = || Wake::new().map_err(FlowError::system("make an eventfd"));
        let shared = Arc::new(Shared {
            arena: Arena::new(sizes.frame, in_flight, packers)?,
            sink: sink::Queue::default(),
            matcher,
            keeps,
            index,
            bases,
            check: OnceLock::new(),
            index_left: AtomicBool::new(false),
            window_limit: sizes.window_limit,
            source_wake: wake()?,
            sink_wake: wake()?,
            stopped: AtomicBool::new(false),
            stillborn: AtomicBool::new(false),
            crew: (threads > 0).then(crew::Crew::default),
            in_flight: AtomicUsize::new(0),
            in_lane: AtomicUsize::new(0),
            source_writes: match (&work, &target) {
                (SourceWork::Encode(_, options, Some(_)), _) => options.libvirt,
                (_, Target::FromWire(_, gate)) => gate.is_some(),
                _ => false,
            },
            direct: AtomicU32::new(direct.to_word()),
            pressure: Pressure::default(),
            late_output: Mutex::default(),
            source_holds: AtomicBool::new(false),
            counters: Counters::default(),
            settings_changed: AtomicBool::new(false),
            settings: Mutex::default(),
            delta: Mutex::default(),
            guest: Mutex::default(),
            tunnel: Mutex::default(),
            refused: AtomicU64::new(0),
            source_result: Mutex::default(),
            sink_result: Mutex::default(),
            listener,
        });
        let wire = match (&work, &target) {
            (SourceWork::FromWire(wire, _), _) | (_, Target::ToWire(wire)) => {
                Some(Arc::clone(wire))
            }
            _ => None,
        };
        let of_spawn = Arc::clone(&shared);
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let wire = wire.clone();
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || {
                    if let Some(wire) = wire {
                        wire.set_schedule();
                    }
                    body();
                })
                .map_err(|error| {
                    of_spawn.stillborn.store(true, Ordering::SeqCst);
                    FlowError::system("start a thread")(error)
                })
        };
        let of_sink = Arc::clone(&shared);
        shared
            .sink
            .open(target, shared.index.clone().map(Scribe::new));
        let sink = spawn(
            "pagewire-sink",
            Box::new(move || {
                // It goes with its thread: where nobody else holds the descriptor, its reader sees the end before anyone
                // is told of it.
                let result = guarded(|| sink::run(&of_sink));
                of_sink.sink.leave();
                let cpu = &of_sink.counters.sink_cpu_ns;
                cpu.store(thread_cpu_ns(), Ordering::Relaxed);
                *lock(&of_sink.sink_result) = Some(result);
                of_sink.tell(Event::SinkEnded);
            }),
        )?;
        let flow = Flow {
            shared: Arc::clone(&shared),
            wire: wire.clone(),
            threads: Mutex::new(vec![sink]),
        };
        for _ in 0..working {
            let shared = Arc::clone(&shared);
            let work = Box::new(move || {
                if let Some(crew) = &shared.crew {
                    crew.work(&shared);
                }
            });
            lock(&flow.threads).push(spawn("pagewire-crew", work)?);
        }
        let source = spawn(
            "pagewire-source",
            Box::new(move || {
                let mut last_word = None;
                let result = guarded(|| match work {
                    SourceWork::Encode(input, options, wire) => {
                        encode::run(&shared, input, options, wire, &mut last_word)
                    }
                    SourceWork::Decode(input, _, file) => {
                        decode::run(&shared, input, file.as_deref())
                    }
                    SourceWork::FromWire(wire, frame_size) => {
                        receive::run(&shared, &wire, frame_size);
                        Err(FlowError::Stopped)
                    }
                });
                let cpu = &shared.counters.source_cpu_ns;
                cpu.store(thread_cpu_ns(), Ordering::Relaxed);
                // Only a session's source has told of its end already.
                shared.source_ended(result);
                if let Some(last_word) = last_word {
                    last_word.say(&shared);
                }
            }),
        )?;
        lock(&flow.threads).push(source);
        Ok(flow)
    }

    /// Gives what comes over a session its output: a socket of QEMU's, or anything that can be written.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_output(&self, output: OwnedFd) -> Result<(), FlowError> {
        *lock(&self.shared.late_output) = Some(Output::new(output)?);
        self.shared.sink.poke();
        Ok(())
    }

    /// What becomes of frames that go to the sink without the listener, from now on: small ones, all where they go as they are,
    /// and all where the flow has its own threads for them.
    pub fn set_direct(&self, direct: Direct) {
        self.shared
            .direct
            .store(direct.to_word(), Ordering::Relaxed);
    }

    /// Makes a slot's frame one that is stored, and that no reference will lead to: nothing is done to its bytes but the
    /// checksum. Returns the slot.
    ///
    /// # Errors
    /// Only if the slot is not one that waits to be packed.
    pub fn store(&self, slot: u32) -> Result<u32, FlowError> {
        guarded(|| {
            let slot = self.shared.arena.claim(slot, "stored")?;
            let slot = pack::store(&self.shared, slot);
            Ok(self.shared.arena.park(slot))
        })
    }

    /// Packs a slot's frame, or stores it where that is no larger, on the calling thread. Returns the slot that now
    /// holds the frame: another one where it was packed.
    ///
    /// # Errors
    /// Only if the slot is not one that waits to be packed.
    pub fn pack(&self, slot: u32, codec: Codec, level: i32) -> Result<u32, FlowError> {
        guarded(|| {
            let slot = self.shared.arena.claim(slot, "packed")?;
            let slot = pack::pack(&self.shared, slot, codec, level)?;
            Ok(self.shared.arena.park(slot))
        })
    }

    /// Checks a slot's payload and unpacks it, on the calling thread. Returns the slot that now holds the raw bytes.
    ///
    /// # Errors
    /// If the payload is damaged.
    pub fn unpack(&self, slot: u32) -> Result<u32, FlowError> {
        guarded(|| {
            let slot = self.shared.arena.claim(slot, "unpacked")?;
            let slot = pack::unpack(&self.shared, slot)?;
            Ok(self.shared.arena.park(slot))
        })
    }

    /// Hands a slot to the sink. Slots must come in the order of their frames.
    ///
    /// # Errors
    /// Only if the slot is not one that waits to be written.
    pub fn write(&self, slot: u32) -> Result<(), FlowError> {
        let slot = self.shared.arena.claim(slot, "written")?;
        self.shared.sink.push(slot);
        self.shared.left_lane();
        Ok(())
    }

    /// Drops a slot's frame without writing it, after a failure.
    pub fn discard(&self, slot: u32) {
        if let Ok(slot) = self.shared.arena.claim(slot, "discarded") {
            self.shared.left_lane();
            self.shared.landed(slot.header.raw_len);
        }
    }

    /// No more slots will come: the sink ends when it has written those that it has, and those of the crew.
    pub fn finish(&self) {
        match &self.shared.crew {
            Some(crew) => crew.end(&self.shared),
            None => self.shared.sink.finish(),
        }
    }

    /// Whether a stream that was decoded had an index that nothing was held against.
    pub fn index_left(&self) -> bool {
        self.shared.index_left.load(Ordering::SeqCst)
    }

    /// What was wrong with the first frame that its crew could not pack or unpack; the sink has written those before it, once
    /// it has ended. Taken by the first call.
    pub fn damage(&self) -> Option<FlowError> {
        self.shared.crew.as_ref().and_then(crew::Crew::failure)
    }

    /// Ends both threads as soon as they can notice it; what is not written by then is dropped. A session's wire stays:
    /// it has ACKs to take and return bytes to give; see [`Wire::close`]. Whoever writes a frame to a link that takes
    /// nothing notices only when the link, or the wire, is closed.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Switches delta off or on, from the source's next read on.
    pub fn set_delta(&self, on: bool) {
        lock(&self.shared.settings).enabled = Some(on);
        self.shared.settings_changed.store(true, Ordering::Release);
    }

    /// Grows or shrinks the page cache, from the source's next read on.
    pub fn set_cache_bytes(&self, bytes: u64) {
        lock(&self.shared.settings).cache_bytes = Some(bytes);
        self.shared.settings_changed.store(true, Ordering::Release);
    }

    /// Whether the wire is about to run dry: no frame waits to be written or is being written, and the link takes at once
    /// what it gets.
    pub fn is_dry(&self) -> bool {
        self.shared.waiting() == 0 && self.wire.as_ref().is_none_or(|wire| wire.is_hungry())
    }

    /// Whether the link is what holds the stream up.
    pub fn is_full(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.is_full())
    }

    /// Whether the other end of the link is, or its QEMU.
    pub fn is_peer_busy(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.is_peer_busy())
    }

    /// What has moved so far.
    pub fn totals(&self) -> Totals {
        let c = &self.shared.counters;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            bytes_in: of(&c.bytes_in),
            bytes_out: of(&c.bytes_out),
            frames: of(&c.frames),
            raw_bytes: of(&c.raw_bytes),
            packed_bytes: of(&c.packed_bytes),
            matched_bytes: of(&c.matched_bytes),
            in_flight: self.shared.in_flight.load(Ordering::Relaxed) as u64,
            queue_seconds: self.shared.pressure.queue_seconds(),
            source_cpu_ns: of(&c.source_cpu_ns),
            codec_cpu_ns: of(&c.codec_cpu_ns),
            sink_cpu_ns: of(&c.sink_cpu_ns),
        }
    }

    /// What delta has done so far, by kinds of page and by passes; as of the source's last read.
    pub fn delta_counters(&self) -> delta::Counters {
        lock(&self.shared.delta).clone()
    }

    /// The guest's RAM and what the cache may take, once the stream has named it.
    pub fn guest(&self) -> Option<GuestReport> {
        lock(&self.shared.guest).clone()
    }

    /// The migrations in a conversation of libvirt's, as of the source's last news.
    pub fn tunnel(&self) -> libvirt::Report {
        lock(&self.shared.tunnel).clone()
    }

    /// Packets of libvirt's that were not let through.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// How the source ended, once it has; taken by the first call.
    pub fn source_result(&self) -> Option<Result<StreamEnd, FlowError>> {
        let mut ended = lock(&self.shared.source_result);
        match std::mem::replace(&mut *ended, SourceResult::Taken) {
            SourceResult::Ended(result) => Some(result),
            before => {
                *ended = before;
                None
            }
        }
    }

    /// How the sink ended, once it has; taken by the first call. When decoding: what the last end mark said.
    pub fn sink_result(&self) -> Option<Result<Option<Ending>, FlowError>> {
        lock(&self.shared.sink_result).take()
    }

    /// Bytes of memory that frames on their way take, at the most, for slots of this many raw bytes.
    pub fn arena_bytes(frame_size: usize, in_flight: u32, workers: u32) -> u64 {
        Arena::bytes(frame_size, in_flight, workers)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(wire) = &self.wire {
            wire.close();
        }
        // The last to hold a flow may be its own listener, on one of these threads; in libvirt's tunnel it must not be: the
        // source's thread calls it while it writes, which the sink's waits for.
        let me = std::thread::current().id();
        for thread in lock(&self.threads).drain(..) {
            if thread.thread().id() != me {
                let _ = thread.join();
            }
        }
    }
}

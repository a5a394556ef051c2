//! Flows: two threads and an arena each, known to every thread of the process by a number.

use crate::archive::NativeIndexOptions;
use crate::session::{NativeDoubt, NativeWire};
use napi::bindgen_prelude::{ClassInstance, FnArgs};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Error, Result, Status};
use napi_derive::napi;
use pagewire_core::archive::{self, Bases, CHAIN_BYTES};
use pagewire_core::codec::Codec;
use pagewire_core::delta;
use pagewire_core::flow::{
    CacheSize, Capacity, DeltaOptions, Direct, EncodeOptions, Event, Flow, FlowError, MatchOptions,
    STRAIGHT_BYTES, StreamEnd,
};
use pagewire_core::frame::Ending;
use pagewire_core::libvirt::Allow;
use pagewire_core::matching::{self, Effort};
use pagewire_core::qemu::Reason;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Every flow of the process: a worker thread, which has loaded this addon too, finds the main thread's flows here.
static FLOWS: Mutex<BTreeMap<u32, Weak<Flow>>> = Mutex::new(BTreeMap::new());

/// The handle of the next flow.
static HANDLES: AtomicU32 = AtomicU32::new(0);

fn flows() -> MutexGuard<'static, BTreeMap<u32, Weak<Flow>>> {
    FLOWS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn coded(error: &FlowError) -> Error<String> {
    Error::new(error.code().to_owned(), error.to_string())
}

/// The codec with this number.
pub(crate) fn codec(number: u8) -> Result<Codec> {
    Codec::from_byte(number)
        .ok_or_else(|| Error::new(Status::InvalidArg, format!("no codec {number}")))
}

/// `(event, slot, work)`: see `events` in src/native.ts.
type Listener =
    ThreadsafeFunction<FnArgs<(u32, u32, u32)>, (), FnArgs<(u32, u32, u32)>, Status, false>;

fn listener(function: Listener) -> Box<dyn Fn(Event) + Send + Sync> {
    Box::new(move |event| {
        let args = match event {
            Event::Data { slot, work } => (0, slot, work),
            Event::Control { slot } => (1, slot, 0),
            Event::Guest => (2, 0, 0),
            Event::SourceEnded => (3, 0, 0),
            Event::SinkEnded => (4, 0, 0),
            Event::OutputWanted => (5, 0, 0),
            Event::Tunnel => (6, 0, 0),
        };
        // The queue needs no bound: there are no more events under way than slots, and a few.
        function.call(args.into(), ThreadsafeFunctionCallMode::NonBlocking);
    })
}

/// How an encoder works; bytes throughout.
#[napi(object)]
pub struct NativeEncodeOptions {
    pub frame_size: u32,
    pub frames: bool,
    pub delta: Option<NativeDeltaOptions>,
    pub libvirt: Option<bool>,
    pub matching: Option<NativeMatchOptions>,
    pub index: Option<NativeIndexOptions>,
    pub in_flight: u32,
    pub packers: u32,
    /// The flow's own threads, which pack as `direct` says; without them the listener sees to that.
    pub threads: Option<u32>,
    pub direct: Option<NativeDirect>,
}

impl NativeEncodeOptions {
    fn capacity(&self) -> Capacity {
        Capacity {
            in_flight: self.in_flight,
            packers: self.packers,
            threads: self.threads.unwrap_or(0),
        }
    }
}

/// What packs frames that do not come by the listener.
#[napi(object)]
pub struct NativeDirect {
    pub codec: u8,
    pub level: i32,
}

impl From<NativeEncodeOptions> for EncodeOptions {
    fn from(options: NativeEncodeOptions) -> Self {
        let delta = options.delta.map(|delta| DeltaOptions {
            max_delta: delta.max_delta as usize,
            cache: match delta.cache_bytes {
                Some(bytes) => CacheSize::Bytes(bytes as u64),
                None => CacheSize::Percent(delta.cache_percent.unwrap_or(100)),
            },
            memory_limit: delta.memory_limit as u64,
            fixed_memory: delta.fixed_memory as u64,
        });
        EncodeOptions {
            frame_size: options.frame_size as usize,
            frames: options.frames,
            delta,
            libvirt: options.libvirt.unwrap_or(false),
            matching: options.matching.map(|matching| MatchOptions {
                window: matching.window as u64,
                effort: effort(matching.deep),
            }),
            index: None,
            direct: options
                .direct
                .map_or(Direct::AsItIs, |direct| packed(direct.codec, direct.level)),
        }
    }
}

/// A number that is no codec's cannot come from our own JavaScript; stored is right for any frame.
fn packed(codec: u8, level: i32) -> Direct {
    Direct::Packed(Codec::from_byte(codec).unwrap_or(Codec::None), level)
}

/// How match works: how far back references lead, in bytes, and whether to look closer.
#[napi(object)]
pub struct NativeMatchOptions {
    pub window: f64,
    pub deep: bool,
}

fn effort(deep: bool) -> Effort {
    if deep { Effort::Deep } else { Effort::Fast }
}

/// How a decoder works; bytes throughout.
#[napi(object)]
pub struct NativeDecodeOptions {
    pub in_flight: u32,
    pub unpackers: u32,
    /// The flow's own threads, which unpack.
    pub threads: u32,
    /// The most that a stream's window may take.
    pub window_limit: f64,
    /// Files that the stream's base may be.
    pub bases: Vec<String>,
    /// A folder where it may be besides.
    pub beside: Option<String>,
    /// The file that the input is, from its first byte on: it is held against its index.
    pub file: Option<String>,
}

/// How a decoder of what the peer of a session sends works; bytes throughout.
#[napi(object)]
pub struct NativeWireDecodeOptions {
    /// The output is a libvirt daemon, which gets only what this lets through.
    pub allow: Option<NativeAllow>,
    /// The most that a frame holds.
    pub frame_size: u32,
    pub in_flight: u32,
    pub unpackers: u32,
    /// The most that the stream's window may take.
    pub window_limit: f64,
}

/// How delta works; bytes throughout. One of `cache_bytes` and `cache_percent` is given.
#[napi(object)]
pub struct NativeDeltaOptions {
    pub max_delta: u32,
    pub cache_bytes: Option<f64>,
    pub cache_percent: Option<u32>,
    pub memory_limit: f64,
    pub fixed_memory: f64,
}

/// See `pagewire_core::flow::Totals`.
#[napi(object)]
pub struct NativeTotals {
    pub bytes_in: f64,
    pub bytes_out: f64,
    pub frames: f64,
    pub raw_bytes: f64,
    pub packed_bytes: f64,
    pub matched_bytes: f64,
    pub in_flight: f64,
    pub queue_ms: f64,
    pub source_cpu_seconds: f64,
    pub codec_cpu_seconds: f64,
    pub sink_cpu_seconds: f64,
}

/// See `wire` of `NativeFlow` in src/native.ts.
#[napi(object)]
pub struct NativeWireLoad {
    pub is_dry: bool,
    pub is_full: bool,
    pub is_peer_busy: bool,
}

/// What a libvirt daemon at the destination lets through; see `pagewire_core::libvirt::Allow`.
#[napi(object)]
pub struct NativeAllow {
    pub all: bool,
    /// Procedures beside those of a migration.
    pub procedures: Vec<u32>,
}

impl From<NativeAllow> for Allow {
    fn from(allow: NativeAllow) -> Self {
        if allow.all {
            Allow::All
        } else {
            Allow::Migration(allow.procedures)
        }
    }
}

/// See `pagewire_core::libvirt::Report`.
#[napi(object)]
pub struct NativeTunnel {
    pub guest: Option<String>,
    pub begun: f64,
    pub complete: f64,
    pub given_up: f64,
    pub refused: f64,
}

/// See `pagewire_core::flow::GuestReport`.
#[napi(object)]
pub struct NativeGuest {
    pub machine: String,
    pub ram_bytes: f64,
    pub blocks: f64,
    pub page_size: u32,
    pub cache_for_all: f64,
    pub cache_wanted: f64,
    pub cache_granted: f64,
    pub fixed_memory: f64,
    pub memory_limit: f64,
}

/// See `PageCounts` in src/native.ts.
#[napi(object)]
pub struct NativePages {
    pub raw: f64,
    pub delta: f64,
    pub skipped: f64,
    pub fill: f64,
    pub xbzrle: f64,
    pub compressed: f64,
}

impl From<&delta::Tally> for NativePages {
    fn from(t: &delta::Tally) -> Self {
        NativePages {
            raw: t.raw as f64,
            delta: t.delta as f64,
            skipped: t.skipped as f64,
            fill: t.fill as f64,
            xbzrle: t.xbzrle_in as f64,
            compressed: t.compressed_in as f64,
        }
    }
}

#[napi(object)]
pub struct NativePass {
    pub start_seconds: f64,
    pub bytes_in: f64,
    pub bytes_out: f64,
    pub pages: NativePages,
}

/// Where parsing ended.
#[napi(object)]
pub struct NativeVerbatim {
    pub reason: String,
    pub offset: f64,
}

#[napi(object)]
pub struct NativeCache {
    pub bytes: f64,
    pub budget: f64,
    pub pages: f64,
    pub hits: f64,
    pub misses: f64,
    pub evictions: f64,
}

/// See `NativeDelta` in src/native.ts.
#[napi(object)]
pub struct NativeDelta {
    pub qemu: Option<bool>,
    pub verbatim: Option<NativeVerbatim>,
    pub pages: NativePages,
    pub delta_bytes: f64,
    pub passes: Vec<NativePass>,
    pub passes_cut: bool,
    pub cache: NativeCache,
}

impl From<delta::Counters> for NativeDelta {
    fn from(c: delta::Counters) -> Self {
        let qemu = match c.verbatim {
            Some(verbatim) => Some(verbatim.reason != Reason::NotQemu),
            None => (c.total.pages() > 0).then_some(true),
        };
        let pass = |p: &delta::Pass| NativePass {
            start_seconds: p.start.as_secs_f64(),
            bytes_in: p.tally.bytes_in as f64,
            bytes_out: p.tally.bytes_out as f64,
            pages: (&p.tally).into(),
        };
        NativeDelta {
            qemu,
            verbatim: c.verbatim.map(|v| NativeVerbatim {
                reason: v.reason.as_str().to_owned(),
                offset: v.offset as f64,
            }),
            pages: (&c.total).into(),
            delta_bytes: c.total.delta_payload as f64,
            passes: c.passes.iter().map(pass).collect(),
            passes_cut: c.passes_merged,
            cache: NativeCache {
                bytes: c.cache.bytes as f64,
                budget: c.cache.budget as f64,
                pages: (c.cache.copies + c.cache.fills) as f64,
                hits: c.cache.hits as f64,
                misses: c.cache.misses as f64,
                evictions: c.cache.evictions as f64,
            },
        }
    }
}

/// How one half of a flow ended. Where it failed, `code` and `message` say why.
#[napi(object)]
pub struct NativeResult {
    pub code: Option<String>,
    pub message: Option<String>,
    /// The number of the frame that the failure is about.
    pub frame: Option<f64>,
    /// Where in the input or output the failure is, in bytes.
    pub offset: Option<f64>,
    /// Whether the original stream was cut off inside what was parsed.
    pub truncated: bool,
    /// Where in the QEMU stream it was cut off.
    pub within: Option<String>,
}

impl NativeResult {
    fn failed(error: &FlowError) -> Self {
        let (frame, offset) = match error {
            FlowError::Frame { number, offset, .. } => (Some(*number as f64), Some(*offset as f64)),
            FlowError::Read { offset, .. }
            | FlowError::Write { offset, .. }
            | FlowError::OutputClosed { offset } => (None, Some(*offset as f64)),
            _ => (None, None),
        };
        let (code, message) = (Some(error.code().to_owned()), Some(error.to_string()));
        NativeResult {
            code,
            message,
            frame,
            offset,
            truncated: false,
            within: None,
        }
    }

    fn ended(ending: Option<Ending>, within: Option<String>) -> Self {
        let truncated = ending == Some(Ending::TruncatedInput);
        NativeResult {
            code: None,
            message: None,
            frame: None,
            offset: None,
            truncated,
            within,
        }
    }
}

/// One stream on its way.
#[napi]
pub struct NativeFlow {
    handle: u32,
    flow: Option<Arc<Flow>>,
}

impl NativeFlow {
    fn register(flow: Flow) -> Self {
        let flow = Arc::new(flow);
        // Never the number of a flow that a worker may still ask for.
        let handle = HANDLES.fetch_add(1, Ordering::Relaxed);
        flows().insert(handle, Arc::downgrade(&flow));
        NativeFlow {
            handle,
            flow: Some(flow),
        }
    }

    fn flow(&self) -> Result<&Flow, String> {
        self.flow.as_deref().ok_or_else(closed)
    }
}

fn closed() -> Error<String> {
    Error::new("STOPPED".to_owned(), "the flow is closed".to_owned())
}

impl Drop for NativeFlow {
    /// JavaScript may let go of a flow without closing it.
    fn drop(&mut self) {
        self.close();
    }
}

#[napi]
impl NativeFlow {
    /// Starts an encoder from one descriptor to the other. The descriptors are duplicated and stay the caller's. `doubt`
    /// follows a QEMU stream that goes out.
    #[napi(factory)]
    pub fn encode(
        input: i32,
        output: i32,
        mut options: NativeEncodeOptions,
        events: Listener,
        doubt: Option<ClassInstance<NativeDoubt>>,
    ) -> Result<Self, String> {
        let (input, output) = (owned(input)?, owned(output)?);
        let capacity = options.capacity();
        let index = options.index.take().map(NativeIndexOptions::builder);
        let index = index.transpose().map_err(|error| coded(&error.into()))?;
        Flow::encode(
            input,
            output,
            EncodeOptions {
                index,
                ..options.into()
            },
            doubt.map(|doubt| doubt.shared()),
            capacity,
            listener(events),
        )
        .map(Self::register)
        .map_err(|e| coded(&e))
    }

    /// Starts an encoder whose frames go to the peer of a session. The descriptor is duplicated and stays the caller's.
    #[napi(factory)]
    pub fn encode_to_wire(
        input: i32,
        wire: &NativeWire,
        options: NativeEncodeOptions,
        events: Listener,
    ) -> Result<Self, String> {
        let (input, wire) = (owned(input)?, Arc::clone(wire.wire()?));
        let capacity = options.capacity();
        Flow::encode_to_wire(input, wire, options.into(), capacity, listener(events))
            .map(Self::register)
            .map_err(|e| coded(&e))
    }

    /// Starts a decoder of what the peer of a session sends; its output comes by `setOutput`.
    #[napi(factory)]
    pub fn decode_from_wire(
        wire: &NativeWire,
        options: NativeWireDecodeOptions,
        events: Listener,
    ) -> Result<Self, String> {
        let wire = Arc::clone(wire.wire()?);
        let capacity = Capacity {
            in_flight: options.in_flight,
            packers: options.unpackers,
            threads: 0,
        };
        Flow::decode_from_wire(
            wire,
            options.allow.map(Into::into),
            options.frame_size,
            capacity,
            options.window_limit as u64,
            listener(events),
        )
        .map(Self::register)
        .map_err(|e| coded(&e))
    }

    /// Gives what comes over a session its output. The descriptor is duplicated and stays the caller's.
    #[napi]
    pub fn set_output(&self, fd: i32) -> Result<(), String> {
        let fd = owned(fd)?;
        self.flow()?.set_output(fd).map_err(|e| coded(&e))
    }

    /// What frames are packed with from now on that do not come by the listener.
    #[napi]
    pub fn set_direct(&self, codec: u8, level: i32) -> Result<(), String> {
        self.flow()?.set_direct(packed(codec, level));
        Ok(())
    }

    /// The same, where they go as they are.
    #[napi]
    pub fn set_direct_stored(&self) -> Result<(), String> {
        self.flow()?.set_direct(Direct::AsItIs);
        Ok(())
    }

    /// Starts a decoder from one descriptor to the other. The descriptors are duplicated and stay the caller's.
    #[napi(factory)]
    pub fn decode(
        input: i32,
        output: i32,
        options: NativeDecodeOptions,
        events: Listener,
    ) -> Result<Self, String> {
        let (input, output) = (owned(input)?, owned(output)?);
        let bases = Bases {
            named: options.bases.into_iter().map(PathBuf::from).collect(),
            beside: options.beside.map(PathBuf::from),
        };
        Flow::decode(
            input,
            output,
            Capacity {
                in_flight: options.in_flight,
                packers: options.unpackers,
                threads: options.threads,
            },
            options.window_limit as u64,
            bases,
            options.file.map(PathBuf::from),
            listener(events),
        )
        .map(Self::register)
        .map_err(|e| coded(&e))
    }

    /// The number by which `pack` and `unpack` find this flow from any thread.
    #[napi(getter)]
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Hands a slot to the sink; in the order of the frames.
    #[napi]
    pub fn write(&self, slot: u32) -> Result<(), String> {
        self.flow()?.write(slot).map_err(|e| coded(&e))
    }

    /// Drops a slot's frame.
    #[napi]
    pub fn discard(&self, slot: u32) {
        if let Some(flow) = &self.flow {
            flow.discard(slot);
        }
    }

    /// No slot will follow those that were written.
    #[napi]
    pub fn finish(&self) {
        if let Some(flow) = &self.flow {
            flow.finish();
        }
    }

    /// Ends both threads as soon as they notice it.
    #[napi]
    pub fn stop(&self) {
        if let Some(flow) = &self.flow {
            flow.stop();
        }
    }

    /// Ends both threads, waits for them and frees the memory; `totals` and the like must be read before.
    #[napi]
    pub fn close(&mut self) {
        flows().remove(&self.handle);
        self.flow = None;
    }

    /// Switches delta off or on.
    #[napi]
    pub fn set_delta(&self, on: bool) -> Result<(), String> {
        self.flow()?.set_delta(on);
        Ok(())
    }

    /// Grows or shrinks the page cache.
    #[napi]
    pub fn set_cache_bytes(&self, bytes: f64) -> Result<(), String> {
        self.flow()?.set_cache_bytes(bytes as u64);
        Ok(())
    }

    /// How the wire stands.
    #[napi]
    pub fn wire(&self) -> NativeWireLoad {
        let flow = self.flow.as_ref();
        NativeWireLoad {
            is_dry: flow.is_some_and(|flow| flow.is_dry()),
            is_full: flow.is_some_and(|flow| flow.is_full()),
            is_peer_busy: flow.is_some_and(|flow| flow.is_peer_busy()),
        }
    }

    #[napi]
    pub fn totals(&self) -> Result<NativeTotals, String> {
        let t = self.flow()?.totals();
        let seconds = |ns: u64| ns as f64 / 1e9;
        Ok(NativeTotals {
            bytes_in: t.bytes_in as f64,
            bytes_out: t.bytes_out as f64,
            frames: t.frames as f64,
            raw_bytes: t.raw_bytes as f64,
            packed_bytes: t.packed_bytes as f64,
            matched_bytes: t.matched_bytes as f64,
            in_flight: t.in_flight as f64,
            queue_ms: t.queue_seconds * 1e3,
            source_cpu_seconds: seconds(t.source_cpu_ns),
            codec_cpu_seconds: seconds(t.codec_cpu_ns),
            sink_cpu_seconds: seconds(t.sink_cpu_ns),
        })
    }

    #[napi]
    pub fn delta(&self) -> Result<NativeDelta, String> {
        Ok(self.flow()?.delta_counters().into())
    }

    #[napi]
    pub fn guest(&self) -> Result<Option<NativeGuest>, String> {
        Ok(self.flow()?.guest().map(|g| NativeGuest {
            machine: g.machine,
            ram_bytes: g.ram_bytes as f64,
            blocks: g.blocks as f64,
            page_size: g.page_size,
            cache_for_all: g.cache_for_all as f64,
            cache_wanted: g.cache_wanted as f64,
            cache_granted: g.cache_granted as f64,
            fixed_memory: g.fixed_memory as f64,
            memory_limit: g.memory_limit as f64,
        }))
    }

    #[napi]
    pub fn tunnel(&self) -> Result<NativeTunnel, String> {
        let flow = self.flow()?;
        let report = flow.tunnel();
        Ok(NativeTunnel {
            guest: report.guest,
            begun: report.begun as f64,
            complete: report.complete as f64,
            given_up: report.given_up as f64,
            refused: flow.refused() as f64,
        })
    }

    #[napi]
    pub fn source_result(&self) -> Result<Option<NativeResult>, String> {
        Ok(self.flow()?.source_result().map(|result| match result {
            Ok(StreamEnd { ending, within }) => NativeResult::ended(Some(ending), within),
            Err(error) => NativeResult::failed(&error),
        }))
    }

    /// Whether a stream that was decoded had an index that nothing was held against.
    #[napi]
    pub fn index_left(&self) -> Result<bool, String> {
        Ok(self.flow()?.index_left())
    }

    /// What was wrong with the first frame that the flow's own threads could not pack or unpack.
    #[napi]
    pub fn damage(&self) -> Result<Option<NativeResult>, String> {
        let damage = self.flow()?.damage();
        Ok(damage.as_ref().map(NativeResult::failed))
    }

    #[napi]
    pub fn sink_result(&self) -> Result<Option<NativeResult>, String> {
        Ok(self.flow()?.sink_result().map(|result| match result {
            Ok(ending) => NativeResult::ended(ending, None),
            Err(error) => NativeResult::failed(&error),
        }))
    }
}

/// What is kept of a base and of its bases while they are read, in bytes.
#[napi]
pub fn base_bytes() -> f64 {
    CHAIN_BYTES as f64
}

/// What making an index takes at the most, in bytes, beside what is kept of a base.
#[napi]
pub fn index_bytes(frame_size: u32, in_flight: u32, packers: u32, has_base: bool) -> f64 {
    archive::index_bytes(frame_size as usize, in_flight, packers, has_base) as f64
}

/// Up to so many raw bytes a frame is packed and unpacked by the thread that has it.
#[napi]
pub fn straight_bytes() -> u32 {
    STRAIGHT_BYTES
}

/// Bytes that frames on their way take at the most.
#[napi]
pub fn arena_bytes(frame_size: u32, in_flight: u32, packers: u32) -> f64 {
    Flow::arena_bytes(frame_size as usize, in_flight, packers) as f64
}

/// Bytes that match takes in an encoder, beside frames of so many raw bytes in all on their way.
#[napi]
pub fn match_bytes(window: f64, deep: bool, in_flight: f64) -> f64 {
    matching::encoder_bytes(window as u64, effort(deep), in_flight as u64) as f64
}

/// A pipe: the descriptors to read from and to write to, which the caller closes.
#[napi]
pub fn pipe() -> Result<Vec<i32>> {
    let (read, write) = std::io::pipe()?;
    Ok(vec![
        OwnedFd::from(read).into_raw_fd(),
        OwnedFd::from(write).into_raw_fd(),
    ])
}

/// A descriptor of our own for a number that JavaScript gave.
pub(crate) fn owned(fd: i32) -> Result<OwnedFd, String> {
    let failed = |code: &str, why: &dyn std::fmt::Display| {
        Error::new(code.to_owned(), format!("file descriptor {fd}: {why}"))
    };
    if fd < 0 {
        return Err(failed("BAD_DESCRIPTOR", &"not the number of a descriptor"));
    }
    // SAFETY: the borrow lasts for this one call, which fails if the descriptor is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map_err(|error| {
        // The number is a good one where there is only no second one to be had.
        let is_bad = Errno::from_io_error(&error) == Some(Errno::BADF);
        failed(if is_bad { "BAD_DESCRIPTOR" } else { "INTERNAL" }, &error)
    })
}

/// What packing or unpacking made of a slot. A failure is data here, since errors lose their code between threads.
#[napi(object)]
pub struct NativeOutcome {
    /// The slot that holds the result; absent where it failed.
    pub slot: Option<u32>,
    pub failure: Option<NativeResult>,
}

fn outcome(
    handle: u32,
    work: impl FnOnce(&Flow) -> std::result::Result<u32, FlowError>,
) -> NativeOutcome {
    let flow = flows().get(&handle).and_then(Weak::upgrade);
    match flow.as_deref().ok_or(FlowError::Stopped).and_then(work) {
        Ok(slot) => NativeOutcome {
            slot: Some(slot),
            failure: None,
        },
        Err(error) => NativeOutcome {
            slot: None,
            failure: Some(NativeResult::failed(&error)),
        },
    }
}

/// Packs a slot's frame on the calling thread.
#[napi]
pub fn pack(handle: u32, slot: u32, codec: u8, level: i32) -> NativeOutcome {
    // A number that is no codec's cannot come from our own JavaScript; stored is right for any frame.
    let codec = Codec::from_byte(codec).unwrap_or(Codec::None);
    outcome(handle, |flow| flow.pack(slot, codec, level))
}

/// Makes a slot's frame one that is stored, and that no reference will lead to.
#[napi]
pub fn store(handle: u32, slot: u32) -> NativeOutcome {
    outcome(handle, |flow| flow.store(slot))
}

/// Checks and unpacks a slot's frame on the calling thread.
#[napi]
pub fn unpack(handle: u32, slot: u32) -> NativeOutcome {
    outcome(handle, |flow| flow.unpack(slot))
}

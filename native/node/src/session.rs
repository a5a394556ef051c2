//! Wires: one end of one connection of a migration, over all its links.

use crate::net::NativeLink;
use napi::bindgen_prelude::{ClassInstance, FnArgs};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Error, Result, Status as NapiStatus};
use napi_derive::napi;
use pagewire_core::flow::{FlowError, SharedDoubt};
use pagewire_core::session::{Bandwidth, Departure, Event, Options, Side, Wire, WireError};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

type Listener = ThreadsafeFunction<FnArgs<(u32,)>, (), FnArgs<(u32,)>, NapiStatus, false>;

/// `(code, reason)`: why a copy failed, if it did.
type Ended = ThreadsafeFunction<Why, (), Why, NapiStatus, false>;
type Why = FnArgs<(Option<String>, Option<String>)>;

/// See `pagewire_core::session::Options`.
#[napi(object)]
pub struct NativeWireOptions {
    pub channel: u32,
    pub source: bool,
    pub replay_bytes: f64,
    pub silence_ms: u32,
    pub heartbeat_ms: u32,
    pub libvirt: Option<bool>,
}

/// See `WireStatus` in src/native.ts.
#[napi(object)]
pub struct NativeWireStatus {
    pub linked: bool,
    pub lost_reason: Option<String>,
    pub failure: Option<String>,
    pub sent: f64,
    pub acked: f64,
    pub received: f64,
    pub undelivered: f64,
    pub unacked_bytes: f64,
    pub rtt_ms: Option<f64>,
    pub queue_bytes: f64,
    pub queue_ms: f64,
    pub bytes_per_second: f64,
    pub confirmed: bool,
    pub ended: bool,
    pub not_taken: Option<String>,
    pub peer_bye: bool,
    pub peer_abort: Option<String>,
    pub daemon_gone: bool,
    pub settled: bool,
    pub doubt: bool,
    pub postcopy: bool,
    pub return_bytes: f64,
    pub wire_bytes_out: f64,
    pub wire_bytes_in: f64,
    pub silent_ms: f64,
}

fn coded(error: &WireError) -> Error<String> {
    Error::new(error.code().to_owned(), error.to_string())
}

/// Of a socket of QEMU's that should tell whether its peer has closed it.
fn not_seen(error: io::Error) -> Error<String> {
    coded(&WireError::system("look at QEMU's socket")(error))
}

/// A limit that the wires of a session share.
#[napi]
pub struct NativeBandwidth {
    bandwidth: Arc<Bandwidth>,
}

#[napi]
impl NativeBandwidth {
    /// No limit yet.
    #[napi(constructor)]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        NativeBandwidth {
            bandwidth: Arc::default(),
        }
    }

    /// In bytes a second; 0: no limit.
    #[napi]
    pub fn set(&self, bytes_per_second: f64) {
        self.bandwidth.set(bytes_per_second as u64);
    }
}

/// One end of one connection of a migration.
#[napi]
pub struct NativeWire {
    wire: Option<Arc<Wire>>,
}

impl NativeWire {
    /// For a flow, which holds it as long as it lives.
    pub(crate) fn wire(&self) -> Result<&Arc<Wire>, String> {
        self.wire.as_ref().ok_or_else(|| coded(&WireError::Closed))
    }
}

#[napi]
impl NativeWire {
    /// A wire without a link yet.
    #[napi(factory)]
    pub fn create(
        options: NativeWireOptions,
        bandwidth: &NativeBandwidth,
        events: Listener,
    ) -> Result<Self, String> {
        let core = Options {
            channel: options.channel as u16,
            side: if options.source {
                Side::Source
            } else {
                Side::Destination
            },
            replay_bytes: options.replay_bytes as usize,
            silence: Duration::from_millis(options.silence_ms.into()),
            heartbeat: Duration::from_millis(options.heartbeat_ms.into()),
            libvirt: options.libvirt.unwrap_or(false),
        };
        let listener = Box::new(move |event| {
            let number = match event {
                Event::Lost => 0,
                Event::Changed => 1,
                Event::Failed => 2,
            };
            events.call(
                FnArgs::from((number,)),
                ThreadsafeFunctionCallMode::NonBlocking,
            );
        });
        let wire = Wire::new(core, Arc::clone(&bandwidth.bandwidth), listener)
            .map_err(|error| coded(&error))?;
        Ok(NativeWire { wire: Some(wire) })
    }

    /// Goes on over this link, which is the wire's from here on.
    #[napi]
    pub fn attach(&self, link: &NativeLink, peer_received: f64) -> Result<(), String> {
        let link = link.link()?;
        self.wire()?
            .attach(link, peer_received as u64)
            .map_err(|error| coded(&error))
    }

    /// Frames of the peer's direction that are here whole.
    #[napi]
    pub fn received(&self) -> Result<f64, String> {
        Ok(self.wire()?.received() as f64)
    }

    /// Gives the link up, as if it had broken.
    #[napi]
    pub fn drop_link(&self, reason: String) -> Result<(), String> {
        self.wire()?.drop_link(&reason);
        Ok(())
    }

    /// Carries the return path by this socket of QEMU's; the descriptor is duplicated and stays the caller's.
    #[napi]
    pub fn start_return(&self, fd: i32) -> Result<(), String> {
        let fd = crate::flow::owned(fd)?;
        self.wire()?.start_return(fd).map_err(|error| coded(&error))
    }

    /// Whether the source's QEMU has closed this socket of its without the answer that it waits for.
    #[napi]
    pub fn has_hung_up(&self, fd: i32) -> Result<bool, String> {
        let fd = crate::flow::owned(fd)?;
        self.wire()?.has_hung_up(fd.as_fd()).map_err(not_seen)
    }

    /// Gives no further frame of the stream to a link, and tells whether those that were given may let the destination's guest
    /// run.
    #[napi]
    pub fn stop_sending(&self) -> Result<bool, String> {
        Ok(self.wire()?.stop_sending())
    }

    /// Tells the peer that all is done.
    #[napi]
    pub fn bye(&self) -> Result<(), String> {
        self.wire()?.bye();
        Ok(())
    }

    /// Tells the peer that this end gives up, if that can be done at once; returns whether it was told.
    #[napi]
    pub fn abort(&self, reason: String) -> Result<bool, String> {
        Ok(self.wire()?.abort(&reason))
    }

    /// Tells the source's libvirt daemon, where it is one, why what it waits for has failed.
    #[napi]
    pub fn fail_calls(&self, reason: String) -> Result<bool, String> {
        Ok(self.wire()?.fail_calls(&reason))
    }

    /// Ends all that waits, at once. The threads are waited for when nothing holds the wire any more.
    #[napi]
    pub fn close(&mut self) {
        if let Some(wire) = self.wire.take() {
            wire.close();
        }
    }

    /// Whether the guest is on its way, sent or not: 0 if not, 1 if it is about to leave, 2 if it must get there.
    #[napi]
    pub fn departure(&self) -> Result<u32, String> {
        Ok(match self.wire()?.departure() {
            Departure::None => 0,
            Departure::Leaving => 1,
            Departure::InTransit => 2,
        })
    }

    /// How it stands.
    #[napi]
    pub fn status(&self) -> Result<NativeWireStatus, String> {
        let s = self.wire()?.status();
        Ok(NativeWireStatus {
            linked: s.linked,
            lost_reason: s.lost_reason,
            failure: s.failure,
            sent: s.sent as f64,
            acked: s.acked as f64,
            received: s.received as f64,
            undelivered: s.undelivered as f64,
            unacked_bytes: s.unacked_bytes as f64,
            rtt_ms: s.round_trip.map(|seconds| seconds * 1e3),
            queue_bytes: s.queue_bytes as f64,
            queue_ms: s.queue_seconds * 1e3,
            bytes_per_second: s.bytes_per_second,
            confirmed: s.confirmed,
            ended: s.ended,
            not_taken: s.not_taken,
            peer_bye: s.peer_bye,
            peer_abort: s.peer_abort,
            daemon_gone: s.daemon_gone,
            settled: s.settled,
            doubt: s.doubt,
            postcopy: s.postcopy,
            return_bytes: s.return_bytes as f64,
            wire_bytes_out: s.wire_bytes_out as f64,
            wire_bytes_in: s.wire_bytes_in as f64,
            silent_ms: s.silent_seconds * 1e3,
        })
    }
}

/// Whether both guests may run, where no session follows that: `NativeFlow.encode` and `NativeCopy` tell it what passes.
#[napi]
pub struct NativeDoubt {
    doubt: SharedDoubt,
}

impl NativeDoubt {
    pub(crate) fn shared(&self) -> SharedDoubt {
        Arc::clone(&self.doubt)
    }
}

#[napi]
impl NativeDoubt {
    /// Nothing has passed.
    #[napi(constructor)]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        NativeDoubt {
            doubt: Arc::default(),
        }
    }

    /// Whether QEMU must not see the end of its connection now.
    #[napi]
    pub fn must_hold(&self) -> bool {
        let doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        doubt.must_hold(u64::MAX)
    }

    /// Whether the guest has left in postcopy's package, and needs the source for its pages.
    #[napi]
    pub fn is_postcopy(&self) -> bool {
        let doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        doubt.switchover().is_postcopy()
    }

    /// Whether the migration has failed at the destination though all of it went over, and how that is known.
    #[napi]
    pub fn failure(&self) -> Option<String> {
        let doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        doubt.failure()
    }

    /// Whether QEMU has closed this socket without the answer that it waits for. The descriptor stays the caller's.
    #[napi]
    pub fn has_hung_up(&self, qemu: i32) -> Result<bool, String> {
        let qemu = crate::flow::owned(qemu)?;
        let doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        doubt.has_hung_up(qemu.as_fd()).map_err(not_seen)
    }
}

/// Answers the calls that a libvirt daemon has made over a connection that comes to nothing. The descriptor stays the
/// caller's.
#[napi]
pub fn refuse_calls(fd: i32, reason: String) -> Result<bool, String> {
    let fd = crate::flow::owned(fd)?;
    Ok(pagewire_core::session::refuse_calls(&fd, &reason))
}

/// Copies one direction between two sockets until its end, and hands the end on as a half-close.
#[napi]
pub struct NativeCopy {
    copy: Option<pagewire_core::flow::Copy>,
}

#[napi]
impl NativeCopy {
    /// Starts to copy. The descriptors are duplicated and stay the caller's. `ended` gets code and reason where it failed;
    /// `returning` follows it, where it is the return path.
    #[napi(factory)]
    pub fn start(
        from: i32,
        to: i32,
        ended: Ended,
        returning: Option<ClassInstance<NativeDoubt>>,
    ) -> Result<Self, String> {
        let (from, to) = (crate::flow::owned(from)?, crate::flow::owned(to)?);
        let ended = Box::new(move |error: Option<FlowError>| {
            let why = error.map(|error| (error.code().to_owned(), error.to_string()));
            let (code, reason) = why.unzip();
            ended.call(
                FnArgs::from((code, reason)),
                ThreadsafeFunctionCallMode::NonBlocking,
            );
        });
        let returning = returning.map(|doubt| doubt.shared());
        let copy = pagewire_core::flow::Copy::start(from, to, returning, ended)
            .map_err(|error| crate::flow::coded(&error))?;
        Ok(NativeCopy { copy: Some(copy) })
    }

    /// Bytes so far.
    #[napi]
    pub fn bytes(&self) -> f64 {
        self.copy.as_ref().map_or(0.0, |copy| copy.bytes() as f64)
    }

    /// Ends it.
    #[napi]
    pub fn close(&mut self) {
        self.copy = None;
    }
}

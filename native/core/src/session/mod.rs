//! One end of one connection of a migration, over all the links that carry it in turn.
//!
//! ```text
//!          the flow's sink ──frames──▶ replay ──▶ link ═══▶ receiver ──▶ the flow's source      (source → destination)
//!  QEMU ◀── returning thread ◀── receiver ◀═══ link ◀── replay ◀──frames── returning thread ◀── QEMU   (and back)
//! ```
//! In libvirt's tunnel what is called QEMU here is a daemon.
//!
//! A [`Wire`] is what stays when a link breaks: the numbers of the frames, and those that the peer has not acknowledged.
//! Each direction is a stream of docs/format.md with its own sequence; the session's own frames (ACK, PING, PONG, DOUBT,
//! BYE) stand between them. Which link comes next, and when to give up, is for the listener to decide ([`Event`]).
//!
//! ACK means written to the QEMU behind the peer: what is not acknowledged is what the guest would miss, so it is kept
//! until then, and sent again over the next link from the first frame that the peer does not have whole.

mod daemon;
mod keeper;
mod outgoing;
mod pace;
mod receiver;
mod returning;
mod wait;
mod watch;

pub use daemon::refuse_calls;
pub use pace::Bandwidth;
pub(crate) use receiver::{Broken, Receiver};
pub use watch::Departure;

use crate::descriptor::Wake;
use crate::fault::caught;
use crate::frame::{FrameType, Header, SessionFrame};
use crate::libvirt;
use crate::lock::lock;
use crate::net::Link;
use crate::schedule::wait_for_turns;
use daemon::Daemon;
use outgoing::Outgoing;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;
use wait::{Holdup, Waits};
use watch::Watch;

/// Which end of a migration this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// QEMU sends the guest from here.
    Source,
    /// QEMU receives the guest here.
    Destination,
}

/// How a wire works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The connection's number in its session: 0 is QEMU's main connection.
    pub channel: u16,
    /// Which end this is.
    pub side: Side,
    /// The most bytes that are kept because the peer has not acknowledged them.
    pub replay_bytes: usize,
    /// A link on which nothing comes for this long is lost.
    pub silence: Duration,
    /// A link on which nothing was sent for this long gets a PING.
    pub heartbeat: Duration,
    /// What is carried is the conversation of two libvirt daemons, not a QEMU's stream.
    pub libvirt: bool,
}

/// What a wire tells its listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The link is lost ([`Status::lost_reason`]); another one may be attached.
    Lost,
    /// [`Wire::status`] has something new: something was confirmed, ended, or came into doubt.
    Changed,
    /// What the peer sends cannot be gone on with ([`Status::failure`]).
    Failed,
}

/// Why a wire cannot go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WireError {
    /// [`Wire::close`] was called.
    #[error("stopped")]
    Closed,
    /// The peer has more than was sent.
    #[error("the peer says that it has {peer} frames of {next}: the two are not of one session")]
    Replay {
        /// Frames that the peer says it has.
        peer: u64,
        /// Frames that there are.
        next: u64,
    },
    /// Frames that are whole and still cannot be right.
    #[error("{0}")]
    Protocol(String),
    /// Something that the system should always be able to do.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was being done.
        operation: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl WireError {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            WireError::Closed => "STOPPED",
            WireError::Replay { .. } | WireError::Protocol(_) => "SESSION_FAILED",
            WireError::System { .. } => "INTERNAL",
        }
    }

    /// What the system's error becomes where it comes of this.
    pub fn system(operation: &'static str) -> impl FnOnce(io::Error) -> WireError {
        move |source| WireError::System { operation, source }
    }
}

/// What a wire has done, and how it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// There is a link.
    pub linked: bool,
    /// Why the last link was lost.
    pub lost_reason: Option<String>,
    /// Why nothing can go on.
    pub failure: Option<String>,
    /// Frames of our direction that are, or were, to be sent.
    pub sent: u64,
    /// Frames of our direction that the peer has written to its QEMU.
    pub acked: u64,
    /// Frames of the peer's direction that have come whole.
    pub received: u64,
    /// Those of them that our QEMU does not have yet.
    pub undelivered: u64,
    /// Bytes kept because the peer has not acknowledged them.
    pub unacked_bytes: u64,
    /// The last round trip, in seconds.
    pub round_trip: Option<f64>,
    /// Bytes that wait before the link, in our buffers and the kernel's.
    pub queue_bytes: u64,
    /// The same, in seconds of what the link takes.
    pub queue_seconds: f64,
    /// What the link takes while it is kept busy, in bytes a second; 0 until that was seen.
    pub bytes_per_second: f64,
    /// Our direction has ended, and the peer has written all of it to its QEMU.
    pub confirmed: bool,
    /// The peer's direction has ended, and is written to our QEMU.
    pub ended: bool,
    /// Of the source, once both are so: the destination's QEMU has all of it, and does not run the guest.
    pub not_taken: Option<String>,
    /// The peer said that all is done.
    pub peer_bye: bool,
    /// The peer gave up, and why.
    pub peer_abort: Option<String>,
    /// The destination's daemon has closed its connection before the migration was settled; of the source: when ours still waited
    /// for it.
    pub daemon_gone: bool,
    /// In libvirt's tunnel: a migration has had its last answer, and no other has begun.
    pub settled: bool,
    /// The destination's guest may run and the source's QEMU does not know it, or the guest is on its way between the two.
    pub doubt: bool,
    /// Of the source: the guest has left in postcopy's package, and needs the source for its pages.
    pub postcopy: bool,
    /// Bytes of the return path that were carried.
    pub return_bytes: u64,
    /// Bytes written to links.
    pub wire_bytes_out: u64,
    /// Bytes read from links.
    pub wire_bytes_in: u64,
    /// Seconds since anything came.
    pub silent_seconds: f64,
}

/// The link of the moment.
#[derive(Default)]
struct Links {
    current: Option<Arc<Link>>,
    /// How many there have been.
    generation: u64,
    lost_reason: Option<String>,
    /// Why the link cannot be written any more; what it still holds is read first.
    write_failed: Option<String>,
}

impl Links {
    fn write_error(&self, generation: u64) -> Option<String> {
        if self.generation == generation {
            self.write_failed.clone()
        } else {
            None
        }
    }
}

#[derive(Default)]
struct Flags {
    failure: Option<String>,
    confirmed: bool,
    ended: bool,
    peer_bye: bool,
    peer_abort: Option<String>,
    /// Of the source: no further frame of the stream is given to a link.
    stopped: bool,
    /// Of the source: what the daemon says can no longer be read, and the guest may run at the destination.
    unread: bool,
    daemon_gone: bool,
    /// Of the destination: migrations whose preparation was called, and doubts of which the source has said that they are over.
    prepared: u64,
    doubts_over: u64,
    /// On the source: from when on it is told from the streams; on the destination as the source says.
    doubt: bool,
}

impl Flags {
    /// Of the destination, as in [`Status`]. Where a migration had no doubt, as it was refused or cancelled, that is never known.
    fn settled(&self) -> bool {
        self.prepared > 0 && self.doubts_over == self.prepared
    }
}

/// [`Wire::stop_sending`] was called.
struct Stopped;

/// What the threads of a wire share.
struct Shared {
    options: Options,
    links: Mutex<Links>,
    /// There is a new link, or none will come.
    linked: Condvar,
    outgoing: Outgoing,
    /// Of what we send.
    holdup: Holdup,
    flags: Mutex<Flags>,
    /// The source follows both directions to know whether the destination's guest may run.
    doubt: Mutex<Watch>,
    daemon: Daemon,
    /// Wakes the thread that reads from the link, and the one that writes to QEMU.
    reader_wake: Wake,
    /// Wakes the thread that copies the return path.
    return_wake: Wake,
    keeper: keeper::Duties,
    /// Frames of the peer's direction that have come whole, and that are written to QEMU.
    received: AtomicU64,
    delivered: AtomicU64,
    /// Ours for the bytes of links.
    waits: Waits,
    return_bytes: AtomicU64,
    wire_bytes_in: AtomicU64,
    /// Nanoseconds from `started` to when something came last.
    heard_at: AtomicU64,
    /// Nanoseconds; 0: not known.
    round_trip: AtomicU64,
    started: Instant,
    closed: AtomicBool,
    listener: Box<dyn Fn(Event) + Send + Sync>,
}

impl Shared {
    fn closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn tell(&self, event: Event) {
        (self.listener)(event);
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// For each thread that works for the wire. Two daemons, two QEMUs and the threads between them wake each other for each
    /// packet of a migration in libvirt's tunnel. On two processors the far daemon polled 9600 times in 169 MB without this, and
    /// 5600 times with it, as often as without proxies.
    /// QEMU's own connections carry what a guest may wait for, page by page: that is not made to wait.
    fn set_schedule(&self) {
        if self.options.libvirt {
            wait_for_turns();
        }
    }

    /// The link of the moment and its number.
    fn link(&self) -> Option<(Arc<Link>, u64)> {
        let links = lock(&self.links);
        links
            .current
            .as_ref()
            .map(|link| (Arc::clone(link), links.generation))
    }

    /// The same, unless it takes nothing any more.
    fn link_to_write(&self) -> Option<(Arc<Link>, u64)> {
        let links = lock(&self.links);
        match (&links.current, &links.write_failed) {
            (Some(link), None) => Some((Arc::clone(link), links.generation)),
            _ => None,
        }
    }

    /// This link cannot be written any more. Whoever reads from it takes what the peer sent before, and then says that
    /// it is lost: a return byte that came may be the one that decides which guest runs.
    fn write_failed(&self, generation: u64, error: &io::Error) {
        {
            let mut links = lock(&self.links);
            if links.generation == generation {
                links
                    .write_failed
                    .get_or_insert_with(|| receiver::describe(error));
            }
        }
        self.reader_wake.signal();
    }

    /// Waits for a link that is not the one with this number.
    fn next_link(&self, not: u64) -> Result<(Arc<Link>, u64), WireError> {
        let mut links = lock(&self.links);
        loop {
            if self.closed() {
                return Err(WireError::Closed);
            }
            if let Some(link) = &links.current {
                if links.generation != not {
                    return Ok((Arc::clone(link), links.generation));
                }
            }
            links = self
                .linked
                .wait(links)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// This link is of no more use. Only the first to say so is heard.
    fn lost(&self, generation: u64, reason: String) {
        {
            let mut links = lock(&self.links);
            if links.generation != generation || links.current.is_none() {
                return;
            }
            if let Some(link) = links.current.take() {
                link.shutdown();
            }
            links.lost_reason = Some(reason);
        }
        self.wake_all();
        if !self.closed() {
            self.tell(Event::Lost);
        }
    }

    /// What came cannot be gone on with, over whatever link.
    fn failed(&self, reason: String) {
        let first = {
            let mut flags = lock(&self.flags);
            let first = flags.failure.is_none();
            flags.failure.get_or_insert(reason);
            first
        };
        if first && !self.closed() {
            self.tell(Event::Failed);
        }
    }

    fn flag(&self, set: impl FnOnce(&mut Flags)) {
        set(&mut lock(&self.flags));
        self.tell(Event::Changed);
    }

    fn wake_all(&self) {
        self.linked.notify_all();
        self.outgoing.wake();
        self.reader_wake.signal();
        self.return_wake.signal();
        self.keeper.wake();
    }

    /// A frame of the peer's direction is written to QEMU.
    fn delivered(&self, frames: u64, urgent: bool) {
        self.delivered.store(frames, Ordering::SeqCst);
        self.keeper.acknowledge(urgent);
    }

    /// A frame that stands outside the stream's sequence.
    fn frame(&self, kind: FrameType, payload: &[u8]) -> Vec<u8> {
        let mut header = Header::stored(kind, 0, 0, payload);
        header.channel = self.options.channel;
        [&header.to_bytes(), payload].concat()
    }

    /// Sends one of the session's own frames over the link of the moment, if there is one.
    fn send_session(&self, kind: SessionFrame, payload: &[u8]) {
        let frame = || self.frame(FrameType::Session(kind), payload);
        self.outgoing.write_now(self, frame);
    }

    /// Whether there is a doubt; to be made when it is written: one that comes up meanwhile is not taken back.
    fn doubt_frame(&self) -> Vec<u8> {
        let doubt = lock(&self.flags).doubt;
        self.frame(FrameType::Session(SessionFrame::Doubt), &[doubt.into()])
    }

    /// Called before bytes of the stream are given to a link, which they are not where it fails: the frame that must go before
    /// them, where they are the first that may let the destination's guest run.
    fn comes_into_doubt(&self, upto: u64) -> Result<Option<Vec<u8>>, Stopped> {
        if self.options.side == Side::Destination {
            return Ok(None);
        }
        let doubt = lock(&self.doubt);
        let mut flags = lock(&self.flags);
        if flags.stopped {
            return Err(Stopped);
        }
        if flags.doubt || !doubt.must_hold(upto) {
            return Ok(None);
        }
        flags.doubt = true;
        drop((doubt, flags));
        self.tell(Event::Changed);
        Ok(Some(
            self.frame(FrameType::Session(SessionFrame::Doubt), &[1]),
        ))
    }

    /// Whether QEMU here hears no answers any more, over whichever link: nothing comes from the peer, or nothing goes to it.
    fn is_mute(&self) -> bool {
        let flags = lock(&self.flags);
        let goes = !flags.stopped && !flags.unread;
        !goes || flags.daemon_gone || flags.peer_abort.is_some() || flags.failure.is_some()
    }

    /// QEMU has what came back: ends the doubt, if that was the answer.
    fn settle_doubt(&self, answer: impl FnOnce(&mut Watch)) {
        {
            let mut doubt = lock(&self.doubt);
            answer(&mut doubt);
            let mut flags = lock(&self.flags);
            if !flags.doubt || doubt.must_hold(u64::MAX) {
                return;
            }
            flags.doubt = false;
        }
        self.outgoing.write_now(self, || self.doubt_frame());
        self.tell(Event::Changed);
    }
}

/// One end of one connection of a migration. Stops and joins its threads when dropped.
pub struct Wire {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Wire {
    /// A wire without a link yet. `bandwidth` limits what it writes together with the others of its session.
    ///
    /// # Errors
    /// If the system has no descriptor or thread for it.
    pub fn new(
        options: Options,
        bandwidth: Arc<Bandwidth>,
        listener: Box<dyn Fn(Event) + Send + Sync>,
    ) -> Result<Arc<Self>, WireError> {
        let wake = || Wake::new().map_err(WireError::system("make an eventfd"));
        let shared = Arc::new(Shared {
            options,
            links: Mutex::default(),
            linked: Condvar::new(),
            outgoing: Outgoing::new(options.replay_bytes, bandwidth)
                .map_err(WireError::system("make an eventfd"))?,
            holdup: Holdup::default(),
            flags: Mutex::default(),
            doubt: Mutex::new(Watch::new(options.libvirt)),
            daemon: Daemon::default(),
            reader_wake: wake()?,
            return_wake: wake()?,
            keeper: keeper::Duties::default(),
            received: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            waits: Waits::default(),
            return_bytes: AtomicU64::new(0),
            wire_bytes_in: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
            started: Instant::now(),
            closed: AtomicBool::new(false),
            listener,
        });
        let wire = Arc::new(Wire {
            shared: Arc::clone(&shared),
            threads: Mutex::default(),
        });
        wire.spawn("pagewire-keeper", move || keeper::run(&shared))?;
        Ok(wire)
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), WireError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                shared.set_schedule();
                if let Err(message) = caught(body) {
                    shared.failed(format!("a fault in pagewire itself: {message}"));
                }
            })
            .map_err(WireError::system("start a thread"))?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Goes on over this link. `peer_received` frames of our direction are with the peer; what comes after them is sent
    /// again.
    ///
    /// # Errors
    /// If the peer has more than was sent.
    pub fn attach(&self, link: Arc<Link>, peer_received: u64) -> Result<(), WireError> {
        let shared = &self.shared;
        if shared.closed() {
            return Err(WireError::Closed);
        }
        // The link before it, if it still seems to stand: the peer has given it up.
        let old = lock(&shared.links).current.take();
        if let Some(old) = old {
            old.shutdown();
            shared.reader_wake.signal();
        }
        shared.outgoing.rewind(peer_received)?;
        {
            let mut links = lock(&shared.links);
            links.current = Some(link);
            links.generation += 1;
            links.lost_reason = None;
            links.write_failed = None;
        }
        shared.heard_at.store(shared.now_ns(), Ordering::Relaxed);
        shared.linked.notify_all();
        shared.outgoing.wake();
        shared.keeper.attached();
        Ok(())
    }

    /// Frames of the peer's direction that are here whole: what it need not send again over a new link. It may be more by
    /// the time that link comes; a frame that comes twice is dropped.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Gives the link up, as if it had broken.
    pub fn drop_link(&self, reason: &str) {
        if let Some((_, generation)) = self.shared.link() {
            self.shared.lost(generation, reason.to_owned());
        }
    }

    /// Carries the return path: on the source, what comes is written to this socket of QEMU's; on the destination, what
    /// QEMU sends there goes to the peer.
    ///
    /// # Errors
    /// If the descriptor cannot be used for it.
    pub fn start_return(&self, fd: OwnedFd) -> Result<(), WireError> {
        let shared = Arc::clone(&self.shared);
        if shared.options.libvirt {
            let socket = fd
                .try_clone()
                .map_err(WireError::system("duplicate the daemon's socket"))?;
            shared.daemon.connect(socket);
        }
        match shared.options.side {
            Side::Source => self.spawn("pagewire-return", move || {
                returning::to_qemu(&shared, fd);
            }),
            Side::Destination => self.spawn("pagewire-return", move || {
                returning::from_qemu(&shared, fd);
            }),
        }
    }

    /// Whether the source's QEMU has closed this socket of its without the answer that it waits for. What it wrote before may
    /// still be on its way, or wait for room.
    ///
    /// # Errors
    /// If the socket cannot be looked at.
    pub fn has_hung_up(&self, qemu: BorrowedFd<'_>) -> io::Result<bool> {
        // Not where something is just delivered, which may be the answer.
        let Some(_delivered) = self.shared.daemon.try_socket() else {
            return Ok(false);
        };
        lock(&self.shared.doubt).has_hung_up(qemu)
    }

    /// Of the source: gives no further frame of the stream to a link, and tells whether those that were given may let the
    /// destination's guest run: what [`Status::doubt`] says after this holds until the peer's answer comes. Waits for nothing: a
    /// frame that is being written still goes out, as far as the link takes it.
    pub fn stop_sending(&self) -> bool {
        let mut flags = lock(&self.shared.flags);
        flags.stopped = true;
        flags.doubt
    }

    /// Whether the guest is on its way, sent or not.
    pub fn departure(&self) -> Departure {
        lock(&self.shared.doubt).departure()
    }

    /// Tells the peer that all is done.
    pub fn bye(&self) {
        self.shared.send_session(SessionFrame::Bye, &[]);
    }

    /// Tells the peer that this end gives up, and why. Returns whether it was told: not where there is no link that has room for
    /// it, or another frame is just being written. Waits for nothing. A source gives no further frame of the stream to a link;
    /// what the destination's QEMU has said still goes before it.
    pub fn abort(&self, reason: &str) -> bool {
        // Behind all that a slow link has to take still, it would come too late.
        self.stop_sending();
        let reason = &reason.as_bytes()[..reason.len().min(4096)];
        let bytes = self.shared.frame(FrameType::Abort, reason);
        self.shared.outgoing.try_write_now(&self.shared, &bytes)
    }

    /// Has the flow tell the source's daemon, where it is one, why what it waits for has failed, and what it calls from now on;
    /// to be called before the flow is stopped. Returns whether there is a daemon: then it needs a moment to take that in.
    pub fn fail_calls(&self, reason: &str) -> bool {
        let Options { side, libvirt, .. } = self.shared.options;
        let is_daemons = libvirt && side == Side::Source;
        if is_daemons {
            self.shared.daemon.fail(reason);
        }
        is_daemons
    }

    /// Ends every wait in a thread of this wire, now and later; [`Drop`] waits for them.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        if let Some(link) = lock(&self.shared.links).current.take() {
            link.shutdown();
        }
        self.shared.wake_all();
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let mut status = {
            let links = lock(&shared.links);
            Status {
                linked: links.current.is_some(),
                lost_reason: links.lost_reason.clone(),
                queue_bytes: links
                    .current
                    .as_ref()
                    .and_then(|link| link.unsent_bytes())
                    .unwrap_or(0),
                ..Status::default()
            }
        };
        {
            let flags = lock(&shared.flags);
            status.failure = flags.failure.clone();
            status.confirmed = flags.confirmed;
            status.ended = flags.ended;
            status.peer_bye = flags.peer_bye;
            status.peer_abort = flags.peer_abort.clone();
            status.settled = flags.settled();
            // Behind the last answer it may go.
            status.daemon_gone = flags.daemon_gone && !flags.settled();
            status.doubt = flags.doubt;
        }
        if shared.options.side == Side::Source {
            let mut doubt = lock(&shared.doubt);
            status.postcopy = doubt.is_postcopy();
            status.settled = doubt.libvirt().is_some_and(|doubt| doubt.is_settled());
            if status.confirmed && status.ended {
                status.not_taken = doubt.failure();
            }
        }
        shared.outgoing.status(&mut status);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        status.received = load(&shared.received);
        let delivered = shared.delivered.load(Ordering::SeqCst);
        status.undelivered = status.received.saturating_sub(delivered);
        status.return_bytes = load(&shared.return_bytes);
        status.wire_bytes_in = load(&shared.wire_bytes_in);
        status.round_trip = match load(&shared.round_trip) {
            0 => None,
            ns => Some(ns as f64 / 1e9),
        };
        status.silent_seconds = shared.now_ns().saturating_sub(load(&shared.heard_at)) as f64 / 1e9;
        status
    }

    // What a flow needs.

    /// To be called by its threads.
    pub(crate) fn set_schedule(&self) {
        self.shared.set_schedule();
    }

    /// The number of the connection.
    pub(crate) fn channel(&self) -> u16 {
        self.shared.options.channel
    }

    /// What the peer sends cannot be gone on with.
    pub(crate) fn fail(&self, reason: String) {
        self.shared.failed(reason);
    }

    /// A frame of our direction: kept, and written as soon as the link takes it. Returns when it is written.
    pub(crate) fn send(&self, frame: &[u8], upto: u64, last: bool) -> Result<(), WireError> {
        self.shared.outgoing.send(&self.shared, frame, upto, last)
    }

    /// The same for whoever must not be kept while there is no link: then the frame is kept, and written by whoever
    /// finds the next one. Where it [is taken](Self::takes) nothing else is waited for but room on the link.
    pub(crate) fn send_or_keep(&self, frame: &[u8], upto: u64, last: bool) {
        self.shared
            .outgoing
            .send_or_keep(&self.shared, frame, upto, last);
    }

    /// Whether there is a link, and a frame of so many bytes may be kept, too.
    pub(crate) fn takes(&self, bytes: usize) -> bool {
        self.shared.link_to_write().is_some() && self.shared.outgoing.may_keep(bytes)
    }

    /// The frames of the peer's direction.
    pub(crate) fn receiver(&self) -> Receiver<'_> {
        Receiver::new(&self.shared)
    }

    /// So many frames of the peer's direction are written to QEMU.
    pub(crate) fn delivered(&self, frames: u64, urgent: bool) {
        self.shared.delivered(frames, urgent);
    }

    /// All of the peer's direction is written to QEMU, which has been told its end.
    pub(crate) fn ended(&self) {
        self.shared.flag(|flags| flags.ended = true);
    }

    /// Follows what is sent, before it is packed: whether the destination's guest may run.
    pub(crate) fn follow(&self, bytes: &[u8]) {
        lock(&self.shared.doubt).sent(bytes);
    }

    /// Of the destination: so many migrations have been prepared.
    pub(crate) fn prepared(&self, migrations: u64) {
        lock(&self.shared.flags).prepared = migrations;
    }

    /// The daemon at this end.
    pub(crate) fn daemon(&self) -> &Daemon {
        &self.shared.daemon
    }

    /// A packet for the peer's daemon, to go between two of those that ours sends.
    pub(crate) fn answer(&self, packet: &[u8]) -> Result<(), WireError> {
        self.shared.daemon.answer(packet)?;
        self.shared.return_wake.signal();
        Ok(())
    }

    /// Calls and streams that the source's daemon waits for.
    pub(crate) fn unanswered(&self) -> Vec<libvirt::Header> {
        let mut doubt = lock(&self.shared.doubt);
        let unanswered = doubt.libvirt().map(|doubt| doubt.unanswered());
        unanswered.unwrap_or_default()
    }

    /// Where libvirt's conversation stands, if it may not end there.
    pub(crate) fn unfinished(&self) -> Option<libvirt::Unfinished> {
        // What is being delivered may be its end.
        let _delivered = self.shared.daemon.socket();
        lock(&self.shared.doubt).libvirt()?.unfinished()
    }

    /// What libvirt's daemon says can no longer be read. Returns whether it waits for the answer to the call that lets the guest
    /// run; then it hears that we live.
    pub(crate) fn unread(&self) -> bool {
        let mut doubt = lock(&self.shared.doubt);
        let waits = doubt
            .libvirt()
            .is_some_and(|doubt| doubt.in_doubt(u64::MAX));
        lock(&self.shared.flags).unread = waits;
        waits
    }

    /// Takes the calls whose streams the destination's daemon has given up.
    pub(crate) fn take_given_up(&self) -> Vec<libvirt::Key> {
        let mut doubt = lock(&self.shared.doubt);
        let given_up = doubt.libvirt().map(libvirt::Doubt::take_given_up);
        given_up.unwrap_or_default()
    }

    /// How long the link takes for so many bytes while it is kept busy; `None` where it always had room, and no limit.
    pub(crate) fn time_for(&self, bytes: usize) -> Option<Duration> {
        let rate = self.shared.outgoing.bytes_per_second();
        Duration::try_from_secs_f64(bytes as f64 / rate).ok()
    }

    /// Whether the link is what holds the stream up.
    pub(crate) fn is_full(&self) -> bool {
        self.shared.holdup.is_link(self.shared.now_ns())
    }

    /// Whether the link takes at once what it gets, or what holds the stream up is behind it.
    pub(crate) fn is_hungry(&self) -> bool {
        self.shared.holdup.is_not_link(self.shared.now_ns())
    }

    /// Whether the peer is what holds the stream up, or its QEMU.
    pub(crate) fn is_peer_busy(&self) -> bool {
        self.shared.holdup.is_peer(self.shared.now_ns())
    }

    /// Where a QEMU stream was cut off that has been followed so far, for people; `None` where it has its end, or that
    /// cannot be known.
    pub(crate) fn cut_off(&self) -> Option<String> {
        lock(&self.shared.doubt).cut_off()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.close();
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
    }
}

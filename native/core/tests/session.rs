//! Two wires, a flow at each end, real sockets between them, and links that break.

use pagewire_core::codec::Codec;
use pagewire_core::flow::{Capacity, Direct, EncodeOptions, Event, Flow, MatchOptions};
use pagewire_core::frame::{
    FrameType, HEADER_LEN, Header as FrameHeader, MAX_RAW, SessionFrame, Start,
};
use pagewire_core::libvirt::{Allow, Header, Key, Kind, Status, keepalive, procedure, program};
use pagewire_core::matching::{Effort, Keeps};
use pagewire_core::net::Link;
use pagewire_core::session::{Bandwidth, Event as WireEvent, Options, Side, Wire, WireError};
use rustix::net::{SendFlags, send};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// How long something may take that takes milliseconds; only a hang takes longer.
const HANG: Duration = Duration::from_secs(60);

const SILENCE: Duration = Duration::from_secs(20);

/// The listener packs and unpacks.
const CREW: Capacity = Capacity {
    in_flight: 4,
    packers: 2,
    threads: 0,
};

fn wire(
    side: Side,
    replay_bytes: usize,
    silence: Duration,
    bandwidth: &Arc<Bandwidth>,
    libvirt: bool,
) -> (Arc<Wire>, Receiver<WireEvent>) {
    let (tell, events) = channel();
    let options = Options {
        channel: 3,
        side,
        replay_bytes,
        silence,
        heartbeat: silence / 5,
        libvirt,
    };
    let wire = Wire::new(
        options,
        Arc::clone(bandwidth),
        Box::new(move |event| {
            let _ = tell.send(event);
        }),
    );
    (wire.expect("a wire"), events)
}

fn link(socket: UnixStream) -> Arc<Link> {
    let other = OwnedFd::from(socket.try_clone().expect("a descriptor"));
    Arc::new(Link::plain(other, socket.into()).expect("a link"))
}

/// What a listener does to a frame.
#[derive(Clone, Copy)]
enum Work {
    Pack(Codec),
    /// The others are stored, and not looked through.
    PackEverySecond(Codec),
    Store,
    Unpack,
}

impl Work {
    /// What the flow is to do itself, where it need not ask.
    fn direct(self) -> Direct {
        match self {
            Work::Pack(codec) | Work::PackEverySecond(codec) => Direct::Packed(codec, 1),
            Work::Store | Work::Unpack => Direct::AsItIs,
        }
    }
}

/// A flow whose listener works on the thread that tells of a frame, and counts those that it hears of.
fn flow(
    start: impl FnOnce(Box<dyn Fn(Event) + Send + Sync>) -> Flow,
    work: Work,
) -> (Arc<Flow>, Receiver<Event>, Arc<AtomicUsize>) {
    // Weak: the flow holds its listener.
    let place: Arc<OnceLock<Weak<Flow>>> = Arc::default();
    let (tell, events) = channel();
    let heard = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    let of_listener = Arc::clone(&place);
    let flow = Arc::new(start(Box::new(move |event| {
        let Some(flow) = of_listener.wait_for().upgrade() else {
            return;
        };
        match event {
            Event::Data { slot, .. } => {
                let frames = count.fetch_add(1, Ordering::SeqCst);
                let slot = match work {
                    Work::Store => flow.store(slot),
                    Work::PackEverySecond(_) if frames % 2 == 1 => flow.store(slot),
                    Work::Pack(codec) | Work::PackEverySecond(codec) => flow.pack(slot, codec, 1),
                    Work::Unpack => flow.unpack(slot),
                };
                flow.write(slot.expect("a good frame")).expect("in order");
            }
            Event::Control { slot } => flow.write(slot).expect("in order"),
            Event::SourceEnded => {
                flow.finish();
                let _ = tell.send(event);
            }
            event => {
                let _ = tell.send(event);
            }
        }
    })));
    flow.set_direct(work.direct());
    let _ = place.set(Arc::downgrade(&flow));
    (flow, events, heard)
}

trait WaitFor<T> {
    fn wait_for(&self) -> &T;
}

impl<T> WaitFor<T> for OnceLock<T> {
    fn wait_for(&self) -> &T {
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            std::thread::yield_now();
        }
    }
}

/// Both ends of a session's channel with sockets in the places of the two QEMUs.
struct Session {
    /// The source's.
    bandwidth: Arc<Bandwidth>,
    source: Arc<Wire>,
    source_events: Receiver<WireEvent>,
    destination: Arc<Wire>,
    destination_events: Receiver<WireEvent>,
    /// The source's QEMU.
    sender: UnixStream,
    /// The destination's.
    receiver: UnixStream,
    encoder: Arc<Flow>,
    decoder: Arc<Flow>,
    decoder_events: Receiver<Event>,
    /// What tells that the flows have ended.
    encoder_events: Receiver<Event>,
    /// Frames that the listeners of encoder and decoder have heard of.
    heard: [Arc<AtomicUsize>; 2],
}

fn session(replay_bytes: usize, frame_size: usize) -> Session {
    session_of(replay_bytes, frame_size, None)
}

/// One between two libvirt daemons, of which the second one gets no more than `allow`.
fn session_of(replay_bytes: usize, frame_size: usize, allow: Option<Allow>) -> Session {
    session_with(
        replay_bytes,
        frame_size,
        allow,
        None,
        Work::Pack(Codec::Lz4),
    )
}

/// Of a stream that goes as it is.
fn options(frame_size: usize) -> EncodeOptions {
    EncodeOptions {
        frame_size,
        frames: true,
        delta: None,
        libvirt: false,
        matching: None,
        index: None,
        direct: Direct::AsItIs,
    }
}

fn session_with(
    replay_bytes: usize,
    frame_size: usize,
    allow: Option<Allow>,
    matching: Option<MatchOptions>,
    work: Work,
) -> Session {
    let libvirt = allow.is_some();
    let (bandwidth, unlimited) = (Arc::default(), Arc::default());
    let (source, source_events) = wire(Side::Source, replay_bytes, SILENCE, &bandwidth, libvirt);
    let (destination, destination_events) = wire(
        Side::Destination,
        replay_bytes,
        SILENCE,
        &unlimited,
        libvirt,
    );
    let (sender, of_source) = UnixStream::pair().expect("sockets");
    let (receiver, of_destination) = UnixStream::pair().expect("sockets");
    source
        .start_return(of_source.try_clone().expect("a descriptor").into())
        .expect("a thread");
    let options = EncodeOptions {
        libvirt,
        matching,
        ..options(frame_size)
    };
    let to = Arc::clone(&source);
    let (encoder, encoder_events, of_encoder) = flow(
        |listener| {
            Flow::encode_to_wire(of_source.into(), to, options, CREW, listener).expect("a flow")
        },
        work,
    );
    let from = Arc::clone(&destination);
    let (decoder, decoder_events, of_decoder) = flow(
        |listener| {
            let window_limit = matching.map_or(0, |matching| 2 * matching.window + (64 << 20));
            Flow::decode_from_wire(from, allow, MAX_RAW as u32, CREW, window_limit, listener)
                .expect("a flow")
        },
        Work::Unpack,
    );
    let session = Session {
        bandwidth,
        source,
        source_events,
        destination,
        destination_events,
        sender,
        receiver,
        encoder,
        decoder,
        decoder_events,
        encoder_events,
        heard: [of_encoder, of_decoder],
    };
    session.link();
    session.open_onward(of_destination);
    session
}

impl Session {
    /// Lays a link, as a session does after its handshake.
    fn link(&self) -> (UnixStream, UnixStream) {
        let (a, b) = UnixStream::pair().expect("sockets");
        let knives = (
            a.try_clone().expect("a descriptor"),
            b.try_clone().expect("a descriptor"),
        );
        let (at_source, at_destination) = (self.source.received(), self.destination.received());
        self.source.attach(link(a), at_destination).expect("kept");
        self.destination.attach(link(b), at_source).expect("kept");
        knives
    }

    fn open_onward(&self, socket: UnixStream) {
        self.decoder
            .set_output(socket.try_clone().expect("a descriptor").into())
            .expect("an output");
        self.destination
            .start_return(socket.into())
            .expect("a thread");
    }

    fn until(&self, what: &str, is: impl Fn(&Session) -> bool) {
        let began = Instant::now();
        while !is(self) {
            assert!(
                began.elapsed() < HANG,
                "{what}: {:?} {:?}",
                self.source.status(),
                self.destination.status()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Both directions have ended and are confirmed.
    fn ends(&self) {
        self.until("the end", |session| {
            let (a, b) = (session.source.status(), session.destination.status());
            a.confirmed && a.ended && b.confirmed && b.ended
        });
        self.source.bye();
        self.until("BYE", |session| session.destination.status().peer_bye);
    }
}

/// Bytes that do not repeat, and pack a little.
fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 59) as u8
        })
        .collect()
}

/// Writes and reads both directions at once, and compares. `meanwhile` runs on the calling thread.
fn exchange(session: &Session, forward: &[u8], back: &[u8], meanwhile: impl FnOnce()) {
    let (sender, receiver) = (&session.sender, &session.receiver);
    std::thread::scope(|scope| {
        let write = |mut socket: &UnixStream, bytes: &[u8]| {
            for chunk in bytes.chunks(100_000) {
                socket.write_all(chunk).expect("taken");
            }
            socket.shutdown(Shutdown::Write).expect("half closed");
        };
        let read = |mut socket: &UnixStream| {
            let mut all = Vec::new();
            socket.read_to_end(&mut all).expect("read");
            all
        };
        let came = scope.spawn(move || read(receiver));
        let came_back = scope.spawn(move || read(sender));
        scope.spawn(move || write(sender, forward));
        scope.spawn(move || write(receiver, back));
        meanwhile();
        assert!(came.join().expect("no panic") == forward, "forward");
        assert!(came_back.join().expect("no panic") == back, "back");
    });
}

#[test]
fn both_directions_arrive_and_are_confirmed() {
    let session = session(64 << 20, 64 << 10);
    exchange(
        &session,
        &content(3_000_000, 1),
        &content(200_000, 2),
        || {},
    );
    session.ends();
    assert_eq!(session.source.status().unacked_bytes, 0);
}

/// As long as the link has room. What is sent here fits into its buffers, so it has.
#[test]
fn nobody_is_asked_about_frames_that_go_as_they_are() {
    for (work, asked) in [(Work::Store, false), (Work::Pack(Codec::Zstd), true)] {
        let session = session_with(64 << 20, 64 << 10, None, None, work);
        exchange(&session, &content(100_000, 5), &[], || {});
        session.ends();
        let heard = session.heard.each_ref().map(|of| of.load(Ordering::SeqCst));
        assert_eq!(heard.map(|frames| frames > 0), [asked; 2], "{heard:?}");
    }
}

/// References lead only to frames that were looked through, packed or not; the destination has to keep no others.
#[test]
fn references_lead_around_frames_that_go_as_they_are() {
    const ONCE: usize = 2_000_000;
    /// Where frames end is chance, and so is how much of two passes is in frames that were both looked through.
    const AGAIN: usize = 5;
    // Bytes that do not pack: of the frames that are looked through, the first ones are stored too.
    let mut state = 88_172_645_463_325_252_u64;
    let once: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(ONCE)
    .collect();
    let matching = MatchOptions {
        window: 32 << 20,
        effort: Effort::Fast,
    };
    for (work, least, most) in [
        (Work::Pack(Codec::Zstd), 90, 100),
        (Work::Pack(Codec::None), 90, 100),
        (Work::PackEverySecond(Codec::Zstd), 2, 60),
    ] {
        let session = session_with(64 << 20, 64 << 10, None, Some(matching), work);
        exchange(&session, &once.repeat(1 + AGAIN), &[], || {});
        session.ends();
        let matched = session.encoder.totals().matched_bytes as usize * 100 / (AGAIN * ONCE);
        assert!((least..=most).contains(&matched), "{matched} %");
    }
}

#[test]
fn a_half_that_ends_does_not_cut_the_other() {
    let session = session(64 << 20, 64 << 10);
    let mut byte = [0; 5];
    (&session.sender).write_all(b"hello").expect("taken");
    (&session.receiver).read_exact(&mut byte).expect("read");
    session
        .sender
        .shutdown(Shutdown::Write)
        .expect("half closed");
    assert_eq!((&session.receiver).read(&mut byte).expect("the end"), 0);
    (&session.receiver).write_all(b"there").expect("taken");
    (&session.sender).read_exact(&mut byte).expect("read");
    assert_eq!(&byte, b"there");
    session
        .receiver
        .shutdown(Shutdown::Write)
        .expect("half closed");
    assert_eq!((&session.sender).read(&mut byte).expect("the end"), 0);
    session.ends();
}

#[test]
fn links_that_are_cut_again_and_again_lose_nothing() {
    for seed in 0..4 {
        // A small replay: the sender often waits for an ACK.
        let session = session(300_000 << ((seed % 2) * 8), 32 << 10);
        let (forward, back) = (content(20_000_000, seed + 1), content(500_000, seed + 9));
        cut_again_and_again(&session, &forward, &back, seed);
    }
}

/// There the threads that read write most frames, and the sinks' the others.
#[test]
fn links_of_a_tunnel_that_are_cut_again_and_again_lose_nothing() {
    for seed in 0..4 {
        let replay = 300_000 << ((seed % 2) * 8);
        let allow = Some(Allow::All);
        let session = session_with(replay, 32 << 10, allow, None, Work::Store);
        let said = |bytes: usize, kind, seed| -> Vec<u8> {
            let content = content(bytes, seed);
            let mut rest = &content[..];
            let mut packets = Vec::new();
            for length in (1..).map(|number: usize| 1 + number * number * 4099 % 70_000) {
                if rest.is_empty() {
                    break;
                }
                let (body, behind) = rest.split_at(length.min(rest.len()));
                packets.extend(packet(kind, 208, 4, Status::Continue, body));
                rest = behind;
            }
            packets
        };
        // Nothing that waits for an answer: each may end when it likes.
        let forward = said(20_000_000, Kind::Message, seed + 1);
        let back = said(500_000, Kind::Reply, seed + 9);
        cut_again_and_again(&session, &forward, &back, seed);
    }
}

fn cut_again_and_again(session: &Session, forward: &[u8], back: &[u8], seed: u64) {
    exchange(session, forward, back, || {
        let mut state = seed + 77;
        for cut in 0..30 {
            let knives = session.link();
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            std::thread::sleep(Duration::from_micros(state >> 51));
            let knife = if cut % 2 == 0 { &knives.0 } else { &knives.1 };
            let _ = knife.shutdown(match cut % 3 {
                0 => Shutdown::Both,
                1 => Shutdown::Write,
                _ => Shutdown::Read,
            });
            session.until("both notice", |session| {
                let told = |wire: &Wire| !wire.status().linked;
                if told(&session.source) != told(&session.destination) {
                    // The other end only waits: whoever noticed comes back with a new link.
                    session.source.drop_link("test");
                    session.destination.drop_link("test");
                }
                told(&session.source) && told(&session.destination) || cut % 3 > 0
            });
        }
        session.link();
    });
    session.ends();
}

#[test]
fn a_damaged_byte_costs_a_link_and_nothing_else() {
    let session = session(64 << 20, 64 << 10);
    // Through the middle: what the source writes is handed on with one bit changed.
    let (a, mut middle_a) = UnixStream::pair().expect("sockets");
    let (mut middle_b, b) = UnixStream::pair().expect("sockets");
    let (at_source, at_destination) = (session.source.received(), session.destination.received());
    session
        .source
        .attach(link(a), at_destination)
        .expect("kept");
    session
        .destination
        .attach(link(b), at_source)
        .expect("kept");
    let damage = std::thread::spawn(move || {
        let mut buffer = vec![0; 10_000];
        let mut passed = 0;
        while let Ok(n @ 1..) = middle_a.read(&mut buffer) {
            if (passed..passed + n).contains(&70_000) {
                buffer[70_000 - passed] ^= 4;
            }
            passed += n;
            if middle_b.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
    });
    exchange(&session, &content(1_000_000, 5), &content(10, 6), || {
        session.until("the damage is noticed", |session| {
            !session.destination.status().linked
        });
        let reason = session.destination.status().lost_reason.expect("lost");
        assert!(reason.contains("damaged"), "{reason}");
        session.source.drop_link("test");
        session.link();
    });
    session.ends();
    damage.join().expect("no panic");
}

#[test]
fn what_is_not_acknowledged_is_bounded() {
    let limit = 400_000;
    let session = session(limit, 32 << 10);
    // The destination's QEMU takes nothing.
    let forward = content(30_000_000, 3);
    let sender = &session.sender;
    let whole = &forward;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            (&*sender).write_all(whole).expect("taken");
            sender.shutdown(Shutdown::Write).expect("closed");
        });
        session.until("the replay is full", |session| {
            session.source.status().unacked_bytes > limit as u64 / 2
        });
        for _ in 0..50 {
            assert!(session.source.status().unacked_bytes <= limit as u64);
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut all = Vec::new();
        (&session.receiver).read_to_end(&mut all).expect("read");
        assert!(all == forward);
    });
    session.receiver.shutdown(Shutdown::Write).expect("closed");
    session.ends();
}

#[test]
fn silence_is_a_lost_link_and_heartbeats_are_none() {
    let silence = Duration::from_millis(300);
    let (source, events) = wire(Side::Source, 1 << 20, silence, &Arc::default(), false);
    let (destination, other_events) =
        wire(Side::Destination, 1 << 20, silence, &Arc::default(), false);
    let (sender, of_source) = UnixStream::pair().expect("sockets");
    source.start_return(of_source.into()).expect("a thread");
    let from = Arc::clone(&destination);
    let (_decoder, _, _) = flow(
        |listener| {
            Flow::decode_from_wire(from, None, MAX_RAW as u32, CREW, 0, listener).expect("a flow")
        },
        Work::Unpack,
    );
    let (a, b) = UnixStream::pair().expect("sockets");
    source.attach(link(a), 0).expect("new");
    destination.attach(link(b), 0).expect("new");
    std::thread::sleep(silence * 4);
    assert!(source.status().linked && destination.status().linked);
    assert!(source.status().round_trip.is_some());
    assert!(events.try_recv().is_err() && other_events.try_recv().is_err());

    // A peer that says nothing.
    let (a, _b) = UnixStream::pair().expect("sockets");
    source.attach(link(a), 0).expect("new");
    assert_eq!(events.recv_timeout(HANG), Ok(WireEvent::Lost));
    let reason = source.status().lost_reason.expect("lost");
    assert!(reason.contains("nothing came for 0.3 s"), "{reason}");
    drop(sender);
}

#[test]
fn a_peer_of_another_session_is_refused() {
    let session = session(64 << 20, 64 << 10);
    exchange(&session, &content(100_000, 1), &content(10, 2), || {});
    session.ends();
    let (a, _b) = UnixStream::pair().expect("sockets");
    let result = session.source.attach(link(a), 1_000_000);
    assert!(
        matches!(
            result,
            Err(WireError::Replay {
                peer: 1_000_000,
                ..
            })
        ),
        "{result:?}"
    );
}

#[test]
fn return_bytes_that_came_before_a_break_are_delivered() {
    let session = session(64 << 20, 64 << 10);
    let (mine, mut theirs) = UnixStream::pair().expect("sockets");
    session
        .source
        .attach(link(mine), session.destination.received())
        .expect("kept");
    session.destination.drop_link("test");
    // A START and a DATA frame of the return path, then at once a reset.
    let mut frames = Vec::new();
    let start = pagewire_core::frame::Start {
        frame_size: 65536,
        window: 0,
        keeps: Keeps::All,
    }
    .to_bytes();
    for (kind, sequence, payload) in [
        (pagewire_core::frame::FrameType::Start, 0, &start[..]),
        (pagewire_core::frame::FrameType::Data, 1, &b"SHUT"[..]),
    ] {
        let mut header = FrameHeader::stored(kind, sequence, 0, payload);
        header.channel = 3;
        frames.extend_from_slice(&header.to_bytes());
        frames.extend_from_slice(payload);
    }
    if session.source.received() > 0 {
        // The destination's START came over the link before.
        frames.drain(..HEADER_LEN + start.len());
    }
    theirs.write_all(&frames).expect("taken");
    drop(theirs);
    let mut four = [0; 4];
    session
        .sender
        .set_read_timeout(Some(HANG))
        .expect("a timeout");
    (&session.sender).read_exact(&mut four).expect("delivered");
    assert_eq!(&four, b"SHUT");
    session.until("lost", |session| !session.source.status().linked);
}

#[test]
fn an_abort_is_told_with_its_reason() {
    let session = session(64 << 20, 64 << 10);
    session.until("told", |session| {
        // Said again and again, as a session does: it is not said while another frame is being written.
        session.destination.abort("QEMU has gone");
        session.source.status().peer_abort.is_some()
    });
    assert_eq!(
        session.source.status().peer_abort.as_deref(),
        Some("QEMU has gone")
    );
}

/// What comes from this QEMU or daemon goes to the wire as it is.
fn sends(
    source: &Arc<Wire>,
    of_source: UnixStream,
) -> (Arc<Flow>, Receiver<Event>, Arc<AtomicUsize>) {
    let (options, to) = (options(64 << 10), Arc::clone(source));
    flow(
        |listener| {
            Flow::encode_to_wire(of_source.into(), to, options, CREW, listener).expect("a flow")
        },
        Work::Store,
    )
}

/// So long that nothing here waits for it.
const NEVER: Duration = Duration::from_secs(3600);

/// The next frame on a link of which this is the other end: its header and its payload.
fn next_frame(mut socket: &UnixStream) -> (FrameHeader, Vec<u8>) {
    let mut header = [0; HEADER_LEN];
    socket.read_exact(&mut header).expect("a header");
    let header = FrameHeader::from_bytes(&header).expect("a good one");
    let mut payload = vec![0; header.packed_len as usize];
    socket.read_exact(&mut payload).expect("a payload");
    (header, payload)
}

#[test]
fn who_gives_up_waits_for_no_link() {
    let (source, _events) = wire(Side::Source, 1 << 20, NEVER, &Arc::default(), false);
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    theirs.set_read_timeout(Some(HANG)).expect("a timeout");
    let knife = ours.try_clone().expect("a descriptor");
    source.attach(link(ours), 0).expect("new");
    // What a new link is told first; behind that nobody writes.
    while next_frame(&theirs).0.kind != FrameType::Session(SessionFrame::Ping) {}
    let mut before = 0;
    while let Ok(n) = send(&knife, &[0; 1000], SendFlags::DONTWAIT) {
        before += n;
    }
    let told = std::thread::scope(|scope| {
        let told = scope.spawn(|| source.abort("no more"));
        let began = Instant::now();
        while !told.is_finished() && began.elapsed() < HANG {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !told.is_finished() {
            source.drop_link("it waits");
        }
        told.join().expect("no panic")
    });
    assert!(!told, "there is no room");
    assert!(source.status().linked);
    (&theirs)
        .read_exact(&mut vec![0; before])
        .expect("what made the link full");
    assert!(source.abort("no more"));
    let (header, why) = next_frame(&theirs);
    assert_eq!((header.kind, &why[..]), (FrameType::Abort, &b"no more"[..]));
}

#[test]
fn no_further_frame_goes_out_and_the_one_that_is_written_goes_whole() {
    const BYTES: usize = 8 << 20;
    let (source, _events) = wire(Side::Source, 64 << 20, NEVER, &Arc::default(), false);
    let (sender, of_source) = UnixStream::pair().expect("sockets");
    let (encoder, _flow_events, _) = sends(&source, of_source);
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    theirs.set_read_timeout(Some(HANG)).expect("a timeout");
    source.attach(link(ours), 0).expect("new");
    std::thread::scope(|scope| {
        // As much as it gets rid of.
        scope.spawn(|| (&sender).write_all(&content(BYTES, 1)));
        let mut before = 0;
        // Nobody reads: soon a frame is begun that the link has no room for.
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let now = source.status().unacked_bytes;
            if now > 64 << 10 && now == before {
                break;
            }
            before = now;
        }
        assert!(!source.stop_sending(), "no guest runs by that");
        assert!(source.status().linked);
        let teller = scope.spawn(|| {
            let began = Instant::now();
            while !source.abort("no more") {
                assert!(began.elapsed() < HANG, "{:?}", source.status());
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let (mut sequence, mut came) = (0, 0);
        loop {
            let (header, payload) = next_frame(&theirs);
            match header.kind {
                FrameType::Session(_) => {}
                FrameType::Abort => break,
                _ => {
                    header.check_payload(&payload).expect("as it was sent");
                    assert_eq!(header.sequence, sequence);
                    sequence += 1;
                    came += header.raw_len as usize;
                }
            }
        }
        teller.join().expect("no panic");
        assert!(came > 0 && came < BYTES, "{came} bytes came");
        encoder.stop();
        source.close();
        drop(sender.shutdown(Shutdown::Both));
    });
}

#[test]
fn a_bandwidth_limit_can_be_changed_while_it_holds() {
    let session = session(64 << 20, 32 << 10);
    session.bandwidth.set(64 << 10);
    let forward = content(4_000_000, 8);
    exchange(&session, &forward, &[], || {
        std::thread::sleep(Duration::from_millis(300));
        let sent = session.source.status().wire_bytes_out;
        assert!(sent < 200_000, "{sent} bytes in 0.3 s at 64 KiB/s");
        session.bandwidth.set(0);
    });
    session.ends();
}

#[test]
fn closing_ends_every_wait() {
    let session = session(64 << 10, 32 << 10);
    session.source.drop_link("test");
    (&session.sender)
        .write_all(&content(100_000, 1))
        .expect("taken");
    session.encoder.stop();
    session.source.close();
    session.decoder.stop();
    session.destination.close();
    for events in [&session.encoder_events, &session.decoder_events] {
        let mut ended = 0;
        while ended < 2 {
            match events.recv_timeout(HANG).expect("an end, not a hang") {
                Event::SourceEnded | Event::SinkEnded => ended += 1,
                _ => {}
            }
        }
    }
    assert!(session.source_events.try_iter().count() > 0);
    let _ = &session.destination_events;
}

#[test]
fn a_stream_that_is_wrong_before_qemu_has_a_socket_is_told() {
    // START, and then a frame that leaves one out; START with larger frames than were agreed on.
    for (frame_limit, what) in [(65536, "frame 1 of the stream"), (65535, "frame size")] {
        wrong_before_qemu_has_a_socket(frame_limit, what);
    }
}

fn wrong_before_qemu_has_a_socket(frame_limit: u32, what: &str) {
    let (destination, _events) = wire(Side::Destination, 1 << 20, SILENCE, &Arc::default(), false);
    let from = Arc::clone(&destination);
    let (decoder, events, _) = flow(
        |listener| {
            Flow::decode_from_wire(from, None, frame_limit, CREW, 0, listener).expect("a flow")
        },
        Work::Unpack,
    );
    let (mut theirs, mine) = UnixStream::pair().expect("sockets");
    destination.attach(link(mine), 0).expect("new");
    let start = Start {
        frame_size: 65536,
        window: 0,
        keeps: Keeps::All,
    }
    .to_bytes();
    for (kind, sequence, payload) in [
        (FrameType::Start, 0, &start[..]),
        (FrameType::Data, 2, &b"data"[..]),
    ] {
        let mut header = pagewire_core::frame::Header::stored(kind, sequence, 0, payload);
        header.channel = 3;
        theirs.write_all(&header.to_bytes()).expect("taken");
        theirs.write_all(payload).expect("taken");
    }
    let mut ended = [false; 2];
    while ended != [true; 2] {
        match events.recv_timeout(HANG).expect("an end, not a hang") {
            Event::SourceEnded => ended[0] = true,
            Event::SinkEnded => ended[1] = true,
            other => panic!("{other:?}"),
        }
    }
    let Some(Err(error)) = decoder.source_result() else {
        panic!("it did not fail");
    };
    assert!(error.to_string().contains(what), "{error}");
}

/// A packet of libvirt's.
fn packet(kind: Kind, procedure: u32, serial: u32, status: Status, body: &[u8]) -> Vec<u8> {
    let header = Header {
        length: 28 + body.len() as u32,
        version: 1,
        key: Key {
            program: program::REMOTE,
            procedure,
            serial,
        },
        kind,
        status,
    };
    [&header.to_bytes()[..], body].concat()
}

const TUNNEL: u32 = procedure::MIGRATE_PREPARE_TUNNEL3_PARAMS;

fn call(procedure: u32, serial: u32) -> Vec<u8> {
    packet(Kind::Call, procedure, serial, Status::Ok, &[0; 8])
}

fn reply(procedure: u32, serial: u32) -> Vec<u8> {
    packet(Kind::Reply, procedure, serial, Status::Ok, &[1; 300])
}

/// The next whole packet.
fn next(mut socket: &UnixStream) -> (Header, Vec<u8>) {
    socket.set_read_timeout(Some(HANG)).expect("a timeout");
    let mut head = [0; 28];
    socket.read_exact(&mut head).expect("a header");
    let header = Header::from_bytes(&head).expect("libvirt's");
    let mut body = vec![0; header.length as usize - 28];
    socket.read_exact(&mut body).expect("a body");
    (header, body)
}

fn is_sign_of_life((header, _): &(Header, Vec<u8>)) -> bool {
    header.key.program == program::KEEPALIVE && header.key.procedure == keepalive::PONG
}

#[test]
fn a_daemon_gets_only_what_is_allowed_and_its_caller_an_answer() {
    let session = session_of(1 << 20, 64 << 10, Some(Allow::default()));
    let (mut source, mut destination) = (&session.sender, &session.receiver);
    source
        .write_all(&call(procedure::AUTH_LIST, 0))
        .expect("taken");
    assert_eq!(next(destination).0.key.serial, 0);
    // An answer of ours waits for the end of what the daemon is saying.
    let said = reply(procedure::AUTH_LIST, 0);
    destination.write_all(&said[..100]).expect("taken");
    session.until("the first part", |session| {
        session.source.status().return_bytes == 100
    });
    let destroy = 12;
    for serial in 1..4 {
        source.write_all(&call(destroy, serial)).expect("taken");
    }
    source
        .write_all(&call(procedure::CONNECT_OPEN, 4))
        .expect("taken");
    assert_eq!(next(destination).0.key.serial, 4);
    assert_eq!(session.decoder.refused(), 3);
    let rest = [&said[100..], &reply(procedure::CONNECT_OPEN, 4)].concat();
    destination.write_all(&rest).expect("taken");
    for serial in [0, 4] {
        let (header, body) = next(source);
        assert_eq!((header.key.serial, body), (serial, vec![1; 300]));
    }
    for serial in 1..4 {
        let (header, body) = next(source);
        assert_eq!((header.key.serial, header.status), (serial, Status::Error));
        assert!(String::from_utf8_lossy(&body).contains("procedure 12"));
    }
    source.shutdown(Shutdown::Write).expect("half closed");
    destination.shutdown(Shutdown::Write).expect("half closed");
    session.ends();
}

#[test]
fn a_lost_link_leaves_the_daemons_signs_of_life_and_a_doubt() {
    let session = session_of(1 << 20, 64 << 10, Some(Allow::default()));
    let (mut source, mut destination) = (&session.sender, &session.receiver);
    let ping = {
        let mut header = Header::PONG;
        header.key.procedure = keepalive::PING;
        header.to_bytes()
    };
    source.write_all(&ping).expect("taken");
    assert_eq!(next(destination).0.key.procedure, keepalive::PING);
    destination
        .write_all(&Header::PONG.to_bytes())
        .expect("taken");
    assert!(is_sign_of_life(&next(source)));
    let finish = procedure::MIGRATE_FINISH3_PARAMS;
    source.write_all(&call(finish, 7)).expect("taken");
    assert_eq!(next(destination).0.key.procedure, finish);
    assert!(session.source.status().doubt);
    session.until("the far end", |session| session.destination.status().doubt);
    session.source.drop_link("test");
    session.destination.drop_link("test");
    assert!(is_sign_of_life(&next(source)));
    assert!(is_sign_of_life(&next(destination)));
    destination.write_all(&reply(finish, 7)).expect("taken");
    session.link();
    let answer = loop {
        let answer = next(source);
        if !is_sign_of_life(&answer) {
            break answer;
        }
    };
    assert_eq!((answer.0.key.serial, answer.0.status), (7, Status::Ok));
    session.until("no doubt", |session| {
        !session.source.status().doubt && !session.destination.status().doubt
    });
}

#[test]
fn each_link_begins_with_whether_there_is_a_doubt() {
    let (source, _events) = wire(Side::Source, 1 << 20, NEVER, &Arc::default(), true);
    let (mut sender, of_source) = UnixStream::pair().expect("sockets");
    let (encoder, _flow_events, _) = sends(&source, of_source);
    let link_up = || {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        theirs.set_read_timeout(Some(HANG)).expect("a timeout");
        source.attach(link(ours), 0).expect("kept");
        theirs
    };
    let first = link_up();
    sender
        .write_all(&call(procedure::MIGRATE_FINISH3_PARAMS, 7))
        .expect("taken");
    while next_frame(&first).0.kind != FrameType::Data {}
    assert!(source.status().doubt);
    for serial in 8..208 {
        source.drop_link("test");
        // Somebody waits for the next link, to write this.
        sender.write_all(&call(361, serial)).expect("taken");
        std::thread::yield_now();
        let theirs = link_up();
        let mut said = None;
        loop {
            let (header, payload) = next_frame(&theirs);
            match header.kind {
                FrameType::Session(SessionFrame::Doubt) => said = Some(payload),
                FrameType::Session(_) => {}
                _ => break,
            }
        }
        assert_eq!(
            said.as_deref(),
            Some(&[1][..]),
            "before all that is sent again"
        );
    }
    encoder.stop();
    source.close();
}

#[test]
fn a_daemon_hears_why_its_calls_have_failed() {
    let session = session_of(1 << 20, 64 << 10, Some(Allow::default()));
    let mut source = &session.sender;
    source
        .write_all(&call(procedure::CONNECT_OPEN, 1))
        .expect("taken");
    assert_eq!(next(&session.receiver).0.key.serial, 1);
    // Of a stream that nobody has seen yet it hears once, and of its end.
    let stream = |status| packet(Kind::Stream, TUNNEL, 3, status, &[7; 40]);
    let more = [
        call(procedure::CONNECT_CLOSE, 2),
        stream(Status::Continue),
        stream(Status::Continue),
        stream(Status::Error),
        call(procedure::CONNECT_CLOSE, 4),
    ]
    .concat();
    assert!(session.source.fail_calls("no way there"));
    session.encoder.stop();
    source.write_all(&more).expect("taken");
    for (serial, kind) in [
        (1, Kind::Reply),
        (2, Kind::Reply),
        (3, Kind::Stream),
        (3, Kind::Stream),
        (4, Kind::Reply),
    ] {
        let (header, body) = next(source);
        assert_eq!(
            (header.key.serial, header.kind, header.status),
            (serial, kind, Status::Error)
        );
        assert!(String::from_utf8_lossy(&body).contains("no way there"));
    }
}

/// The source's daemon, which has made one call, is told why that failed.
fn fails_the_call(session: &Session, why: &str) {
    assert!(session.source.fail_calls(why));
    session.encoder.stop();
    let (header, body) = next(&session.sender);
    assert_eq!((header.key.serial, header.status), (1, Status::Error));
    assert!(String::from_utf8_lossy(&body).contains(why));
}

#[test]
fn a_daemon_hears_why_the_flow_has_failed_as_soon_as_that_is_decided() {
    let session = session_of(1 << 20, 64 << 10, Some(Allow::default()));
    let mut source = &session.sender;
    source
        .write_all(&[call(procedure::CONNECT_OPEN, 1), vec![0xff; 28]].concat())
        .expect("taken");
    session.until("the flow fails", |session| {
        matches!(session.encoder.source_result(), Some(Err(_)))
    });
    fails_the_call(&session, "nothing can be made of it");
}

#[test]
fn a_daemon_that_is_gone_is_no_end_for_one_that_waits_for_it() {
    let session = session_of(1 << 20, 64 << 10, Some(Allow::default()));
    let mut source = &session.sender;
    source
        .write_all(&call(procedure::CONNECT_OPEN, 1))
        .expect("taken");
    assert_eq!(next(&session.receiver).0.key.serial, 1);
    session
        .receiver
        .shutdown(Shutdown::Both)
        .expect("shut down");
    session.until("both ends know", |session| {
        session.source.status().daemon_gone && session.destination.status().daemon_gone
    });
    fails_the_call(&session, "it is gone");
}

#[test]
fn a_daemon_may_go_when_it_has_answered() {
    let session = session_of(1 << 20, 64 << 10, Some(Allow::default()));
    let (mut source, mut receiver) = (&session.sender, &session.receiver);
    source
        .write_all(&call(procedure::CONNECT_CLOSE, 1))
        .expect("taken");
    assert_eq!(next(receiver).0.key.serial, 1);
    receiver
        .write_all(&reply(procedure::CONNECT_CLOSE, 1))
        .expect("taken");
    session
        .receiver
        .shutdown(Shutdown::Both)
        .expect("shut down");
    assert_eq!(next(source).0.status, Status::Ok);
    assert_eq!(source.read(&mut [0]).expect("its end"), 0);
    assert!(!session.source.status().daemon_gone);
}

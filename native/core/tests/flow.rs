//! Flows between real pipes and files, with a listener that packs on the source's own thread.

use pagewire_core::archive::Bases;
use pagewire_core::checksum::xxh3_64;
use pagewire_core::codec::Codec;
use pagewire_core::flow::{
    CacheSize, Capacity, DeltaOptions, Direct, EncodeOptions, Event, Flow, FlowError, MatchOptions,
    StreamEnd,
};
use pagewire_core::frame::{Ending, FrameError, FrameType, HEADER_LEN, Header};
use pagewire_core::matching::{Effort, ReferenceError};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

/// How long something may take that takes milliseconds; only a hang takes longer.
const HANG: Duration = Duration::from_secs(60);

const FRAME: usize = 4096;

/// What a decoder's window may take.
const WINDOW_LIMIT: u64 = 64 << 20;

/// What the codec of each DATA frame is, by its number in the stream.
type Choose = fn(usize) -> Codec;

fn every_codec(number: usize) -> Codec {
    Codec::ALL[number % Codec::ALL.len()]
}

/// A pipe: the end to read from and the one to write to.
fn pipe() -> std::io::Result<(File, File)> {
    let (read, write) = rustix::pipe::pipe()?;
    Ok((File::from(read), File::from(write)))
}

struct Running {
    flow: Arc<Flow>,
    ended: Receiver<Event>,
    /// What was wrong with a frame; none behind it is written.
    damage: Arc<Mutex<Option<FlowError>>>,
}

enum Kind {
    Encode(EncodeOptions, Choose),
    Decode(Capacity),
}

/// The listener packs and unpacks, one frame after the other.
const BY_LISTENER: Capacity = Capacity {
    in_flight: 4,
    packers: 2,
    threads: 0,
};

/// The flow's own threads do.
const OWN: Capacity = Capacity {
    in_flight: 4,
    packers: 3,
    threads: 3,
};

fn start(input: impl Into<OwnedFd>, output: impl Into<OwnedFd>, kind: Kind) -> Running {
    // Weak: the flow holds its listener.
    let place: Arc<OnceLock<Weak<Flow>>> = Arc::default();
    let (tell, ended) = channel();
    let frames = AtomicUsize::new(0);
    let choose: Option<Choose> = match &kind {
        Kind::Encode(options, choose) if options.frames => Some(*choose),
        _ => None,
    };
    let is_decode = matches!(kind, Kind::Decode(_));
    let of_listener = Arc::clone(&place);
    let damage: Arc<Mutex<Option<FlowError>>> = Arc::default();
    let found = Arc::clone(&damage);
    let listener = Box::new(move |event: Event| {
        // The flow is put there right after it was started; its first event may be quicker.
        let flow = loop {
            match of_listener.get().map(Weak::upgrade) {
                Some(Some(flow)) => break flow,
                Some(None) => return,
                None => std::thread::yield_now(),
            }
        };
        match event {
            Event::Data { slot, .. } => {
                let result = match choose {
                    Some(choose) => {
                        flow.pack(slot, choose(frames.fetch_add(1, Ordering::SeqCst)), 1)
                    }
                    None if is_decode => flow.unpack(slot),
                    None => Ok(slot),
                };
                let mut damage = found.lock().expect("no panic");
                match result {
                    Ok(slot) if damage.is_some() => flow.discard(slot),
                    Ok(slot) => drop(flow.write(slot)),
                    Err(error) => {
                        flow.finish();
                        *damage = damage.take().or(Some(error));
                    }
                }
            }
            Event::Control { slot } => {
                let _ = flow.write(slot);
            }
            Event::SourceEnded => {
                flow.finish();
                let _ = tell.send(event);
            }
            Event::SinkEnded => {
                // Nobody takes what the source may still read.
                flow.stop();
                let _ = tell.send(event);
            }
            event => {
                let _ = tell.send(event);
            }
        }
    });
    let flow = match kind {
        Kind::Encode(options, _) => Flow::encode(
            input.into(),
            output.into(),
            options,
            None,
            BY_LISTENER,
            listener,
        ),
        Kind::Decode(crew) => Flow::decode(
            input.into(),
            output.into(),
            crew,
            WINDOW_LIMIT,
            Bases::default(),
            None,
            listener,
        ),
    };
    let flow = Arc::new(flow.expect("a flow"));
    let _ = place.set(Arc::downgrade(&flow));
    Running {
        flow,
        ended,
        damage,
    }
}

impl Running {
    fn wait(
        &self,
    ) -> (
        Result<StreamEnd, FlowError>,
        Result<Option<Ending>, FlowError>,
    ) {
        let mut left = 2;
        while left > 0 {
            if self.ended.recv_timeout(HANG).expect("an end, not a hang") != Event::Guest {
                left -= 1;
            }
        }
        (
            self.flow.source_result().expect("ended"),
            self.flow.sink_result().expect("ended"),
        )
    }
}

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

fn delta(cache: CacheSize, memory_limit: u64) -> Option<DeltaOptions> {
    Some(DeltaOptions {
        max_delta: 1024,
        cache,
        memory_limit,
        fixed_memory: 1000,
    })
}

/// A file of its own without a name.
fn file(content: &[u8]) -> File {
    use std::io::Seek;
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    let path = std::env::temp_dir().join(format!("pagewire-flow-{}-{number}", std::process::id()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("a file");
    std::fs::remove_file(path).expect("removed");
    file.write_all(content).expect("written");
    file.rewind().expect("rewound");
    file
}

fn read_back(mut file: File) -> Vec<u8> {
    use std::io::Seek;
    let mut content = Vec::new();
    file.rewind().expect("rewound");
    file.read_to_end(&mut content).expect("read");
    content
}

fn encoded(content: &[u8], options: EncodeOptions, choose: Choose) -> Vec<u8> {
    let output = file(b"");
    let running = start(
        file(content),
        output.try_clone().expect("a duplicate"),
        Kind::Encode(options, choose),
    );
    let (source, sink) = running.wait();
    source.expect("read to the end");
    sink.expect("written");
    read_back(output)
}

/// What a decoder makes of it, and what was wrong: the same, whoever works on the frames.
fn decoded(frames: &[u8]) -> (Vec<u8>, Option<FlowError>) {
    let by = |crew| {
        let output = file(b"");
        let running = start(
            file(frames),
            output.try_clone().expect("a duplicate"),
            Kind::Decode(crew),
        );
        let (source, sink) = running.wait();
        let damage = running.damage.lock().expect("no panic").take();
        let damage = damage.or(running.flow.damage());
        // Where the sink has failed, the source was stopped for it.
        (read_back(output), damage.or(sink.err()).or(source.err()))
    };
    let (one, other) = (by(BY_LISTENER), by(OWN));
    assert!(one.0 == other.0, "other bytes with threads of its own");
    let told = |error: &Option<FlowError>| error.as_ref().map(FlowError::to_string);
    assert_eq!(told(&one.1), told(&other.1));
    other
}

/// Text-like, so that every codec has something to do; the same for ever, since the golden file holds it.
fn text(len: usize) -> Vec<u8> {
    (0..)
        .flat_map(|row: u32| {
            format!("row={row:08} bal={:010}|", row.wrapping_mul(2_654_435_761)).into_bytes()
        })
        .take(len)
        .collect()
}

#[test]
fn what_goes_in_comes_out_with_the_codec_changing_from_frame_to_frame() {
    for len in [0, 1, FRAME - 1, FRAME, FRAME + 1, 10 * FRAME + 17] {
        let content = text(len);
        let (back, error) = decoded(&encoded(&content, options(FRAME), every_codec));
        assert!(error.is_none(), "{len}: {error:?}");
        assert_eq!(back, content, "{len}");
    }
}

#[test]
fn concatenated_streams_decode_to_their_concatenation() {
    let both = [
        encoded(&text(5000), options(FRAME), every_codec),
        encoded(&text(77), options(8192), every_codec),
    ];
    let (back, error) = decoded(&both.concat());
    assert!(error.is_none(), "{error:?}");
    assert_eq!(back, [text(5000), text(77)].concat());
}

/// The format's first version, for good: `PAGEWIRE_WRITE_GOLDEN=1` wrote the file once.
#[test]
fn the_golden_file_of_version_1_is_still_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.pw");
    let content = text(9 * FRAME + 100);
    if std::env::var_os("PAGEWIRE_WRITE_GOLDEN").is_some() {
        std::fs::write(path, encoded(&content, options(FRAME), every_codec)).expect("written");
    }
    let golden = std::fs::read(path).expect("the golden file");
    let (back, error) = decoded(&golden);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(back, content);
    // Stored frames have no freedom of form, so that today's encoder writes them, START and END as the first one did.
    let headers = |frames: &[u8]| -> Vec<(Header, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < frames.len() {
            let header =
                Header::from_bytes(frames[at..at + HEADER_LEN].try_into().expect("48 bytes"))
                    .expect("valid");
            let end = at + HEADER_LEN + header.packed_len as usize;
            if header.codec == Codec::None {
                found.push((header, frames[at + HEADER_LEN..end].to_vec()));
            }
            at = end;
        }
        found
    };
    assert_eq!(
        headers(&golden),
        headers(&encoded(&content, options(FRAME), every_codec))
    );
}

#[test]
fn every_truncation_is_told_and_leaves_a_prefix() {
    let content = text(3 * FRAME + 5);
    let frames = encoded(&content, options(FRAME), every_codec);
    for cut in (0..frames.len())
        .step_by(7)
        .chain(frames.len() - 130..frames.len())
    {
        let (back, error) = decoded(&frames[..cut]);
        let error = error.unwrap_or_else(|| panic!("cut at {cut}: taken for whole"));
        assert!(
            content.starts_with(&back),
            "cut at {cut}: a wrong byte came out"
        );
        assert_eq!(error.code(), "FRAMES_TRUNCATED", "cut at {cut}: {error}");
    }
}

#[test]
fn every_flipped_bit_is_told_and_leaves_a_prefix() {
    let content = text(FRAME + 5);
    let frames = encoded(&content, options(FRAME), |number| {
        if number == 0 {
            Codec::Zstd
        } else {
            Codec::None
        }
    });
    for bit in (0..frames.len() * 8).step_by(3) {
        let mut bad = frames.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let (back, error) = decoded(&bad);
        let error = error.unwrap_or_else(|| panic!("bit {bit}: not noticed"));
        assert!(
            content.starts_with(&back),
            "bit {bit}: a wrong byte came out"
        );
        assert!(
            matches!(error, FlowError::Frame { .. }),
            "bit {bit}: {error}"
        );
    }
}

#[test]
fn bytes_behind_the_end_mark_are_told_after_all_is_out() {
    let content = text(100);
    let mut frames = encoded(&content, options(FRAME), every_codec);
    frames.extend_from_slice(&[0; 48]);
    let (back, error) = decoded(&frames);
    assert_eq!(back, content);
    assert!(
        matches!(
            error,
            Some(FlowError::Frame {
                number: 3,
                source: FrameError::Magic { .. },
                ..
            })
        ),
        "{error:?}"
    );
}

#[test]
fn input_that_pauses_leaves_nothing_in_a_buffer() {
    for (filtered, first) in [(false, *b"Q"), (true, *b"Q"), (true, *b"x")] {
        let (from_us, to_encoder) = pipe().expect("a pipe");
        let (of_link, to_link) = pipe().expect("a pipe");
        let (mut result, to_result) = pipe().expect("a pipe");
        let mut encode = options(1 << 20);
        encode.delta = if filtered {
            delta(CacheSize::Percent(100), 1 << 30)
        } else {
            None
        };
        let encoder = start(from_us, to_link, Kind::Encode(encode, every_codec));
        let decoder = start(of_link, to_result, Kind::Decode(BY_LISTENER));
        let mut us = to_encoder;
        for piece in [first.to_vec(), text(9), text(4097)] {
            us.write_all(&piece).expect("written");
            let mut back = vec![0; piece.len()];
            // Hangs, and so fails by the runner's limit, if a byte stays behind: the pipe is still open.
            result.read_exact(&mut back).expect("all of it");
            assert_eq!(back, piece);
        }
        drop(us);
        for running in [encoder, decoder] {
            let (source, sink) = running.wait();
            source.expect("read to the end");
            sink.expect("written");
        }
    }
}

#[test]
fn an_output_that_nobody_reads_stops_the_input() {
    let (input, mut us) = pipe().expect("a pipe");
    let (unread, output) = pipe().expect("a pipe");
    let running = start(
        input,
        output,
        Kind::Encode(options(64 << 10), |_| Codec::None),
    );
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let writer = std::thread::spawn(move || {
        while us.write_all(&[0; 4096]).is_ok() {
            counter.fetch_add(4096, Ordering::SeqCst);
        }
    });
    // It stands still when both pipes (1 MiB at the most), the slots and one read are full.
    let bound = 2 * (1 << 20) + 8 * (64 << 10);
    let mut last = usize::MAX;
    while last != written.load(Ordering::SeqCst) {
        last = written.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(
        (64 << 10..=bound).contains(&last),
        "{last} bytes were taken"
    );
    running.flow.stop();
    let (source, sink) = running.wait();
    assert!(matches!(source, Err(FlowError::Stopped)) && matches!(sink, Err(FlowError::Stopped)));
    drop(running);
    drop(unread);
    writer.join().expect("ended");
}

#[test]
fn an_idle_flow_can_be_stopped() {
    let (input, _us) = pipe().expect("a pipe");
    let (_result, output) = pipe().expect("a pipe");
    for kind in [
        Kind::Encode(options(FRAME), every_codec),
        Kind::Decode(BY_LISTENER),
        Kind::Decode(OWN),
    ] {
        let running = start(
            input.try_clone().expect("a duplicate"),
            output.try_clone().expect("a duplicate"),
            kind,
        );
        std::thread::sleep(Duration::from_millis(20));
        running.flow.stop();
        let (source, _) = running.wait();
        assert!(matches!(source, Err(FlowError::Stopped)));
    }
}

#[test]
fn a_closed_output_is_told_as_such() {
    let (result, output) = pipe().expect("a pipe");
    drop(result);
    let running = start(
        file(&text(100)),
        output,
        Kind::Encode(options(FRAME), every_codec),
    );
    let (_, sink) = running.wait();
    assert!(
        matches!(sink, Err(FlowError::OutputClosed { offset: 0 })),
        "{sink:?}"
    );
}

#[test]
fn an_input_that_cannot_be_read_becomes_an_abort() {
    let output = file(b"");
    let folder = File::open(std::env::temp_dir()).expect("a folder");
    let running = start(
        folder,
        output.try_clone().expect("a duplicate"),
        Kind::Encode(options(FRAME), every_codec),
    );
    let (source, sink) = running.wait();
    assert!(
        matches!(source, Err(FlowError::Read { offset: 0, .. })),
        "{source:?}"
    );
    sink.expect("written");
    let (back, error) = decoded(&read_back(output));
    assert!(back.is_empty());
    let error = error.expect("told");
    assert_eq!(error.code(), "SENDER_STOPPED");
    assert!(error.to_string().contains("Is a directory"), "{error}");
}

/// A guest of one block, no page of which is sent.
fn guest(ram: u64) -> Vec<u8> {
    let mut s = b"QEVM\0\0\0\x03\x07\0\0\0\x06pc-q35".to_vec();
    s.extend_from_slice(b"\x01\0\0\0\x01\x03ram\0\0\0\0\0\0\0\x04");
    s.extend_from_slice(&(ram | 0x04).to_be_bytes());
    s.extend_from_slice(b"\x06pc.ram");
    s.extend_from_slice(&ram.to_be_bytes());
    s.extend_from_slice(&0x10u64.to_be_bytes());
    s
}

#[test]
fn a_cache_asked_for_by_size_is_refused_where_it_does_not_fit() {
    let run = |cache, limit| {
        let running = start(
            file(&guest(64 << 20)),
            file(b""),
            Kind::Encode(
                EncodeOptions {
                    delta: delta(cache, limit),
                    ..options(FRAME)
                },
                every_codec,
            ),
        );
        let (source, _) = running.wait();
        (source, running.flow.guest().expect("named"))
    };
    let (source, _) = run(CacheSize::Bytes(32 << 20), 16 << 20);
    assert!(
        matches!(source, Err(FlowError::CacheRefused { .. })),
        "{source:?}"
    );
    let (source, report) = run(CacheSize::Percent(100), 16 << 20);
    assert_eq!(report.cache_granted, (16 << 20) - 1000);
    assert!(report.cache_wanted >= 64 << 20);
    assert_eq!(source.expect("delivered").ending, Ending::TruncatedInput);
    let (source, report) = run(CacheSize::Bytes(1 << 40), 1 << 50);
    assert_eq!(
        report.cache_granted, report.cache_for_all,
        "more than all pages is never wanted"
    );
    source.expect("delivered");
}

#[test]
fn a_qemu_stream_that_ends_in_the_middle_is_delivered_and_both_ends_know() {
    let content = guest(64 << 20);
    for len in [8, 20, content.len() - 20, content.len()] {
        let encode = EncodeOptions {
            delta: delta(CacheSize::Percent(100), 1 << 30),
            ..options(FRAME)
        };
        let output = file(b"");
        let running = start(
            file(&content[..len]),
            output.try_clone().expect("a duplicate"),
            Kind::Encode(encode, every_codec),
        );
        let (source, _) = running.wait();
        let end = source.expect("delivered");
        assert_eq!(end.ending, Ending::TruncatedInput, "{len}");
        assert!(end.within.is_some());
        let back = file(b"");
        let running = start(
            file(&read_back(output)),
            back.try_clone().expect("a duplicate"),
            Kind::Decode(BY_LISTENER),
        );
        let (_, sink) = running.wait();
        assert_eq!(sink.expect("delivered"), Some(Ending::TruncatedInput));
        assert_eq!(read_back(back), content[..len]);
    }
}

#[test]
fn a_pipe_s_wrong_end_is_refused() {
    let (read, write) = pipe().expect("a pipe");
    let refused = |input: OwnedFd, output: OwnedFd| {
        let flow = Flow::decode(
            input,
            output,
            BY_LISTENER,
            WINDOW_LIMIT,
            Bases::default(),
            None,
            Box::new(|_| {}),
        );
        assert!(matches!(flow, Err(FlowError::Access { .. })));
    };
    let null = || {
        OwnedFd::from(
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .expect("a device"),
        )
    };
    refused(write.try_clone().expect("a duplicate").into(), null());
    refused(null(), read.try_clone().expect("a duplicate").into());
}

/// Content that comes again, shifted, as pages of a guest do; the same for ever, since the golden file holds it.
fn twice(len: usize) -> Vec<u8> {
    let mut content = text(len);
    for (i, page) in text(len).chunks(1500).enumerate().rev() {
        content.extend(&[i as u8; 11]);
        content.extend(page);
    }
    content
}

fn matching(frame_size: usize, window: u64) -> EncodeOptions {
    EncodeOptions {
        matching: Some(MatchOptions {
            window,
            effort: Effort::Fast,
        }),
        ..options(frame_size)
    }
}

/// The headers of frames, and where each begins.
fn headers(frames: &[u8]) -> Vec<(usize, Header)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < frames.len() {
        let header = Header::from_bytes(frames[at..at + HEADER_LEN].try_into().expect("48 bytes"));
        let header = header.expect("valid");
        found.push((at, header));
        at += HEADER_LEN + header.packed_len as usize;
    }
    found
}

fn matched(frames: &[u8]) -> usize {
    let matched = |(_, header): &(usize, Header)| header.kind == FrameType::Matched;
    headers(frames).into_iter().filter(matched).count()
}

#[test]
fn what_comes_again_becomes_references_and_comes_back() {
    let content = twice(60_000);
    for codec in [every_codec, (|_| Codec::None) as Choose, |_| Codec::Zstd] {
        let frames = encoded(&content, matching(FRAME, 1 << 20), codec);
        assert!(matched(&frames) >= 10, "{}", matched(&frames));
        let (back, error) = decoded(&frames);
        assert!(error.is_none(), "{error:?}");
        assert!(back == content, "a wrong byte came out");
    }
}

#[test]
fn concatenated_streams_have_windows_of_their_own() {
    let content = twice(20_000);
    let one = encoded(&content, matching(FRAME, 1 << 20), every_codec);
    let other = encoded(&content, matching(8192, 1 << 21), every_codec);
    let plain = encoded(&content, options(FRAME), every_codec);
    let (back, error) = decoded(&[one.clone(), plain, other, one].concat());
    assert!(error.is_none(), "{error:?}");
    assert!(back == content.repeat(4), "a wrong byte came out");
}

#[test]
fn a_stream_that_changes_nothing_is_of_version_1_0() {
    let frames = encoded(&text(100), options(FRAME), every_codec);
    assert_eq!(frames[HEADER_LEN..HEADER_LEN + 2], [1, 0]);
    let frames = encoded(&text(100), matching(FRAME, 1 << 20), every_codec);
    assert_eq!(frames[HEADER_LEN..HEADER_LEN + 2], [1, 1]);
}

#[test]
fn a_window_that_does_not_fit_is_refused_before_it_is_made() {
    let frames = encoded(&twice(20_000), matching(FRAME, WINDOW_LIMIT), every_codec);
    let (back, error) = decoded(&frames);
    let error = error.expect("no room");
    assert_eq!((error.code(), back.len()), ("OUT_OF_MEMORY", 0));
    let FlowError::Frame {
        number: 0,
        source:
            FrameError::Window {
                window,
                needed,
                of_base: 0,
                limit,
            },
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((window, limit), (WINDOW_LIMIT, WINDOW_LIMIT));
    assert!(needed > window);
}

/// Format 1.1, for good: `PAGEWIRE_WRITE_GOLDEN=1` wrote the file once.
#[test]
fn the_golden_file_of_version_1_1_is_still_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.1.pw");
    let content = twice(20_000);
    if std::env::var_os("PAGEWIRE_WRITE_GOLDEN").is_some() {
        let frames = encoded(&content, matching(FRAME, 1 << 20), every_codec);
        std::fs::write(path, frames).expect("written");
    }
    let golden = std::fs::read(path).expect("the golden file");
    assert!(matched(&golden) >= 4);
    let (back, error) = decoded(&golden);
    assert!(error.is_none(), "{error:?}");
    assert!(back == content, "a wrong byte came out");
}

/// The same frames as a stream of version 1.2, in which stored frames have this level.
fn of_version_1_2(mut frames: Vec<u8>, level: u8) -> Vec<u8> {
    for (at, header) in headers(&frames) {
        match (header.kind, header.codec) {
            (FrameType::Start, _) => {
                frames[at + HEADER_LEN + 1..at + HEADER_LEN + 3].copy_from_slice(&[2, 1]);
            }
            (FrameType::Data, Codec::None) => frames[at + 7] = level,
            _ => continue,
        }
        resealed(&mut frames, at);
    }
    frames
}

/// Format 1.2, for good: `PAGEWIRE_WRITE_GOLDEN=1` wrote the file once.
#[test]
fn the_golden_file_of_version_1_2_is_still_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.2.pw");
    let content = twice(20_000);
    if std::env::var_os("PAGEWIRE_WRITE_GOLDEN").is_some() {
        let frames = encoded(&content, matching(FRAME, 1 << 20), every_codec);
        std::fs::write(path, of_version_1_2(frames, 1)).expect("written");
    }
    let golden = std::fs::read(path).expect("the golden file");
    assert_eq!(golden[HEADER_LEN..HEADER_LEN + 3], [1, 2, 1]);
    assert!(matched(&golden) >= 4);
    let (back, error) = decoded(&golden);
    assert!(error.is_none(), "{error:?}");
    assert!(back == content, "a wrong byte came out");
}

#[test]
fn a_reference_to_what_need_not_be_kept_is_refused() {
    let content = twice(20_000);
    let frames = encoded(&content, matching(FRAME, 1 << 20), |_| Codec::None);
    let (back, error) = decoded(&of_version_1_2(frames.clone(), 1));
    assert!(error.is_none() && back == content, "{error:?}");
    let (back, error) = decoded(&of_version_1_2(frames, 0));
    let error = error.expect("nobody has what it leads to");
    let FlowError::Frame {
        source: FrameError::References(ReferenceError::Target { .. }),
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert!(content.starts_with(&back), "a wrong byte came out");
}

/// What is small goes past the flow's own threads, where these have nothing left to do.
#[test]
fn nothing_small_goes_out_behind_a_large_frame_that_is_damaged() {
    const LARGE: usize = 64 << 10;
    let content = text(2 * LARGE + 100);
    let mut frames = encoded(&content, options(LARGE), |_| Codec::None);
    // In the second large frame.
    let middle = frames.len() - LARGE / 2;
    frames[middle] ^= 1;
    for _ in 0..300 {
        let (back, error) = decoded(&frames);
        assert!(back == content[..LARGE], "{} bytes", back.len());
        let error = error.expect("damage").to_string();
        assert!(error.contains("frame 2"), "{error}");
    }
}

#[test]
fn damaged_references_are_told_and_leave_a_prefix() {
    let content = twice(6000);
    let frames = encoded(&content, matching(FRAME, 1 << 20), |_| Codec::None);
    assert!(matched(&frames) > 0);
    let check = |damaged: &[u8], what: &str| {
        let (back, error) = decoded(damaged);
        let error = error.unwrap_or_else(|| panic!("{what}: taken for good"));
        assert!(content.starts_with(&back), "{what}: a wrong byte came out");
        error
    };
    for cut in (0..frames.len()).step_by(29) {
        let error = check(&frames[..cut], &format!("cut at {cut}"));
        assert_eq!(error.code(), "FRAMES_TRUNCATED", "cut at {cut}: {error}");
    }
    for bit in (0..frames.len() * 8).step_by(149) {
        let mut damaged = frames.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        check(&damaged, &format!("bit {bit}"));
    }
}

/// Puts the checksums of a frame right, so that what was forged in it is looked at.
fn resealed(frames: &mut [u8], at: usize) {
    let len = u32::from_le_bytes(frames[at + 28..at + 32].try_into().expect("4 bytes")) as usize;
    let payload = xxh3_64(&frames[at + HEADER_LEN..at + HEADER_LEN + len]);
    frames[at + 32..at + 40].copy_from_slice(&payload.to_le_bytes());
    let header = xxh3_64(&frames[at..at + 40]);
    frames[at + 40..at + 48].copy_from_slice(&header.to_le_bytes());
}

#[test]
fn forged_references_are_refused_and_nothing_wrong_comes_out() {
    let content = twice(20_000);
    let frames = encoded(&content, matching(FRAME, 1 << 20), |_| Codec::None);
    let refused = |forged: &[u8], what: &str| {
        let (back, error) = decoded(forged);
        let error = error.unwrap_or_else(|| panic!("{what}: taken for good"));
        assert!(content.starts_with(&back), "{what}: a wrong byte came out");
        error
    };
    // A window that is smaller than what the references need, or none at all.
    for (window, reason) in [
        (4096u64, "where within the window"),
        (0, "announces no references"),
    ] {
        let mut forged = frames.clone();
        forged[HEADER_LEN + 8..HEADER_LEN + 16].copy_from_slice(&window.to_le_bytes());
        resealed(&mut forged, 0);
        let error = refused(&forged, "window");
        assert_eq!(error.code(), "FRAMES_DAMAGED");
        assert!(error.to_string().contains(reason), "{error}");
    }
    // Each byte of a list, its length and the body's among them, in each way that changes one bit.
    let matched = |(_, header): &&(usize, Header)| header.kind == FrameType::Matched;
    let found = headers(&frames);
    let (at, _) = *found.iter().rfind(matched).expect("one");
    let list = u32::from_le_bytes(frames[at + 52..at + 56].try_into().expect("4 bytes")) as usize;
    for bit in (0..(8 + list) * 8).step_by(3) {
        let mut forged = frames.clone();
        forged[at + HEADER_LEN + bit / 8] ^= 1 << (bit % 8);
        resealed(&mut forged, at);
        // A reference that leads to other literals is found by the content's hash, at the end.
        let (back, error) = decoded(&forged);
        let error = error.unwrap_or_else(|| panic!("bit {bit}: taken for good"));
        assert_eq!(error.code(), "FRAMES_DAMAGED", "bit {bit}: {error}");
        assert!(back.len() <= content.len());
    }
}

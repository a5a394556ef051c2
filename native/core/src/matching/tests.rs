//! Both directions together, without the threads and the codecs of a flow.

use super::references::{self, Reference, ReferenceError, Source};
use super::*;
use proptest::prelude::*;
use std::sync::Arc;

/// A frame on its way: its bytes, or a body with references.
enum Frame {
    Plain(Vec<u8>),
    Matched(Vec<u8>, u32),
}

/// What the frames' bytes become, when so many frames are on their way at once, the last of them first done.
fn encode(frames: &[Vec<u8>], window: u64, effort: Effort, at_once: usize) -> Vec<Frame> {
    let in_flight: u64 = frames
        .iter()
        .map(|frame| frame.len() as u64)
        .max()
        .unwrap_or(0)
        * at_once as u64;
    let matcher = Matcher::new(window, effort, in_flight, Keeps::All).expect("memory");
    let mut scratch = Scratch::default();
    let (mut offset, mut made) = (0, Vec::new());
    for group in frames.chunks(at_once) {
        let mut places = Vec::new();
        for raw in group {
            let place = matcher.open(offset, raw.len() as u32).expect("room");
            places.push((place, raw, offset));
            offset += raw.len() as u64;
        }
        let mut of_group = Vec::new();
        for (mut place, raw, offset) in places.into_iter().rev() {
            matcher.find(&place, raw, &[], &mut scratch);
            let mut body = vec![0; raw.len()];
            let len = references::write(scratch.references(), offset, raw, &mut body)
                .filter(|_| !scratch.references().is_empty());
            matcher.commit(&mut place, raw, len.is_some(), &scratch);
            of_group.push(match len {
                Some(len) => Frame::Matched(body[..len].to_vec(), raw.len() as u32),
                None => Frame::Plain(raw.clone()),
            });
        }
        made.extend(of_group.into_iter().rev());
    }
    made
}

fn decode_frame(
    window: &Arc<Window>,
    offset: u64,
    frame: &Frame,
) -> Result<Vec<u8>, ReferenceError> {
    match frame {
        Frame::Plain(raw) => {
            window
                .open(offset, raw.len() as u32)
                .expect("room")
                .put(0, raw);
            Ok(raw.clone())
        }
        Frame::Matched(body, raw_len) => {
            let mut found = Vec::new();
            let literals = references::read(body, offset, *raw_len, &mut found)?;
            let mut place = window.open(offset, *raw_len).expect("room");
            let mut out = vec![0; *raw_len as usize];
            references::place_literals(&found, literals, &mut place, &mut out);
            for reference in &found {
                let Source::Window(from) = reference.source else {
                    panic!("no base was given")
                };
                if !place.get(
                    from,
                    &mut out[reference.at as usize..reference.end() as usize],
                ) {
                    let at = offset + u64::from(reference.at);
                    return Err(ReferenceError::Target {
                        at,
                        to: from,
                        len: reference.len,
                        window: place.reach(),
                    });
                }
            }
            Ok(out)
        }
    }
}

fn decode(frames: &[Frame], window: u64) -> Vec<u8> {
    let window = Window::new(window, 1 << 20, Keeps::All).expect("memory");
    let mut out = Vec::new();
    for frame in frames {
        let raw = decode_frame(&window, out.len() as u64, frame).expect("our own");
        out.extend(raw);
    }
    out
}

fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

fn cut(stream: &[u8], frame: usize) -> Vec<Vec<u8>> {
    stream.chunks(frame).map(<[u8]>::to_vec).collect()
}

fn matched(frames: &[Frame]) -> usize {
    let of = |frame: &Frame| match frame {
        Frame::Matched(body, raw_len) => *raw_len as usize - body.len(),
        Frame::Plain(_) => 0,
    };
    frames.iter().map(of).sum()
}

#[test]
fn pages_that_come_again_are_references_however_they_are_shifted() {
    let pages: Vec<Vec<u8>> = (0..64).map(|seed| random(4096, seed)).collect();
    let mut stream: Vec<u8> = pages.concat();
    for (i, page) in pages.iter().rev().enumerate() {
        stream.extend(random(8 + i % 7, 1000 + i as u64));
        stream.extend(page);
    }
    for effort in [Effort::Fast, Effort::Deep] {
        let frames = encode(&cut(&stream, 64 << 10), 1 << 20, effort, 1);
        assert_eq!(decode(&frames, 1 << 20), stream);
        let saved = matched(&frames);
        assert!(saved > 62 * 4096, "{effort:?}: {saved}");
    }
}

#[test]
fn what_has_left_the_window_is_written_out_again() {
    let page = random(4096, 1);
    let mut stream = Vec::new();
    for seed in 0..8 {
        stream.extend(&page);
        stream.extend(random(60_000, 100 + seed));
    }
    let frames = encode(&cut(&stream, 16 << 10), 20_000, Effort::Fast, 1);
    assert_eq!(matched(&frames), 0);
    assert_eq!(decode(&frames, 20_000), stream);
    // Each copy is within reach of the one before, but a reference leads to literals only: every other one is one.
    let frames = encode(&cut(&stream, 16 << 10), 70_000, Effort::Fast, 1);
    assert_eq!(decode(&frames, 70_000), stream);
    let saved = matched(&frames);
    assert!((3 * 4096..=4 * 4096).contains(&saved), "{saved}");
}

#[test]
fn many_threads_match_at_once_and_the_result_is_right() {
    let pages: Vec<Vec<u8>> = (0..50).map(|seed| random(4000, seed)).collect();
    let stream: Vec<u8> = (0..2000)
        .flat_map(|i: usize| pages[i * i % 50].clone())
        .collect();
    let frames = cut(&stream, 50_000);
    let matcher = Matcher::new(2_000_000, Effort::Fast, 8 * 50_000, Keeps::All).expect("memory");
    let queue = std::sync::Mutex::new((0..frames.len(), 0u64));
    let done = std::sync::Mutex::new(std::collections::BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut scratch = Scratch::default();
                loop {
                    let (number, offset, mut place) = {
                        let mut queue = queue.lock().expect("no panic");
                        let Some(number) = queue.0.next() else { break };
                        let offset = queue.1;
                        let len = frames[number].len() as u32;
                        queue.1 += u64::from(len);
                        // Where a thread is far behind there is no room, until it has caught up.
                        let place = loop {
                            match matcher.open(offset, len) {
                                Some(place) => break place,
                                None => std::thread::yield_now(),
                            }
                        };
                        (number, offset, place)
                    };
                    let raw = &frames[number];
                    matcher.find(&place, raw, &[], &mut scratch);
                    let mut body = vec![0; raw.len()];
                    let len = references::write(scratch.references(), offset, raw, &mut body)
                        .filter(|_| !scratch.references().is_empty());
                    matcher.commit(&mut place, raw, len.is_some(), &scratch);
                    let frame = match len {
                        Some(len) => Frame::Matched(body[..len].to_vec(), raw.len() as u32),
                        None => Frame::Plain(raw.clone()),
                    };
                    done.lock().expect("no panic").insert(number, frame);
                }
            });
        }
    });
    let made: Vec<Frame> = done.into_inner().expect("no panic").into_values().collect();
    assert_eq!(decode(&made, 2_000_000), stream);
    assert!(matched(&made) > stream.len() / 2, "{}", matched(&made));
}

#[test]
fn a_gap_in_the_places_is_never_referred_over() {
    let window = Window::new(10_000, 4096, Keeps::All).expect("memory");
    window.open(0, 4096).expect("room").put(0, &random(4096, 1));
    // Nobody put what stands between.
    let place = window.open(8192, 4096).expect("room");
    assert_eq!(place.floor(), 8192);
    assert!(!place.get(100, &mut [0; 64]));
    assert!(
        window.open(12288, 4096).is_none(),
        "no room beside a frame that is on its way"
    );
    assert!(window.open(100, 4096).is_none(), "out of order");
    drop(place);
    window.open(12288, 4096).expect("room");
}

/// A body as an attacker would write it.
fn body(list: &[(u64, u64, u64)], literals: &[u8]) -> Vec<u8> {
    let mut numbers = Vec::new();
    for &(literals, len, place) in list {
        for mut number in [literals, len, place] {
            while number >= 0x80 {
                numbers.push(number as u8 | 0x80);
                number >>= 7;
            }
            numbers.push(number as u8);
        }
    }
    let mut body = (numbers.len() as u32).to_le_bytes().to_vec();
    body.extend(numbers);
    body.extend(literals);
    body
}

#[test]
fn hostile_references_are_refused() {
    let window = Window::new(8192, 1 << 16, Keeps::All).expect("memory");
    let first = random(4096, 1);
    decode_frame(&window, 0, &Frame::Plain(first.clone())).expect("plain");
    // 100 literals, 200 bytes of the first frame, 100 literals.
    let good = body(&[(100, 200 - 32, 1100 << 2 | 1)], &[7; 200]);
    let back = decode_frame(&window, 4096, &Frame::Matched(good, 400)).expect("good");
    assert_eq!(back[..100], [7; 100]);
    assert_eq!(back[100..300], first[4196 - 1100..][..200]);

    let refused = |list: &[(u64, u64, u64)], literals: usize, raw_len: u32| {
        let frame = Frame::Matched(body(list, &vec![0; literals]), raw_len);
        decode_frame(&window, 4496, &frame).expect_err("hostile")
    };
    let at = |distance: u64| distance << 2 | 1;
    // To the future, to itself, and before the beginning of the stream.
    for distance in [0, 1, 63, 4497, u64::MAX >> 2] {
        let error = refused(&[(0, 32, at(distance))], 0, 64);
        assert!(
            matches!(error, ReferenceError::Distance { .. }),
            "{distance}: {error:?}"
        );
    }
    // Lengths that lie.
    for (list, literals, raw_len) in [
        (&[(0, 33, at(100))][..], 0, 64),
        (&[(0, 32, at(100))], 1, 64),
        (&[(1, 32, at(100))], 0, 64),
        (&[(0, u64::MAX, at(100))], 0, 64),
        (&[(u64::MAX, 32, at(100))], 0, 64),
        (&[(0, 32, at(100)), (u64::MAX - 70, 32, at(100))], 0, 64),
        (&[], 63, 64),
    ] {
        let error = refused(list, literals, raw_len);
        assert!(
            matches!(error, ReferenceError::Length { .. }),
            "{list:?}: {error:?}"
        );
    }
    // The same as before, where there is none before; and a kind that is not known.
    for place in [0, 100 << 2, 100 << 2 | 3] {
        let error = refused(&[(0, 32, place)], 0, 64);
        assert!(
            matches!(error, ReferenceError::List { .. }),
            "{place}: {error:?}"
        );
    }
    // Lists that end too early, and numbers that do not end.
    for bytes in [
        &[][..],
        &[1, 0, 0],
        &[1, 0, 0, 0],
        &[9, 0, 0, 0, 1, 2, 3],
        &[1, 0, 0, 0, 0x80],
        &[255; 40],
    ] {
        let error =
            decode_frame(&window, 4496, &Frame::Matched(bytes.to_vec(), 64)).expect_err("cut off");
        assert!(
            matches!(error, ReferenceError::List { .. }),
            "{bytes:?}: {error:?}"
        );
    }
    let mut endless = vec![20, 0, 0, 0];
    endless.extend([0xff; 20]);
    let error = decode_frame(&window, 4496, &Frame::Matched(endless, 64)).expect_err("endless");
    assert_eq!(error, ReferenceError::List { at: 0 });
}

#[test]
fn a_reference_to_a_reference_or_beyond_the_window_is_refused() {
    let window = Window::new(8192, 1 << 16, Keeps::All).expect("memory");
    decode_frame(&window, 0, &Frame::Plain(random(4096, 1))).expect("plain");
    let good = body(&[(128, 512 - 32, 2000 << 2 | 1)], &[7; 256]);
    decode_frame(&window, 4096, &Frame::Matched(good, 768)).expect("good");
    let to = |from: u64, len: u64, offset: u64| {
        let frame = Frame::Matched(
            body(&[(0, len - 32, (offset - from) << 2 | 1)], &[]),
            len as u32,
        );
        decode_frame(&window, offset, &frame)
    };
    let mut offset = 4096 + 768;
    let mut refused = |from, len| {
        let error = to(from, len, offset).expect_err("not literal");
        assert!(
            matches!(error, ReferenceError::Target { .. }),
            "{from} {len}: {error:?}"
        );
        offset += len; // its place was opened
    };
    // Into the reference, over its begin, over its end.
    for (from, len) in [
        (4096 + 128, 512),
        (4096 + 300, 32),
        (4096 + 100, 64),
        (4096 + 600, 64),
    ] {
        refused(from, len);
    }
    let mut good = |from, len| {
        to(from, len, offset).expect("literal");
        offset += len;
    };
    good(4096 + 64, 64);
    good(4096 + 640, 64);
    good(0, 1024);
    let rest = 8192 + 33 - offset;
    decode_frame(&window, offset, &Frame::Plain(vec![1; rest as usize])).expect("plain");
    let offset = offset + rest;
    to(33, 64, offset).expect("the last that is in reach");
    let error = to(96, 64, offset + 64).expect_err("out of reach");
    assert_eq!(
        error,
        ReferenceError::Target {
            at: offset + 64,
            to: 96,
            len: 64,
            window: 8192
        }
    );
}

#[test]
fn references_into_a_base_survive_their_bytes() {
    let raw = random(5000, 3);
    let list = [
        Reference {
            at: 8,
            len: 1000,
            source: Source::Base(1 << 40),
        },
        Reference {
            at: 1016,
            len: 1000,
            source: Source::Base((1 << 40) + 1008),
        },
        Reference {
            at: 2016,
            len: 50,
            source: Source::Window(77),
        },
        Reference {
            at: 3000,
            len: 2000,
            source: Source::Base(5),
        },
    ];
    let mut bytes = vec![0; 5000];
    let len = references::write(&list, 100_000, &raw, &mut bytes).expect("fits");
    let mut back = Vec::new();
    let literals = references::read(&bytes[..len], 100_000, 5000, &mut back).expect("ours");
    assert_eq!(back, list);
    assert_eq!(literals.len(), 8 + 8 + 934);
    assert_eq!(
        references::write(&list, 100_000, &raw, &mut bytes[..len - 1]),
        None
    );
}

/// Pieces of streams: fresh bytes, bytes that stood earlier, runs of one byte.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (any::<u64>(), 1usize..3000).prop_map(|(seed, len)| (0u8, seed, len)),
        (any::<u64>(), 1usize..6000).prop_map(|(seed, len)| (1u8, seed, len)),
        (any::<u64>(), 1usize..500).prop_map(|(seed, len)| (2u8, seed, len)),
    ];
    proptest::collection::vec(piece, 1..40).prop_map(|pieces| {
        let mut stream: Vec<u8> = Vec::new();
        for (kind, seed, len) in pieces {
            match kind {
                1 if !stream.is_empty() => {
                    let from = seed as usize % stream.len();
                    let to = (from + len).min(stream.len());
                    stream.extend_from_within(from..to);
                }
                2 => stream.extend(std::iter::repeat_n(seed as u8, len)),
                _ => stream.extend(random(len, seed)),
            }
        }
        stream
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_stream_comes_back(
        stream in stream(), frame in 100usize..9000, window in 1000u64..60_000, at_once in 1usize..5, deep in any::<bool>(),
    ) {
        let effort = if deep { Effort::Deep } else { Effort::Fast };
        let frames = encode(&cut(&stream, frame), window, effort, at_once);
        prop_assert_eq!(decode(&frames, window), stream);
    }

    #[test]
    fn any_bytes_are_refused_or_read_but_never_panic(
        bodies in proptest::collection::vec(
            (proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(5), any::<u8>()], 0..300), 1u32..4000, 0u8..30), 1..8),
    ) {
        let window = Window::new(3000, 1 << 16, Keeps::All).expect("memory");
        let mut offset = 0;
        for (mut body, raw_len, list) in bodies {
            // Mostly lists that lie within the body, or nothing else would be tried.
            if let Some(len) = body.first_chunk_mut::<4>() {
                *len = u32::from(list).to_le_bytes();
            }
            if let Ok(raw) = decode_frame(&window, offset, &Frame::Matched(body, raw_len)) {
                prop_assert_eq!(raw.len(), raw_len as usize);
            }
            offset += u64::from(raw_len);
            // Whether it was opened or not.
            let _ = window.open(offset, 0);
        }
    }
}

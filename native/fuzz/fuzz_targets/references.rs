//! Match both ways: any stream comes back as it was, and any body of a frame with references is read or refused within its
//! frame and its window.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_core::matching::references::{self, Source};
use pagewire_core::matching::{Effort, Keeps, Matcher, Scratch, Window};
use std::sync::Arc;

const WINDOW: u64 = 3000;
const FRAME: usize = 700;

/// What a frame becomes, or `None` where it is refused.
fn decode(window: &Arc<Window>, offset: u64, body: &[u8], raw_len: u32) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    let literals = references::read(body, offset, raw_len, &mut found).ok()?;
    let mut place = window.open(offset, raw_len)?;
    let mut raw = vec![0; raw_len as usize];
    references::place_literals(&found, literals, &mut place, &mut raw);
    for reference in &found {
        let Source::Window(from) = reference.source else {
            return None;
        };
        let out = &mut raw[reference.at as usize..reference.end() as usize];
        if !place.get(from, out) {
            return None;
        }
    }
    Some(raw)
}

fn round_trip(stream: &[u8], effort: Effort) {
    let matcher = Matcher::new(WINDOW, effort, FRAME as u64, Keeps::All).expect("memory");
    let window = Window::new(WINDOW, FRAME as u64, Keeps::All).expect("memory");
    let mut scratch = Scratch::default();
    let mut offset = 0;
    for raw in stream.chunks(FRAME) {
        let len = raw.len() as u32;
        let mut place = matcher.open(offset, len).expect("room");
        matcher.find(&place, raw, &[], &mut scratch);
        let mut body = vec![0; FRAME];
        let written = references::write(scratch.references(), offset, raw, &mut body);
        let matched = written.filter(|_| !scratch.references().is_empty());
        matcher.commit(&mut place, raw, matched.is_some(), &scratch);
        match matched {
            Some(n) => assert_eq!(
                decode(&window, offset, &body[..n], len).as_deref(),
                Some(raw)
            ),
            None => window.open(offset, len).expect("room").put(0, raw),
        }
        offset += u64::from(len);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else {
        return;
    };
    match how % 3 {
        // Copies of what stood before, which a fuzzer would take long to make by itself.
        0 | 1 => {
            let mut stream = Vec::new();
            for piece in rest.chunks(40) {
                stream.extend(piece);
                let from = usize::from(piece[0]) * 8 % stream.len();
                stream.extend_from_within(from..(from + 3 * piece.len()).min(stream.len()));
            }
            let effort = if how % 3 == 0 {
                Effort::Fast
            } else {
                Effort::Deep
            };
            round_trip(&stream, effort);
        }
        _ => {
            let window = Window::new(WINDOW, 4 * FRAME as u64, Keeps::All).expect("memory");
            let first: Vec<u8> = (0..FRAME).map(|i| (i * 7) as u8).collect();
            window.open(0, FRAME as u32).expect("room").put(0, &first);
            let mut offset = FRAME as u64;
            for body in rest.split(|&byte| byte == 0xff) {
                let raw_len = 4 * body.len() as u32 % 2000;
                let mut framed = (u32::from(body.first().copied().unwrap_or(0)) % 40)
                    .to_le_bytes()
                    .to_vec();
                framed.extend(body.get(1..).unwrap_or(&[]));
                if let Some(raw) = decode(&window, offset, &framed, raw_len) {
                    assert_eq!(raw.len(), raw_len as usize);
                }
                offset += u64::from(raw_len);
            }
        }
    }
});

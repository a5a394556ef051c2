//! Finds what stood earlier in the stream: see the module.

use super::anchors::{self, GRAM};
use super::candidates::Candidates;
use super::references::{Reference, Source};
use super::window::{Keeps, Place, Window};
use std::io;
use std::sync::Arc;

/// What is looked through at once: few enough anchors that their buckets are still in the cache when they are compared.
const STRETCH: usize = 8 << 10;

/// The same behind a reference, where the next one is likely to begin soon: what it covers was looked through for nothing.
const SHORT_STRETCH: usize = 512;

/// How hard to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// An anchor every 256 bytes, runs of 64 bytes and more. An anchor every 128 bytes finds 5 to 14 % more in saved guests, in
    /// 1.4 and 1.6 times the time; behind it a save gets 0.2 and 0.8 % smaller.
    #[default]
    Fast,
    /// An anchor every 32 bytes, runs of 32 bytes and more: eight times the candidates, at half the speed.
    Deep,
}

impl Effort {
    /// Bytes from anchor to anchor, on average; a power of two.
    pub(super) fn spacing(self) -> u32 {
        match self {
            Effort::Fast => 256,
            Effort::Deep => 32,
        }
    }

    /// Bytes from an anchor on that must be alike for it to be a candidate.
    fn run(self) -> usize {
        match self {
            Effort::Fast => 64,
            Effort::Deep => 32,
        }
    }
}

/// What finds references for the frames of one stream; all threads share it.
pub struct Matcher {
    window: Arc<Window>,
    candidates: Candidates,
    effort: Effort,
}

/// Where one thread keeps what it finds; used again from frame to frame.
#[derive(Default)]
pub struct Scratch {
    positions: Vec<u32>,
    anchors: Vec<Anchor>,
    found: Vec<Reference>,
}

#[derive(Clone, Copy)]
struct Anchor {
    at: u32,
    hash: u64,
}

impl Scratch {
    /// The references that were found last, in their order.
    pub fn references(&self) -> &[Reference] {
        &self.found
    }
}

impl Matcher {
    /// A matcher with a window of so many bytes, beside which frames of `in_flight` raw bytes in all are on their way.
    ///
    /// # Errors
    /// If the system does not give the memory.
    pub fn new(window: u64, effort: Effort, in_flight: u64, keeps: Keeps) -> io::Result<Self> {
        Ok(Matcher {
            window: Window::new(window, in_flight, keeps)?,
            candidates: Candidates::new(window, effort.spacing())?,
            effort,
        })
    }

    /// The place of the next frame, see [`Window::open`].
    pub fn open(&self, offset: u64, len: u32) -> Option<Place> {
        self.window.open(offset, len)
    }

    /// Looks for the frame's bytes in the window. What `given` says, in its order, is taken as it is, and only what lies
    /// between is looked through. The result is in `scratch`.
    pub fn find(&self, place: &Place, raw: &[u8], given: &[Reference], scratch: &mut Scratch) {
        scratch.found.clear();
        let mut from = 0;
        for reference in given {
            self.look_through(place, raw, from, reference.at, scratch);
            scratch.found.push(*reference);
            from = reference.end();
        }
        self.look_through(place, raw, from, raw.len() as u32, scratch);
    }

    /// Looks through `raw[start..end]`; finds no reference that reaches beyond.
    fn look_through(&self, place: &Place, raw: &[u8], start: u32, end: u32, scratch: &mut Scratch) {
        let run = self.effort.run();
        let Scratch {
            positions,
            anchors,
            found,
        } = scratch;
        let raw = &raw[..end as usize];
        let first = found.len();
        // Where the next reference may begin, and up to where anchors were looked for.
        let (mut free, mut seen) = (start, start as usize);
        let mut stretch = SHORT_STRETCH;
        while seen + run <= raw.len() {
            let upto = (seen + stretch).min(raw.len() - run + 1);
            positions.clear();
            anchors::find(raw, seen, upto, self.effort.spacing(), positions);
            anchors.clear();
            anchors.extend(positions.iter().map(|&at| {
                let hash = hash(&raw[at as usize..at as usize + run]);
                self.candidates.prefetch(hash);
                Anchor { at, hash }
            }));
            for anchor in anchors.iter() {
                if anchor.at < free {
                    continue;
                }
                let Some(mut best) = self.longest(place, raw, free, *anchor) else {
                    // Now, while its bucket is in the cache. Nobody refers there before the bytes are in the window.
                    let here = place.offset() + u64::from(anchor.at);
                    self.candidates.note(anchor.hash, here);
                    continue;
                };
                let Source::Window(mut from) = best.source else {
                    continue;
                };
                // One that begins before another does, and reaches over it, takes its place.
                while best.at == free && found.len() > first {
                    let Some(last) = found.last() else { break };
                    let back = (best.at - last.at) as usize;
                    if free != last.end()
                        || place.common_backward(from, &raw[last.at as usize..best.at as usize])
                            < back
                    {
                        break;
                    }
                    let before = found
                        .len()
                        .checked_sub(2)
                        .filter(|&i| i >= first)
                        .map_or(start, |i| found[i].end());
                    let room = &raw[before as usize..best.at as usize];
                    let more = place.common_backward(from, room) as u32;
                    from -= u64::from(more);
                    best = Reference {
                        at: best.at - more,
                        len: best.len + more,
                        source: Source::Window(from),
                    };
                    found.pop();
                    free = before;
                }
                free = best.end();
                found.push(best);
            }
            stretch = if free as usize > seen {
                SHORT_STRETCH
            } else {
                (2 * stretch).min(STRETCH)
            };
            seen = upto.max(free as usize);
        }
    }

    /// The longest run in the window that stands around this anchor, but not before `free`.
    fn longest(&self, place: &Place, raw: &[u8], free: u32, anchor: Anchor) -> Option<Reference> {
        let (at, run) = (anchor.at as usize, self.effort.run());
        let here = place.offset() + u64::from(anchor.at);
        let mut best: Option<Reference> = None;
        for from in self.candidates.look(anchor.hash, here) {
            let forward = place.common_forward(from, &raw[at..]);
            // A hash that deceives, or a run that is literal no longer.
            if forward < run {
                continue;
            }
            let backward = place.common_backward(from, &raw[free as usize..at]);
            let len = (forward + backward) as u32;
            if best.is_none_or(|best| best.len < len) {
                best = Some(Reference {
                    at: anchor.at - backward as u32,
                    len,
                    source: Source::Window(from - backward as u64),
                });
            }
        }
        best
    }

    /// Puts what of the frame is literal into the window, for the frames that come. Where `matched` is off, that is all of
    /// it.
    pub fn commit(&self, place: &mut Place, raw: &[u8], matched: bool, scratch: &Scratch) {
        let references = if matched { &scratch.found[..] } else { &[] };
        let mut literal = 0;
        for reference in references {
            place.put(literal, &raw[literal as usize..reference.at as usize]);
            literal = reference.end();
        }
        place.put(literal, &raw[literal as usize..]);
    }
}

/// A hash of 32 or 64 bytes: products of words that are mixed with odd numbers, folded.
fn hash(run: &[u8]) -> u64 {
    const MIX: [u64; 4] = [
        0xa076_1d64_78bd_642f,
        0xe703_7ed1_a0b4_28db,
        0x8ebc_6af0_9c88_c6e3,
        0x5899_65cc_7537_4cc3,
    ];
    let folded = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let mut hash = MIX[3];
    for (i, pair) in run.chunks_exact(16).enumerate() {
        hash ^= folded(word(pair) ^ MIX[i % 4], word(&pair[8..]) ^ MIX[(i + 1) % 4])
            .rotate_left(i as u32 * 13);
    }
    folded(hash ^ MIX[0], MIX[1])
}

const _: () = assert!(GRAM <= 32);

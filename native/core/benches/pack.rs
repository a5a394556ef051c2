//! What a worker does to a frame: packing it with one thread and with two, and matching pages that come again whole.
//!
//! `cargo bench -p pagewire-core --bench pack [-- packing|matching]`. Run as a test (`cargo test --benches`), it only checks, on little. From
//! frames in memory to room in memory, as in the arena; packed frames are unpacked and references resolved and compared
//! before anything is measured. All rounds are interleaved and the median counts. GB are of raw bytes.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use pagewire_core::checksum::xxh3_64;
use pagewire_core::codec::{Codec, Packer, Unpacker};
use pagewire_core::matching::{Effort, Keeps, Matcher, Scratch, Source};

const PAGE: usize = 4096;
const FRAME: usize = 1 << 20;

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

/// Rows of a few digits and letters: lz4 makes some two fifths of them.
fn rows(frames: usize) -> Vec<u8> {
    let mut seed = 7;
    let mut bytes = vec![0; frames * FRAME];
    for row in bytes.chunks_exact_mut(64) {
        row.fill(b' ');
        row[..8].copy_from_slice(
            &(0x3030_3030_3030_3030 + (random(&mut seed) & 0x0707_0707)).to_be_bytes(),
        );
        row[16..24].copy_from_slice(&random(&mut seed).to_be_bytes());
        row[40..44].copy_from_slice(b"user");
    }
    bytes
}

fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// To pack every frame once: seconds, and CPU seconds of all threads.
type Taken = (f64, f64);

/// Each thread takes every `threads`-th frame.
fn pack(threads: usize, raw: &[u8], codec: Codec, level: i32) -> Taken {
    let barrier = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let (mut packer, mut out) = (Packer::new(), vec![1; FRAME]);
                    packer.pack(codec, level, &raw[..FRAME], &mut out);
                    barrier.wait();
                    let start = cpu_time();
                    for frame in raw.chunks_exact(FRAME).skip(thread).step_by(threads) {
                        let len = packer.pack(codec, level, frame, &mut out).expect("smaller");
                        black_box(xxh3_64(&out[..len]));
                    }
                    (cpu_time() - start).as_secs_f64()
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        let cpu = workers
            .into_iter()
            .map(|worker| worker.join().expect("no panic"));
        let cpu = cpu.sum();
        (start.elapsed().as_secs_f64(), cpu)
    })
}

/// Packing: two workers beside one.
fn packing(measure: bool) {
    let raw = rows(if measure { 256 } else { 4 });
    println!("packing                one: GB/s    two: GB/s   faster   CPU time");
    for (codec, level) in [(Codec::Lz4, 1), (Codec::Zstd, 1)] {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        let (mut out, mut back) = (vec![0; FRAME], vec![0; FRAME]);
        for frame in raw.chunks_exact(FRAME).take(4) {
            let len = packer.pack(codec, level, frame, &mut out).expect("smaller");
            unpacker
                .unpack(codec, &out[..len], &mut back)
                .expect("what was packed");
            assert!(frame == back, "{codec:?}: other bytes");
        }
        if !measure {
            continue;
        }
        let rounds: Vec<_> = (0..7)
            .map(|_| (pack(1, &raw, codec, level), pack(2, &raw, codec, level)))
            .collect();
        let of = |what: fn(&(Taken, Taken)) -> f64| median(rounds.iter().map(what).collect());
        let gb = raw.len() as f64 / 1e9;
        println!(
            "{:<20} {:>12.2} {:>12.2} {:>8.2} {:>10.2}",
            format!("{} {level}", codec.name()),
            gb / of(|(one, _)| one.0),
            gb / of(|(_, two)| two.0),
            of(|(one, two)| one.0 / two.0),
            of(|(one, two)| two.1 / one.1),
        );
    }
    println!(
        "(asked of lz4: two workers at least 1.6 times one, at no more than 1.1 times its CPU time)"
    );
}

/// Matching: pages that nothing is like, then the same pages again in another order.
fn matching(measure: bool) {
    let pages = if measure { 32 << 8 } else { 1 << 9 };
    let mut seed = 3;
    let mut first = vec![0; pages * PAGE];
    for word in first.chunks_exact_mut(8) {
        word.copy_from_slice(&random(&mut seed).to_be_bytes());
    }
    let mut order: Vec<usize> = (0..pages).collect();
    for at in (1..pages).rev() {
        order.swap(at, random(&mut seed) as usize % (at + 1));
    }
    // As a QEMU stream has them: eight bytes before each.
    let stream = |order: &mut dyn Iterator<Item = usize>| -> Vec<u8> {
        let page = |number: usize| &first[number * PAGE..][..PAGE];
        let mut bytes: Vec<u8> = order
            .flat_map(|number| [&((number * PAGE) as u64).to_be_bytes()[..], page(number)].concat())
            .collect();
        bytes.truncate(bytes.len() / FRAME * FRAME);
        bytes
    };
    let new = stream(&mut (0..pages));
    let again = stream(&mut order.into_iter());
    let window = 256 << 20;

    println!("matching                   GB/s of CPU time, one thread");
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..if measure { 7 } else { 1 } {
        let matcher =
            Matcher::new(window, Effort::Fast, 4 * FRAME as u64, Keeps::All).expect("memory");
        let mut scratch = Scratch::default();
        let mut offset = 0;
        let mut referred = 0;
        for (part, rates) in [&new, &again].into_iter().zip(&mut rates) {
            referred = 0;
            let mut spent = Duration::ZERO;
            for frame in part.chunks_exact(FRAME) {
                let start = cpu_time();
                let mut place = matcher.open(offset, FRAME as u32).expect("a place");
                matcher.find(&place, frame, &[], &mut scratch);
                matcher.commit(&mut place, frame, true, &scratch);
                spent += cpu_time() - start;
                for reference in scratch.references() {
                    let Source::Window(from) = reference.source else {
                        panic!("there is no base");
                    };
                    let (at, len) = (reference.at as usize, reference.len as usize);
                    let from = from as usize;
                    assert!(
                        from + len <= new.len() && new[from..from + len] == frame[at..at + len],
                        "a reference to other bytes"
                    );
                    referred += len;
                }
                offset += FRAME as u64;
            }
            rates.push(part.len() as f64 / 1e9 / spent.as_secs_f64());
        }
        assert!(
            referred * 100 >= again.len() * 95,
            "{referred} of {} bytes",
            again.len()
        );
    }
    if measure {
        let [new, again] = rates.map(median);
        println!("nothing comes again  {new:>10.2}");
        println!("pages come again     {again:>10.2}   (asked: 2)");
    }
}

fn main() {
    let measure = std::env::args().any(|argument| argument == "--bench");
    let only = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| name.contains(only));
    if wanted("packing") {
        packing(measure);
    }
    if wanted("matching") {
        matching(measure);
    }
}

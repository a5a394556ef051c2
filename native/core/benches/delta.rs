//! The delta stage on streams of a made-up guest: parser, page cache and XBZRLE together, on one core.
//!
//! `cargo bench -p pagewire-core --bench delta [-- PATTERN…]`. Run as a test (`cargo test --benches`), it only checks,
//! on a small guest. Every case replays what the filter wrote and compares the RAM before it is measured. Input comes
//! in pieces of 256 KiB and output goes to a ring of 8 MiB, as they do in the encoder. GB/s are of input and CPU time.

use std::time::Duration;

use pagewire_core::delta::{Filter, Host, Options, Stopped, full_cache};
use pagewire_core::qemu::replay::RamImage;
use pagewire_core::qemu::{GuestRam, Writer};

const PAGE: usize = 4096;
const PIECE: usize = 256 << 10;
const RING: usize = 8 << 20;
const ROUNDS: usize = 5;

/// Takes output as the encoder does: copies it.
struct Ring {
    bytes: Vec<u8>,
    at: usize,
    share: f64,
    out: Option<Vec<u8>>,
}

impl Host for Ring {
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        if let Some(out) = &mut self.out {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.at == self.bytes.len() {
                self.at = 0;
            }
            let fits = rest.len().min(self.bytes.len() - self.at);
            self.bytes[self.at..self.at + fits].copy_from_slice(&rest[..fits]);
            self.at += fits;
            rest = &rest[fits..];
        }
        Ok(())
    }

    fn guest(&mut self, guest: &GuestRam) -> Result<u64, Stopped> {
        Ok((full_cache(guest) as f64 * self.share) as u64)
    }
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

struct Guest {
    ram: Vec<u8>,
    seed: u64,
    stream: Writer,
}

impl Guest {
    fn new(pages: usize) -> Self {
        let mut seed = 7;
        let mut ram = vec![0; pages * PAGE];
        // Text-like rows.
        for word in ram.chunks_exact_mut(8) {
            word.copy_from_slice(
                &(0x2020_2020_3030_3030 + (random(&mut seed) & 0x0707_0707)).to_be_bytes(),
            );
        }
        let mut stream = Writer::new();
        stream
            .header()
            .configuration(b"pc-q35-10.0")
            .ram_start(2, &[(b"pc.ram", ram.len() as u64)]);
        stream.end_of_section().footer(2);
        Self { ram, seed, stream }
    }

    /// Sends every page, in order or at random, in sections of 1000, after `change`.
    fn pass(&mut self, in_order: bool, change: impl Fn(&mut [u8], &mut u64)) {
        let pages = self.ram.len() / PAGE;
        for count in 0..pages {
            if count % 1000 == 0 {
                self.stream.section_part(2);
            }
            let number = if in_order {
                count
            } else {
                (random(&mut self.seed) % pages as u64) as usize
            };
            let page = &mut self.ram[number * PAGE..][..PAGE];
            change(page, &mut self.seed);
            self.stream.page(b"pc.ram", (number * PAGE) as u64, page);
            if count % 1000 == 999 || count == pages - 1 {
                self.stream.end_of_section().footer(2);
            }
        }
    }
}

fn sparse(page: &mut [u8], seed: &mut u64) {
    let at = random(seed) as usize % (PAGE - 32);
    for byte in &mut page[at..at + 32] {
        *byte = random(seed) as u8;
    }
}

fn counters(page: &mut [u8], seed: &mut u64) {
    for counter in page.chunks_exact_mut(64) {
        counter[8] = counter[8].wrapping_add(1 + (random(seed) % 4) as u8);
    }
}

fn half(page: &mut [u8], seed: &mut u64) {
    for word in page[..PAGE / 2].chunks_exact_mut(8) {
        word.copy_from_slice(&random(seed).to_be_bytes());
    }
}

fn all(page: &mut [u8], seed: &mut u64) {
    for word in page.chunks_exact_mut(8) {
        word.copy_from_slice(&random(seed).to_be_bytes());
    }
}

/// The CPU time of this thread: the machine may have other work.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Its name; what is measured, the first pass or a second one, in order or at random, over pages that change so; the
/// cache's share of what the whole guest needs.
type Case = (&'static str, Option<(bool, fn(&mut [u8], &mut u64))>, f64);

/// Feeds a stream from some offset on.
fn feed(filter: &mut Filter, stream: &[u8], host: &mut Ring) {
    let (mut start, mut end) = (0, 0);
    while end < stream.len() {
        end = (end + PIECE).min(stream.len());
        start += filter
            .push(&stream[start..end], host)
            .expect("the ring takes everything");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let measure = arguments.iter().any(|argument| argument == "--bench");
    let patterns: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let pages = if measure { 65536 } else { 600 };

    let cases: [Case; 9] = [
        ("cold cache", None, 1.0),
        ("no cache", None, 0.0),
        ("unchanged", Some((true, |_, _| {})), 1.0),
        ("sparse", Some((true, sparse)), 1.0),
        ("sparse, at random", Some((false, sparse)), 1.0),
        ("sparse, half cache", Some((true, sparse)), 0.5),
        ("counters", Some((true, counters)), 1.0),
        ("half of each page", Some((true, half)), 1.0),
        ("all of each page", Some((true, all)), 1.0),
    ];
    println!(
        "{:<20} {:>8} {:>8} {:>8} {:>8}",
        "case", "GB/s", "raw", "delta", "skipped"
    );
    for (name, change, share) in cases {
        if !patterns.is_empty()
            && !patterns
                .iter()
                .any(|pattern| name.contains(pattern.as_str()))
        {
            continue;
        }
        let mut guest = Guest::new(pages);
        guest.pass(true, |_, _| {});
        let mut bulk = guest.stream.take();
        let measured = match change {
            Some((in_order, change)) => {
                guest.pass(in_order, change);
                guest.stream.take()
            }
            None => std::mem::take(&mut bulk),
        };
        let mut best = Duration::MAX;
        let mut tally = None;
        for round in 0..if measure { ROUNDS + 1 } else { 1 } {
            let out = (round == 0).then(Vec::new);
            let mut host = Ring {
                bytes: vec![1; RING],
                at: 0,
                share,
                out,
            };
            let mut filter = Filter::new(Options { max_delta: 1024 });
            feed(&mut filter, &bulk, &mut host);
            let before = filter.counters().total;
            let start = cpu_time();
            feed(&mut filter, &measured, &mut host);
            let took = cpu_time() - start;
            let total = filter.counters().total;
            let round_tally = (
                total.raw - before.raw,
                total.delta - before.delta,
                total.skipped - before.skipped,
            );
            assert_eq!(
                *tally.get_or_insert(round_tally),
                round_tally,
                "{name}: not the same in each round"
            );
            match host.out {
                Some(out) => {
                    let mut image = RamImage::new(u64::MAX);
                    image.push(&out).expect("a stream that can be replayed");
                    assert!(image.block(0) == Some(&guest.ram[..]), "{name}: other RAM");
                }
                None => best = best.min(took),
            }
        }
        let (raw, delta, skipped) = tally.unwrap_or_default();
        let rate = if measure {
            measured.len() as f64 / best.as_secs_f64() / 1e9
        } else {
            f64::NAN
        };
        println!("{name:<20} {rate:>8.2} {raw:>8} {delta:>8} {skipped:>8}");
    }
}

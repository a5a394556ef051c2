//! XBZRLE on each tier this machine has: eight kinds of change to a 4 KiB page, hot and cold, beside `memcmp` of the same
//! pages, and decoding beside `memcpy` of the bytes that it writes.
//!
//! `cargo bench -p pagewire-core --bench xbzrle [-- PATTERN…]`. Run as a test (`cargo test --benches`), it only checks.
//! Every case decodes what it encoded before it is measured. First come the ratios, from rounds that are interleaved, as
//! divan's are not: the median, in GB/s of pages, and `times`, the speed over the scalar tier's of the same round, of which
//! the median as well. Then divan measures each hot case by itself, with its spread.

use std::cell::RefCell;
use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use divan::Bencher;
use divan::counter::BytesCount;
use pagewire_core::xbzrle::{Tier, decode, encode_with};
use rustix::mm::{Advice, madvise};

const PAGE: usize = 4096;
/// A page in a stream: eight bytes of address and flags stand before it.
const RECORD: usize = 8 + PAGE;
const HUGE_PAGE: usize = 2 << 20;
/// Two versions of each page: 320 KiB, which lies in L2 (512 KiB and more) and is too much for a branch predictor to learn by heart.
const HOT_PAGES: usize = 40;
/// 128 MiB: beyond the caches.
const COLD_PAGES: usize = 16_384;

/// A splitmix64: the benchmark needs the same pages in each run, and nothing more of randomness.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn change_byte(page: &mut [u8], random: &mut Random, at: usize) {
    page[at] ^= 1 + random.below(255) as u8;
}

fn change_bytes(page: &mut [u8], random: &mut Random, count: usize) {
    for _ in 0..count {
        let at = random.below(PAGE);
        change_byte(page, random, at);
    }
}

fn add_to_words(page: &mut [u8], random: &mut Random, count: usize, below: u64) {
    for _ in 0..count {
        let at = random.below(PAGE / 8) * 8;
        let word: &mut [u8; 8] = (&mut page[at..at + 8]).try_into().expect("eight bytes");
        *word = u64::from_le_bytes(*word)
            .wrapping_add(random.next() % below)
            .to_le_bytes();
    }
}

type Change = fn(&mut [u8], &mut Random);

/// What is done to a page.
const PATTERNS: [(&str, Change); 8] = [
    ("identical", |_, _| {}),
    ("12 bytes in 1111", |page, random| {
        let shift = random.below(1111 - 12);
        for start in (shift..PAGE - 12).step_by(1111) {
            (start..start + 12).for_each(|at| change_byte(page, random, at));
        }
    }),
    ("4 random words", |page, random| {
        add_to_words(page, random, 4, u64::MAX)
    }),
    ("64 counters", |page, random| {
        add_to_words(page, random, 64, 256)
    }),
    ("200 random bytes", |page, random| {
        change_bytes(page, random, 200)
    }),
    ("1000 random bytes", |page, random| {
        change_bytes(page, random, 1000)
    }),
    ("512-byte record", |page, random| {
        let at = random.below(PAGE / 512) * 512;
        (at..at + 512).for_each(|at| change_byte(page, random, at));
    }),
    ("all different", |page, random| {
        (0..PAGE).for_each(|at| change_byte(page, random, at))
    }),
];

/// Memory that begins at a huge page and is made of them where the system gives them, as the page cache's is.
struct Memory {
    bytes: Vec<u8>,
    from: usize,
}

impl Memory {
    fn zeroed(len: usize) -> Memory {
        let mut bytes: Vec<u8> = Vec::with_capacity(len + HUGE_PAGE);
        let from = bytes.as_ptr().align_offset(HUGE_PAGE);
        let whole = len / HUGE_PAGE * HUGE_PAGE;
        if whole > 0 {
            // SAFETY: the range lies in the vector's own memory; advice changes no content. A kernel without huge pages
            // refuses it, which is fine.
            let _ = unsafe {
                madvise(
                    bytes.as_mut_ptr().add(from).cast(),
                    whole,
                    Advice::LinuxHugepage,
                )
            };
        }
        bytes.resize(from + len, 0);
        Memory { bytes, from }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..]
    }
}

/// Pages where the program has them: the old version in the page cache, at the border of a page; the new one in a stream,
/// behind its record's header.
struct Pages {
    old: Memory,
    new: Memory,
    count: usize,
}

impl Pages {
    fn make(count: usize, change: Change) -> Pages {
        let mut random = Random(count as u64);
        let mut old = Memory::zeroed(count * PAGE);
        let mut new = Memory::zeroed(count * RECORD);
        for (old, record) in old
            .bytes_mut()
            .chunks_exact_mut(PAGE)
            .zip(new.bytes_mut().chunks_exact_mut(RECORD))
        {
            for word in old.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
            let new = &mut record[RECORD - PAGE..];
            new.copy_from_slice(old);
            change(new, &mut random);
        }
        Pages { old, new, count }
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let new = self.new.bytes().chunks_exact(RECORD);
        self.old
            .bytes()
            .chunks_exact(PAGE)
            .zip(new.map(|record| &record[RECORD - PAGE..]))
    }

    /// Bytes of one version of all pages.
    fn bytes(&self) -> usize {
        self.count * PAGE
    }

    fn encode(&self, tier: Tier, out: &mut [u8]) -> usize {
        let encode =
            |(old, new)| encode_with(tier, black_box(old), black_box(new), out).expect("available");
        self.iter().filter_map(encode).sum()
    }

    fn compare(&self) -> usize {
        self.iter()
            .filter(|(old, new)| black_box(old) == black_box(new))
            .count()
    }

    /// Checks every page's delta on a tier against the scalar tier's, and decodes it.
    fn verify(&self, tier: Tier) {
        let (mut delta, mut expected) = ([0; PAGE], [0; PAGE]);
        for (old, new) in self.iter() {
            let length = encode_with(tier, old, new, &mut delta).expect("available");
            assert_eq!(
                length,
                encode_with(Tier::Scalar, old, new, &mut expected).expect("available")
            );
            let Some(length) = length else { continue };
            assert_eq!(delta[..length], expected[..length]);
            let mut page = old.to_vec();
            decode(&delta[..length], &mut page).expect("decodes");
            assert!(page == new, "decodes to another page");
        }
    }
}

/// Seconds a call of each case, by round. The cases take turns, in another order each round: what a case leaves behind in
/// the caches falls to each of the others.
fn measure(rounds: usize, calls: usize, cases: &mut [&mut dyn FnMut()]) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::with_capacity(rounds); cases.len()];
    let mut random = Random(1);
    let mut order: Vec<usize> = (0..cases.len()).collect();
    for _ in 0..rounds {
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last + 1));
        }
        for &case in &order {
            let call = &mut cases[case];
            if calls > 1 {
                call();
            }
            let start = Instant::now();
            (0..calls).for_each(|_| call());
            times[case].push(start.elapsed().as_secs_f64() / calls as f64);
        }
    }
    times
}

/// Of an odd number of values the middle one.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How many times as fast as the base a case is: the median of what the rounds say, each by itself, so that the machine's
/// state cancels out.
fn times(base: &[f64], case: &[f64]) -> f64 {
    median(base.iter().zip(case).map(|(base, case)| base / case))
}

fn encoding(
    heading: &str,
    asked: &str,
    pages: usize,
    rounds: usize,
    calls: usize,
    tiers: &[Tier],
    chosen: &[(&str, Change)],
) {
    print!("\n{heading:<20}{:>9}{:>7}", "memcmp", "times");
    tiers
        .iter()
        .for_each(|tier| print!("{:>13}{:>7}", tier.name(), "times"));
    println!();
    let mut products = vec![1.0; tiers.len()];
    for (name, change) in chosen {
        let pages = Pages::make(pages, *change);
        tiers.iter().for_each(|&tier| pages.verify(tier));

        let mut compare = || _ = black_box(pages.compare());
        let encoder = |&tier: &Tier| {
            let (pages, mut out) = (&pages, vec![0; PAGE]);
            move || _ = black_box(pages.encode(tier, &mut out))
        };
        let mut encoders: Vec<_> = tiers.iter().map(encoder).collect();
        let mut cases: Vec<&mut dyn FnMut()> = vec![&mut compare];
        cases.extend(
            encoders
                .iter_mut()
                .map(|encoder| encoder as &mut dyn FnMut()),
        );
        let seconds = measure(rounds, calls, &mut cases);
        let speed = |seconds: &[f64]| pages.bytes() as f64 / median(seconds.iter().copied()) / 1e9;
        let (memcmp, base) = (&seconds[0], &seconds[1]);
        // Elsewhere it stops at the first difference.
        let whole = pages.compare() == pages.count;
        let ratio = whole.then(|| format!("{:.2}", times(base, memcmp)));
        print!(
            "{name:<20}{:>9.2}{:>7}",
            speed(memcmp),
            ratio.unwrap_or_default()
        );
        for (encoder, product) in seconds[1..].iter().zip(&mut products) {
            let times = times(base, encoder);
            *product *= times;
            print!("{:>13.2}{:>7.2}", speed(encoder), times);
        }
        println!();
    }
    print!("{:<36}", "geometric mean");
    products
        .iter()
        .for_each(|product| print!("{:>20.2}", product.powf(1.0 / chosen.len() as f64)));
    println!("\n(asked: {asked})");
}

/// Where a delta stands in a page: in a frame it is anywhere, and that alone moves the ratio by up to a tenth.
const PLACES: [usize; 9] = [0, 463, 926, 1389, 1852, 2315, 2778, 3241, 3704];

fn on_each(pages: &RefCell<Memory>, delta: &[u8], work: impl Fn(&[u8], &mut [u8])) {
    for page in pages.borrow_mut().bytes_mut().chunks_exact_mut(PAGE) {
        work(black_box(delta), page);
    }
}

/// Decoding, in GB/s of the bytes that it writes, beside `memcpy` of the same bytes: from where they stand in the delta to where
/// they belong in the same pages.
fn decoding(rounds: usize, calls: usize) {
    println!(
        "\n{:<20}{:>9}{:>9}{:>7}",
        "decode (hot)", "memcpy", "decode", "times"
    );
    for (name, run, gap) in [
        ("runs of 512", 512, 512),
        ("runs of 32", 32, 32),
        ("runs of 8", 8, 56),
        ("runs of 1", 1, 7),
    ] {
        let mut random = Random(run as u64);
        let old: Vec<u8> = (0..PAGE / 8)
            .flat_map(|_| random.next().to_le_bytes())
            .collect();
        let mut new = old.clone();
        for at in (0..PAGE).filter(|at| at % (run + gap) < run) {
            change_byte(&mut new, &mut random, at);
        }
        let mut delta = vec![0; PAGE];
        let length = encode_with(Tier::Scalar, &old, &new, &mut delta)
            .expect("available")
            .expect("fits");
        delta.truncate(length);
        let length_bytes = |length| if length < 0x80 { 1 } else { 2 };
        let mut behind = 0;
        // Where the changed bytes stand in the page, and in the delta.
        let places: Vec<(usize, usize)> = (0..PAGE)
            .step_by(run + gap)
            .map(|at| {
                let same = if at == 0 { 0 } else { gap };
                let from = behind + length_bytes(same) + length_bytes(run);
                behind = from + run;
                (at, from)
            })
            .collect();
        let copy = |delta: &[u8], page: &mut [u8]| {
            places.iter().for_each(|&(at, from)| {
                page[at..at + run].copy_from_slice(&delta[from..from + run])
            });
        };
        let apply = |delta: &[u8], page: &mut [u8]| decode(delta, page).expect("decodes");
        let mut seconds = [Vec::new(), Vec::new()];
        for place in PLACES {
            let mut frame = Memory::zeroed(2 * PAGE);
            let delta = {
                let there = &mut frame.bytes_mut()[place..place + delta.len()];
                there.copy_from_slice(&delta);
                &*there
            };
            let pages = RefCell::new(Memory::zeroed(HOT_PAGES * PAGE));
            let checked = |work: &dyn Fn()| {
                let reset = |_: &[u8], page: &mut [u8]| page.copy_from_slice(&old);
                on_each(&pages, delta, reset);
                work();
                let pages = pages.borrow();
                assert!(pages.bytes().chunks_exact(PAGE).all(|page| page == new));
            };
            let mut copy_all = || on_each(&pages, delta, copy);
            let mut apply_all = || on_each(&pages, delta, apply);
            checked(&copy_all);
            checked(&apply_all);
            let here = measure(rounds, calls, &mut [&mut copy_all, &mut apply_all]);
            seconds
                .iter_mut()
                .zip(here)
                .for_each(|(all, here)| all.extend(here));
        }
        let speed = |seconds: &[f64]| {
            (places.len() * run * HOT_PAGES) as f64 / median(seconds.iter().copied()) / 1e9
        };
        println!(
            "{name:<20}{:>9.2}{:>9.2}{:>7.2}",
            speed(&seconds[0]),
            speed(&seconds[1]),
            times(&seconds[0], &seconds[1])
        );
    }
}

/// A pattern on a tier, for divan.
struct Case {
    pattern: (&'static str, Change),
    tier: Tier,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.pattern.0, self.tier)
    }
}

fn tiers() -> Vec<Tier> {
    let mut tiers = Tier::ALL.to_vec();
    tiers.retain(|tier| tier.is_available());
    tiers
}

fn hot_cases() -> impl Iterator<Item = Case> {
    let on_tiers = |pattern| tiers().into_iter().map(move |tier| Case { pattern, tier });
    PATTERNS.into_iter().flat_map(on_tiers)
}

#[divan::bench(args = hot_cases(), sample_count = 25, sample_size = 20)]
fn encode_hot(bencher: Bencher<'_, '_>, case: &Case) {
    let pages = Pages::make(HOT_PAGES, case.pattern.1);
    pages.verify(case.tier);
    let mut out = vec![0; PAGE];
    bencher
        .counter(BytesCount::new(pages.bytes()))
        .bench_local(|| pages.encode(case.tier, &mut out));
}

fn processor() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = told
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or(std::env::consts::ARCH, |(_, name)| name)
        .to_owned()
}

fn main() {
    let bench = std::env::args().any(|arg| arg == "--bench");
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let chosen: Vec<_> = PATTERNS
        .into_iter()
        .filter(|(name, _)| {
            asked.is_empty() || asked.iter().any(|asked| name.contains(asked.as_str()))
        })
        .collect();
    let tiers = tiers();
    println!("{}; encoding, GB/s of pages", processor());
    let (rounds, calls) = if bench { (25, 20) } else { (1, 1) };
    let asked = "avx2 2.6, avx512 3; no pattern below 0.95";
    encoding(
        "encode (hot)",
        asked,
        HOT_PAGES,
        rounds,
        calls,
        &tiers,
        &chosen,
    );
    if bench {
        let asked =
            "the smaller of 2 and 0.9 of memcmp's on identical pages; no pattern below 0.95";
        encoding("encode (cold)", asked, COLD_PAGES, 41, 1, &tiers, &chosen);
    }
    decoding(rounds, calls * 10);
    println!();
    divan::main();
}

//! The page cache: what it holds, and who stays.

use pagewire_core::page_cache::{Entry, PageCache};

const PAGE: usize = 4096;

struct Cache {
    cache: PageCache,
    hits: u64,
    touched: u64,
}

/// The content that page `n` has in these tests.
fn content(page: u64) -> Vec<u8> {
    let mut content = vec![page as u8; PAGE];
    content[..8].copy_from_slice(&page.to_le_bytes());
    content
}

impl Cache {
    /// For a guest of `pages` pages, with room for `room` of them.
    fn new(pages: u64, room: u64) -> Self {
        Self {
            cache: PageCache::new(pages, PAGE, bytes(pages, room)),
            hits: 0,
            touched: 0,
        }
    }

    fn touch(&mut self, page: u64) -> bool {
        self.touched += 1;
        let expected = content(page);
        let hit = match self.cache.get(page) {
            Entry::Copy(found) => {
                assert_eq!(found, &expected[..], "page {page}");
                true
            }
            Entry::Fill(_) => panic!("no fill pages here"),
            Entry::Absent => false,
        };
        if hit {
            self.hits += 1;
        } else {
            self.cache.insert(page, &expected);
        }
        hit
    }

    fn rate(&mut self, pages: impl Iterator<Item = u64>) -> f64 {
        (self.hits, self.touched) = (0, 0);
        pages.for_each(|page| {
            self.touch(page);
        });
        self.hits as f64 / self.touched as f64
    }
}

/// The budget in which `room` copies of a guest of `pages` pages fit.
fn bytes(pages: u64, room: u64) -> u64 {
    4 * pages + room * (PAGE as u64 + 8)
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn room_for_all_means_no_evictions() {
    let mut cache = Cache {
        cache: PageCache::new(3000, PAGE, PageCache::bytes_for(3000, PAGE)),
        hits: 0,
        touched: 0,
    };
    assert_eq!(cache.rate(0..3000), 0.0);
    assert_eq!(cache.rate((0..3000).rev()), 1.0);
    let counters = cache.cache.counters();
    assert_eq!(
        (
            counters.hits,
            counters.misses,
            counters.evictions,
            counters.copies
        ),
        (3000, 3000, 0, 3000)
    );
    assert_eq!(counters.bytes, PageCache::bytes_for(3000, PAGE));
    assert_eq!(counters.budget, counters.bytes);
}

#[test]
fn more_than_enough_is_not_taken() {
    let cache = PageCache::new(100, PAGE, u64::MAX);
    assert_eq!(cache.counters().budget, PageCache::bytes_for(100, PAGE));
}

#[test]
fn a_budget_too_small_holds_nothing() {
    for budget in [0, 1, 4000, 4000 + 4103] {
        let mut cache = PageCache::new(1000, PAGE, budget);
        assert!(!cache.insert(5, &content(5)));
        cache.insert_fill(6, 0);
        assert_eq!(cache.get(5), Entry::Absent);
        assert_eq!(cache.get(6), Entry::Absent);
        cache.remove(5);
        assert_eq!(cache.counters().bytes, 0);
    }
    let mut cache = PageCache::new(1000, PAGE, 4000 + 4104);
    assert!(cache.insert(5, &content(5)));
    assert_eq!(cache.get(5), Entry::Copy(&mut content(5)));
}

#[test]
fn pages_beyond_the_guest_are_not_held() {
    let mut cache = PageCache::new(10, PAGE, u64::MAX);
    assert!(!cache.insert(10, &content(10)));
    cache.insert_fill(11, 0);
    cache.remove(u64::MAX);
    assert_eq!(cache.get(10), Entry::Absent);
    assert_eq!(cache.get(11), Entry::Absent);
}

#[test]
fn fill_pages_take_no_copy() {
    let mut cache = PageCache::new(1000, PAGE, bytes(1000, 2));
    for page in 0..1000 {
        cache.insert_fill(page, page as u8);
    }
    assert_eq!(cache.get(700), Entry::Fill(700u64 as u8));
    let counters = cache.counters();
    assert_eq!((counters.fills, counters.copies), (1000, 0));
    assert!(cache.insert(7, &content(7)));
    assert!(cache.insert(8, &content(8)));
    // Full: what is not taken in is forgotten all the same.
    assert!(!cache.insert(9, &content(9)));
    assert_eq!(cache.get(9), Entry::Absent);
    assert_eq!(cache.counters().fills, 997);
    // A copy that becomes a fill page makes room.
    cache.insert_fill(7, 0);
    assert!(cache.insert(9, &content(9)));
    assert_eq!(cache.get(9), Entry::Copy(&mut content(9)));
    assert_eq!(cache.get(7), Entry::Fill(0));
    cache.remove(8);
    assert_eq!(cache.get(8), Entry::Absent);
    assert!(cache.insert(10, &content(10)));
    assert_eq!(cache.counters().copies, 2);
}

#[test]
fn sweeping_twice_its_size() {
    let mut cache = Cache::new(4000, 2000);
    for round in 0..10 {
        let rate = cache.rate(0..4000);
        assert!(round == 0 || rate >= 0.45, "{rate} in round {round}");
    }
}

#[test]
fn sweeping_three_times_its_size() {
    let mut cache = Cache::new(6000, 2000);
    for round in 0..10 {
        let rate = cache.rate(0..6000);
        assert!(round == 0 || rate >= 0.3, "{rate} in round {round}");
    }
}

#[test]
fn sweeping_with_gaps() {
    // Each round leaves out another third, as a guest that dirties at random does.
    let mut cache = Cache::new(4000, 2000);
    let mut random = Random(9);
    for round in 0..20 {
        let rate = cache.rate((0..4000).filter(|_| random.below(3) > 0));
        assert!(round < 2 || rate >= 0.4, "{rate} in round {round}");
    }
}

#[test]
fn sweeping_a_guest_whose_time_is_rounded() {
    // More than 2^20 pages: lookups are counted in pairs.
    let pages = 1 << 21;
    let mut cache = PageCache::new(pages, 16, 4 * pages + pages / 2 * 24);
    for round in 0..3 {
        let before = cache.counters().hits;
        for page in 0..pages {
            if cache.get(page) == Entry::Absent {
                cache.insert(page, &[1; 16]);
            }
        }
        let hits = cache.counters().hits - before;
        assert!(round == 0 || hits >= pages * 45 / 100, "{hits}");
    }
}

#[test]
fn a_working_set_that_moved_is_taken_in() {
    let mut cache = Cache::new(10_000, 2000);
    for _ in 0..5 {
        cache.rate(0..2000);
    }
    assert_eq!(cache.rate(0..2000), 1.0);
    // Elsewhere, of half the cache's size.
    let rates: Vec<f64> = (0..6).map(|_| cache.rate(5000..6000)).collect();
    assert!(rates[4] > 0.9, "{rates:?}");
}

#[test]
fn random_access_hits_by_the_share_of_what_is_held() {
    let mut cache = Cache::new(4000, 2000);
    let mut random = Random(5);
    cache.rate((0..20_000).map(|_| random.below(4000)));
    let rate = cache.rate((0..20_000).map(|_| random.below(4000)));
    assert!(rate > 0.47, "{rate}");
}

#[test]
fn a_hot_tenth_stays() {
    // Nine of ten accesses go to a tenth of the guest, the tenth sweeps; the cache holds a seventh.
    let mut cache = Cache::new(7000, 1000);
    let mut random = Random(3);
    let mut sweep = 0;
    let mut next = || {
        if random.below(10) == 0 {
            sweep = (sweep + 1) % 7000;
            sweep
        } else {
            3000 + random.below(700)
        }
    };
    cache.rate((0..50_000).map(|_| next()));
    let rate = cache.rate((0..50_000).map(|_| next()));
    assert!(rate > 0.88, "{rate}");
}

#[test]
fn growing_keeps_every_page() {
    let mut cache = Cache::new(4000, 1000);
    cache.rate(0..1000);
    cache.cache.resize(bytes(4000, 3000));
    assert_eq!(cache.rate(0..1000), 1.0);
    cache.rate(1000..3000);
    assert_eq!(cache.rate(0..3000), 1.0);
    assert_eq!(cache.cache.counters().evictions, 0);
}

#[test]
fn shrinking_keeps_the_pages_used_last() {
    let mut cache = Cache::new(4000, 3000);
    cache.rate(0..3000);
    cache.rate((0..3000).filter(|page| page % 3 == 0));
    let before = cache.cache.counters().bytes;
    cache.cache.resize(bytes(4000, 1000));
    let counters = cache.cache.counters();
    assert_eq!((counters.copies, counters.evictions), (1000, 2000));
    assert!(counters.bytes <= bytes(4000, 1000) && counters.bytes < before);
    assert_eq!(cache.rate((0..3000).filter(|page| page % 3 == 0)), 1.0);
    cache.cache.resize(bytes(4000, 2000));
    cache.rate((0..3000).filter(|page| page % 3 == 1));
    assert_eq!(cache.rate((0..3000).filter(|page| page % 3 != 2)), 1.0);
}

#[test]
fn shrinking_with_free_slots() {
    let mut cache = Cache::new(100, 50);
    cache.rate(0..50);
    for page in (0..50).filter(|page| page % 5 != 0) {
        cache.cache.remove(page);
    }
    cache.cache.resize(bytes(100, 20));
    assert_eq!(cache.cache.counters().copies, 10);
    assert_eq!(cache.rate((0..50).filter(|page| page % 5 == 0)), 1.0);
    cache.rate(50..60);
    assert_eq!(cache.rate(50..60), 1.0);
    assert_eq!(cache.cache.counters().evictions, 0);
}

#[test]
fn shrinking_to_nothing_and_back() {
    let mut cache = Cache::new(100, 50);
    cache.rate(0..50);
    cache.cache.insert_fill(80, 1);
    cache.cache.resize(0);
    assert_eq!(cache.cache.counters().bytes, 0);
    assert_eq!(cache.cache.get(80), Entry::Absent);
    assert_eq!(cache.rate(0..50), 0.0);
    cache.cache.resize(u64::MAX);
    cache.rate(0..50);
    assert_eq!(cache.rate(0..50), 1.0);
}

#[test]
fn random_work_against_a_model() {
    let mut random = Random(77);
    for room in [1, 7, 60, 600, 1000] {
        let mut cache = PageCache::new(1000, PAGE, bytes(1000, room));
        // What a page would have to hold, if it is held.
        let mut model: Vec<Option<Result<u64, u8>>> = vec![None; 1000];
        for step in 0..20_000u64 {
            let page = random.below(1000);
            let expected = model[page as usize];
            match random.below(40) {
                0..=3 => {
                    let byte = random.below(256) as u8;
                    cache.insert_fill(page, byte);
                    model[page as usize] = Some(Err(byte));
                }
                4..=5 => {
                    cache.remove(page);
                    model[page as usize] = None;
                }
                6 if random.below(20) == 0 => cache.resize(bytes(1000, random.below(2 * room))),
                _ => match (cache.get(page), expected) {
                    (Entry::Absent, _) => {
                        let held = cache.insert(page, &content(step));
                        model[page as usize] = held.then_some(Ok(step));
                    }
                    (Entry::Copy(found), Some(Ok(written))) => {
                        assert_eq!(found, &content(written)[..]);
                        found.copy_from_slice(&content(step));
                        model[page as usize] = Some(Ok(step));
                    }
                    (Entry::Fill(found), Some(Err(byte))) => assert_eq!(found, byte),
                    (found, expected) => panic!("{found:?} instead of {expected:?}"),
                },
            }
            let counters = cache.counters();
            assert!(counters.bytes <= counters.budget, "{counters:?}");
        }
    }
}

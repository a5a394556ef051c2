//! How fast a link takes bytes, and how fast it may.

use super::lock;
use crate::average;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much the newest measurement counts. At some 10 measurements in 100 ms the rate follows a link within that time.
const WEIGHT: f64 = 0.2;

/// From one moment without room to another: a shorter time says little. For longer than this the link may have stood idle,
/// but for the time that somebody waited for it.
const LEAST_TIME: Duration = Duration::from_millis(5);
const MOST_TIME: Duration = Duration::from_millis(200);

/// What a link takes while it is kept busy. How long writing took says nothing of it: what finds room in the kernel's
/// buffers is taken at once. But from one moment at which there was no room to the next, what was written is what left.
#[derive(Debug, Default)]
pub(super) struct Rate {
    bytes_per_second: f64,
    /// From when on `bytes` counts.
    since: Option<Instant>,
    /// The link had no room then.
    from_full: bool,
    bytes: u64,
    /// How much of the time since then somebody waited for room.
    waited: Duration,
}

impl Rate {
    /// So many bytes were taken.
    pub(super) fn took(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The link had no room until `now`, which was waited for.
    pub(super) fn had_no_room(&mut self, now: Instant, waited: Duration) {
        self.waited += waited;
        if let (Some(since), true) = (self.since, self.from_full) {
            let time = now.saturating_duration_since(since);
            if time < LEAST_TIME || self.bytes == 0 {
                return;
            }
            if time.saturating_sub(self.waited) <= MOST_TIME {
                let rate = self.bytes as f64 / time.as_secs_f64();
                self.bytes_per_second = average::moved(self.bytes_per_second, rate, WEIGHT);
            }
        }
        self.count_from(now, true);
    }

    /// A look at a link that has room: one that has become faster takes more than was known of it.
    pub(super) fn has_room(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        let time = now.saturating_duration_since(since);
        if time > MOST_TIME {
            let least = self.bytes as f64 / time.as_secs_f64();
            self.bytes_per_second = self.bytes_per_second.max(least);
            self.count_from(now, false);
        }
    }

    fn count_from(&mut self, now: Instant, full: bool) {
        *self = Rate {
            bytes_per_second: self.bytes_per_second,
            since: Some(now),
            from_full: full,
            ..Rate::default()
        };
    }

    /// 0 for a link that always had room.
    pub(super) fn bytes_per_second(&self) -> f64 {
        self.bytes_per_second
    }
}

/// What may be written at once within a limit: so many seconds of it. Longer bursts would queue in the network.
const BURST_SECONDS: f64 = 0.005;

/// A limit makes no smaller pieces than this: each costs a system call and a packet.
const LEAST_PIECE: f64 = 4096.0;

/// A limit on what is written to links, for all connections of a session together. May be changed at any time.
#[derive(Debug, Default)]
pub struct Bandwidth {
    /// Bytes a second; 0: no limit.
    limit: AtomicU64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes that may be written now; below zero by what was written in haste.
    tokens: f64,
    filled_at: Instant,
}

impl Default for Bucket {
    fn default() -> Self {
        Bucket {
            tokens: 0.0,
            filled_at: Instant::now(),
        }
    }
}

impl Bandwidth {
    /// Sets the limit, in bytes a second; 0: none. It holds from the next piece on.
    pub fn set(&self, bytes_per_second: u64) {
        self.limit.store(bytes_per_second, Ordering::Relaxed);
    }

    /// The limit, in bytes a second.
    pub(super) fn limit(&self) -> Option<f64> {
        match self.limit.load(Ordering::Relaxed) {
            0 => None,
            limit => Some(limit as f64),
        }
    }

    /// How many bytes may be written now, or how long to wait until some may.
    pub(super) fn allowance(&self) -> Result<usize, Duration> {
        let Some(limit) = self.limit() else {
            return Ok(usize::MAX);
        };
        let burst = (limit * BURST_SECONDS).max(LEAST_PIECE);
        let piece = (burst / 4.0).max(LEAST_PIECE);
        let mut bucket = lock(&self.bucket);
        let now = Instant::now();
        let earned = now.duration_since(bucket.filled_at).as_secs_f64() * limit;
        bucket.filled_at = now;
        bucket.tokens = (bucket.tokens + earned).min(burst);
        if bucket.tokens >= piece {
            Ok(bucket.tokens as usize)
        } else {
            let seconds = (piece - bucket.tokens) / limit;
            Err(Duration::from_secs_f64(seconds.min(LONGEST_SLEEP)))
        }
    }

    /// So many bytes were written.
    pub(super) fn spend(&self, bytes: usize) {
        if self.limit().is_some() {
            lock(&self.bucket).tokens -= bytes as f64;
        }
    }
}

/// Whoever waits for a low limit looks after this long whether it still is one, in seconds.
const LONGEST_SLEEP: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_all_may_be_written() {
        let bandwidth = Bandwidth::default();
        assert_eq!(bandwidth.allowance(), Ok(usize::MAX));
        bandwidth.spend(1 << 30);
        assert_eq!(bandwidth.allowance(), Ok(usize::MAX));
    }

    #[test]
    fn a_limit_gives_no_more_than_a_burst_at_once_and_then_makes_wait() {
        let bandwidth = Bandwidth::default();
        bandwidth.set(1 << 20);
        std::thread::sleep(Duration::from_millis(50));
        let burst = bandwidth.allowance().expect("earned");
        assert!((4096..=5243).contains(&burst), "{burst}");
        bandwidth.spend(burst);
        let wait = bandwidth.allowance().expect_err("spent");
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_millis(4),
            "{wait:?}"
        );
        bandwidth.set(0);
        assert_eq!(bandwidth.allowance(), Ok(usize::MAX));
    }

    #[test]
    fn a_rate_follows_what_is_measured() {
        let mut rate = Rate::default();
        let mut now = Instant::now();
        let mut no_room_after = |rate: &mut Rate, bytes: usize, ms: u64| {
            rate.took(bytes);
            now += Duration::from_millis(ms);
            rate.had_no_room(now, Duration::ZERO);
        };
        no_room_after(&mut rate, 1 << 20, 1);
        assert_eq!(rate.bytes_per_second(), 0.0, "what fitted into buffers");
        no_room_after(&mut rate, 1000, 1);
        no_room_after(&mut rate, 9000, 9);
        assert_eq!(rate.bytes_per_second(), 1e6);
        for _ in 0..50 {
            no_room_after(&mut rate, 1_000_000, 100);
        }
        assert!((rate.bytes_per_second() / 1e7 - 1.0).abs() < 0.01);
        no_room_after(&mut rate, 1000, 5000);
        assert!(rate.bytes_per_second() > 9e6, "the link was idle");
        no_room_after(&mut rate, 0, 100);
        assert!(rate.bytes_per_second() > 9e6, "nothing was written");
        rate.took(20_000_000);
        rate.has_room(now + Duration::from_secs(1));
        assert!(rate.bytes_per_second() > 1.8e7, "it has become faster");
        for _ in 0..50 {
            rate.took(100_000);
            now += Duration::from_secs(1);
            rate.had_no_room(now, Duration::from_millis(999));
        }
        assert!(rate.bytes_per_second() < 2e5, "it has become slower");
    }
}

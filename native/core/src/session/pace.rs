//! How fast a link takes bytes, and how fast it may.

use std::time::{Duration, Instant};

/// How much the newest measurement counts. At some 10 measurements in 100 ms the rate follows a link within that time.
const WEIGHT: f64 = 0.2;

/// Less than this says nothing: it fits into a buffer.
const LEAST_BYTES: usize = 16 << 10;

/// What a link takes while something waits for it.
#[derive(Debug, Default)]
pub(super) struct Rate {
    bytes_per_second: f64,
}

impl Rate {
    /// So many bytes were taken in this time, and the link was asked for all of it.
    pub(super) fn measured(&mut self, bytes: usize, time: Duration) {
        let seconds = time.as_secs_f64();
        if bytes < LEAST_BYTES || seconds <= 0.0 {
            return;
        }
        let rate = bytes as f64 / seconds;
        self.bytes_per_second = if self.bytes_per_second == 0.0 {
            rate
        } else {
            self.bytes_per_second + WEIGHT * (rate - self.bytes_per_second)
        };
    }

    pub(super) fn bytes_per_second(&self) -> f64 {
        self.bytes_per_second
    }
}

/// What may be written at once within a limit: so many seconds of it. Longer bursts would queue in the network.
const BURST_SECONDS: f64 = 0.005;

/// A limit makes no smaller pieces than this: each costs a system call and a packet.
const LEAST_PIECE: f64 = 4096.0;

/// A limit on the bytes that are written.
#[derive(Debug)]
pub(super) struct Limit {
    /// 0: none.
    bytes_per_second: f64,
    /// May be negative by one piece.
    tokens: f64,
    filled_at: Instant,
}

impl Limit {
    pub(super) fn none() -> Self {
        Limit {
            bytes_per_second: 0.0,
            tokens: 0.0,
            filled_at: Instant::now(),
        }
    }

    pub(super) fn set(&mut self, bytes_per_second: u64) {
        self.bytes_per_second = bytes_per_second as f64;
        self.tokens = 0.0;
        self.filled_at = Instant::now();
    }

    /// How many bytes may be written now, or how long to wait until some may.
    pub(super) fn allowance(&mut self) -> Result<usize, Duration> {
        if self.bytes_per_second == 0.0 {
            return Ok(usize::MAX);
        }
        let burst = (self.bytes_per_second * BURST_SECONDS).max(LEAST_PIECE);
        let now = Instant::now();
        let earned = now.duration_since(self.filled_at).as_secs_f64() * self.bytes_per_second;
        self.filled_at = now;
        self.tokens = (self.tokens + earned).min(burst);
        if self.tokens >= LEAST_PIECE.min(burst) {
            Ok(self.tokens as usize)
        } else {
            let missing = LEAST_PIECE.min(burst) - self.tokens;
            Err(Duration::from_secs_f64(
                (missing / self.bytes_per_second).min(1.0),
            ))
        }
    }

    /// So many bytes were written.
    pub(super) fn spend(&mut self, bytes: usize) {
        if self.bytes_per_second > 0.0 {
            self.tokens -= bytes as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_all_may_be_written() {
        assert_eq!(Limit::none().allowance(), Ok(usize::MAX));
    }

    #[test]
    fn a_limit_gives_no_more_than_a_burst_at_once_and_then_makes_wait() {
        let mut limit = Limit::none();
        limit.set(1 << 20);
        let wait = limit.allowance().expect_err("nothing is earned yet");
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_millis(4),
            "{wait:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
        let burst = limit.allowance().expect("earned");
        assert!((4096..=5243).contains(&burst), "{burst}");
        limit.spend(burst);
        assert!(limit.allowance().is_err());
    }

    #[test]
    fn a_rate_follows_what_is_measured() {
        let mut rate = Rate::default();
        rate.measured(100, Duration::from_millis(1));
        assert_eq!(rate.bytes_per_second(), 0.0, "too little to say anything");
        rate.measured(1 << 20, Duration::from_secs(1));
        assert_eq!(rate.bytes_per_second(), f64::from(1 << 20));
        for _ in 0..50 {
            rate.measured(1 << 20, Duration::from_millis(100));
        }
        assert!((rate.bytes_per_second() / (10.0 * f64::from(1 << 20)) - 1.0).abs() < 0.01);
    }
}

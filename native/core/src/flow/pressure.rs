//! How much stands between the source and whoever takes what the sink writes, told in time.
//!
//! QEMU reckons when its guest may stop from how fast its stream is taken; what stands in a queue behind that is added to
//! the guest's blackout unseen. So the source takes no more than what the sink gets rid of in [`QUEUE`].

use super::lock;
use crate::average;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long the last frame in the queue waits at the most, beside what is in the kernel and on the link. With half of it,
/// busy processors let the wire run dry for moments: a live migration at 200 Mbit/s took a tenth longer.
const QUEUE: f64 = 0.060;

/// A frame is no larger than what the sink gets rid of in this time, down to [`LEAST_FRAME`].
const FRAME: f64 = 0.010;

/// Blocks of 64 KiB compress some 5 % worse than those of 1 MiB, smaller ones much worse.
const LEAST_FRAME: usize = 128 << 10;

/// A frame, and a quarter of the queue, until it is known how fast the sink is.
const FIRST_FRAME: usize = 256 << 10;

/// How much the newest look counts in the rate.
const WEIGHT: f64 = 0.4;

/// A look takes in so much of the sink's time, in seconds, or so many raw bytes. A frame by itself would say nothing: it may
/// have gone into a buffer at once, while the one before it waited for room there.
const LOOK: f64 = 0.010;
const LOOK_BYTES: u64 = 8 << 20;

#[derive(Default)]
pub(super) struct Pressure {
    /// Raw bytes of the frames that left the source and have not been written.
    queued: AtomicU64,
    /// Raw bytes that the sink gets rid of in a second; 0 until it was seen. The bits of an f64.
    rate: AtomicU64,
    /// Raw bytes since the last look, and the sink's seconds for them.
    seen: Mutex<(u64, f64)>,
    waiting: AtomicBool,
    lock: Mutex<()>,
    less: Condvar,
}

impl Pressure {
    /// A frame is on its way.
    pub(super) fn left(&self, raw_len: u32) {
        self.queued.fetch_add(raw_len.into(), Ordering::SeqCst);
    }

    /// It is written, or dropped.
    pub(super) fn landed(&self, raw_len: u32) {
        self.queued.fetch_sub(raw_len.into(), Ordering::SeqCst);
        self.wake();
    }

    /// Ends the wait, for the source to look around.
    pub(super) fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) {
            drop(lock(&self.lock));
            self.less.notify_all();
        }
    }

    /// A frame took this long to write, or takes a link.
    pub(super) fn drained(&self, raw_len: u32, time: Duration) {
        let mut seen = lock(&self.seen);
        let (bytes, seconds) = (seen.0 + u64::from(raw_len), seen.1 + time.as_secs_f64());
        if seconds <= 0.0 || seconds < LOOK && bytes < LOOK_BYTES {
            *seen = (bytes, seconds);
            return;
        }
        *seen = (0, 0.0);
        let rate = average::moved(self.rate(), bytes as f64 / seconds, WEIGHT);
        self.rate.store(rate.to_bits(), Ordering::Relaxed);
    }

    fn rate(&self) -> f64 {
        f64::from_bits(self.rate.load(Ordering::Relaxed))
    }

    /// How long what is queued will take, in seconds; 0 where that is not known.
    pub(super) fn queue_seconds(&self) -> f64 {
        let rate = self.rate();
        if rate == 0.0 {
            0.0
        } else {
            self.queued.load(Ordering::Relaxed) as f64 / rate
        }
    }

    /// The raw bytes that the next frame should hold at the most.
    pub(super) fn frame_size(&self, most: usize) -> usize {
        match self.rate() {
            0.0 => FIRST_FRAME.min(most),
            rate => ((rate * FRAME) as usize).clamp(LEAST_FRAME.min(most), most),
        }
    }

    /// Waits until there is room for another frame. `stopped` is looked at after each [`wake`](Self::wake).
    pub(super) fn wait(&self, stopped: impl Fn() -> bool) {
        let full = || {
            let queued = self.queued.load(Ordering::SeqCst);
            let rate = self.rate();
            // One frame with the sink and one behind it are no queue.
            let most = if rate == 0.0 {
                4 * FIRST_FRAME as u64
            } else {
                ((rate * QUEUE) as u64).max(2 * LEAST_FRAME as u64)
            };
            queued > most
        };
        if !full() {
            return;
        }
        self.waiting.store(true, Ordering::SeqCst);
        let mut guard = lock(&self.lock);
        while full() && !stopped() {
            guard = self
                .less
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.waiting.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rate: f64) -> Pressure {
        let pressure = Pressure::default();
        pressure.drained(
            16 << 20,
            Duration::from_secs_f64(f64::from(16 << 20) / rate),
        );
        pressure
    }

    #[test]
    fn what_finds_room_in_a_buffer_says_nothing_of_the_rate() {
        let pressure = Pressure::default();
        for _ in 0..8 {
            pressure.drained(256 << 10, Duration::from_micros(50));
        }
        assert_eq!(pressure.rate(), 0.0);
        for _ in 0..8 {
            pressure.drained(256 << 10, Duration::from_millis(10));
        }
        let rate = 256.0 * 1024.0 / 0.010;
        assert!(pressure.rate() < 2.0 * rate, "{}", pressure.rate());
    }

    #[test]
    fn frames_shrink_with_the_rate() {
        assert_eq!(Pressure::default().frame_size(1 << 20), FIRST_FRAME);
        assert_eq!(at(1e9).frame_size(1 << 20), 1 << 20);
        assert_eq!(at(50e6).frame_size(1 << 20), 500_000);
        assert_eq!(at(1e6).frame_size(1 << 20), LEAST_FRAME);
        assert_eq!(at(1e6).frame_size(4096), 4096);
    }

    #[test]
    fn the_source_waits_for_a_queue_that_is_too_long() {
        let pressure = at(100e6);
        for _ in 0..6 {
            pressure.left(1 << 20);
        }
        assert!((pressure.queue_seconds() - 0.063).abs() < 0.001);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pressure.wait(|| false));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waiting.is_finished());
            pressure.landed(1 << 20);
            waiting.join().expect("no panic");
        });
        pressure.wait(|| false);
    }
}

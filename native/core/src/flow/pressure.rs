//! How much stands between the source and whoever takes what the sink writes, told in time.
//!
//! QEMU reckons when its guest may stop from how fast its stream is taken; what stands in a queue behind that is added to
//! the guest's blackout unseen. So the source takes no more than what the sink gets rid of in [`QUEUE`].

use super::lock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long the last frame in the queue waits at the most, beside what is in the kernel and on the link. At 200 Mbit/s
/// a frame of 1 MiB takes 10 to 40 ms, and two must be under way for the wire never to run dry.
const QUEUE: f64 = 0.030;

/// A frame is no larger than what the sink gets rid of in this time, down to [`LEAST_FRAME`].
const FRAME: f64 = 0.010;

/// Blocks of 64 KiB compress some 5 % worse than those of 1 MiB, smaller ones much worse (DESIGN.md).
const LEAST_FRAME: usize = 128 << 10;

/// A frame, and a quarter of the queue, until it is known how fast the sink is.
const FIRST_FRAME: usize = 256 << 10;

/// How much the newest frame counts in the rate.
const WEIGHT: f64 = 0.2;

/// A frame smaller than this says nothing about the rate: it went into a buffer.
const TELLING: u32 = 16 << 10;

#[derive(Default)]
pub(super) struct Pressure {
    /// Raw bytes of the frames that left the source and have not been written.
    queued: AtomicU64,
    /// Raw bytes that the sink gets rid of in a second; 0 until it was seen. The bits of an f64.
    rate: AtomicU64,
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

    /// The sink took this long to write a frame.
    pub(super) fn drained(&self, raw_len: u32, time: Duration) {
        let seconds = time.as_secs_f64();
        if raw_len < TELLING || seconds <= 0.0 {
            return;
        }
        let (now, before) = (f64::from(raw_len) / seconds, self.rate());
        let rate = if before == 0.0 {
            now
        } else {
            before + WEIGHT * (now - before)
        };
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
        pressure.drained(1 << 20, Duration::from_secs_f64(f64::from(1 << 20) / rate));
        pressure
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
        for _ in 0..3 {
            pressure.left(1 << 20);
        }
        assert!((pressure.queue_seconds() - 0.031).abs() < 0.001);
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

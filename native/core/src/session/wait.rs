//! For how much of the time each end of a link waits for it, which tells what holds the stream up.

use super::lock;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// All the time for which one end has waited for its links.
#[derive(Default)]
pub(super) struct Waits {
    /// What has been, and since when a wait goes on.
    sum: Mutex<(Duration, Option<Instant>)>,
}

impl Waits {
    /// Waits, and returns for how long besides.
    ///
    /// The time for which the thread could have gone on but had no processor does not count in the sum: on a busy host that
    /// is most of it, and then an unlimited link would seem to be what both its ends wait for.
    pub(super) fn during<T>(&self, wait: impl FnOnce() -> T) -> (T, Duration) {
        let (began, before) = (Instant::now(), unscheduled());
        lock(&self.sum).1 = Some(began);
        let outcome = wait();
        let time = began.elapsed();
        let unscheduled = unscheduled().saturating_sub(before);
        let mut sum = lock(&self.sum);
        *sum = (sum.0 + time.saturating_sub(unscheduled), None);
        (outcome, time)
    }

    /// The sum up to now, with the wait that goes on. It may have become less, by what that wait had no processor.
    pub(super) fn total(&self) -> Duration {
        let (sum, since) = *lock(&self.sum);
        sum + since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// How long this thread has been ready to run and did not; always 0 where the kernel does not tell (distributions build it with
/// `CONFIG_SCHEDSTATS`).
fn unscheduled() -> Duration {
    thread_local! {
        static SCHEDULING: Option<File> = File::open("/proc/thread-self/schedstat").ok();
    }
    // "running waiting slices", the first two in nanoseconds: proc(5).
    let mut text = [0; 64];
    let told = SCHEDULING.with(|file| file.as_ref()?.read_at(&mut text, 0).ok());
    told.and_then(|length| waiting_of(&text[..length]))
        .map_or(Duration::ZERO, Duration::from_nanos)
}

fn waiting_of(schedstat: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(schedstat).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// An end that waits for a link for so much of the time has nothing else that holds it up, and one that waits for less
/// than so much, nothing to wait for.
const MOSTLY: f64 = 0.5;
const HARDLY: f64 = 0.1;

/// Over how long waits are looked at, and how long that holds.
const LOOK: Duration = Duration::from_millis(20);
const HOLDS: Duration = Duration::from_millis(250);

/// So many looks in a row are believed. One may be wrong either way. Where what the peer told comes late, and then all at once,
/// the first of it is held against the whole time, and the second makes up for that. And where the kernel is late with what is
/// on its way, both ends wait on a link that takes all: two of 90 migrations over an unlimited one, on a host without a free
/// processor, had one such look of 30 or 70 ms, and none had two.
const SURE: u32 = 2;

/// What holds a stream up, as its sender sees it.
#[derive(Default)]
pub(super) struct Holdup {
    looks: Mutex<Looks>,
}

#[derive(Default)]
struct Looks {
    /// When both ends' waits were looked at last, in nanoseconds, and what they had come to.
    last: Option<(u64, Duration, Duration)>,
    /// For how much of the time between two looks we waited, and the peer.
    shares: Option<Shares>,
    /// So many looks in a row have found that both wait for most of the time,
    link_is_full: u32,
    /// and so many that only we do.
    peer_is_busy: u32,
}

impl Looks {
    /// The shares; `None` where nothing is known, or nothing new.
    fn shares_at(&self, now: u64) -> Option<Shares> {
        let (at, ..) = self.last?;
        let is_new = Duration::from_nanos(now.saturating_sub(at)) < HOLDS;
        self.shares.filter(|_| is_new)
    }
}

#[derive(Clone, Copy)]
struct Shares {
    ours: f64,
    peers: f64,
}

impl Holdup {
    /// The peer tells what its waits have come to, `now` nanoseconds from the start, when ours had come to `ours`. Both are
    /// held against the same time: of different ones, each end may have waited for most, on a link that takes all at once.
    pub(super) fn look(&self, now: u64, ours: Duration, peers: Duration) {
        let mut looks = lock(&self.looks);
        if let Some((at, ours_before, peers_before)) = looks.last {
            let time = Duration::from_nanos(now.saturating_sub(at));
            if time < LOOK {
                return;
            }
            let share = |waits: Duration, before| {
                waits.saturating_sub(before).as_secs_f64() / time.as_secs_f64()
            };
            let shares = Shares {
                ours: share(ours, ours_before),
                peers: share(peers, peers_before),
            };
            let once_more = |so_far: u32, peer: bool| {
                if shares.ours >= MOSTLY && peer {
                    so_far.saturating_add(1)
                } else {
                    0
                }
            };
            looks.link_is_full = once_more(looks.link_is_full, shares.peers >= MOSTLY);
            looks.peer_is_busy = once_more(looks.peer_is_busy, shares.peers < HARDLY);
            looks.shares = Some(shares);
        }
        looks.last = Some((now, ours, peers));
    }

    /// Whether it is the link: both its ends mostly wait for it. A sender that it makes wait now and then has a queue that is
    /// full now and then, and a receiver that does not wait for it has enough to do, or its QEMU has. Then a smaller stream
    /// is no faster.
    pub(super) fn is_link(&self, now: u64) -> bool {
        let looks = lock(&self.looks);
        looks.shares_at(now).is_some() && looks.link_is_full >= SURE
    }

    /// Whether it is what is behind the link.
    pub(super) fn is_peer(&self, now: u64) -> bool {
        let looks = lock(&self.looks);
        looks.shares_at(now).is_some() && looks.peer_is_busy >= SURE
    }

    /// Whether the link takes at once what it gets, or what holds the stream up is behind it; also where nothing is known.
    pub(super) fn is_not_link(&self, now: u64) -> bool {
        lock(&self.looks)
            .shares_at(now)
            .is_none_or(|Shares { ours, peers }| ours < HARDLY || peers < MOSTLY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_understood() {
        assert_eq!(waiting_of(b"1200300 4005006 17\n"), Some(4_005_006));
        assert_eq!(waiting_of(b"0 0 0\n"), Some(0));
        assert_eq!(waiting_of(b""), None);
        assert_eq!(waiting_of(b"12"), None);
        assert_eq!(waiting_of(b"12 -3 4\n"), None);
    }

    #[test]
    fn waits_are_summed_up_and_the_one_that_goes_on_counts() {
        const PAUSE: Duration = Duration::from_millis(20);
        let waits = Waits::default();
        assert_eq!(waits.total(), Duration::ZERO);
        let (within, time) = waits.during(|| {
            std::thread::sleep(PAUSE);
            waits.total()
        });
        assert!(within >= PAUSE && time >= within, "{within:?} of {time:?}");
        let total = waits.total();
        assert!(total <= time && total > Duration::ZERO, "{total:?}");
        assert_eq!(waits.total(), total, "it has ended");
    }

    const fn ms(ms: u64) -> u64 {
        ms * 1_000_000
    }

    /// The other looks: at so many ms, when the waits had come to so many.
    fn after(looks: &[(u64, u64, u64)]) -> Holdup {
        let holdup = Holdup::default();
        for &(at, ours, peers) in looks {
            let [ours, peers] = [ours, peers].map(Duration::from_millis);
            holdup.look(ms(at), ours, peers);
        }
        holdup
    }

    #[test]
    fn a_link_for_which_both_ends_wait_holds_the_stream_up() {
        let nothing = after(&[(100, 90, 90)]);
        assert!(!nothing.is_link(ms(100)), "one look says nothing");
        assert!(nothing.is_not_link(ms(100)) && !nothing.is_peer(ms(100)));

        let once = after(&[(100, 90, 90), (200, 140, 150)]);
        assert!(!once.is_link(ms(200)) && !once.is_peer(ms(200)) && !once.is_not_link(ms(200)));
        let link = after(&[(100, 90, 90), (200, 140, 150), (300, 190, 210)]);
        assert!(link.is_link(ms(300)) && !link.is_peer(ms(300)) && !link.is_not_link(ms(300)));
        assert!(!link.is_link(ms(600)), "nobody has said so for long");
        assert!(link.is_not_link(ms(600)));

        let queue = after(&[(100, 90, 90), (200, 130, 150)]);
        assert!(!queue.is_link(ms(200)) && !queue.is_not_link(ms(200)));
    }

    #[test]
    fn a_stall_is_no_full_link() {
        // As seen: 67 ms in which both waited, 97 in which neither did for long, and then the destination did.
        let stall = [
            (537, 0, 300),
            (604, 48, 358),
            (701, 63, 379),
            (723, 63, 391),
        ];
        for looks in 1..=stall.len() {
            let (at, ..) = stall[looks - 1];
            assert!(!after(&stall[..looks]).is_link(ms(at)), "at {at} ms");
        }
    }

    #[test]
    fn a_peer_that_has_enough_to_do_is_not_the_link() {
        let once = after(&[(100, 0, 0), (200, 90, 5)]);
        assert!(!once.is_peer(ms(200)) && !once.is_link(ms(200)) && once.is_not_link(ms(200)));
        let peer = after(&[(100, 0, 0), (200, 90, 5), (300, 180, 10)]);
        assert!(peer.is_peer(ms(300)) && !peer.is_link(ms(300)) && peer.is_not_link(ms(300)));
        assert!(!peer.is_peer(ms(600)), "nobody has said so for long");
        let free = after(&[(100, 0, 0), (200, 5, 90)]);
        assert!(!free.is_peer(ms(200)) && !free.is_link(ms(200)) && free.is_not_link(ms(200)));
    }

    #[test]
    fn what_the_peer_told_late_and_all_at_once_does_not_make_it_busy() {
        // It waited all the time; what it told at 110 to 390 came at 400.
        let late = [(100, 90, 90), (400, 370, 100), (401, 371, 390)];
        assert!(!after(&late).is_peer(ms(401)));
        let next = after(&[&late[..], &[(430, 400, 420), (460, 430, 450)]].concat());
        assert!(!next.is_peer(ms(460)) && next.is_link(ms(460)));
    }

    #[test]
    fn looks_that_follow_too_soon_say_nothing_new() {
        let full = [(100, 0, 0), (200, 90, 90), (300, 180, 180)];
        let link = after(&[&full[..], &[(310, 181, 181), (320, 182, 182)]].concat());
        assert!(!link.is_link(ms(320)), "2 of 20 ms");
        let link = after(&[&full[..], &[(310, 181, 181)]].concat());
        assert!(link.is_link(ms(310)));
    }

    #[test]
    fn a_pause_is_nobodys_wait_for_the_link() {
        // The peer waited while nothing came; then the queue was full for once.
        let pause = after(&[(100, 0, 0), (400, 20, 290)]);
        assert!(!pause.is_link(ms(400)));
    }
}

//! How long a thread waits for a link, and nothing but the link.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// A wait of this thread that goes on.
pub(super) struct Wait {
    since: Instant,
    unscheduled: Duration,
}

impl Wait {
    pub(super) fn begin() -> Wait {
        Wait {
            since: Instant::now(),
            unscheduled: unscheduled(),
        }
    }

    /// How long it has been.
    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// The same without the time for which the thread could have gone on but had no processor: on a busy host that is most of
    /// it, and then an unlimited link would seem to be what both its ends wait for.
    pub(super) fn for_the_link(&self) -> Duration {
        let unscheduled = unscheduled().saturating_sub(self.unscheduled);
        self.elapsed().saturating_sub(unscheduled)
    }
}

/// How long this thread has been ready to run and did not; always 0 where the kernel does not tell (it is built so in
/// distributions: `CONFIG_SCHEDSTATS`).
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
    fn a_wait_without_a_processor_is_not_for_the_link() {
        let wait = Wait::begin();
        std::thread::sleep(Duration::from_millis(20));
        let (link, all) = (wait.for_the_link(), wait.elapsed());
        assert!(
            link <= all && all >= Duration::from_millis(20),
            "{link:?} of {all:?}"
        );
    }
}

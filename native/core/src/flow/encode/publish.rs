//! What the source tells while it reads: what delta has done, and which migrations came by in libvirt's tunnel.

use super::Source;
use crate::delta;
use crate::flow::{Event, lock};
use crate::libvirt::{Report, Tunnel};

/// How many bytes of input may pass until delta's counters are published, if it does not pause: with hundreds of
/// passes they are tens of KiB to copy.
pub(super) const PUBLISH_EVERY: u64 = 4 << 20;

/// Whether delta's counters may be left for the next time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Publish {
    IfFree,
    Last,
}

impl Source<'_> {
    pub(super) fn publish_counters(&self, counters: &delta::Counters, when: Publish) {
        let published = &self.filler.shared.delta;
        match when {
            Publish::Last => lock(published).clone_from(counters),
            // A reader that holds the lock just now gets the next ones.
            Publish::IfFree => {
                if let Ok(mut published) = published.try_lock() {
                    published.clone_from(counters);
                }
            }
        }
    }

    /// Tells of migrations that have begun or ended since the last time, too.
    pub(super) fn publish_tunnel(&self, tunnel: &Tunnel, told: &mut Report, when: Publish) {
        if let Some(counters) = tunnel.delta() {
            self.publish_counters(counters, when);
        }
        let report = tunnel.report();
        if *told != report {
            *told = report;
            let shared = self.filler.shared;
            lock(&shared.tunnel).clone_from(told);
            shared.tell(Event::Tunnel);
        }
    }
}

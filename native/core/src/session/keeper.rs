//! The thread that keeps a link alive and the peer informed: ACK, PING, PONG, and what a new link is owed.

use super::{Shared, lock};
use crate::frame::SessionFrame;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an ACK that nobody waits for may wait for others to go with it. Each costs a system call and a packet at both
/// ends; the peer needs them only to let go of what it keeps.
const ACK_DELAY: Duration = Duration::from_millis(10);

#[derive(Default)]
pub(super) struct Duties {
    due: Mutex<Due>,
    changed: Condvar,
}

#[derive(Default)]
struct Due {
    ack: Option<Urgency>,
    pong: Option<[u8; 8]>,
    attached: bool,
    woken: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    Now,
    Soon,
}

impl Duties {
    fn add(&self, duty: impl FnOnce(&mut Due) -> bool) {
        if duty(&mut lock(&self.due)) {
            self.changed.notify_one();
        }
    }

    pub(super) fn acknowledge(&self, urgent: bool) {
        self.add(|due| {
            let before = due.ack;
            if urgent {
                due.ack = Some(Urgency::Now);
            } else {
                due.ack.get_or_insert(Urgency::Soon);
            }
            before != due.ack
        });
    }

    pub(super) fn pong(&self, token: [u8; 8]) {
        self.add(|due| {
            due.pong = Some(token);
            true
        });
    }

    pub(super) fn attached(&self) {
        self.add(|due| {
            due.attached = true;
            true
        });
    }

    pub(super) fn wake(&self) {
        self.add(|due| {
            due.woken = true;
            true
        });
    }

    /// Waits until something is due, or for this long.
    fn next(&self, most: Duration) -> Due {
        let until = Instant::now() + most;
        let mut due = lock(&self.due);
        let mut ack_at = None;
        loop {
            let now = Instant::now();
            let at = match due.ack {
                _ if due.pong.is_some() || due.attached || due.woken => now,
                Some(Urgency::Now) => now,
                Some(Urgency::Soon) => *ack_at.get_or_insert(now + ACK_DELAY),
                None => until,
            };
            let at = at.min(until);
            if at <= now {
                return std::mem::take(&mut due);
            }
            due = self
                .changed
                .wait_timeout(due, at - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

pub(super) fn run(shared: &Shared) {
    let heartbeat = shared.options.heartbeat;
    let mut acked = 0;
    loop {
        let mut due = shared.keeper.next(heartbeat);
        if shared.closed() {
            return;
        }
        let is_linked = shared.link().is_some();
        if !is_linked || shared.is_mute() {
            let asks = lock(&shared.doubt)
                .libvirt()
                .is_some_and(|doubt| doubt.has_keepalive());
            shared.daemon.sign_of_life(asks);
        }
        if !is_linked {
            // All of it is owed to the next link, which tells us of itself.
            continue;
        }
        if due.attached {
            // What the last link took with it may have been an ACK.
            due.ack = Some(Urgency::Now);
            acked = u64::MAX;
            shared.outgoing.pump(shared);
        }
        let delivered = shared.delivered.load(Ordering::SeqCst);
        if due.ack.is_some() && delivered != acked {
            acked = delivered;
            let waited = shared.waits.total().as_nanos() as u64;
            let payload = [delivered.to_le_bytes(), waited.to_le_bytes()].concat();
            shared.send_session(SessionFrame::Ack, &payload);
        }
        if let Some(token) = due.pong {
            shared.send_session(SessionFrame::Pong, &token);
        }
        let quiet = shared
            .now_ns()
            .saturating_sub(shared.outgoing.wrote_at.load(Ordering::Relaxed));
        if due.attached || quiet >= heartbeat.as_nanos() as u64 {
            shared.send_session(SessionFrame::Ping, &shared.now_ns().to_le_bytes());
        }
    }
}

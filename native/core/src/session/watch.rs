//! What a wire knows of the conversation that it carries, to tell when a break would leave two guests.

use crate::descriptor::has_hung_up;
use crate::libvirt;
use crate::qemu;
use std::io;
use std::os::fd::BorrowedFd;

/// Follows both directions at the source.
pub(super) enum Watch {
    /// A QEMU's migration.
    Qemu(Box<qemu::Doubt>),
    /// That of two libvirt daemons, with migrations in it.
    Libvirt(Box<libvirt::Doubt>),
}

/// Whether a guest is on its way in postcopy's package, as the source's QEMU sees it: whatever of it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It is not.
    None,
    /// The package has begun and has not come whole.
    Leaving,
    /// It has, and QEMU will not resume the guest: it must get there.
    InTransit,
}

impl Watch {
    pub(super) fn new(libvirt: bool) -> Self {
        if libvirt {
            Watch::Libvirt(Box::default())
        } else {
            Watch::Qemu(Box::default())
        }
    }

    /// What comes next from the source. To be told before it is handed on.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        match self {
            Watch::Qemu(doubt) => doubt.sent(bytes),
            Watch::Libvirt(doubt) => doubt.sent(bytes),
        }
    }

    /// What comes next from the destination. To be told when it is written at the source.
    pub(super) fn returned(&mut self, bytes: &[u8]) {
        match self {
            Watch::Qemu(doubt) => doubt.returned(bytes),
            Watch::Libvirt(doubt) => doubt.returned(bytes),
        }
    }

    /// The source's QEMU, or daemon, has gone, and this comes for it.
    pub(super) fn unheard(&mut self, bytes: &[u8]) {
        match self {
            Watch::Qemu(doubt) => doubt.unheard(bytes),
            Watch::Libvirt(_) => {}
        }
    }

    /// Nothing comes from the destination any more, because it said so.
    pub(super) fn return_ended(&mut self) {
        match self {
            Watch::Qemu(doubt) => doubt.return_ended(),
            Watch::Libvirt(doubt) => doubt.return_ended(),
        }
    }

    /// Whether the source must not be cut off when the bytes before `upto` may be with the destination.
    pub(super) fn must_hold(&self, upto: u64) -> bool {
        match self {
            Watch::Qemu(doubt) => doubt.must_hold(upto),
            Watch::Libvirt(doubt) => doubt.in_doubt(upto),
        }
    }

    /// Whether the guest has left in postcopy's package. libvirt's tunnel knows no postcopy.
    pub(super) fn is_postcopy(&self) -> bool {
        match self {
            Watch::Qemu(doubt) => doubt.switchover().is_postcopy(),
            Watch::Libvirt(_) => false,
        }
    }

    /// Where the guest is, if postcopy's package takes it away.
    pub(super) fn departure(&self) -> Departure {
        match self {
            Watch::Qemu(doubt) if doubt.guest_in_transit() => Departure::InTransit,
            Watch::Qemu(doubt) if doubt.guest_is_leaving() => Departure::Leaving,
            _ => Departure::None,
        }
    }

    /// Whether the source has closed this socket without the answer that it waits for.
    pub(super) fn has_hung_up(&self, qemu: BorrowedFd<'_>) -> io::Result<bool> {
        match self {
            Watch::Qemu(doubt) => doubt.has_hung_up(qemu),
            // A daemon may end its connection at any time, but not in the middle of a migration.
            Watch::Libvirt(doubt) => Ok(doubt.unfinished().is_some() && has_hung_up(qemu)?),
        }
    }

    /// Whether the migration has failed at the destination though all of it went over, and how that is known.
    pub(super) fn failure(&self) -> Option<String> {
        match self {
            Watch::Qemu(doubt) => doubt.failure(),
            // The daemons tell each other.
            Watch::Libvirt(_) => None,
        }
    }

    /// Where a stream was cut off that has been followed so far, for people.
    pub(super) fn cut_off(&self) -> Option<String> {
        let Watch::Qemu(doubt) = self else {
            return None;
        };
        let stream = doubt.switchover();
        stream
            .is_truncated()
            .then(|| stream.phase().as_str().to_owned())
    }

    /// The conversation of two daemons, if it is one.
    pub(super) fn libvirt(&mut self) -> Option<&mut libvirt::Doubt> {
        match self {
            Watch::Qemu(_) => None,
            Watch::Libvirt(doubt) => Some(doubt),
        }
    }
}

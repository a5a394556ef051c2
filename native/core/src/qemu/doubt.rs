//! Whether both guests may run.

use super::wire::PING_BEFORE_RUN;
use super::{Message, Phase, ReturnPath, Switchover};
use crate::descriptor::has_hung_up;
use std::io;
use std::os::fd::BorrowedFd;

/// Whether the destination's guest may run while the source could still resume its own.
///
/// The worst that can happen to a guest is to run twice. It happens if the destination has what it needs to run it, and
/// the connection ends before the source knows. Then the source must not see the end of its connection: QEMU would take
/// it for a failure and resume its guest.
///
/// | migration | from | until the source has |
/// |---|---|---|
/// | precopy with a return path | the first device's state | SHUT |
/// | postcopy whose package ends with PING 0x42, RUN (QEMU 11) | the package's last byte | PONG 0x42, or SHUT |
/// | precopy without a return path | never: QEMU is done when it has sent all | |
/// | postcopy with another package (QEMU 7.2, 10), and what comes after any package | never: the source is paused by a fault, not resumed | |
/// | QEMU's, but not understood | where it is not understood any more | SHUT, or PONG 0x42 |
///
/// SHUT ends the doubt with any value: 0, and the source is done; anything else, and the destination has given up its
/// guest. So does the end of what the destination's QEMU sends, without SHUT: it is gone (QEMU 7.2 says no more than that
/// when it cannot load a guest). Either is a [failure](Self::failure) of the migration.
///
/// All of it was tried with QEMU 7.2, 10.0 and 11.1 at both ends: cut off before SHUT has come back, each of them resumes
/// its guest while the other runs; cut off before PONG 0x42, QEMU 11 does; behind it, and with the packages of the others,
/// the source is `postcopy-paused`.
#[derive(Clone, Debug, Default)]
pub struct Doubt {
    switchover: Switchover,
    returning: ReturnPath,
    /// The source knows who runs the guest.
    answered: bool,
    /// What SHUT said.
    shut: Option<u32>,
    /// The destination has loaded the package.
    loaded: bool,
}

impl Doubt {
    /// What comes next from the source. To be told before it is handed on.
    pub fn sent(&mut self, bytes: &[u8]) {
        self.switchover.push(bytes);
    }

    /// What comes next from the destination. To be told when the source's QEMU has it.
    pub fn returned(&mut self, bytes: &[u8]) {
        let package_ping = self.switchover.package_ping();
        self.returning.push(bytes, |_, message| match message {
            Message::Shut(value) => (self.answered, self.shut) = (true, Some(value)),
            Message::Pong(PING_BEFORE_RUN) => self.answered = true,
            Message::Pong(number) if Some(number) == package_ping => self.loaded = true,
            _ => {}
        });
    }

    /// What comes next from the destination once the source's QEMU has gone: it answers nothing, and tells what became of the
    /// guest all the same.
    pub fn unheard(&mut self, bytes: &[u8]) {
        self.returning.push(bytes, |_, message| {
            if let Message::Shut(value) = message {
                self.shut = Some(value);
            }
        });
    }

    /// The destination's QEMU has closed its side: nothing comes from it any more. Not to be told if a link was lost.
    pub fn return_ended(&mut self) {
        self.answered = true;
    }

    /// Whether the source's QEMU has closed this socket of its without the answer that it waits for.
    ///
    /// # Errors
    /// If the socket cannot be looked at.
    pub fn has_hung_up(&self, qemu: BorrowedFd<'_>) -> io::Result<bool> {
        Ok(self.awaits_answer() && has_hung_up(qemu)?)
    }

    /// Whether the source will not close its connection before an answer has come, unless it gives the migration up. A
    /// destination that answers has a return path, whether or not its opening was understood.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        self.has_return_path() && !self.answered
    }

    fn has_return_path(&self) -> bool {
        self.switchover.has_return_path() || self.returning.offset() > 0
    }

    /// Whether both guests may run if the source is cut off when the bytes before `upto` may be with the destination.
    #[must_use]
    pub fn in_doubt(&self, upto: u64) -> bool {
        self.awaits_answer()
            && self
                .switchover
                .critical_from()
                .is_some_and(|from| from < upto)
    }

    /// Whether neither guest may run if the connection ends here. Sources whose package is not answered with PONG 0x42
    /// (QEMU 7.2, 10) do not resume their guest once they have sent it, and a destination that gets only a part of it
    /// exits: tried, the guest was lost. So it is from when all of the package was sent until the PONG of the PING in it
    /// has come back.
    #[must_use]
    pub fn guest_in_transit(&self) -> bool {
        let answered = self.answered || self.loaded;
        !answered
            && self
                .switchover
                .package_ping()
                .is_some_and(|number| number != PING_BEFORE_RUN)
    }

    /// Whether the guest is about to leave in a package that has not come whole from the source's QEMU. Only its end tells which
    /// kind of QEMU that is; one that goes the way of [`guest_in_transit`](Self::guest_in_transit) does not resume its guest any
    /// more.
    #[must_use]
    pub fn guest_is_leaving(&self) -> bool {
        !self.answered && matches!(self.switchover.phase(), Phase::Discard | Phase::Package)
    }

    /// Whether the source's QEMU must not see its connection end when the bytes before `upto` may be with the destination:
    /// [both guests](Self::in_doubt) might run then, or [none](Self::guest_in_transit).
    #[must_use]
    pub fn must_hold(&self, upto: u64) -> bool {
        self.in_doubt(upto) || self.guest_in_transit()
    }

    /// Whether the migration has failed at the destination though all of it was written to QEMU there, and how that is
    /// known, for people. To be asked when both directions have ended. Nothing is known without a return path.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let how = match self.shut {
            Some(0) => return None,
            Some(value) => format!("said SHUT {value}"),
            None if !self.has_return_path() || self.returning.is_opaque() => {
                return None;
            }
            None => "ended its connection without saying that it has the guest".to_owned(),
        };
        let whose = match self.switchover.phase() {
            Phase::Devices | Phase::Ended if !self.switchover.is_postcopy() => {
                ": the guest stays at the source"
            }
            _ => "",
        };
        Some(format!(
            "QEMU at the destination was given all of the stream and {how}{whose}"
        ))
    }

    /// The way there.
    #[must_use]
    pub fn switchover(&self) -> &Switchover {
        &self.switchover
    }

    /// The way back.
    #[must_use]
    pub fn return_path(&self) -> &ReturnPath {
        &self.returning
    }
}

//! The destination's end: what the daemon gets to see of what comes.

use super::error::Refusal;
use super::guest::Naming;
use super::packet::{Header, Kind, PacketError, Packets, Part};
use super::{MIGRATION, goes_past, program};

/// The procedures that are let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Those of a tunnelled migration ([`MIGRATION`]), and these of the same program.
    Migration(Vec<u32>),
    /// Every one of every program: the peer has the daemon's whole API.
    All,
}

impl Default for Allow {
    fn default() -> Self {
        Allow::Migration(Vec::new())
    }
}

impl Allow {
    fn allows(&self, header: &Header) -> bool {
        let number = header.key.procedure;
        match (self, header.key.program, header.kind) {
            (Allow::All, ..) | (_, program::KEEPALIVE, Kind::Message) => true,
            (
                Allow::Migration(more),
                program::REMOTE,
                Kind::Call | Kind::Stream | Kind::StreamHole,
            ) => MIGRATION.contains(&number) || more.contains(&number),
            _ => false,
        }
    }
}

/// What a gate needs from the one who runs it.
pub trait Outlet {
    /// Why it could not go on.
    type Error: From<PacketError>;

    /// Takes what is let through, in order.
    ///
    /// # Errors
    /// To stop.
    fn pass(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Takes a packet for the peer, whose call was refused.
    ///
    /// # Errors
    /// To stop.
    fn answer(&mut self, packet: Vec<u8>) -> Result<(), Self::Error>;
}

/// Lets through what is allowed and answers the rest as libvirt answers an error. It holds back nothing but a header that
/// is not whole.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    packets: Packets,
    allow: Allow,
    /// The packet whose body comes is refused.
    is_shut: bool,
    keepalive: bool,
    naming: Naming,
}

impl Gate {
    /// At the start of a conversation.
    #[must_use]
    pub fn new(allow: Allow) -> Self {
        Gate {
            allow,
            ..Gate::default()
        }
    }

    /// Takes input, all of it.
    ///
    /// # Errors
    /// If it is not libvirt's protocol, or the outlet's. What came before is out.
    pub fn push<O: Outlet>(&mut self, input: &[u8], outlet: &mut O) -> Result<(), O::Error> {
        let mut rest = input;
        // What is let through and not out yet begins here.
        let mut from = 0;
        loop {
            let at = input.len() - rest.len();
            let held = self.packets.held().len();
            let part = self.packets.next(&mut rest);
            if let Ok(Some(Part::Body(body))) = part {
                self.naming.body(body, self.packets.body_left());
                continue;
            }
            let allowed =
                matches!(&part, Ok(Some(Part::Header(header))) if self.allow.allows(header));
            // A header that is here whole and is let through goes with what stands around it.
            if !self.is_shut && from < at && !(allowed && held == 0) {
                outlet.pass(&input[from..at])?;
            }
            match part? {
                Some(Part::Header(header)) if allowed => {
                    if held > 0 {
                        outlet.pass(&header.to_bytes())?;
                        from = input.len() - rest.len();
                    } else if self.is_shut {
                        from = at;
                    }
                    self.is_shut = false;
                    self.naming.begin(&header);
                    self.keepalive |= header.key.program == program::KEEPALIVE;
                }
                Some(Part::Header(header)) => {
                    self.is_shut = true;
                    if let Some(answer) = refused(&header) {
                        outlet.answer(answer)?;
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// Whether what was let through ends with a packet's end.
    #[must_use]
    pub fn at_border(&self) -> bool {
        self.packets.body_left() == 0 || self.is_shut
    }

    /// Migrations that were prepared.
    #[must_use]
    pub fn prepared(&self) -> u64 {
        self.naming.prepared
    }

    /// The guest whose migration was prepared last, for people.
    #[must_use]
    pub fn guest(&self) -> Option<&str> {
        self.naming.guest.as_deref()
    }

    /// Whether the daemons ask each other for signs of life.
    #[must_use]
    pub fn has_keepalive(&self) -> bool {
        self.keepalive
    }
}

/// What the peer is told of a packet that is not let through; nobody waits for an answer to those of other kinds.
fn refused(header: &Header) -> Option<Vec<u8>> {
    let number = header.key.procedure;
    let message = match (header.key.program, header.kind) {
        // To allow it would be bad advice.
        (program::REMOTE, Kind::Call) if goes_past(number) => {
            "pagewire lets only tunnelled migrations through: give virsh --p2p --tunnelled (else the guest's memory \
             would not go through the proxies)"
                .to_owned()
        }
        (program::REMOTE, Kind::Call | Kind::Stream | Kind::StreamHole) => format!(
            "pagewire lets only migrations through: procedure {number} is not among what it allows \
             (--libvirt-allow {number} at the destination's proxy)"
        ),
        (other, Kind::Call | Kind::CallWithFds | Kind::Stream | Kind::StreamHole) => format!(
            "pagewire lets only migrations through: procedure {number} of program {other:#x} is not among what it \
             allows (--libvirt-allow all at the destination's proxy)"
        ),
        _ => return None,
    };
    Some(header.refusal(Refusal::Denied, &message))
}

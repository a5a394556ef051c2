//! What comes over a session for a libvirt daemon passes a [`Gate`] on its way out.

use super::{Event, FlowError, Shared, lock, sink};
use crate::descriptor::Output;
use crate::libvirt::{Gate, Outlet, PacketError};
use crate::session::Wire;
use std::sync::atomic::Ordering;

impl From<PacketError> for FlowError {
    fn from(error: PacketError) -> Self {
        FlowError::Packet(error)
    }
}

/// To the daemon, and back to the peer.
struct Both<'a> {
    shared: &'a Shared,
    output: &'a Output,
    wire: &'a Wire,
}

impl Outlet for Both<'_> {
    type Error = FlowError;

    fn pass(&mut self, bytes: &[u8]) -> Result<(), FlowError> {
        sink::write_all(self.shared, self.output, bytes)?;
        Ok(())
    }

    fn answer(&mut self, packet: Vec<u8>) -> Result<(), FlowError> {
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
        self.shared.tell(Event::Tunnel);
        Ok(self.wire.answer(&packet)?)
    }
}

/// Gives the daemon what it may get of these bytes.
pub(super) fn pass(
    shared: &Shared,
    gate: &mut Gate,
    output: &Output,
    wire: &Wire,
    bytes: &[u8],
) -> Result<(), FlowError> {
    // Nobody else writes to it meanwhile.
    let mut socket = wire.daemon().socket();
    let mut outlet = Both {
        shared,
        output,
        wire,
    };
    gate.push(bytes, &mut outlet)?;
    wire.prepared(gate.prepared());
    let mut told = lock(&shared.tunnel);
    if told.guest.as_deref() != gate.guest() {
        told.guest = gate.guest().map(str::to_owned);
        shared.tell(Event::Tunnel);
    }
    socket.at_border = gate.at_border();
    socket.keepalive = gate.has_keepalive();
    Ok(())
}

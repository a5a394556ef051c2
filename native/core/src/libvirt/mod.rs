//! The conversation between two libvirt daemons, as far as a guest's stream travels in it: `virsh migrate --p2p
//! --tunnelled`.
//!
//! ```text
//!  source daemon ──packets──▶ Tunnel ──packets──▶ the session ──packets──▶ Gate ──packets──▶ destination daemon
//!                             STREAM bodies through delta                  procedures that are allowed
//!                ◀──────────── replies, and refusals of the gate's between their packets ────
//! ```
//! What [`Tunnel`] writes is the same conversation: only the bodies of a migration's STREAM packets are others, and cut
//! elsewhere, which libvirt does not mind. So any daemon takes it, and [`Gate`] has nothing to put together again.
//! [`Doubt`] follows both directions to know whether the guest may run at the destination. The source's proxy adds two packets
//! of its own for its daemon: a sign of life while nothing comes from the other, and the reason why its calls have failed.
//!
//! The protocol belongs to libvirt; this module was written from a description of it and from recorded conversations.

mod doubt;
mod error;
mod gate;
mod growing;
mod guest;
mod packet;
mod tunnel;

pub use doubt::{Doubt, Unfinished};
pub use error::Refusal;
pub use gate::{Allow, Gate, Outlet};
pub use growing::{Call, Growing};
pub use packet::{
    HEADER_LEN, Header, HeaderError, Key, Kind, MAX_PACKET, PacketError, Packets, Part, Status,
};
pub use tunnel::{Host, Report, Tunnel, TunnelError};

/// Numbers of programs.
pub mod program {
    /// The API of guests, networks, storage and all else.
    pub const REMOTE: u32 = 0x2000_8086;
    /// Signs of life: `keep`.
    pub const KEEPALIVE: u32 = 0x6b65_6570;
}

/// Numbers of procedures of [`program::REMOTE`].
pub mod procedure {
    /// Opens a driver: `qemu:///system`.
    pub const CONNECT_OPEN: u32 = 1;
    /// Says goodbye.
    pub const CONNECT_CLOSE: u32 = 2;
    /// Asks what the daemon can.
    pub const CONNECT_SUPPORTS_FEATURE: u32 = 60;
    /// Makes a guest that waits for a connection of the source's QEMU: no stream of libvirt's carries it.
    pub const MIGRATE_PREPARE: u32 = 61;
    /// Asks how one may authenticate.
    pub const AUTH_LIST: u32 = 66;
    /// Authenticates a local user by polkit.
    pub const AUTH_POLKIT: u32 = 70;
    /// As [`MIGRATE_PREPARE`], of libvirt's second way to migrate.
    pub const MIGRATE_PREPARE2: u32 = 108;
    /// As [`MIGRATE_PREPARE`], of its third.
    pub const MIGRATE_PREPARE3: u32 = 214;
    /// Makes a guest that waits for a stream.
    pub const MIGRATE_PREPARE_TUNNEL3: u32 = 215;
    /// Tells whether all has come, and lets the guest run.
    pub const MIGRATE_FINISH3: u32 = 217;
    /// As [`MIGRATE_PREPARE`]; what libvirt has used since 1.1.0.
    pub const MIGRATE_PREPARE3_PARAMS: u32 = 303;
    /// As [`MIGRATE_PREPARE_TUNNEL3`]; what libvirt has used since 1.1.0.
    pub const MIGRATE_PREPARE_TUNNEL3_PARAMS: u32 = 304;
    /// As [`MIGRATE_FINISH3`]; what libvirt has used since 1.1.0.
    pub const MIGRATE_FINISH3_PARAMS: u32 = 306;
    /// Wants to be told when the connection closes.
    pub const CONNECT_REGISTER_CLOSE_CALLBACK: u32 = 360;
    /// Does not want it any more.
    pub const CONNECT_UNREGISTER_CLOSE_CALLBACK: u32 = 361;
}

/// Numbers of procedures of [`program::KEEPALIVE`].
pub mod keepalive {
    /// Asks for a sign of life.
    pub const PING: u32 = 1;
    /// Is one.
    pub const PONG: u32 = 2;
}

/// What a tunnelled migration calls at the destination (libvirt 9.0 and 11.3).
pub const MIGRATION: [u32; 11] = [
    procedure::CONNECT_OPEN,
    procedure::CONNECT_CLOSE,
    procedure::CONNECT_SUPPORTS_FEATURE,
    procedure::AUTH_LIST,
    procedure::AUTH_POLKIT,
    procedure::MIGRATE_PREPARE_TUNNEL3,
    procedure::MIGRATE_FINISH3,
    procedure::MIGRATE_PREPARE_TUNNEL3_PARAMS,
    procedure::MIGRATE_FINISH3_PARAMS,
    procedure::CONNECT_REGISTER_CLOSE_CALLBACK,
    procedure::CONNECT_UNREGISTER_CLOSE_CALLBACK,
];

/// Whether STREAM packets of this procedure carry a guest.
fn carries_guest(program: u32, procedure: u32) -> bool {
    program == program::REMOTE
        && matches!(
            procedure,
            procedure::MIGRATE_PREPARE_TUNNEL3 | procedure::MIGRATE_PREPARE_TUNNEL3_PARAMS
        )
}

/// Whether this procedure of [`program::REMOTE`] prepares a migration past the tunnel, from QEMU to QEMU.
fn goes_past(procedure: u32) -> bool {
    matches!(
        procedure,
        procedure::MIGRATE_PREPARE
            | procedure::MIGRATE_PREPARE2
            | procedure::MIGRATE_PREPARE3
            | procedure::MIGRATE_PREPARE3_PARAMS
    )
}

/// Whether this procedure lets the guest run.
fn lets_run(program: u32, procedure: u32) -> bool {
    program == program::REMOTE
        && matches!(
            procedure,
            procedure::MIGRATE_FINISH3 | procedure::MIGRATE_FINISH3_PARAMS
        )
}

#[cfg(test)]
mod tests;

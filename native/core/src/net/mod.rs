//! Connections between the two ends of a migration, and to QEMU: made, accepted, authenticated, passed on.
//!
//! ```text
//! connector                              acceptor
//!   connect ──────────────────────────────▶ Listener            (no bytes are parsed but these 32)
//!   routing preamble, 32 bytes ───────────▶ which session is it for? its process gets the descriptor (SCM_RIGHTS)
//!   TLS 1.3, both ends show a certificate ◀▶ Trust              (tls: only)
//!   Link ◀────────── session frames ──────▶ Link
//! ```

mod address;
mod connect;
mod error;
mod frames;
mod link;
mod listen;
mod pass;
mod sockets;
mod systemd;
mod tls;
mod trust;
mod tunnel;
#[cfg(test)]
#[allow(dead_code, missing_docs)] // the integration tests use the rest of it
#[path = "../../tests/net/x509.rs"]
mod x509;

pub use address::Address;
pub use connect::{accept, connect, connect_socket};
pub use error::NetError;
pub use link::{Link, Peer};
pub use listen::{Accepted, ListenOptions, Listener, PREAMBLE_LEN, address_of};
pub use pass::{MAX_MESSAGE, Receiver, send_descriptor, socket_pair, stream_pair};
pub use sockets::{is_listening, original_destination, peer_of, set_mark};
pub use systemd::notify;
pub use tls::Tls;
pub use trust::fingerprint;

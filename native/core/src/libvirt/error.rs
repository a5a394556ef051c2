//! How libvirt says that a call has failed.

use super::packet::{HEADER_LEN, Header, Kind, Status};

/// Why a call of a daemon's comes to nothing, in libvirt's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// It may not be made: `VIR_ERR_ACCESS_DENIED`.
    Denied = 88,
    /// It could not be carried: `VIR_ERR_RPC`.
    Failed = 39,
}

/// `VIR_FROM_RPC`
const FROM_RPC: u32 = 7;
/// `VIR_ERR_ERROR`
const LEVEL_ERROR: u32 = 2;

/// The longest reason that is told, in bytes.
const LONGEST: usize = 2048;

impl Header {
    /// The packet by which libvirt would say that this call, or the stream that belongs to it, has failed. libvirt shows the
    /// reason as it stands.
    #[must_use]
    pub fn refusal(&self, why: Refusal, reason: &str) -> Vec<u8> {
        const ABSENT: u32 = 0;
        const PRESENT: u32 = 1;
        let mut end = reason.len().min(LONGEST);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = &reason[..end];
        let mut body: Vec<u8> = [why as u32, FROM_RPC, PRESENT, reason.len() as u32]
            .into_iter()
            .flat_map(u32::to_be_bytes)
            .collect();
        body.extend_from_slice(reason.as_bytes());
        body.resize(body.len().next_multiple_of(4), 0);
        // Then a guest, three strings, two numbers and a network, none of which is of use.
        let rest = [LEVEL_ERROR, ABSENT, ABSENT, ABSENT, ABSENT, 0, 0, ABSENT];
        body.extend(rest.into_iter().flat_map(u32::to_be_bytes));
        let header = Header {
            length: (HEADER_LEN + body.len()) as u32,
            kind: match self.kind {
                Kind::Stream | Kind::StreamHole => Kind::Stream,
                _ => Kind::Reply,
            },
            status: Status::Error,
            ..*self
        };
        [&header.to_bytes()[..], &body].concat()
    }
}

//! Packets of a guest's stream, made where they are to stand.

use super::packet::{HEADER_LEN, Header, Key, Kind, Status};

/// The most of a stream that a packet carries. libvirt's own clients send as much at once when they upload a volume (its
/// `VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX` is four bytes more), and four times less when a guest migrates; with its header it
/// fills a frame of 256 KiB. A daemon has the same to do for each packet, whatever its length.
const BODY: usize = (256 << 10) - HEADER_LEN;

/// The least of a piece that a packet is begun for at the end of a frame: what does not fit goes with the next one.
const LEAST: usize = 1 << 10;

/// The call that a stream belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its numbers.
    pub key: Key,
    /// The version of the program.
    pub version: u32,
}

/// The last packet of what is written, which grows while more of its stream comes. It is whole at any time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Growing {
    /// Of what, and where it begins.
    packet: Option<(Call, usize)>,
}

impl Growing {
    /// Writes as much of a piece of a stream as there is room for, behind what fills the room up to `filled`. Returns up to
    /// where it is filled then, and how many bytes were written of the piece: none, where no further packet has room that is worth it.
    pub fn put(
        &mut self,
        of: &Call,
        piece: &[u8],
        room: &mut [u8],
        filled: usize,
    ) -> (usize, usize) {
        let begun = self
            .packet
            .filter(|(call, at)| call == of && filled - at < HEADER_LEN + BODY);
        let (at, from) = match begun {
            Some((_, at)) => (at, filled),
            None => (filled, filled + HEADER_LEN),
        };
        let end = room.len().min(at + HEADER_LEN + BODY);
        let taken = piece.len().min(end.saturating_sub(from));
        let is_scrap = begun.is_none() && taken < LEAST.min(piece.len());
        if taken == 0 || is_scrap {
            return (filled, 0);
        }
        let upto = from + taken;
        room[from..upto].copy_from_slice(&piece[..taken]);
        let header = Header {
            length: (upto - at) as u32,
            version: of.version,
            key: of.key,
            kind: Kind::Stream,
            status: Status::Continue,
        };
        room[at..at + HEADER_LEN].copy_from_slice(&header.to_bytes());
        self.packet = Some((*of, at));
        (upto, taken)
    }

    /// It is left as it is: something else stands behind it, or it has gone.
    pub fn end(&mut self) {
        self.packet = None;
    }
}

//! Packets: how a stream of bytes is cut into them.

use super::{keepalive, program};
use thiserror::Error;

/// Bytes before a packet's body: its length, then six words.
pub const HEADER_LEN: usize = 28;

/// The longest packet, its length word included: libvirt refuses a longer one.
pub const MAX_PACKET: u32 = 4 + (32 << 20);

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Client to server: arguments of a procedure.
    Call = 0,
    /// Server to client: what came of it.
    Reply = 1,
    /// Either way: something that nobody waits for.
    Message = 2,
    /// Either way: a piece of a stream.
    Stream = 3,
    /// A call with descriptors, which only a local socket carries.
    CallWithFds = 4,
    /// A reply with descriptors.
    ReplyWithFds = 5,
    /// Either way: a hole in a stream.
    StreamHole = 6,
}

impl Kind {
    fn from_word(word: u32) -> Option<Self> {
        Some(match word {
            0 => Kind::Call,
            1 => Kind::Reply,
            2 => Kind::Message,
            3 => Kind::Stream,
            4 => Kind::CallWithFds,
            5 => Kind::ReplyWithFds,
            6 => Kind::StreamHole,
            _ => return None,
        })
    }
}

/// How it stands with what a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// All well; of a stream: its end.
    Ok = 0,
    /// It failed: the body says why. Of a stream: it is given up.
    Error = 1,
    /// Of a stream: there is more of it.
    Continue = 2,
}

impl Status {
    fn from_word(word: u32) -> Option<Self> {
        Some(match word {
            0 => Status::Ok,
            1 => Status::Error,
            2 => Status::Continue,
            _ => return None,
        })
    }
}

/// The call that a packet belongs to: its reply, and the pieces of its stream, have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Which set of procedures.
    pub program: u32,
    /// The number of the procedure.
    pub procedure: u32,
    /// The number of the call.
    pub serial: u32,
}

/// A packet's header; all words are big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole packet, from [`HEADER_LEN`] to [`MAX_PACKET`].
    pub length: u32,
    /// The version of the program.
    pub version: u32,
    /// The call that it belongs to.
    pub key: Key,
    /// What it is.
    pub kind: Kind,
    /// How it stands.
    pub status: Status,
}

/// Why something cannot be a packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// A length that no packet has.
    #[error("a length of {found} bytes, where {HEADER_LEN} to {MAX_PACKET} are possible")]
    Length {
        /// What it says.
        found: u32,
    },
    /// A type that is not known.
    #[error("a packet of the unknown type {found}")]
    Kind {
        /// What it says.
        found: u32,
    },
    /// A status that is not known.
    #[error("a packet of the unknown status {found}")]
    Status {
        /// What it says.
        found: u32,
    },
}

/// Where a conversation stops being one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not libvirt's protocol at byte {offset}: {source}")]
pub struct PacketError {
    /// Where the packet begins.
    pub offset: u64,
    /// What is wrong with it.
    pub source: HeaderError,
}

impl Header {
    /// The header at the start of a packet.
    ///
    /// # Errors
    /// If a word has no meaning.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Result<Self, HeaderError> {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[4 * at..4 * at + 4]);
            u32::from_be_bytes(word)
        };
        let (kind, status) = (word(4), word(6));
        Ok(Header {
            length: checked_length(word(0))?,
            version: word(2),
            key: Key {
                program: word(1),
                procedure: word(3),
                serial: word(5),
            },
            kind: Kind::from_word(kind).ok_or(HeaderError::Kind { found: kind })?,
            status: Status::from_word(status).ok_or(HeaderError::Status { found: status })?,
        })
    }

    /// A sign of life that nobody has asked for, which libvirt takes as one.
    pub const PONG: Header = Header {
        length: HEADER_LEN as u32,
        version: 1,
        key: Key {
            program: program::KEEPALIVE,
            procedure: keepalive::PONG,
            serial: 0,
        },
        kind: Kind::Message,
        status: Status::Ok,
    };

    /// The same bytes again.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let words = [
            self.length,
            self.key.program,
            self.version,
            self.key.procedure,
            self.kind as u32,
            self.key.serial,
            self.status as u32,
        ];
        let mut bytes = [0; HEADER_LEN];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

fn checked_length(length: u32) -> Result<u32, HeaderError> {
    if (HEADER_LEN as u32..=MAX_PACKET).contains(&length) {
        Ok(length)
    } else {
        Err(HeaderError::Length { found: length })
    }
}

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A packet begins.
    Header(Header),
    /// Bytes of its body, as many as there are.
    Body(&'a [u8]),
}

/// Cuts bytes into packets, however they come. It holds back nothing but a header that is not whole.
#[derive(Clone, Debug)]
pub struct Packets {
    held: [u8; HEADER_LEN],
    /// Bytes of the header that have come.
    have: usize,
    /// Bytes of the body that have not.
    left: u32,
    /// Where the next part begins.
    offset: u64,
}

impl Default for Packets {
    fn default() -> Self {
        Packets {
            held: [0; HEADER_LEN],
            have: 0,
            left: 0,
            offset: 0,
        }
    }
}

impl Packets {
    /// Takes the next part off the front of `input`, or all of it where a header is not whole yet (`None`).
    ///
    /// # Errors
    /// If what comes is no packet; nothing can be made of what follows.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Part<'a>>, PacketError> {
        if self.left > 0 && !input.is_empty() {
            let length = input.len().min(self.left as usize);
            let (body, rest) = input.split_at(length);
            *input = rest;
            self.left -= length as u32;
            self.offset += length as u64;
            return Ok(Some(Part::Body(body)));
        }
        let length = input.len().min(HEADER_LEN - self.have);
        self.held[self.have..self.have + length].copy_from_slice(&input[..length]);
        self.have += length;
        *input = &input[length..];
        let wrong = |source| PacketError {
            offset: self.offset,
            source,
        };
        // A length that cannot be is not waited for.
        if let (4.., Some(word)) = (self.have, self.held.first_chunk()) {
            checked_length(u32::from_be_bytes(*word)).map_err(wrong)?;
        }
        if self.have < HEADER_LEN {
            return Ok(None);
        }
        let header = Header::from_bytes(&self.held).map_err(wrong)?;
        self.have = 0;
        self.left = header.length - HEADER_LEN as u32;
        self.offset += HEADER_LEN as u64;
        Ok(Some(Part::Header(header)))
    }

    /// Bytes that are missing of the packet's body.
    #[must_use]
    pub fn body_left(&self) -> u32 {
        self.left
    }

    /// Bytes of a header that is not whole, which nobody has been given.
    #[must_use]
    pub fn held(&self) -> &[u8] {
        &self.held[..self.have]
    }

    /// Whether a packet has just ended, or none has begun.
    #[must_use]
    pub fn at_border(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    /// Bytes of all parts that were given out.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

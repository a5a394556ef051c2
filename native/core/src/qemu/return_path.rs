//! The messages that the destination sends back to the source.

use super::wire::{BITMAP_END, message};

/// The longest message that is kept: a bitmap's, with the longest name and the two numbers around the bitmap.
const MAX_HEAD: usize = 4 + 1 + 255 + 8 + 8;

/// No message has a type beyond. QEMU 11 knows seven, and refuses others.
const MAX_TYPE: u16 = 0xff;

/// A message from the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// It sends no more. 0: it has the guest.
    Shut(u32),
    /// The answer to the PING of this number.
    Pong(u32),
    /// Postcopy: it waits for these bytes of a block.
    RequestPages {
        /// The block's name; none: that of the request before.
        block: Option<&'a [u8]>,
        /// Offset in the block.
        start: u64,
        /// In bytes.
        length: u32,
    },
    /// Recovery: which pages of the block it has; a bitmap has followed.
    Bitmap {
        /// The block's name.
        block: &'a [u8],
        /// The bitmap's length.
        bytes: u64,
    },
    /// Recovery: it goes on.
    ResumeAck(u32),
    /// The guest may be stopped at the source.
    SwitchoverAck,
    /// One that was not known when this was written.
    Other {
        /// Its type.
        kind: u16,
        /// Bytes of data.
        length: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the type and length.
    Head,
    /// In the data.
    Data,
    /// In what is stepped over, of a message that is not known.
    Other,
    /// In the length of a bitmap that follows its message.
    BitmapLength,
    /// In the bitmap, or in what follows it.
    BitmapEnd,
    /// Nothing is read any more.
    Opaque,
}

/// Follows the bytes from destination to source, in order and cut anywhere.
#[derive(Clone, Debug)]
pub struct ReturnPath {
    state: State,
    offset: u64,
    /// What there is of the message, bitmaps and unknown data apart.
    head: [u8; MAX_HEAD],
    filled: usize,
    /// How much of `head` is needed to go on.
    wanted: usize,
    /// Bytes to be stepped over first.
    skip: u64,
}

impl Default for ReturnPath {
    fn default() -> Self {
        Self::new()
    }
}

/// Not a message.
struct Malformed;

impl ReturnPath {
    /// At the very start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Head,
            offset: 0,
            head: [0; MAX_HEAD],
            filled: 0,
            wanted: 4,
            skip: 0,
        }
    }

    /// Follows what comes next; `passed` gets each message whose last byte is among it, and the offset behind that byte.
    pub fn push(&mut self, mut bytes: &[u8], mut passed: impl FnMut(u64, Message<'_>)) {
        while self.state != State::Opaque && !bytes.is_empty() {
            let taken;
            if self.skip > 0 {
                taken =
                    usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
                self.skip -= taken as u64;
            } else {
                taken = (self.wanted - self.filled).min(bytes.len());
                self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
                self.filled += taken;
            }
            bytes = &bytes[taken..];
            self.offset += taken as u64;
            while self.skip == 0 && self.filled == self.wanted && self.state != State::Opaque {
                if self.complete(&mut passed).is_err() {
                    self.state = State::Opaque;
                }
            }
        }
        self.offset += bytes.len() as u64;
    }

    /// Bytes pushed so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether something came that is no message: nothing is told any more.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.state == State::Opaque
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn is_within_message(&self) -> bool {
        self.filled > 0 && !self.is_opaque()
    }

    /// Goes on from where all that was wanted is there.
    fn complete(&mut self, passed: &mut impl FnMut(u64, Message<'_>)) -> Result<(), Malformed> {
        let kind = u16::from_be_bytes([self.head[0], self.head[1]]);
        let length = u16::from_be_bytes([self.head[2], self.head[3]]);
        match self.state {
            State::Head => {
                let known = match kind {
                    message::SHUT | message::PONG | message::RESUME_ACK => length == 4,
                    message::REQ_PAGES_ID => (14..=268).contains(&length),
                    message::REQ_PAGES => length == 12,
                    message::RECV_BITMAP => (2..=256).contains(&length),
                    message::SWITCHOVER_ACK => length == 0,
                    0 => false,
                    _ if kind <= MAX_TYPE => {
                        self.state = State::Other;
                        self.skip = length.into();
                        return Ok(());
                    }
                    _ => false,
                };
                if !known {
                    return Err(Malformed);
                }
                self.state = State::Data;
                self.wanted += usize::from(length);
                return Ok(());
            }
            State::Data if kind == message::RECV_BITMAP => {
                if usize::from(self.head[4]) + 5 != self.filled {
                    return Err(Malformed);
                }
                self.state = State::BitmapLength;
                self.wanted += 8;
                return Ok(());
            }
            State::BitmapLength => {
                self.skip = be64(&self.head[..self.filled]);
                self.state = State::BitmapEnd;
                self.wanted += 8;
                return Ok(());
            }
            State::BitmapEnd => {
                let (before, end) = self.head[..self.filled].split_at(self.filled - 8);
                if be64(end) != BITMAP_END {
                    return Err(Malformed);
                }
                let block = &before[5..before.len() - 8];
                let bytes = be64(before);
                passed(self.offset, Message::Bitmap { block, bytes });
            }
            State::Data => passed(self.offset, known(kind, &self.head[4..self.filled])?),
            State::Opaque => return Err(Malformed),
            State::Other => passed(self.offset, Message::Other { kind, length }),
        }
        self.state = State::Head;
        (self.filled, self.wanted) = (0, 4);
        Ok(())
    }
}

/// A message of known type and length, bitmaps apart.
fn known(kind: u16, data: &[u8]) -> Result<Message<'_>, Malformed> {
    Ok(match kind {
        message::SHUT => Message::Shut(be32(data)),
        message::PONG => Message::Pong(be32(data)),
        message::RESUME_ACK => Message::ResumeAck(be32(data)),
        message::SWITCHOVER_ACK => Message::SwitchoverAck,
        _ => {
            let (request, block) = data.split_at(12);
            Message::RequestPages {
                block: match block.split_first() {
                    None => None,
                    Some((&length, name)) if usize::from(length) == name.len() => Some(name),
                    Some(_) => return Err(Malformed),
                },
                start: be64(&request[..8]),
                length: be32(request),
            }
        }
    })
}

/// The number that these bytes end with.
fn be32(bytes: &[u8]) -> u32 {
    bytes
        .last_chunk()
        .map_or(0, |last| u32::from_be_bytes(*last))
}

/// The number that these bytes end with.
fn be64(bytes: &[u8]) -> u64 {
    bytes
        .last_chunk()
        .map_or(0, |last| u64::from_be_bytes(*last))
}

//! The frame header and the payloads of the frames that describe a stream: bytes to struct and back, no I/O.
//!
//! `docs/format.md` is the normative description; the tests hold this module against its golden file.
//!
//! ```text
//! START ─ DATA ─ DATA ─ … ─ DATA ─ END          (then the end of the input, or the START of another stream)
//! ```

use crate::checksum::xxh3_64;
use crate::codec::Codec;
use crate::matching::{Keeps, MAX_WINDOW, ReferenceError};
use thiserror::Error;

/// The first four bytes of every frame. Not ASCII first, so that no text is taken for a frame.
pub const MAGIC: [u8; 4] = [0xF3, b'P', b'W', b'F'];

/// The format's own version, told by START. A decoder reads every stream whose major version it knows.
pub const VERSION_MAJOR: u8 = 1;
/// Grows when something is added that an older decoder of the same major version may ignore.
///
/// 1.1 has references (match), 1.2 frames that none leads to. A stream is told to be of the oldest version that has what it
/// needs, so that older decoders read it.
pub const VERSION_MINOR: u8 = 2;

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 48;

/// The most raw bytes that a frame of version 1 may hold, in bytes. A decoder may allocate this much for one frame.
pub const MAX_RAW: usize = 4 << 20;

/// The least raw bytes that a stream may declare as its largest frame.
pub const MIN_FRAME_SIZE: usize = 4 << 10;

/// The most payload bytes of START, END and ABORT. Frames that may be skipped may be as large as DATA.
pub const MAX_CONTROL: usize = 64 << 10;

/// What a frame is. Types with bit 7 set may be skipped by a decoder that does not know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// The first frame of a stream: version and parameters.
    Start,
    /// A piece of the original stream.
    Data,
    /// A piece of the original stream, parts of which are references to what stood earlier.
    Matched,
    /// The last frame: totals and the content's hash.
    End,
    /// The sender gave up; the payload is a reason in UTF-8.
    Abort,
    /// Between the two ends of a connection, no part of the stream.
    Session(SessionFrame),
    /// Not known to this version.
    Other(u8),
}

/// The frames of a session: they stand between those of the stream and are not counted in its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionFrame {
    /// Who connects, what it can and what it wants; JSON.
    Hello,
    /// What the two will do; JSON.
    Welcome,
    /// Why they will not; JSON.
    Refuse,
    /// How many frames of the peer's direction are written to the QEMU behind this end.
    Ack,
    /// I am here; are you?
    Ping,
    /// Yes.
    Pong,
    /// Whether what comes next may let the destination's guest run.
    Doubt,
    /// All is done, in both directions.
    Bye,
}

impl SessionFrame {
    const ALL: [(u8, SessionFrame); 8] = [
        (0x10, SessionFrame::Hello),
        (0x11, SessionFrame::Welcome),
        (0x12, SessionFrame::Refuse),
        (0x13, SessionFrame::Ack),
        (0x14, SessionFrame::Ping),
        (0x15, SessionFrame::Pong),
        (0x16, SessionFrame::Doubt),
        (0x17, SessionFrame::Bye),
    ];
}

/// Bit 7 of the type: a decoder that does not know the type skips the frame.
pub const SKIPPABLE: u8 = 0x80;

impl FrameType {
    /// Whether it holds a piece of the original stream.
    pub fn is_content(self) -> bool {
        matches!(self, FrameType::Data | FrameType::Matched)
    }

    /// The byte in the header.
    pub fn to_byte(self) -> u8 {
        match self {
            FrameType::Start => 0x01,
            FrameType::Data => 0x02,
            FrameType::End => 0x03,
            FrameType::Abort => 0x04,
            FrameType::Matched => 0x05,
            FrameType::Session(frame) => SessionFrame::ALL
                .iter()
                .find(|(_, known)| *known == frame)
                .map_or(0, |(byte, _)| *byte),
            FrameType::Other(byte) => byte,
        }
    }

    /// The type of a header's byte.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0x01 => FrameType::Start,
            0x02 => FrameType::Data,
            0x03 => FrameType::End,
            0x04 => FrameType::Abort,
            0x05 => FrameType::Matched,
            other => SessionFrame::ALL
                .iter()
                .find(|(byte, _)| *byte == other)
                .map_or(FrameType::Other(other), |(_, frame)| {
                    FrameType::Session(*frame)
                }),
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: FrameType,
    /// How the payload is packed; [`Codec::None`] for all but DATA and MATCHED.
    pub codec: Codec,
    /// The level that the payload was packed with, for people; a decoder does not need it.
    pub level: i8,
    /// The connection of a session that the frame belongs to; 0 in a file or a pipe.
    pub channel: u16,
    /// The number of the frame in its channel, from 0, modulo 2^32.
    pub sequence: u32,
    /// Where the frame's first raw byte stands in the original stream, in bytes.
    pub offset: u64,
    /// Bytes of the payload when unpacked.
    pub raw_len: u32,
    /// Bytes of the payload as it follows the header; never more than `raw_len`.
    pub packed_len: u32,
    /// XXH3-64 of the payload as it follows the header.
    pub payload_hash: u64,
}

fn for_base(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        _ => format!(", {bytes} of them for its base"),
    }
}

/// Why bytes are not a frame that this version can read.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The bytes do not begin as a frame does.
    #[error(
        "expected a frame (f3 50 57 46), found {found:02x?}: this is not a pagewire stream, or it is damaged here"
    )]
    Magic {
        /// The four bytes in its place.
        found: [u8; 4],
    },
    /// The header's own checksum does not match.
    #[error(
        "the header's checksum is {actual:016x}, expected {expected:016x}: the stream is damaged"
    )]
    HeaderHash {
        /// As the header says.
        expected: u64,
        /// As computed.
        actual: u64,
    },
    /// A field that must be zero is not, or a length is over its cap.
    #[error(
        "the {field} is {value}, which version {VERSION_MAJOR} of the format does not allow (at most {limit})"
    )]
    Field {
        /// The name of the field in docs/format.md.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// The largest value that is allowed.
        limit: u64,
    },
    /// A size, or a payload's length, is below what it must be.
    #[error(
        "the {field} is {value}, which version {VERSION_MAJOR} of the format does not allow (at least {least})"
    )]
    Short {
        /// The name of the field in docs/format.md.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// The smallest value that is allowed.
        least: u64,
    },
    /// A codec of a later version.
    #[error("codec {0} is not known to this version of pagewire; a newer one is needed")]
    Codec(u8),
    /// A frame type of a later version that must not be skipped.
    #[error(
        "frame type {0:#04x} is not known to this version of pagewire and must not be skipped; a newer one is needed"
    )]
    Type(u8),
    /// The stream's major version is not ours.
    #[error(
        "the stream's format version is {major}.{minor}, this pagewire reads {VERSION_MAJOR}.x"
    )]
    Version {
        /// Major version in START.
        major: u8,
        /// Minor version in START.
        minor: u8,
    },
    /// A frame that stands where it may not.
    #[error("expected {expected}, found {found}")]
    Order {
        /// What must stand here.
        expected: String,
        /// What stands here.
        found: String,
    },
    /// The payload's checksum does not match.
    #[error(
        "the payload's checksum is {actual:016x}, expected {expected:016x}: the frame is damaged"
    )]
    PayloadHash {
        /// As the header says.
        expected: u64,
        /// As computed.
        actual: u64,
    },
    /// The payload passed its checksum and still cannot be unpacked.
    #[error("the payload cannot be unpacked with {codec}: {reason}")]
    Unpack {
        /// The codec's name.
        codec: &'static str,
        /// What the codec said.
        reason: String,
    },
    /// The payload was unpacked, and is no frame with references.
    #[error("{0}: the frame is damaged")]
    References(ReferenceError),
    /// The stream's references need more memory than may be taken.
    #[error(
        "the stream's references lead up to {window} bytes back, which takes {needed} bytes of memory{}; there may be \
         {limit} (give a larger --memory-limit)",
        for_base(*.of_base)
    )]
    Window {
        /// As START says, in bytes.
        window: u64,
        /// Bytes of memory that this takes.
        needed: u64,
        /// Those of them that are for what is read of the stream's base.
        of_base: u64,
        /// Bytes of memory that match may take.
        limit: u64,
    },
    /// The input ended where a frame, or the rest of one, was expected.
    #[error(
        "the stream ends {within}, {missing} bytes short, without its end mark: it was cut off"
    )]
    Truncated {
        /// Where it ends.
        within: &'static str,
        /// How many bytes were still expected, at the least.
        missing: u64,
    },
    /// There was no byte at all.
    #[error(
        "the input is empty: even an empty stream has a first and a last frame (did the sender start?)"
    )]
    Empty,
    /// The totals or the hash of END do not match what was decoded.
    #[error(
        "the end mark says {expected} for the {what}, decoded were {actual}: the stream is damaged"
    )]
    Total {
        /// Which total.
        what: &'static str,
        /// As END says.
        expected: String,
        /// As counted.
        actual: String,
    },
    /// The sender gave up.
    #[error("the sender stopped before the end of its input: {reason}")]
    Aborted {
        /// The sender's own words.
        reason: String,
    },
}

/// A field that has a largest value.
fn limited(field: &'static str, value: u64, limit: u64) -> Result<(), FrameError> {
    if value > limit {
        return Err(FrameError::Field {
            field,
            value,
            limit,
        });
    }
    Ok(())
}

/// The first `N` bytes of a payload, to which a later minor version may have added others.
fn fields<'a, const N: usize>(
    field: &'static str,
    payload: &'a [u8],
) -> Result<&'a [u8; N], FrameError> {
    payload.first_chunk().ok_or(FrameError::Short {
        field,
        value: payload.len() as u64,
        least: N as u64,
    })
}

/// The level of a stored DATA frame whose literals references may lead to, where START says that some may not; else it is 0.
const KEPT: i8 = 1;

impl Header {
    /// Whether the literals of this frame, of a stream of [`Keeps::Some`], may be referred to.
    pub fn is_kept(&self) -> bool {
        self.kind == FrameType::Matched || self.codec != Codec::None || self.level != 0
    }

    /// Makes it a frame whose literals may be referred to.
    pub fn keep(&mut self) {
        if !self.is_kept() {
            self.level = KEPT;
        }
    }

    /// A DATA frame of no bytes: what a slot holds before it is filled.
    pub const EMPTY: Header = Header {
        kind: FrameType::Data,
        codec: Codec::None,
        level: 0,
        channel: 0,
        sequence: 0,
        offset: 0,
        raw_len: 0,
        packed_len: 0,
        payload_hash: 0,
    };

    /// A header for a frame that is stored as it is.
    pub fn stored(kind: FrameType, sequence: u32, offset: u64, payload: &[u8]) -> Self {
        Header {
            kind,
            codec: Codec::None,
            level: 0,
            channel: 0,
            sequence,
            offset,
            raw_len: payload.len() as u32,
            packed_len: payload.len() as u32,
            payload_hash: xxh3_64(payload),
        }
    }

    /// The bytes that stand before the payload.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut b = [0; HEADER_LEN];
        b[0..4].copy_from_slice(&MAGIC);
        b[4] = self.kind.to_byte();
        b[5] = 0; // flags: none in version 1
        b[6] = self.codec.to_byte();
        b[7] = self.level as u8;
        b[8..10].copy_from_slice(&self.channel.to_le_bytes());
        // b[10..12] reserved
        b[12..16].copy_from_slice(&self.sequence.to_le_bytes());
        b[16..24].copy_from_slice(&self.offset.to_le_bytes());
        b[24..28].copy_from_slice(&self.raw_len.to_le_bytes());
        b[28..32].copy_from_slice(&self.packed_len.to_le_bytes());
        b[32..40].copy_from_slice(&self.payload_hash.to_le_bytes());
        let hash = xxh3_64(&b[..40]);
        b[40..48].copy_from_slice(&hash.to_le_bytes());
        b
    }

    /// The header in these bytes: magic, checksum, then every field against its cap. Nothing is allocated by what it says.
    pub fn from_bytes(b: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let u32_at = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let found = [b[0], b[1], b[2], b[3]];
        if found != MAGIC {
            return Err(FrameError::Magic { found });
        }
        let (expected, actual) = (u64_at(40), xxh3_64(&b[..40]));
        if expected != actual {
            return Err(FrameError::HeaderHash { expected, actual });
        }
        limited("flags field", u64::from(b[5]), 0)?;
        limited(
            "reserved field",
            u64::from(u16::from_le_bytes([b[10], b[11]])),
            0,
        )?;
        // A type of a later version has rules of its own, unless it may be skipped.
        let kind = FrameType::from_byte(b[4]);
        let skippable = matches!(kind, FrameType::Other(byte) if byte & SKIPPABLE != 0);
        if let (FrameType::Other(byte), false) = (kind, skippable) {
            return Err(FrameError::Type(byte));
        }
        let (raw_len, packed_len) = (u32_at(24), u32_at(28));
        let cap = if kind.is_content() || skippable {
            MAX_RAW
        } else {
            MAX_CONTROL
        };
        limited("raw length", u64::from(raw_len), cap as u64)?;
        limited("packed length", u64::from(packed_len), u64::from(raw_len))?;
        let codec = Codec::from_byte(b[6]).ok_or(FrameError::Codec(b[6]))?;
        if codec == Codec::None || !kind.is_content() {
            limited("codec", u64::from(b[6]), 0)?;
            // A frame with references is smaller than its bytes even where no codec packs it.
            if packed_len != raw_len && kind != FrameType::Matched {
                return Err(FrameError::Short {
                    field: "packed length of a stored frame",
                    value: packed_len.into(),
                    least: raw_len.into(),
                });
            }
        }
        Ok(Header {
            kind,
            codec,
            level: b[7] as i8,
            channel: u16::from_le_bytes([b[8], b[9]]),
            sequence: u32_at(12),
            offset: u64_at(16),
            raw_len,
            packed_len,
            payload_hash: u64_at(32),
        })
    }

    /// Holds the payload against its checksum. To be called before anything looks into the payload.
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), FrameError> {
        let actual = xxh3_64(payload);
        if actual == self.payload_hash {
            Ok(())
        } else {
            Err(FrameError::PayloadHash {
                expected: self.payload_hash,
                actual,
            })
        }
    }
}

/// START's flag for [`Keeps::Some`].
const KEEPS_SOME: u8 = 1;

/// The payload of START.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The most raw bytes that a DATA frame of this stream holds; a decoder makes its buffers of this size.
    pub frame_size: u32,
    /// How far back in the original stream references may lead, in bytes; 0: there are none.
    pub window: u64,
    /// Whose literals they may lead to.
    pub keeps: Keeps,
}

impl Start {
    /// Bytes of the payload in version 1. A later minor version may add bytes behind them.
    pub const LEN: usize = 16;

    /// The payload.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut b = [0; Self::LEN];
        b[0] = VERSION_MAJOR;
        b[1] = match (self.window, self.keeps) {
            (0, _) => 0,
            (_, Keeps::All) => 1,
            (_, Keeps::Some) => VERSION_MINOR,
        };
        b[2] = if b[1] == VERSION_MINOR { KEEPS_SOME } else { 0 };
        b[4..8].copy_from_slice(&self.frame_size.to_le_bytes());
        b[8..16].copy_from_slice(&self.window.to_le_bytes());
        b
    }

    /// The parameters in a START payload, checked.
    pub fn from_bytes(b: &[u8]) -> Result<Self, FrameError> {
        // The version first: a later major one may have a payload of another form.
        if let [major, minor, ..] = *b {
            if major != VERSION_MAJOR {
                return Err(FrameError::Version { major, minor });
            }
        }
        let b: &[u8; Self::LEN] = fields("START payload's length", b)?;
        let frame_size = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        let field = "START payload's frame size";
        if (frame_size as usize) < MIN_FRAME_SIZE {
            return Err(FrameError::Short {
                field,
                value: frame_size.into(),
                least: MIN_FRAME_SIZE as u64,
            });
        }
        limited(field, frame_size.into(), MAX_RAW as u64)?;
        // Reserved in version 1.0, whatever is in it.
        let window = match b[1] {
            0 => 0,
            _ => u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        };
        // Reserved before version 1.2.
        let keeps = match (b[1], b[2] & KEEPS_SOME) {
            (0 | 1, _) | (_, 0) => Keeps::All,
            _ => Keeps::Some,
        };
        limited("START payload's window", window, MAX_WINDOW)?;
        Ok(Start {
            frame_size,
            window,
            keeps,
        })
    }
}

/// How the original stream ended, as END tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At its end, as far as the sender could know.
    Complete,
    /// The sender parsed a QEMU stream, and its input ended inside it.
    TruncatedInput,
}

/// The payload of END.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Bytes of the original stream.
    pub raw_bytes: u64,
    /// Frames of the stream before this one.
    pub frames: u64,
    /// XXH3-128 of the original stream.
    pub content_hash: u128,
    /// How the original stream ended.
    pub ending: Ending,
    /// How far before this frame the index's directory begins, in bytes; 0: there is none.
    pub index: u64,
}

impl End {
    /// Bytes of the payload in version 1.
    pub const LEN: usize = 48;

    /// The payload.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut b = [0; Self::LEN];
        b[0..8].copy_from_slice(&self.raw_bytes.to_le_bytes());
        b[8..16].copy_from_slice(&self.frames.to_le_bytes());
        b[16..32].copy_from_slice(&self.content_hash.to_le_bytes());
        b[32] = match self.ending {
            Ending::Complete => 0,
            Ending::TruncatedInput => 1,
        };
        // b[33..40] reserved
        b[40..48].copy_from_slice(&self.index.to_le_bytes());
        b
    }

    /// The totals in an END payload.
    pub fn from_bytes(b: &[u8]) -> Result<Self, FrameError> {
        let b: &[u8; Self::LEN] = fields("END payload's length", b)?;
        let u64_at = |at: usize| {
            b[at..at + 8]
                .iter()
                .rev()
                .fold(0u64, |v, &x| v << 8 | u64::from(x))
        };
        let ending = match b[32] {
            0 => Ending::Complete,
            1 => Ending::TruncatedInput,
            other => {
                return Err(FrameError::Field {
                    field: "END payload's ending",
                    value: u64::from(other),
                    limit: 1,
                });
            }
        };
        let content_hash = u128::from(u64_at(16)) | u128::from(u64_at(24)) << 64;
        Ok(End {
            raw_bytes: u64_at(0),
            frames: u64_at(8),
            content_hash,
            ending,
            index: u64_at(40),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            kind: FrameType::Data,
            codec: Codec::Zstd,
            level: -5,
            channel: 3,
            sequence: 7,
            offset: 1 << 40,
            raw_len: 1 << 20,
            packed_len: 1234,
            payload_hash: 0x0123_4567_89ab_cdef,
        }
    }

    #[test]
    fn a_header_survives_its_bytes() {
        assert_eq!(Header::from_bytes(&header().to_bytes()), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let good = header().to_bytes();
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::from_bytes(&bad).is_err(), "bit {bit}");
        }
    }

    fn with_field(change: impl Fn(&mut [u8; HEADER_LEN])) -> Result<Header, FrameError> {
        let mut b = header().to_bytes();
        change(&mut b);
        let hash = xxh3_64(&b[..40]).to_le_bytes();
        b[40..].copy_from_slice(&hash);
        Header::from_bytes(&b)
    }

    #[test]
    fn lengths_and_reserved_fields_are_held_against_their_caps() {
        let field = |r: Result<Header, FrameError>| match r {
            Err(FrameError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(with_field(|b| b[5] = 1)), "flags field");
        assert_eq!(field(with_field(|b| b[10] = 1)), "reserved field");
        assert_eq!(
            field(with_field(
                |b| b[24..28].copy_from_slice(&(MAX_RAW as u32 + 1).to_le_bytes())
            )),
            "raw length"
        );
        assert_eq!(
            field(with_field(
                |b| b[28..32].copy_from_slice(&u32::MAX.to_le_bytes())
            )),
            "packed length"
        );
        assert_eq!(
            with_field(|b| b[6] = 0),
            Err(FrameError::Short {
                field: "packed length of a stored frame",
                value: 1234,
                least: 1 << 20,
            })
        );
        assert_eq!(with_field(|b| b[6] = 99), Err(FrameError::Codec(99)));
    }

    #[test]
    fn start_and_end_survive_their_bytes() {
        let (all, some) = (Keeps::All, Keeps::Some);
        for (window, keeps, minor) in [(0, all, 0), (128 << 20, all, 1), (128 << 20, some, 2)] {
            let start = Start {
                frame_size: 1 << 20,
                window,
                keeps,
            };
            assert_eq!(start.to_bytes()[1], minor);
            assert_eq!(Start::from_bytes(&start.to_bytes()), Ok(start));
        }
        let mut of_1_1 = [1, 1, 0xff, 0xff, 0, 0, 16, 0, 0, 0, 16, 0, 0, 0, 0, 0];
        assert_eq!(Start::from_bytes(&of_1_1).map(|start| start.keeps), Ok(all));
        of_1_1[1] = 2;
        assert_eq!(
            Start::from_bytes(&of_1_1).map(|start| start.keeps),
            Ok(some)
        );
        let mut of_1_0 = [0xff; 16];
        of_1_0[..8].copy_from_slice(&[1, 0, 0, 0, 0, 0, 16, 0]);
        assert_eq!(Start::from_bytes(&of_1_0).map(|start| start.window), Ok(0));
        let end = End {
            raw_bytes: 5 << 40,
            frames: 9,
            content_hash: u128::MAX - 77,
            ending: Ending::TruncatedInput,
            index: 5000,
        };
        assert_eq!(End::from_bytes(&end.to_bytes()), Ok(end));
        assert_eq!(
            Start::from_bytes(&[2, 0]),
            Err(FrameError::Version { major: 2, minor: 0 })
        );
    }

    #[test]
    fn a_payload_that_cannot_be_is_told_with_its_bound() {
        let told = |error: FrameError| error.to_string();
        let start = |payload: &[u8]| Start::from_bytes(payload).map_err(told);
        let keeps = Keeps::All;
        let of = |frame_size, window| {
            start(
                &Start {
                    frame_size,
                    window,
                    keeps,
                }
                .to_bytes(),
            )
        };
        let end = |payload: &[u8]| End::from_bytes(payload).map_err(told);
        let wrong = |field: &str, bound: &str| {
            format!("the {field}, which version 1 of the format does not allow ({bound})")
        };
        let (least, most) = (
            "START payload's frame size is 100",
            "START payload's frame size is 1073741824",
        );
        assert_eq!(of(100, 0), Err(wrong(least, "at least 4096")));
        assert_eq!(of(1 << 30, 0), Err(wrong(most, "at most 4194304")));
        let window = "START payload's window is 68719476737";
        assert_eq!(
            of(1 << 20, MAX_WINDOW + 1),
            Err(wrong(window, "at most 68719476736"))
        );
        let short = "START payload's length is 3";
        assert_eq!(start(&[1, 0, 0]), Err(wrong(short, "at least 16")));
        let short = "END payload's length is 47";
        assert_eq!(end(&[0; 47]), Err(wrong(short, "at least 48")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in any::<[u8; HEADER_LEN]>(), payload in any::<Vec<u8>>()) {
            let _ = Header::from_bytes(&bytes);
            let _ = Start::from_bytes(&payload);
            let _ = End::from_bytes(&payload);
        }
    }
}

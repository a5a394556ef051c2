//! The numbers of the format.

/// The first eight bytes of every stream: the magic and version 3.
pub const HEADER: [u8; 8] = *b"QEVM\0\0\0\x03";

/// What a section begins with.
pub mod section {
    #![allow(missing_docs)]
    pub const END_OF_STREAM: u8 = 0x00;
    pub const START: u8 = 0x01;
    pub const PART: u8 = 0x02;
    pub const END: u8 = 0x03;
    pub const FULL: u8 = 0x04;
    pub const SUBSECTION: u8 = 0x05;
    pub const DESCRIPTION: u8 = 0x06;
    pub const CONFIGURATION: u8 = 0x07;
    pub const COMMAND: u8 = 0x08;
    pub const FOOTER: u8 = 0x7e;
}

/// Numbers of commands.
pub mod command {
    #![allow(missing_docs)]
    pub const OPEN_RETURN_PATH: u16 = 1;
    pub const PING: u16 = 2;
    pub const POSTCOPY_ADVISE: u16 = 3;
    pub const POSTCOPY_LISTEN: u16 = 4;
    pub const POSTCOPY_RUN: u16 = 5;
    pub const POSTCOPY_RAM_DISCARD: u16 = 6;
    pub const PACKAGED: u16 = 7;
    pub const POSTCOPY_RESUME: u16 = 9;
    pub const RECV_BITMAP: u16 = 10;
    pub const SWITCHOVER_START: u16 = 11;
}

/// Types of messages on the return path, from the destination to the source.
pub mod message {
    #![allow(missing_docs)]
    pub const SHUT: u16 = 1;
    pub const PONG: u16 = 2;
    pub const REQ_PAGES_ID: u16 = 3;
    pub const REQ_PAGES: u16 = 4;
    pub const RECV_BITMAP: u16 = 5;
    pub const RESUME_ACK: u16 = 6;
    pub const SWITCHOVER_ACK: u16 = 7;
}

/// What follows the bitmap behind a [`message::RECV_BITMAP`].
pub const BITMAP_END: u64 = 0x0123_4567_89ab_cdef;

/// The number of the PING before RUN in a package, and of its PONG. Until that has come back, the source can resume its
/// guest.
pub const PING_BEFORE_RUN: u32 = 0x42;

/// The low 12 bits of the word that a RAM record begins with.
pub mod flag {
    #![allow(missing_docs)]
    pub const FILL: u64 = 0x02;
    pub const MEM_SIZE: u64 = 0x04;
    pub const PAGE: u64 = 0x08;
    pub const EOS: u64 = 0x10;
    pub const CONTINUE: u64 = 0x20;
    pub const XBZRLE: u64 = 0x40;
    pub const HOOK: u64 = 0x80;
    pub const COMPRESS_PAGE: u64 = 0x100;
    pub const MULTIFD_FLUSH: u64 = 0x200;
    /// All of them; what is above is the address.
    pub const MASK: u64 = 0xfff;
}

/// The name of the section that holds the guest's RAM, and the only version of it since QEMU 0.14.
pub const RAM: &[u8] = b"ram";
/// See [`RAM`].
pub const RAM_VERSION: u32 = 4;
/// What the encoding byte of an XBZRLE record must be.
pub const XBZRLE_ENCODING: u8 = 1;
/// The least and the largest target page that are parsed: 4 to 64 KiB.
pub const PAGE_BITS: std::ops::RangeInclusive<u32> = 12..=16;

//! Match: content that stood earlier in the stream is replaced by references to it.
//!
//! ```text
//! encode:  frame's bytes ─ anchors ─▶ candidates ─ verified in the window ─▶ references + literals ─▶ codec
//! decode:  codec ─▶ references + literals ─ copied out of the window ─▶ frame's bytes
//! ```
//! A guest's memory holds much of its content twice: a database's page in its log, a file in the page cache and in a
//! program. A codec sees no further than its frame; the [`Window`] holds the last bytes of the original stream, on both
//! sides, as far back as START says.
//!
//! - **Depth one.** A reference leads only to bytes that are literals in their own frame, so any byte of a stream is read by
//!   unpacking two frames, and a decoder's workers need not wait for one another.
//! - **Nothing by hash alone.** A hash names candidates; each is compared byte by byte before a reference is written.
//! - **No waiting.** Frames are matched by any number of threads at once. One that is still on its way is no candidate yet.
//!
//! `docs/format.md`, "References", is the normative description.

mod anchors;
mod candidates;
mod mapping;
mod matcher;
pub mod references;
mod window;

#[cfg(test)]
mod tests;

pub use matcher::{Effort, Matcher, Scratch};
pub use references::{Base, Reference, ReferenceError, Source};
pub use window::{Keeps, Place, Window};

/// The smallest window that an encoder makes, in bytes: one frame's worth.
pub const MIN_WINDOW: u64 = 1 << 20;

/// The largest window that START may ask for, in bytes: what a candidate's 40 bits of offset can tell apart, with room.
pub const MAX_WINDOW: u64 = 1 << 36;

/// A granule: bytes of the original stream that are literal all together, or cannot be referred to. Its offset is a multiple
/// of this.
pub const GRANULE: u64 = 32;

/// The shortest reference, in bytes: shorter ones gain nothing, and a frame can hold only so many of this length.
pub const MIN_REFERENCE: usize = 32;

/// Bytes of memory that an encoder's match takes beside its frames, for a window and this many raw bytes of frames on their
/// way.
pub fn encoder_bytes(window: u64, effort: Effort, in_flight: u64) -> u64 {
    decoder_bytes(window, in_flight) + candidates::Candidates::bytes(window, effort.spacing())
}

/// The same for a decoder: the window, and as many references as the frames can hold.
pub fn decoder_bytes(window: u64, in_flight: u64) -> u64 {
    let references = in_flight / MIN_REFERENCE as u64 * size_of::<Reference>() as u64;
    Window::bytes(window, in_flight) + references
}

//! What makes frames a file: an index at their end, pages read at random, bases that an incremental save refers to, and
//! what can be had of a file that was damaged.
//!
//! ```text
//! START │ frames │ INDEX part │ frames │ … │ INDEX part │ INDEX directory │ END
//!   ▲                ▲                           ▲              │  ▲          │
//!   │                └───────────────────────────┴──────────────┤  └──────────┘ distance back
//!   └───────────────────────────────────────────────────────────┘
//! ```
//! - [`Builder`] makes the index while a stream is encoded: the source watches for pages, the workers hash them, the
//!   sink knows where frames stand. Its memory is bounded: what it has gathered goes out in parts.
//! - [`Archive`] reads a file anywhere: a page, or any stretch of the original stream, by unpacking a bounded number of
//!   frames; and through it the files that it is based on.
//! - [`verify`] reads all of it, [`salvage`] what is whole of it.
//!
//! `docs/format.md`, "Index" and "Base", is the normative description.

mod base;
mod build;
mod error;
mod file;
mod index;
mod page_hash;
mod records;
mod salvage;
mod verify;

pub use base::{BaseName, BasePages, Bases};
pub use build::{Builder, Scribe, Watcher, index_bytes};
pub use error::ArchiveError;
pub use file::{Archive, CHAIN_BYTES, Info};
pub use index::{Content, Directory, FrameAt, PageRecord, Part, PartAt, Tally};
pub(crate) use index::{INDEX, is_directory};
pub use page_hash::PageHash;
pub use salvage::{Piece, Salvaged, salvage};
pub(crate) use verify::Check;
pub use verify::{Verified, verify};

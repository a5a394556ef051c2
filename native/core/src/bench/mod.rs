//! What `pagewire bench` measures with: a sample of a stream, codecs over blocks of it, and XBZRLE beside its rivals over
//! pairs of a page's versions.
//!
//! Unlike everywhere else, the sample's bytes do go to JavaScript: codecs that are written there are measured on them.

mod blocks;
mod deltas;
mod mirror;
mod thin;
mod walk;

pub use blocks::BlockCodec;
pub use deltas::{DeltaCodec, Rival};
pub use mirror::{Pairs, StreamFacts, facts, pairs, ram_digest};
pub use thin::{Extent, Thinned, extent, thin};

use crate::flow::FlowError;
use std::io;

/// Why something cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The stream cannot be read.
    #[error("{0}")]
    Io(io::Error),
    /// The sample cannot be written.
    #[error("cannot write the sample: {0}")]
    Write(io::Error),
    /// The input that the stream comes from cannot be read.
    #[error(transparent)]
    Input(FlowError),
    /// Lengths that do not belong together.
    #[error("{what}: {actual} bytes, expected {expected}")]
    Length {
        /// Of what.
        what: &'static str,
        /// As it is.
        actual: usize,
        /// As it should be.
        expected: usize,
    },
    /// A result does not decode.
    #[error("piece {piece} does not decode: {reason}")]
    Decode {
        /// Counted from 0 in what was given.
        piece: usize,
        /// What was wrong.
        reason: String,
    },
    /// A page record of the stream cannot be applied.
    #[error("a page record at byte {offset} of the stream cannot be applied")]
    Record {
        /// Where it begins.
        offset: u64,
    },
}

impl From<io::Error> for BenchError {
    fn from(error: io::Error) -> Self {
        error.downcast().map_or_else(Self::Io, Self::Input)
    }
}

impl BenchError {
    /// What an error was that came of writing, or of reading what was to be written.
    #[must_use]
    pub fn of_writing(error: io::Error) -> Self {
        match Self::from(error) {
            Self::Io(error) => Self::Write(error),
            other => other,
        }
    }
}

/// `actual`, where it is what is expected.
fn expect(what: &'static str, actual: usize, expected: usize) -> Result<(), BenchError> {
    if actual == expected {
        Ok(())
    } else {
        Err(BenchError::Length {
            what,
            actual,
            expected,
        })
    }
}

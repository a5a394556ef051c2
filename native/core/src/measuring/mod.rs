//! What `pagewire inspect` and `pagewire bench` have in common: an input that is read until somebody has enough of it.

mod read;

pub use read::{Reader, Stream, flow_error};

//! The delta filter: records one by one, and whole streams of a made-up guest whose RAM must come out the same.

mod guest;
mod properties;
mod records;

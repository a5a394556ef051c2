//! What Node cannot do with a descriptor.

use crate::flow::owned;
use napi::{Error, Result};
use napi_derive::napi;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;

/// Moves back in a file by so many bytes, which are then read again.
#[napi]
pub fn rewind(fd: i32, bytes: u32) -> Result<(), String> {
    File::from(owned(fd)?)
        .seek(SeekFrom::Current(-i64::from(bytes)))
        .map_err(|error| Error::new("READ_FAILED".to_owned(), error.to_string()))?;
    Ok(())
}

/// Tells the reader of a socket that no more comes; one that has gone need not be told, and of anything else its close
/// tells. The descriptor stays the caller's.
#[napi]
pub fn half_close(fd: i32) -> Result<(), String> {
    pagewire_core::flow::half_close(owned(fd)?.as_fd());
    Ok(())
}

//! What Node cannot do with a descriptor.

use crate::flow::owned;
use napi::{Error, Result};
use napi_derive::napi;
use std::fs::File;
use std::io::{Seek, SeekFrom};

/// Moves back in a file by so many bytes, which are then read again.
#[napi]
pub fn rewind(fd: i32, bytes: u32) -> Result<(), String> {
    File::from(owned(fd)?)
        .seek(SeekFrom::Current(-i64::from(bytes)))
        .map_err(|error| Error::new("READ_FAILED".to_owned(), error.to_string()))?;
    Ok(())
}

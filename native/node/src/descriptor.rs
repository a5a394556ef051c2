//! What Node cannot do with a descriptor.

use crate::flow::owned;
use napi::{Error, Result};
use napi_derive::napi;
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
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

/// Tells the reader of a socket that no more comes; one that has gone need not be told. The descriptor stays the caller's.
#[napi]
pub fn half_close(fd: i32) -> Result<(), String> {
    match shutdown(owned(fd)?, Shutdown::Write) {
        Ok(()) | Err(Errno::NOTCONN) => Ok(()),
        Err(error) => Err(Error::new(
            "BAD_DESCRIPTOR".to_owned(),
            format!("file descriptor {fd} cannot be closed one way: {error}"),
        )),
    }
}

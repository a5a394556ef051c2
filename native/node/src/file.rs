//! Regular files: direct I/O, positions, times.

use crate::flow::owned;
use napi::{Error, Result};
use napi_derive::napi;
use pagewire_core::file;
use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};

fn with<T>(fd: i32, work: impl FnOnce(OwnedFd) -> io::Result<T>) -> Result<T, String> {
    work(owned(fd)?).map_err(|error| Error::new("INTERNAL".to_owned(), error.to_string()))
}

/// The same file, open for direct I/O where `fd` stands; null where that is refused. The caller's.
#[napi]
pub fn open_direct(fd: i32) -> Result<Option<i32>, String> {
    with(fd, |fd| {
        Ok(file::open_direct(fd)?.map(IntoRawFd::into_raw_fd))
    })
}

/// Whether direct I/O was not refused meanwhile.
#[napi]
pub fn is_direct(fd: i32) -> Result<bool, String> {
    with(fd, |fd| Ok(file::is_direct(fd)))
}

/// Puts `to` where `from` stands in the same file.
#[napi]
pub fn copy_position(from: i32, to: i32) -> Result<(), String> {
    let from = owned(from)?;
    with(to, |to| file::copy_position(from.as_fd(), to))
}

/// Takes what is cached of a file out of the page cache.
#[napi]
pub fn uncache(fd: i32) -> Result<(), String> {
    with(fd, file::uncache)
}

/// Gives `to` the times of `from`.
#[napi]
pub fn copy_times(from: i32, to: i32) -> Result<(), String> {
    let from = owned(from)?;
    with(to, |to| file::copy_times(from.as_fd(), to))
}

//! A descriptor read to its end.

use super::Inspector;
use crate::descriptor::{Input, Wake};
use crate::flow::FlowError;
use std::io;
use std::os::fd::OwnedFd;

/// Bytes that are read at a time: larger ones fall out of a core's cache before they are looked at.
const CHUNK: usize = 256 << 10;

/// What a descriptor gave.
pub struct Inspected {
    /// As far as it could be read.
    pub inspector: Inspector,
    /// Why not to its end.
    pub failed: Option<FlowError>,
}

/// Reads a stream from a descriptor to its end; `head` was read of it before.
///
/// # Errors
/// If the descriptor cannot be read at all; what fails later is told with what was seen before.
pub fn inspect(fd: OwnedFd, head: &[u8], cache_bytes: u64) -> Result<Inspected, FlowError> {
    let input = Input::new(fd)?;
    let mut inspector = Inspector::new(cache_bytes);
    inspector.feed(head);
    let failed = read_all(&input, &mut inspector)
        .err()
        .map(|source| FlowError::Read {
            offset: inspector.bytes(),
            source,
        });
    Ok(Inspected { inspector, failed })
}

fn read_all(input: &Input, inspector: &mut Inspector) -> io::Result<()> {
    let wake = Wake::new()?;
    let mut buffer = vec![0; CHUNK];
    loop {
        input.wait(&wake, true)?;
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => inspector.feed(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

//! A descriptor read to its end, by whoever may be told to stop.

use super::Inspector;
use crate::descriptor::{Input, Wake};
use crate::flow::FlowError;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are read at a time: larger ones fall out of a core's cache before they are looked at.
const CHUNK: usize = 256 << 10;

/// What a descriptor gave.
pub struct Inspected {
    /// As far as it could be read.
    pub inspector: Inspector,
    /// Why not to its end.
    pub failed: Option<FlowError>,
}

/// Reads a descriptor, and waits for what is to come; one read at a time.
pub struct Reader {
    input: Input,
    wake: Wake,
    stopped: AtomicBool,
}

impl Reader {
    /// Reads from where the descriptor stands.
    ///
    /// # Errors
    /// If the descriptor is not open for reading, or none is left to be woken by.
    pub fn new(fd: OwnedFd) -> Result<Self, FlowError> {
        Ok(Self {
            input: Input::new(fd)?,
            wake: Wake::new().map_err(|source| FlowError::Memory { bytes: 0, source })?,
            stopped: AtomicBool::new(false),
        })
    }

    /// Whoever reads ends with [`FlowError::Stopped`], now or next time.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake.signal();
    }

    /// The next bytes; fewer than `length` at the input's end.
    ///
    /// # Errors
    /// If they cannot be read, or it was stopped.
    pub fn read(&self, length: usize) -> Result<Vec<u8>, FlowError> {
        let mut bytes = vec![0; length];
        let mut at = 0;
        while at < length {
            match self.read_some(&mut bytes[at..], at as u64)? {
                0 => break,
                count => at += count,
            }
        }
        bytes.truncate(at);
        Ok(bytes)
    }

    /// Looks at a stream to its end; `head` was read of it before.
    ///
    /// # Errors
    /// If it was stopped; what fails otherwise is told with what was seen before.
    pub fn inspect(&self, head: &[u8], cache_bytes: u64) -> Result<Inspected, FlowError> {
        let mut inspector = Inspector::new(cache_bytes);
        inspector.feed(head);
        let mut buffer = vec![0; CHUNK];
        let failed = loop {
            match self.read_some(&mut buffer, inspector.bytes()) {
                Ok(0) => break None,
                Ok(length) => inspector.feed(&buffer[..length]),
                Err(FlowError::Stopped) => return Err(FlowError::Stopped),
                Err(error) => break Some(error),
            }
        };
        Ok(Inspected { inspector, failed })
    }

    /// What is there, once something is; 0 at the end.
    fn read_some(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FlowError> {
        let failed = |source| FlowError::Read { offset, source };
        loop {
            if self.stopped.load(Ordering::SeqCst) {
                return Err(FlowError::Stopped);
            }
            if !self.input.wait(&self.wake, true).map_err(failed)? {
                continue;
            }
            match self.input.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map_err(failed),
            }
        }
    }
}

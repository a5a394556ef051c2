//! A descriptor read to its end, by whoever may be told to stop.

use crate::descriptor::{Input, Wake};
use crate::flow::FlowError;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

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
            wake: Wake::new().map_err(FlowError::system("make an eventfd"))?,
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

    /// A stream to its end, of which `head` was read before.
    #[must_use]
    pub fn stream<'a>(&'a self, head: &'a [u8]) -> Stream<'a> {
        Stream {
            reader: self,
            head,
            offset: head.len() as u64,
        }
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

/// What a [`Reader`] reads, as anybody reads. Where it fails the [`FlowError`] is within.
pub struct Stream<'a> {
    reader: &'a Reader,
    head: &'a [u8],
    /// Of what is to be read from the descriptor.
    offset: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.head.is_empty() {
            return self.head.read(buffer);
        }
        let read = self.reader.read_some(buffer, self.offset);
        let length = read.map_err(io::Error::other)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// What failed, of a [`Stream`] too.
#[must_use]
pub fn flow_error(error: io::Error, offset: u64) -> FlowError {
    let read = |source| FlowError::Read { offset, source };
    error.downcast().unwrap_or_else(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::ioctl_fionread;

    #[test]
    fn a_reader_that_waits_ends_when_it_is_stopped() {
        let (input, output) = rustix::pipe::pipe().expect("a pipe");
        rustix::io::write(&output, b"QEVM").expect("room for four bytes");
        let reader = Reader::new(input).expect("a reader");
        let mut all = Vec::new();
        let stopped = |error| matches!(flow_error(error, 0), FlowError::Stopped);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| reader.stream(b"head").read_to_end(&mut all));
            // Until it waits, or is about to.
            while !reading.is_finished() && ioctl_fionread(&output).expect("a pipe") > 0 {
                std::thread::yield_now();
            }
            reader.stop();
            assert!(reading.join().expect("no panic").is_err_and(stopped));
        });
        assert_eq!(all, b"headQEVM");
        assert!(matches!(reader.read(4), Err(FlowError::Stopped)));
    }
}

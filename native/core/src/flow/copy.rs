//! One direction of a connection, copied as it is: the return path beside a stream that no peer of ours takes.

use super::{FlowError, SharedDoubt, guarded, lock};
use crate::descriptor::{Input, Output, Wake};
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// What is copied at once: a pipe's or a socket's usual buffer.
const BUFFER: usize = 64 << 10;

/// A thread that copies. Stops and joins it when dropped.
pub struct Copy {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    wake: Wake,
    stopped: AtomicBool,
    bytes: AtomicU64,
}

impl Copy {
    /// Copies until the end, which goes on as a half-close. `returning`: it is the return path, followed by this. `ended` is
    /// told why it failed, if it did.
    ///
    /// # Errors
    /// If a descriptor cannot be used, or a thread not be had.
    pub fn start(
        from: OwnedFd,
        to: OwnedFd,
        returning: Option<SharedDoubt>,
        ended: Box<dyn FnOnce(Option<FlowError>) + Send>,
    ) -> Result<Copy, FlowError> {
        let (input, output) = (Input::new(from)?, Output::new(to)?);
        let shared = Arc::new(Shared {
            wake: Wake::new().map_err(FlowError::system("make an eventfd"))?,
            stopped: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("pagewire-copy".into())
            .spawn(move || {
                let result = guarded(|| run(&of_thread, &input, &output, returning.as_ref()));
                // A failure is no end: QEMU would take a lost link for the other one's last word.
                if let (Ok(()), Some(socket)) = (&result, output.as_socket()) {
                    let _ = shutdown(socket, Shutdown::Write);
                }
                drop((input, output));
                ended(match result {
                    Ok(()) | Err(FlowError::Stopped) => None,
                    Err(error) => Some(error),
                });
            })
            .map_err(FlowError::system("start a thread"))?;
        Ok(Copy {
            shared,
            thread: Some(thread),
        })
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.wake.signal();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Tells the reader of a socket that no more comes. Of anything else its close does.
pub fn half_close(fd: BorrowedFd<'_>) {
    let _ = shutdown(fd, Shutdown::Write);
}

fn run(
    shared: &Shared,
    input: &Input,
    output: &Output,
    returning: Option<&SharedDoubt>,
) -> Result<(), FlowError> {
    let read = |source| FlowError::Read {
        offset: shared.bytes.load(Ordering::Relaxed),
        source,
    };
    let write = |source| FlowError::Write {
        offset: shared.bytes.load(Ordering::Relaxed),
        source,
    };
    let stopped = || shared.stopped.load(Ordering::SeqCst);
    let mut buffer = vec![0; BUFFER];
    loop {
        if stopped() {
            return Err(FlowError::Stopped);
        }
        if !input.wait(&shared.wake, true).map_err(read)? {
            continue;
        }
        let n = match input.read(&mut buffer) {
            Ok(0) => {
                if let Some(doubt) = returning {
                    lock(doubt).return_ended();
                }
                return Ok(());
            }
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(read(error)),
        };
        let mut bytes = &buffer[..n];
        while !bytes.is_empty() {
            match output.write(bytes) {
                Ok(n) => {
                    bytes = &bytes[n..];
                    shared.bytes.fetch_add(n as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    output.wait(&shared.wake).map_err(write)?;
                    if stopped() {
                        return Err(FlowError::Stopped);
                    }
                }
                Err(error) => return Err(write(error)),
            }
        }
        if let Some(doubt) = returning {
            lock(doubt).returned(&buffer[..n]);
        }
    }
}

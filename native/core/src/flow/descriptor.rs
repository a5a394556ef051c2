//! The descriptors at both ends of a flow, and the eventfd that can interrupt a wait for them.

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::{Errno, read, write};
use rustix::net::{SendFlags, send};
use rustix::pipe::fcntl_setpipe_size;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a pipe is asked to hold. Linux's default of 64 KiB makes a switch of threads for each 64 KiB; 1 MiB is what an
/// unprivileged process may have. Refusal is no harm.
const PIPE_BYTES: usize = 1 << 20;

/// Wakes a thread out of [`Wake::wait`].
pub(super) struct Wake(OwnedFd);

/// What a wait found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    /// The descriptor can be read or written, or has an error to tell.
    pub(super) descriptor: bool,
    /// [`Wake::signal`] was called since the last wait.
    pub(super) woken: bool,
}

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Wake(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    pub(super) fn signal(&self) {
        // The only failure is a counter at its limit, and then the waiter is woken anyway.
        let _ = write(&self.0, &1u64.to_ne_bytes());
    }

    /// Waits until the descriptor is ready or someone calls [`Wake::signal`]; only looks where `block` is false.
    fn wait(
        &self,
        descriptor: BorrowedFd<'_>,
        events: PollFlags,
        block: bool,
    ) -> io::Result<Ready> {
        let mut fds = [
            PollFd::from_borrowed_fd(descriptor, events),
            PollFd::new(&self.0, PollFlags::IN),
        ];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        loop {
            match poll(&mut fds, if block { None } else { Some(&now) }) {
                Ok(_) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        let woken = !fds[1].revents().is_empty();
        if woken {
            let _ = read(&self.0, &mut [0u8; 8]);
        }
        Ok(Ready {
            descriptor: !fds[0].revents().is_empty(),
            woken,
        })
    }
}

/// Where a source reads. Pipes, sockets and terminals are polled before each read, so no read ever blocks.
pub(super) struct Input(OwnedFd);

impl Input {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let _ = fcntl_setpipe_size(&fd, PIPE_BYTES);
        Input(fd)
    }

    pub(super) fn wait(&self, wake: &Wake, block: bool) -> io::Result<Ready> {
        wake.wait(self.0.as_fd(), PollFlags::IN, block)
    }

    /// Reads what is there, at most `buffer`; 0 at the end of the input. `WouldBlock` where there is nothing yet.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match read(&self.0, &mut *buffer) {
                Err(Errno::INTR) => continue,
                result => return Ok(result?),
            }
        }
    }
}

/// Where a sink writes, without ever blocking in the write itself where the system has a way for that.
pub(super) struct Output {
    fd: OwnedFd,
    how: How,
}

enum How {
    /// A socket: `send` with MSG_DONTWAIT, which leaves the socket's own mode alone.
    Socket,
    /// A pipe opened anew through /proc with O_NONBLOCK: the mode belongs to the new open file, so whoever shares the
    /// pipe with us notices nothing.
    NonBlocking(OwnedFd),
    /// Regular files never wait for long; a terminal, or a pipe of another user, may.
    Plain,
}

impl Output {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let _ = fcntl_setpipe_size(&fd, PIPE_BYTES);
        let how = match fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Socket) => How::Socket,
            Ok(FileType::Fifo) => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                match open(
                    format!("/proc/self/fd/{}", fd.as_raw_fd()),
                    flags,
                    Mode::empty(),
                ) {
                    Ok(opened) => How::NonBlocking(opened),
                    Err(_) => How::Plain,
                }
            }
            _ => How::Plain,
        };
        Output { fd, how }
    }

    /// Waits until something can be written or the wake is signalled.
    pub(super) fn wait(&self, wake: &Wake) -> io::Result<Ready> {
        wake.wait(self.fd.as_fd(), PollFlags::OUT, true)
    }

    /// Writes what fits now; `WouldBlock` where that is nothing.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let result = match &self.how {
                How::Socket => send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
                How::NonBlocking(pipe) => write(pipe, bytes),
                How::Plain => write(&self.fd, bytes),
            };
            match result {
                Err(Errno::INTR) => continue,
                result => return Ok(result?),
            }
        }
    }
}

/// CPU time that the calling thread has used, in nanoseconds.
pub(super) fn thread_cpu_ns() -> u64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

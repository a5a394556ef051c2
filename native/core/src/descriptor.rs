//! The descriptors at both ends of a flow or a session, and the eventfd that can interrupt a wait for them.

use crate::file::{DirectReader, FileWriter};
use crate::flow::FlowError;
use crate::lock::lock;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fstat, open};
use rustix::io::{Errno, read, write};
use rustix::net::sockopt::socket_domain;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, recv, send};
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use rustix::termios::isatty;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a pipe that we read is asked to hold. Linux's default of 64 KiB makes a switch of threads for each 64 KiB;
/// 1 MiB is what an unprivileged process may have. Refusal is no harm. A pipe that we write stays as it is: what stands
/// in it is on its way to the guest's destination, and late.
const PIPE_BYTES: usize = 1 << 20;

/// Wakes a thread out of [`Wake::wait`].
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Wake(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    pub(crate) fn signal(&self) {
        // The only failure is a counter at its limit, and then the waiter is woken anyway.
        let _ = write(&self.0, &1u64.to_ne_bytes());
    }

    /// Waits until the descriptor can be used (or has an error to tell), someone calls [`Wake::signal`], or the time is
    /// over.
    pub(crate) fn wait(
        &self,
        descriptor: BorrowedFd<'_>,
        events: PollFlags,
        timeout: Option<Duration>,
    ) -> io::Result<Ready> {
        self.wait_either(descriptor, events, None, timeout)
    }

    /// As [`Wake::wait`]; the descriptor counts as usable, too, for as long as `ended` is signalled.
    pub(crate) fn wait_either(
        &self,
        descriptor: BorrowedFd<'_>,
        events: PollFlags,
        ended: Option<&Wake>,
        timeout: Option<Duration>,
    ) -> io::Result<Ready> {
        let mut fds = [
            PollFd::from_borrowed_fd(descriptor, events),
            PollFd::new(&self.0, PollFlags::IN),
            PollFd::new(&ended.unwrap_or(self).0, PollFlags::IN),
        ];
        poll_for(&mut fds, timeout)?;
        let woken = !fds[1].revents().is_empty();
        if woken {
            let _ = read(&self.0, &mut [0u8; 8]);
        }
        let is_ended = ended.is_some() && !fds[2].revents().is_empty();
        Ok(if is_ended || !fds[0].revents().is_empty() {
            Ready::Yes
        } else if woken {
            Ready::Woken
        } else {
            Ready::TimedOut
        })
    }
}

impl Wake {
    /// Waits until someone signals or the time is over.
    pub(crate) fn sleep(&self, time: Duration) -> io::Result<()> {
        self.wait(self.0.as_fd(), PollFlags::IN, Some(time))?;
        let _ = read(&self.0, &mut [0u8; 8]);
        Ok(())
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why a wait for a descriptor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// The descriptor can be used.
    Yes,
    /// It cannot yet, but someone signalled.
    Woken,
    /// Nothing happened in the time given.
    TimedOut,
}

/// Where a source reads. Pipes and terminals are polled before each read, and sockets read so that it does not matter: no read
/// ever blocks.
pub(crate) struct Input {
    fd: OwnedFd,
    direct: Option<Mutex<DirectReader>>,
    is_socket: bool,
}

impl Input {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, FlowError> {
        check_access(&fd, OFlags::WRONLY, "input", "reading")?;
        if fcntl_getpipe_size(&fd).is_ok_and(|bytes| bytes < PIPE_BYTES) {
            let _ = fcntl_setpipe_size(&fd, PIPE_BYTES);
        }
        let direct = DirectReader::new(fd.as_fd()).map(Mutex::new);
        let is_socket =
            fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
        Ok(Input {
            fd,
            direct,
            is_socket,
        })
    }

    /// Whether a read tells where there is nothing yet, so that nothing need be polled before.
    pub(crate) fn never_blocks(&self) -> bool {
        self.is_socket
    }

    pub(crate) fn wait(&self, wake: &Wake, block: bool) -> io::Result<bool> {
        let timeout = if block { None } else { Some(Duration::ZERO) };
        Ok(wake.wait(self.fd.as_fd(), PollFlags::IN, timeout)? == Ready::Yes)
    }

    /// Whether a read has something to tell now.
    pub(crate) fn is_ready(&self) -> io::Result<bool> {
        let mut ready = [PollFd::new(&self.fd, PollFlags::IN)];
        poll_for(&mut ready, Some(Duration::ZERO))?;
        Ok(!ready[0].revents().is_empty())
    }

    /// Reads what is there, at most `buffer`; 0 at the end of the input. `WouldBlock` where there is nothing yet.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(direct) = &self.direct {
            return lock(direct).read(self.fd.as_fd(), buffer);
        }
        loop {
            let result = if self.is_socket {
                recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT).map(|(_, came)| came)
            } else {
                read(&self.fd, &mut *buffer)
            };
            match result {
                Err(Errno::INTR) => continue,
                result => return Ok(result?),
            }
        }
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Where a sink writes, without ever blocking in the write itself where the system has a way for that.
pub(crate) struct Output {
    fd: OwnedFd,
    how: How,
}

enum How {
    /// A socket: `send` with MSG_DONTWAIT, which leaves the socket's own mode alone.
    Socket,
    /// A pipe opened anew through /proc with O_NONBLOCK: the mode belongs to the new open file, so whoever shares the
    /// pipe with us notices nothing.
    NonBlocking(OwnedFd),
    /// A pipe of another user, which cannot be opened anew, or a terminal: polled before each write, which takes no
    /// more than what a pipe that is ready takes at once.
    Piecemeal,
    /// A regular file, or whatever is open with O_DIRECT.
    File(Mutex<FileWriter>),
    /// Most devices never wait for long, nor do files.
    Plain,
}

/// POSIX's PIPE_BUF on Linux: a pipe that polls as writable takes this much without waiting.
const PIPE_BUF: usize = 4096;

impl Output {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, FlowError> {
        check_access(&fd, OFlags::RDONLY, "output", "writing")?;
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
                    Err(_) => How::Piecemeal,
                }
            }
            Ok(FileType::CharacterDevice) if isatty(&fd) => How::Piecemeal,
            _ => FileWriter::new(fd.as_fd()).map_or(How::Plain, |file| How::File(Mutex::new(file))),
        };
        Ok(Output { fd, how })
    }

    /// The descriptor, where it is a socket.
    pub(crate) fn as_socket(&self) -> Option<BorrowedFd<'_>> {
        matches!(self.how, How::Socket).then(|| self.fd.as_fd())
    }

    /// Waits until something can be written or the wake is signalled.
    pub(crate) fn wait(&self, wake: &Wake) -> io::Result<bool> {
        Ok(wake.wait(self.fd.as_fd(), PollFlags::OUT, None)? == Ready::Yes)
    }

    /// Writes what fits now; `WouldBlock` where that is nothing.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let result = match &self.how {
                How::Socket => send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
                How::NonBlocking(pipe) => write(pipe, bytes),
                How::Piecemeal => {
                    let mut ready = [PollFd::new(&self.fd, PollFlags::OUT)];
                    match poll(&mut ready, Some(&NOW)) {
                        Ok(0) => Err(Errno::WOULDBLOCK),
                        Ok(_) => write(&self.fd, &bytes[..bytes.len().min(PIPE_BUF)]),
                        Err(error) => Err(error),
                    }
                }
                How::File(file) => return lock(file).write(self.fd.as_fd(), bytes),
                How::Plain => write(&self.fd, bytes),
            };
            match result {
                Err(Errno::INTR) => continue,
                result => return Ok(result?),
            }
        }
    }

    /// Writes what is still held for a file, and gives it its length. To be called behind the last write.
    pub(crate) fn finish(&self) -> io::Result<()> {
        match &self.how {
            How::File(file) => lock(file).finish(self.fd.as_fd()),
            _ => Ok(()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Whoever wants to know has called it before; what comes before a failure belongs to the output's reader.
        let _ = self.finish();
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether the peer has closed this socket; what it wrote before can still be read. Over TCP the same is said of one that
/// has closed its half toward us only: that cannot be told apart. Nor can it where we have closed ours.
pub(crate) fn has_hung_up(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = match socket_domain(socket) {
        Ok(AddressFamily::UNIX) => PollFlags::empty(),
        _ => PollFlags::RDHUP,
    };
    let mut fds = [PollFd::from_borrowed_fd(socket, flags)];
    poll_for(&mut fds, Some(Duration::ZERO))?;
    Ok(!fds[0].revents().is_empty())
}

/// Polls until one of the descriptors has something to tell or the time is over; signals do not count.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let until = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(fds, left.as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
    }
}

/// For a poll that only looks.
const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Refuses a descriptor that is open for the other direction only: a pipe's wrong end would feed on itself.
fn check_access(
    fd: &OwnedFd,
    refused: OFlags,
    role: &'static str,
    access: &'static str,
) -> Result<(), FlowError> {
    match fcntl_getfl(fd) {
        Ok(flags) if flags & OFlags::ACCMODE == refused => Err(FlowError::Access { role, access }),
        _ => Ok(()),
    }
}

/// CPU time that the calling thread has used, in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_half_that_is_closed_is_no_hang_up() {
        let (ours, peer) = UnixStream::pair().expect("sockets");
        let is_gone = || has_hung_up(ours.as_fd()).expect("a socket");
        assert!(!is_gone());
        peer.shutdown(Shutdown::Write).expect("a socket");
        assert!(!is_gone());
        // As QEMU's `migrate_cancel` does, and as the end of its process.
        peer.shutdown(Shutdown::Read).expect("a socket");
        assert!(is_gone());
    }
}

//! One connection that stands: authenticated, full-duplex, plain or TLS.

use super::sockets;
use super::tunnel::Tunnel;
use crate::descriptor::{Input, Output, Ready, Wake};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, recvmsg,
    sendmsg, shutdown,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Who is at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// An endpoint, for people: `tls:dst.example:7777`.
    pub address: String,
    /// `SHA256:…` of the public key whose possession it proved; only over TLS.
    pub fingerprint: Option<String>,
    /// Names that an authority of ours vouches for.
    pub names: Vec<String>,
}

/// One connection. One thread reads and one at a time writes (the caller sees to that); reading and writing may go on
/// at once. Nothing here blocks but the waits.
pub struct Link {
    transport: Transport,
    tunnel: Option<Tunnel>,
    peer: Peer,
    /// Set by [`Link::shutdown`].
    closed: AtomicBool,
    /// Signalled with it and never read empty: it ends every wait.
    closing: Wake,
}

impl Link {
    /// A plain link over one socket (given twice, as two descriptors) or two pipes.
    pub fn plain(read: OwnedFd, write: OwnedFd) -> io::Result<Link> {
        let address = sockets::peer_of(write.as_fd(), false);
        Link::plain_named(read, write, address)
    }

    /// As [`Link::plain`], with a name for the other end.
    pub fn plain_named(read: OwnedFd, write: OwnedFd, address: String) -> io::Result<Link> {
        let peer = Peer {
            address,
            ..Peer::default()
        };
        Link::new(Transport::new(read, write)?, None, peer)
    }

    pub(super) fn new(
        transport: Transport,
        tunnel: Option<Tunnel>,
        peer: Peer,
    ) -> io::Result<Link> {
        Ok(Link {
            transport,
            tunnel,
            peer,
            closed: AtomicBool::new(false),
            closing: Wake::new()?,
        })
    }

    /// Reads what is there, at most `buf`. 0 is the end; `WouldBlock`: nothing yet. Over TLS an end that the other end did
    /// not announce is `UnexpectedEof`: anyone on the way could have made it.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.still_open()?;
        match &self.tunnel {
            None => self.transport.read(buf),
            Some(tunnel) => tunnel.read(&self.transport, buf),
        }
    }

    /// As [`Link::try_read`]; what `buf` has no room for may go to `more`, where that saves asking again. At least one byte of
    /// `buf` is there before that, and all of it before the first of `more`.
    pub fn try_read_more(&self, buf: &mut [u8], more: &mut [u8]) -> io::Result<usize> {
        self.still_open()?;
        match (&self.tunnel, &self.transport.read) {
            (None, Source::Socket(socket)) => recv_both(socket, buf, more),
            _ => self.try_read(buf),
        }
    }

    /// Takes as many bytes as there is room for now, and at least one; `WouldBlock`: none. Over TLS at most 64 KiB in one
    /// call, and what was taken may wait inside, encrypted, for the next call or [`Link::try_flush`].
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.still_open()?;
        match &self.tunnel {
            None => self.transport.write(bytes),
            Some(tunnel) => tunnel.write(&self.transport, bytes),
        }
    }

    /// `WouldBlock` while bytes that were taken wait inside.
    pub fn try_flush(&self) -> io::Result<()> {
        self.still_open()?;
        match &self.tunnel {
            None => Ok(()),
            Some(tunnel) => tunnel.flush(&self.transport),
        }
    }

    /// Waits until [`Link::try_read`] has something to say.
    pub(crate) fn wait_readable(
        &self,
        wake: &Wake,
        timeout: Option<Duration>,
    ) -> io::Result<Ready> {
        if self.tunnel.as_ref().is_some_and(Tunnel::holds_input) {
            return Ok(Ready::Yes);
        }
        let fd = self.transport.read.as_fd();
        wake.wait_either(fd, PollFlags::IN, Some(&self.closing), timeout)
    }

    /// Waits until [`Link::try_write`] or [`Link::try_flush`] can do something.
    pub(crate) fn wait_writable(
        &self,
        wake: &Wake,
        timeout: Option<Duration>,
    ) -> io::Result<Ready> {
        let fd = self.transport.write.as_fd();
        wake.wait_either(fd, PollFlags::OUT, Some(&self.closing), timeout)
    }

    /// Ends both directions: whoever reads gets the end, whoever writes an error, and no wait goes on. What was taken and
    /// does not leave at once is lost.
    pub fn shutdown(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(tunnel) = &self.tunnel {
            tunnel.close(&self.transport);
        }
        if let Some(socket) = self.transport.write.as_socket() {
            let _ = shutdown(socket, Shutdown::Both);
        }
        self.closing.signal();
    }

    /// The other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The fingerprint of our own key; only over TLS.
    pub(super) fn own_fingerprint(&self) -> Option<&str> {
        let tunnel = self.tunnel.as_ref()?;
        Some(&tunnel.identity().own)
    }

    /// Bytes that wait in the socket to be sent; `None` where that cannot be known.
    pub fn unsent_bytes(&self) -> Option<u64> {
        sockets::unsent_bytes(self.transport.write.as_socket()?)
    }

    /// How many bytes may wait in the socket to be sent before it no longer counts as writable, where it is TCP.
    pub fn set_unsent_limit(&self, bytes: u32) {
        if let Some(socket) = self.transport.write.as_socket() {
            // It is a matter of latency only, and other sockets have no such limit.
            let _ = sockets::set_unsent_limit(socket, bytes);
        }
    }

    fn still_open(&self) -> io::Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The bytes below TLS. Never blocks, and never changes the mode of a descriptor that others may share.
pub(super) struct Transport {
    read: Source,
    write: Output,
}

enum Source {
    Socket(OwnedFd),
    Other(Input),
}

impl Transport {
    /// Over one socket.
    pub(super) fn socket(socket: OwnedFd) -> io::Result<Transport> {
        let read = socket.try_clone()?;
        Transport::new(read, socket)
    }

    fn new(read: OwnedFd, write: OwnedFd) -> io::Result<Transport> {
        for fd in [&read, &write] {
            // Frames are written whole; Nagle's algorithm would only hold back their last bytes.
            let _ = rustix::net::sockopt::set_tcp_nodelay(fd, true);
        }
        let read = if sockets::is_socket(&read) {
            Source::Socket(read)
        } else {
            Source::Other(Input::new(read).map_err(io::Error::other)?)
        };
        let write = Output::new(write).map_err(io::Error::other)?;
        Ok(Transport { read, write })
    }

    pub(super) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.read {
            Source::Socket(socket) => loop {
                match recv(socket, &mut *buf, RecvFlags::DONTWAIT) {
                    Err(Errno::INTR) => continue,
                    result => return Ok(result?.1),
                }
            },
            Source::Other(input) if input.is_ready()? => input.read(buf),
            Source::Other(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write.write(bytes)
    }

    /// Writes these pieces one behind the other, as far as there is room now.
    pub(super) fn write_all_of<'a>(
        &self,
        first: &'a [u8],
        others: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<usize> {
        let Some(socket) = self.as_socket() else {
            return self.write(first);
        };
        let pieces: Vec<_> = std::iter::once(first)
            .chain(others)
            .map(IoSlice::new)
            .collect();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut nothing_else = SendAncillaryBuffer::default();
        loop {
            match sendmsg(socket, &pieces, &mut nothing_else, flags) {
                Err(Errno::INTR) => continue,
                result => return Ok(result?),
            }
        }
    }

    /// The socket, where it is one.
    pub(super) fn as_socket(&self) -> Option<BorrowedFd<'_>> {
        self.write.as_socket()
    }
}

/// Fills these two, one behind the other, as far as there is something.
fn recv_both(socket: &OwnedFd, first: &mut [u8], then: &mut [u8]) -> io::Result<usize> {
    let mut pieces = [IoSliceMut::new(first), IoSliceMut::new(then)];
    let mut nothing_else = RecvAncillaryBuffer::default();
    loop {
        match recvmsg(socket, &mut pieces, &mut nothing_else, RecvFlags::DONTWAIT) {
            Err(Errno::INTR) => continue,
            result => return Ok(result?.bytes),
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Socket(socket) => socket.as_fd(),
            Source::Other(input) => input.as_fd(),
        }
    }
}

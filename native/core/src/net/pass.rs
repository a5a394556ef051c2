//! Descriptors that go from one process of ours to another: SCM_RIGHTS.

use super::NetError;
use crate::descriptor::Wake;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// The longest message that goes with a descriptor, in bytes.
pub const MAX_MESSAGE: usize = 64 << 10;

/// Two ends of a local connection that keeps messages apart.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::SEQPACKET)
}

/// Two ends of a local byte stream.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::STREAM)
}

fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends a descriptor, which stays the caller's, with a message of 1 to [`MAX_MESSAGE`] bytes. Does not wait: a process
/// that takes nothing is an error.
pub fn send_descriptor(
    control: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    message: &[u8],
) -> Result<(), NetError> {
    if message.is_empty() || message.len() > MAX_MESSAGE {
        return Err(NetError::Descriptor(format!(
            "a descriptor goes with a message of 1 to {MAX_MESSAGE} bytes, not of {}",
            message.len()
        )));
    }
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match sendmsg(control, &[IoSlice::new(message)], &mut ancillary, flags) {
            Err(Errno::INTR) => continue,
            Err(error) => {
                return Err(NetError::System {
                    operation: "hand a connection on to its process",
                    source: error.into(),
                });
            }
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives descriptors on a thread of its own until it is closed or dropped.
pub struct Receiver {
    stop: Arc<(AtomicBool, Wake)>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// `received` is called on the receiver's own thread: with a descriptor and its message, and at last, if the other
    /// end was closed, with `None`.
    pub fn new(
        control: OwnedFd,
        mut received: impl FnMut(Option<(OwnedFd, Vec<u8>)>) + Send + 'static,
    ) -> Result<Receiver, NetError> {
        let wake = Wake::new().map_err(NetError::system("make an eventfd"))?;
        let stop = Arc::new((AtomicBool::new(false), wake));
        let thread = thread::Builder::new()
            .name("descriptors".to_owned())
            .spawn({
                let stop = Arc::clone(&stop);
                move || {
                    while !stop.0.load(Ordering::Acquire) {
                        if stop.1.wait(control.as_fd(), PollFlags::IN, None).is_err() {
                            break;
                        }
                        match receive(control.as_fd()) {
                            Ok(Some(message)) => received(Some(message)),
                            Err(Errno::AGAIN | Errno::INTR) => {}
                            Ok(None) | Err(_) => {
                                received(None);
                                break;
                            }
                        }
                    }
                }
            })
            .map_err(NetError::system("start a thread"))?;
        Ok(Receiver {
            stop,
            thread: Some(thread),
        })
    }

    /// Receives no more.
    pub fn close(&mut self) {
        self.stop.0.store(true, Ordering::Release);
        self.stop.1.signal();
        if let Some(thread) = self.thread.take() {
            // It has panicked if this fails.
            let _ = thread.join();
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.close();
    }
}

/// The next message with its descriptor; `None` at the end, and for one that is not as [`send_descriptor`] sends them.
fn receive(control: BorrowedFd<'_>) -> Result<Option<(OwnedFd, Vec<u8>)>, Errno> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(
        control,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        flags,
    )?;
    bytes.truncate(message.bytes);
    bytes.shrink_to_fit();
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let is_whole = !message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(descriptor
        .filter(|_| is_whole && !bytes.is_empty())
        .map(|descriptor| (descriptor, bytes)))
}

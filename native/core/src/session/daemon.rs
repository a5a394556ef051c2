//! The libvirt daemon at this end, where a wire carries the conversation of two: what the proxy itself says in it, which it
//! may only between two packets.

use super::WireError;
use crate::libvirt::{Header, Kind, Packets, Part, Refusal};
use crate::lock::lock;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

/// Bytes of answers to refused calls that may wait for the peer.
const MOST_ANSWERS: usize = 256 << 10;

#[derive(Default)]
pub(crate) struct Daemon {
    socket: Mutex<Socket>,
    answers: Mutex<Vec<u8>>,
    failing: Mutex<Option<String>>,
}

/// The daemon's socket; whoever writes to it holds it.
#[derive(Default)]
pub(crate) struct Socket {
    fd: Option<OwnedFd>,
    /// What was written ends with a packet.
    pub(crate) at_border: bool,
    /// At the destination: the daemons ask each other for signs of life. At the source [`crate::libvirt::Doubt`] knows.
    pub(crate) keepalive: bool,
}

impl Socket {
    /// Puts in a packet of ours, if that can be done now.
    fn put_in(&mut self, packet: &[u8]) {
        let Some(fd) = self.fd.as_ref().filter(|_| self.at_border) else {
            return;
        };
        match send(fd, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(n) if n < packet.len() => self.at_border = false,
            _ => {}
        }
    }
}

impl Daemon {
    pub(super) fn connect(&self, fd: OwnedFd) {
        let mut socket = lock(&self.socket);
        socket.fd = Some(fd);
        socket.at_border = true;
    }

    /// Unless somebody holds it.
    pub(super) fn try_socket(&self) -> Option<MutexGuard<'_, Socket>> {
        self.socket.try_lock().ok()
    }

    pub(crate) fn socket(&self) -> MutexGuard<'_, Socket> {
        lock(&self.socket)
    }

    /// The link is lost: the daemon, which hears nothing of its peer, is told that somebody still lives. libvirt gives a
    /// connection up that is silent for `keepalive_interval` × (`keepalive_count` + 1). `asks`: the source's
    /// asks for signs, or answers those that ask.
    pub(super) fn sign_of_life(&self, asks: bool) {
        // Somebody who writes to it at this moment is a sign too.
        if let Ok(mut socket) = self.socket.try_lock() {
            if socket.keepalive || asks {
                socket.put_in(&Header::PONG.to_bytes());
            }
        }
    }

    /// From now on whoever reads from the daemon tells it that what it calls has failed: libvirt shows that to whoever asked.
    pub(super) fn fail(&self, reason: &str) {
        *lock(&self.failing) = Some(reason.to_owned());
    }

    /// Why all has failed, if it has.
    pub(crate) fn failing(&self) -> Option<String> {
        lock(&self.failing).clone()
    }

    /// Answers these calls.
    pub(crate) fn refuse(&self, calls: &[Header], reason: &str) {
        if let Ok(mut socket) = self.socket.try_lock() {
            for header in calls {
                socket.put_in(&header.refusal(Refusal::Failed, reason));
            }
        }
    }

    /// A packet for the peer, to go between two of the daemon's.
    pub(super) fn answer(&self, packet: &[u8]) -> Result<(), WireError> {
        let mut answers = lock(&self.answers);
        if answers.len() + packet.len() > MOST_ANSWERS {
            let reason = "the peer calls procedures that are not allowed, and takes no answer";
            return Err(WireError::Protocol(reason.into()));
        }
        answers.extend_from_slice(packet);
        Ok(())
    }

    /// Takes the answers that wait.
    fn take_answers(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.answers))
    }
}

/// Answers the calls that a daemon has made over a connection that nothing else is done with. Returns whether there were any.
#[must_use]
pub fn refuse_calls(fd: &OwnedFd, reason: &str) -> bool {
    let mut buffer = vec![0; 64 << 10];
    let Ok((_, came)) = recv(fd, &mut buffer, RecvFlags::DONTWAIT) else {
        return false;
    };
    let (mut packets, mut rest, mut answered) = (Packets::default(), &buffer[..came], false);
    while let Ok(Some(part)) = packets.next(&mut rest) {
        if let Part::Header(header) = part {
            if header.kind == Kind::Call {
                let answer = header.refusal(Refusal::Failed, reason);
                let _ = send(fd, &answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
                answered = true;
            }
        }
    }
    answered
}

/// What the daemon said before our answers, those, and what it said behind them.
type Pieces<'a> = (&'a [u8], Vec<u8>, &'a [u8]);

/// What the daemon says, with our answers between its packets.
#[derive(Default)]
pub(super) struct Replies {
    packets: Packets,
}

impl Replies {
    /// The pieces that go to the peer: what the daemon said, cut in two where answers of ours go between.
    pub(super) fn pieces<'a>(
        &mut self,
        said: &'a [u8],
        daemon: &Daemon,
    ) -> Result<Pieces<'a>, WireError> {
        let mut border = self.packets.at_border().then_some(0);
        let mut rest = said;
        loop {
            match self.packets.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(_)) if self.packets.at_border() => border = Some(said.len() - rest.len()),
                Ok(Some(_)) => {}
                Err(error) => {
                    return Err(WireError::Protocol(format!(
                        "the destination's daemon: {error}"
                    )));
                }
            }
        }
        let Some((before, behind)) = border.map(|border| said.split_at(border)) else {
            return Ok((said, Vec::new(), &[]));
        };
        Ok((before, daemon.take_answers(), behind))
    }
}

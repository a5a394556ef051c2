//! Taking connections, on one thread whatever their number: what a stranger can make us hold is bounded.

use super::{Address, NetError, error, sockets};
use crate::descriptor::{Wake, poll_for};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chmod, chownat, fchmod, stat, unlink};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind,
    getsockname, listen, recv, socket_with, sockopt,
};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes of the routing preamble, with which every connection between two pagewires begins.
pub const PREAMBLE_LEN: usize = 32;

/// What it begins with: magic and version.
const PREAMBLE_START: [u8; 5] = [0xF3, b'P', b'W', b'P', 1];

/// How long nothing is accepted after the system had no descriptor or memory for it.
const PAUSE: Duration = Duration::from_millis(100);

/// The part of the waiting places that one address may have.
const ONE_ADDRESS: usize = 4;

/// How connections are taken.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Of a unix socket, from its first moment.
    pub mode: u32,
    /// Whom a unix socket is given to.
    pub uid: Option<u32>,
    /// Which group a unix socket is given to.
    pub gid: Option<u32>,
    /// Whether connections begin with a routing preamble, and are given out only after it.
    pub preamble: bool,
    /// Connections that may owe their preamble at one time; a quarter of them from one address. One more, and the one that
    /// has owed it longest is closed: who means well sends it at once.
    pub max_pending: usize,
    /// How long a connection may owe its preamble.
    pub timeout: Duration,
}

/// A connection that is given out.
#[derive(Debug)]
pub struct Accepted {
    /// Not read any further than its preamble.
    pub socket: OwnedFd,
    /// As it came; only magic, version and reserved bytes have been looked at.
    pub preamble: Option<[u8; PREAMBLE_LEN]>,
    /// For people.
    pub peer: String,
    /// What counts as one address with others, where it has one.
    pub network: Option<IpAddr>,
}

/// Takes connections until it is closed or dropped.
pub struct Listener {
    address: Address,
    name: Option<Name>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

struct Stop {
    is_over: AtomicBool,
    wake: Wake,
}

/// A unix socket's name, and the file that we made there.
struct Name {
    path: PathBuf,
    file: (u64, u64),
}

impl Listener {
    /// Listens on an address. `accepted` and `refused` (peer, reason) are called on the listener's own thread.
    pub fn bind(
        address: &Address,
        options: ListenOptions,
        accepted: impl FnMut(Accepted) + Send + 'static,
        refused: impl FnMut(String, String) + Send + 'static,
    ) -> Result<Listener, NetError> {
        let fail = |error: io::Error| listen_error(address, &error);
        let backlog = i32::try_from(options.max_pending.clamp(16, 4096)).unwrap_or(i32::MAX);
        let (socket, name) = match address {
            Address::Unix(path) => {
                let (socket, name) = bind_unix(path, options).map_err(fail)?;
                (socket, Some(name))
            }
            Address::Tcp { host, port } => {
                let until = Instant::now() + options.timeout;
                let endpoint = address.endpoint(false);
                let addresses = super::connect::resolve(host, *port, until, &endpoint)?;
                (bind_tcp(&addresses).map_err(fail)?, None)
            }
        };
        listen(&socket, backlog).map_err(|error| fail(error.into()))?;
        Listener::start(socket, name, options, accepted, refused)
    }

    /// Takes connections of a socket that listens already: systemd's, or a supervisor's.
    pub fn inherit(
        socket: OwnedFd,
        options: ListenOptions,
        accepted: impl FnMut(Accepted) + Send + 'static,
        refused: impl FnMut(String, String) + Send + 'static,
    ) -> Result<Listener, NetError> {
        if !sockets::is_listening(socket.as_fd()) {
            return Err(NetError::Descriptor(
                "the descriptor is not a listening socket".to_owned(),
            ));
        }
        Listener::start(socket, None, options, accepted, refused)
    }

    fn start(
        socket: OwnedFd,
        name: Option<Name>,
        options: ListenOptions,
        accepted: impl FnMut(Accepted) + Send + 'static,
        refused: impl FnMut(String, String) + Send + 'static,
    ) -> Result<Listener, NetError> {
        let address = address_of(socket.as_fd())?;
        // A connection that is gone again before we accept it must not keep the thread.
        ioctl_fionbio(&socket, true)
            .map_err(io::Error::from)
            .map_err(NetError::system("set up the listening socket"))?;
        let stop = Arc::new(Stop {
            is_over: AtomicBool::new(false),
            wake: Wake::new().map_err(NetError::system("make an eventfd"))?,
        });
        let mut door = Door {
            socket,
            options,
            pending: Vec::new(),
            paused_until: None,
            accepted,
            refused,
        };
        let thread = thread::Builder::new()
            .name("listener".to_owned())
            .spawn({
                let stop = Arc::clone(&stop);
                move || door.run(&stop)
            })
            .map_err(NetError::system("start a thread"))?;
        Ok(Listener {
            address,
            name,
            stop,
            thread: Some(thread),
        })
    }

    /// Where connections are taken, with the port that the system chose if it did.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Takes no more connections, closes those that owe their preamble, and removes a unix socket's name if it is still
    /// ours.
    pub fn close(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        if let Some(Name { path, file }) = &self.name {
            if stat(path).is_ok_and(|found| (found.st_dev, found.st_ino) == *file) {
                let _ = unlink(path);
            }
        }
        self.stop.is_over.store(true, Ordering::Release);
        self.stop.wake.signal();
        // It has panicked if this fails; there is nothing left to close then.
        let _ = thread.join();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

/// What is wrong with the bytes of a preamble, or with the beginning of one.
pub(super) fn fault(bytes: &[u8]) -> Option<&'static str> {
    const NOT_OURS: &str = "does not begin as a pagewire connection does (is it another program, or a proxy of an \
                            incompatible version?)";
    let magic = bytes.len().min(PREAMBLE_START.len());
    let zero = |at: usize| bytes.get(at).is_some_and(|byte| *byte != 0);
    let reserved = [6, 7].into_iter().chain(24..PREAMBLE_LEN);
    if bytes[..magic] != PREAMBLE_START[..magic] || reserved.into_iter().any(zero) {
        return Some(NOT_OURS);
    }
    None
}

/// A connection that owes its preamble.
struct Pending {
    socket: OwnedFd,
    bytes: [u8; PREAMBLE_LEN],
    have: usize,
    until: Instant,
    network: Option<IpAddr>,
    peer: String,
}

/// What a look at a pending connection told.
enum Look {
    Waits,
    Whole,
    Bad(&'static str),
}

impl Pending {
    fn look(&mut self) -> Look {
        while self.have < PREAMBLE_LEN {
            match recv(
                &self.socket,
                &mut self.bytes[self.have..],
                RecvFlags::DONTWAIT,
            ) {
                Ok((0, _)) => return Look::Bad("ended the connection before its preamble"),
                Ok((n, _)) => self.have += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Look::Bad("broke the connection before its preamble"),
            }
        }
        match fault(&self.bytes[..self.have]) {
            Some(fault) => Look::Bad(fault),
            None if self.have == PREAMBLE_LEN => Look::Whole,
            None => Look::Waits,
        }
    }
}

/// The listener's thread.
struct Door<A, R> {
    socket: OwnedFd,
    options: ListenOptions,
    pending: Vec<Pending>,
    paused_until: Option<Instant>,
    accepted: A,
    refused: R,
}

impl<A: FnMut(Accepted), R: FnMut(String, String)> Door<A, R> {
    fn run(&mut self, stop: &Stop) {
        while !stop.is_over.load(Ordering::Acquire) {
            let (knocks, ready) = match self.wait(stop) {
                Ok(news) => news,
                // Nothing but memory can fail here.
                Err(_) => {
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            self.look(&ready);
            if knocks {
                self.accept();
            }
        }
    }

    /// Waits for connections, bytes, deadlines or the end: whether someone knocks, and which of `pending` have news.
    fn wait(&mut self, stop: &Stop) -> io::Result<(bool, Vec<bool>)> {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        let accepts = match self.paused_until {
            None => PollFlags::IN,
            Some(_) => PollFlags::empty(),
        };
        let mut fds = Vec::with_capacity(2 + self.pending.len());
        fds.push(PollFd::new(&stop.wake, PollFlags::IN));
        fds.push(PollFd::new(&self.socket, accepts));
        let pending = self.pending.iter();
        fds.extend(pending.map(|pending| PollFd::new(&pending.socket, PollFlags::IN)));
        let next = self.pending.iter().map(|pending| pending.until);
        let next = next.chain(self.paused_until).min();
        poll_for(
            &mut fds,
            next.map(|next| next.saturating_duration_since(now)),
        )?;
        let ready = fds[2..].iter().map(|fd| !fd.revents().is_empty());
        Ok((fds[1].revents().contains(PollFlags::IN), ready.collect()))
    }

    fn look(&mut self, ready: &[bool]) {
        let now = Instant::now();
        let mut ready = ready.iter();
        for mut pending in std::mem::take(&mut self.pending) {
            let has_news = ready.next().is_some_and(|ready| *ready);
            let look = if has_news {
                pending.look()
            } else {
                Look::Waits
            };
            match look {
                Look::Waits if now < pending.until => self.pending.push(pending),
                Look::Waits => {
                    self.settle(
                        pending,
                        Look::Bad("did not send its preamble in time (is it a pagewire?)"),
                    );
                }
                Look::Bad(_) | Look::Whole => self.settle(pending, look),
            }
        }
    }

    /// A connection that owes nothing any more, or has to go.
    fn settle(&mut self, pending: Pending, look: Look) {
        match look {
            Look::Waits => {
                let why = "had not said what it wants when others came";
                (self.refused)(pending.peer, why.to_owned());
            }
            Look::Bad(why) => (self.refused)(pending.peer, why.to_owned()),
            Look::Whole => (self.accepted)(Accepted {
                socket: pending.socket,
                preamble: Some(pending.bytes),
                peer: pending.peer,
                network: pending.network,
            }),
        }
    }

    fn accept(&mut self) {
        loop {
            let (socket, from) = match acceptfrom_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(accepted) => accepted,
                // Gone again, or a fault of the network that is theirs.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => continue,
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.paused_until = Some(Instant::now() + PAUSE);
                    return;
                }
            };
            let peer = sockets::peer_of(socket.as_fd(), false);
            let network = from
                .and_then(sockets::canonical)
                .map(|from| network(from.ip()));
            if !self.options.preamble {
                let _ = sockopt::set_tcp_nodelay(&socket, true);
                (self.accepted)(Accepted {
                    socket,
                    preamble: None,
                    peer,
                    network,
                });
                continue;
            }
            self.make_room(network);
            self.pending.push(Pending {
                socket,
                bytes: [0; PREAMBLE_LEN],
                have: 0,
                until: Instant::now() + self.options.timeout,
                network,
                peer,
            });
        }
    }

    /// A place for one more: of its address, if that has all that it may have.
    fn make_room(&mut self, network: Option<IpAddr>) {
        let is_from_there = |pending: &Pending| network.is_some() && pending.network == network;
        let from_there = self.pending.iter().filter(|each| is_from_there(each));
        let oldest = if from_there.count() >= (self.options.max_pending / ONE_ADDRESS).max(1) {
            self.pending.iter().position(is_from_there)
        } else if self.pending.len() >= self.options.max_pending {
            Some(0)
        } else {
            None
        };
        if let Some(oldest) = oldest {
            let mut pending = self.pending.remove(oldest);
            // It may have said it by now.
            let look = pending.look();
            self.settle(pending, look);
        }
    }
}

/// What counts as one address: of IPv6 a /64, since whoever has one address there has them all.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
    }
}

fn bind_tcp(addresses: &[SocketAddr]) -> io::Result<OwnedFd> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // The connections of a proxy that ran here before may linger.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        match bind(&socket, address) {
            Ok(()) => return Ok(socket),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

/// Makes a unix socket that has its mode from the first moment: Linux gives the file the mode of the socket. It is
/// nobody's to connect to before it listens, so owner and a wider mode come in time.
fn bind_unix(path: &Path, options: ListenOptions) -> io::Result<(OwnedFd, Name)> {
    let address = SocketAddrUnix::new(path)?;
    let new = |kind| socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let socket = new(SocketType::STREAM)?;
    let mode = Mode::from_bits_truncate(options.mode);
    fchmod(&socket, mode & Mode::RWXU)?;
    match bind(&socket, &address) {
        // What a proxy that was killed left there. (Files that are no sockets refuse connections, too.) It is asked with a
        // socket of another kind, which whoever is there does not hear of: a connection would be a session of his.
        Err(Errno::ADDRINUSE)
            if sockets::is_socket_file(path)
                && rustix::net::connect(new(SocketType::DGRAM)?, &address)
                    == Err(Errno::CONNREFUSED) =>
        {
            unlink(path)?;
            bind(&socket, &address)?;
        }
        result => result?,
    }
    let made = stat(path)?;
    let name = Name {
        path: path.to_owned(),
        file: (made.st_dev, made.st_ino),
    };
    let (uid, gid) = (
        options.uid.map(Uid::from_raw),
        options.gid.map(Gid::from_raw),
    );
    let finish = || {
        if uid.is_some() || gid.is_some() {
            chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        chmod(path, mode)
    };
    if let Err(error) = finish() {
        let _ = unlink(path);
        return Err(error.into());
    }
    Ok((socket, name))
}

/// Where a socket is: of one that listens, where it takes connections.
pub fn address_of(socket: BorrowedFd<'_>) -> Result<Address, NetError> {
    local_address(socket).map_err(NetError::system("read a socket's address"))
}

fn local_address(socket: BorrowedFd<'_>) -> io::Result<Address> {
    let address = getsockname(socket)?;
    if let Some(internet) = sockets::canonical(address.clone()) {
        return Ok(Address::Tcp {
            host: internet.ip().to_string(),
            port: internet.port(),
        });
    }
    let unix = SocketAddrUnix::try_from(address)?;
    let path = unix
        .path_bytes()
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Ok(Address::Unix(path.unwrap_or_default().into()))
}

fn listen_error(address: &Address, error: &io::Error) -> NetError {
    let remedy = match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Unix(path)) if !sockets::is_socket_file(path) => {
            " (what is there is no socket)"
        }
        (io::ErrorKind::AddrInUse, _) => " (another program listens there)",
        (io::ErrorKind::AddrNotAvailable, _) => " (this host has no such address)",
        (io::ErrorKind::PermissionDenied, Address::Tcp { .. }) => {
            " (ports below 1024 are root's; take another one)"
        }
        (io::ErrorKind::PermissionDenied, Address::Unix(_)) => {
            " (may we write to the folder, and give the socket to that user?)"
        }
        (io::ErrorKind::NotFound, _) => " (make the folder first)",
        _ if error.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error()) => {
            " (a socket's path has at most 107 bytes)"
        }
        _ => "",
    };
    NetError::Listen {
        endpoint: address.endpoint(false),
        reason: format!("{}{remedy}", error::reason(error)),
    }
}

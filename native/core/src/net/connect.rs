//! Making connections, and taking over those that were accepted.

use super::link::Transport;
use super::listen::PREAMBLE_LEN;
use super::tunnel::Tunnel;
use super::{Address, Link, NetError, Peer, Tls, error, sockets};
use crate::descriptor::poll_for;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as system_connect, socket_with,
    sockopt,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How often a unix socket whose queue is full is tried again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(10);

/// Connects to another pagewire: sends the routing preamble, and shakes hands where `tls` is given.
pub fn connect(
    address: &Address,
    preamble: &[u8; PREAMBLE_LEN],
    tls: Option<&Tls>,
    timeout: Duration,
) -> Result<Link, NetError> {
    let until = Instant::now() + timeout;
    let endpoint = address.endpoint(tls.is_some());
    let remedy = "is the destination proxy running?";
    let socket = reach(address, &endpoint, remedy, until)?;
    let failed = || NetError::system("set up the connection");
    let transport = Transport::socket(socket).map_err(failed())?;
    // 32 bytes always fit into a new socket.
    match transport.write(preamble) {
        Ok(PREAMBLE_LEN) => {}
        Ok(_) => return Err(failed()(io::ErrorKind::WriteZero.into())),
        Err(error) => {
            return Err(NetError::Lost {
                endpoint,
                operation: "sending the preamble",
                reason: error::reason(&error),
            });
        }
    }
    let tunnel = match (tls, address) {
        (None, _) => None,
        (Some(tls), Address::Tcp { host, .. }) => {
            Some(tls.connect(&transport, host, &endpoint, until)?)
        }
        (Some(tls), Address::Unix(_)) => {
            Some(tls.connect(&transport, "localhost", &endpoint, until)?)
        }
    };
    link(transport, tunnel, endpoint)
}

/// Takes over an accepted connection, whose preamble has been read.
pub fn accept(socket: OwnedFd, tls: Option<&Tls>, timeout: Duration) -> Result<Link, NetError> {
    let until = Instant::now() + timeout;
    if !sockets::is_socket(&socket) || sockets::is_listening(socket.as_fd()) {
        return Err(NetError::Descriptor(
            "the descriptor is not a connected socket".to_owned(),
        ));
    }
    let failed = || NetError::system("set up the connection");
    fcntl_setfd(&socket, FdFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map_err(failed())?;
    let endpoint = sockets::peer_of(socket.as_fd(), tls.is_some());
    let transport = Transport::socket(socket).map_err(failed())?;
    let tunnel = tls
        .map(|tls| tls.accept(&transport, &endpoint, until))
        .transpose()?;
    link(transport, tunnel, endpoint)
}

fn link(transport: Transport, tunnel: Option<Tunnel>, address: String) -> Result<Link, NetError> {
    let mut peer = Peer {
        address,
        ..Peer::default()
    };
    if let Some(identity) = tunnel.as_ref().map(Tunnel::identity) {
        peer.fingerprint = Some(identity.peer.clone());
        peer.names.clone_from(&identity.names);
    }
    Link::new(transport, tunnel, peer).map_err(NetError::system("set up the connection"))
}

/// Connects to a QEMU, or to a libvirt daemon.
pub fn connect_socket(
    address: &Address,
    libvirt: bool,
    timeout: Duration,
) -> Result<OwnedFd, NetError> {
    let endpoint = address.endpoint(false);
    let remedy = match libvirt {
        true => "is the libvirt daemon running, and is that its socket?",
        false => "is QEMU waiting there, started with -incoming?",
    };
    let socket = reach(address, &endpoint, remedy, Instant::now() + timeout)?;
    let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
    Ok(socket)
}

fn reach(
    address: &Address,
    endpoint: &str,
    remedy: &'static str,
    until: Instant,
) -> Result<OwnedFd, NetError> {
    let result = match address {
        Address::Unix(path) => reach_unix(path, until),
        Address::Tcp { host, port } => {
            resolve(host, *port, until, endpoint).map(|addresses| reach_first(&addresses, until))?
        }
    };
    result.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => NetError::TimedOut {
            endpoint: endpoint.to_owned(),
            operation: "answer",
            remedy: match address {
                Address::Unix(_) => "is the program behind it stopped?",
                Address::Tcp { .. } => "is the host up, and does no firewall stand between?",
            },
        },
        kind => {
            let remedy = match kind {
                io::ErrorKind::PermissionDenied => {
                    "are we the user whom the socket is for, and does no firewall stand between?"
                }
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    "is the network up, and is that the right address?"
                }
                _ => remedy,
            };
            NetError::Connect {
                endpoint: endpoint.to_owned(),
                reason: format!("{} ({remedy})", error::reason(&error)),
            }
        }
    })
}

/// The addresses of a host. The system's resolver knows no deadline, so it runs on a thread that may be left behind.
pub(super) fn resolve(
    host: &str,
    port: u16,
    until: Instant,
    endpoint: &str,
) -> Result<Vec<SocketAddr>, NetError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    thread::Builder::new()
        .name("resolver".to_owned())
        .spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs();
            // Nobody may be waiting any more.
            let _ = sender.send(found.map(Iterator::collect::<Vec<_>>));
        })
        .map_err(NetError::system("start a thread"))?;
    let left = until.saturating_duration_since(Instant::now());
    let reason = match receiver.recv_timeout(left) {
        Ok(Ok(addresses)) if !addresses.is_empty() => return Ok(addresses),
        // Even where nothing is set up to resolve names, as in a container (RFC 6761, 6.3).
        Ok(_) if host == "localhost" => {
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return Ok(loopback.map(|ip| SocketAddr::new(ip, port)).into());
        }
        Ok(Ok(_)) => "it has no address".to_owned(),
        // "failed to lookup address information: Name or service not known"
        Ok(Err(error)) => {
            let reason = error::reason(&error);
            reason
                .rsplit_once(": ")
                .map_or(reason.clone(), |(_, why)| why.to_lowercase())
        }
        Err(_) => {
            return Err(NetError::TimedOut {
                endpoint: endpoint.to_owned(),
                operation: "get its name resolved",
                remedy: "does the name server answer? An address needs none",
            });
        }
    };
    Err(NetError::Connect {
        endpoint: endpoint.to_owned(),
        reason: format!("the name {host} cannot be resolved: {reason} (is it written right?)"),
    })
}

/// The first that answers; none may use up the time of those behind it.
fn reach_first(addresses: &[SocketAddr], until: Instant) -> io::Result<OwnedFd> {
    let mut failure = io::Error::from(io::ErrorKind::TimedOut);
    for (i, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        if share.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match dial(address, share) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Connects to one address, with the process's mark on the socket from its first packet on.
fn dial(address: &SocketAddr, timeout: Duration) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockets::mark(socket.as_fd())?;
    match system_connect(&socket, address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS | Errno::INTR) => {
            let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
            poll_for(&mut fds, Some(timeout))?;
            if fds[0].revents().is_empty() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sockopt::socket_error(&socket)??;
        }
        Err(error) => return Err(error.into()),
    }
    ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

fn reach_unix(path: &Path, until: Instant) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match system_connect(&socket, &address) {
            Ok(()) => {
                ioctl_fionbio(&socket, false)?;
                return Ok(socket);
            }
            // Its queue is full.
            Err(Errno::AGAIN) if Instant::now() < until => thread::sleep(FULL_QUEUE_PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
}

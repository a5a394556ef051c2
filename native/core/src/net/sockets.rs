//! What a socket tells of itself, and options that rustix does not know.

use rustix::fs::{FileType, fstat, lstat};
use rustix::net::{SocketAddrAny, getpeername, sockopt};
use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// Whether connections can be accepted from this descriptor.
pub fn is_listening(fd: BorrowedFd<'_>) -> bool {
    sockopt::socket_acceptconn(fd).unwrap_or(false)
}

/// The other end of a connected socket as an endpoint, for people; `tls` in the place of `tcp` where it is one.
pub fn peer_of(fd: BorrowedFd<'_>, tls: bool) -> String {
    let scheme = if tls { "tls" } else { "tcp" };
    if let Some(peer) = internet_peer(fd) {
        return format!("{scheme}:{peer}");
    }
    match sockopt::socket_peercred(fd) {
        Ok(user) => {
            let (pid, uid) = (user.pid.as_raw_nonzero(), user.uid.as_raw());
            format!("unix socket of process {pid} (user {uid})")
        }
        Err(_) => "pipe".to_owned(),
    }
}

/// The address at the other end, where it is on a network; an IPv4 one as such, even on an IPv6 socket.
pub(crate) fn internet_peer(fd: impl AsFd) -> Option<SocketAddr> {
    canonical(getpeername(fd).ok()??)
}

/// An internet address of the system's as Rust's.
pub(crate) fn canonical(address: SocketAddrAny) -> Option<SocketAddr> {
    let address = SocketAddr::try_from(address).ok()?;
    Some(match address.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            SocketAddr::new(ip.to_canonical(), address.port())
        }
        _ => address,
    })
}

/// Whether this is the name of a unix socket.
pub(crate) fn is_socket_file(path: &Path) -> bool {
    lstat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

pub(crate) fn is_socket(fd: impl AsFd) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

/// Bytes that were written and have not been sent: SIOCOUTQNSD. Sockets of this machine know only how many their reader
/// has not read (SIOCOUTQ), which is the same for us: what has not left.
pub(crate) fn unsent_bytes(fd: BorrowedFd<'_>) -> Option<u64> {
    /// From linux/sockios.h; the libc crate does not have it.
    const SIOCOUTQNSD: libc::Ioctl = 0x894B;
    let ask = |request| {
        let mut bytes: c_int = 0;
        // SAFETY: both requests write one int to the pointer, which is valid for that.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, &mut bytes) };
        (result == 0).then(|| u64::try_from(bytes).unwrap_or(0))
    };
    ask(SIOCOUTQNSD).or_else(|| ask(libc::TIOCOUTQ))
}

/// TCP_NOTSENT_LOWAT.
pub(crate) fn set_unsent_limit(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let value = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    // SAFETY: the pointer and the length are those of an int that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

//! What a socket tells of itself, and options that rustix does not know.

use super::NetError;
use rustix::fs::{FileType, fstat, lstat};
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketType, getpeername, getsockname, socket, sockopt,
};
use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// What the sockets of this process carry; 0: nothing.
static MARK: AtomicU32 = AtomicU32::new(0);

/// From now on every internet connection that this process makes carries this mark (SO_MARK), by which the host's
/// packet filter knows it; 0: none. Fails where it may not: CAP_NET_ADMIN is needed.
pub fn set_mark(mark: u32) -> Result<(), NetError> {
    let fail = NetError::system("mark a socket (that takes CAP_NET_ADMIN)");
    let try_it = || {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        put_mark(socket.as_fd(), mark)
    };
    if mark != 0 {
        try_it().map_err(fail)?;
    }
    MARK.store(mark, Ordering::Relaxed);
    Ok(())
}

/// Puts the process's mark on a socket, if there is one.
pub(super) fn mark(fd: BorrowedFd<'_>) -> io::Result<()> {
    match MARK.load(Ordering::Relaxed) {
        0 => Ok(()),
        mark => put_mark(fd, mark),
    }
}

fn put_mark(fd: BorrowedFd<'_>, mark: u32) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a u32 that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw const mark).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Where a connection was going before this host's packet filter redirected it to us; `None` where it came to us by
/// itself, or the host keeps no such record.
pub fn original_destination(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    /// IP6T_SO_ORIGINAL_DST, from linux/netfilter_ipv6/ip6_tables.h; of the same number as SO_ORIGINAL_DST.
    const ORIGINAL: c_int = libc::SO_ORIGINAL_DST;
    let own = canonical(getsockname(fd).ok()?)?;
    let original = if own.is_ipv4() {
        // SAFETY: all zeros is a valid sockaddr_in.
        let mut found: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        ask(fd, libc::SOL_IP, ORIGINAL, &mut found)?;
        let ip = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
        SocketAddr::new(ip.into(), u16::from_be(found.sin_port))
    } else {
        // SAFETY: all zeros is a valid sockaddr_in6.
        let mut found: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        ask(fd, libc::SOL_IPV6, ORIGINAL, &mut found)?;
        let ip = Ipv6Addr::from(found.sin6_addr.s6_addr);
        SocketAddr::new(ip.into(), u16::from_be(found.sin6_port))
    };
    (original != own).then_some(original)
}

/// Asks for a socket option of a plain C struct, whole.
fn ask<T>(fd: BorrowedFd<'_>, level: c_int, option: c_int, value: &mut T) -> Option<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of a struct that lives through the call; both callers give structs
    // of integers, for which any bytes are valid.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw mut *value).cast(),
            &raw mut length,
        )
    };
    (result == 0 && length as usize == size_of::<T>()).then_some(())
}

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

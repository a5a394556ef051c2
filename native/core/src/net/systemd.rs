//! sd_notify: telling the service manager how we are.

use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with,
};
use std::env;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// Sends a state such as `READY=1`, if a service manager asked for that by `NOTIFY_SOCKET`: whether it did.
pub fn notify(state: &str) -> io::Result<bool> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(false);
    };
    let address = match path.as_bytes() {
        [] => return Ok(false),
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sendto(&socket, state.as_bytes(), SendFlags::NOSIGNAL, &address)?;
    Ok(true)
}

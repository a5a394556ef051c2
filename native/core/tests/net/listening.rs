//! Where connections are taken: names, modes, descriptors.

use crate::ends::{Door, Folder, PREAMBLE, options, says};
use pagewire_core::net::{Address, ListenOptions, Listener, is_listening, peer_of};
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};

/// The message of a listener that cannot be.
fn refused(address: &Address) -> String {
    let error = Listener::bind(address, options(), |_| (), |_, _| ())
        .err()
        .unwrap();
    assert_eq!(error.code(), "LISTEN_FAILED");
    error.to_string()
}

#[test]
fn a_unix_socket_has_the_mode_that_was_asked_for() {
    let folder = Folder::new("mode");
    for mode in [0o600, 0o660, 0o666] {
        let mut door = Door::new(
            &Address::Unix(folder.socket()),
            ListenOptions { mode, ..options() },
        );
        let made = fs::metadata(folder.socket()).unwrap();
        assert!(made.file_type().is_socket());
        assert_eq!(made.permissions().mode() & 0o777, mode);
        UnixStream::connect(folder.socket())
            .unwrap()
            .write_all(&PREAMBLE)
            .unwrap();
        assert!(
            door.next()
                .peer
                .contains(&format!("process {}", std::process::id()))
        );
        door.listener.close();
        assert!(!folder.socket().exists());
    }
}

#[test]
fn a_unix_socket_goes_to_its_owner() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let folder = Folder::new("owner");
    let options = ListenOptions {
        uid: Some(12_345),
        gid: Some(54_321),
        mode: 0o660,
        ..options()
    };
    let _door = Door::new(&Address::Unix(folder.socket()), options);
    let made = fs::metadata(folder.socket()).unwrap();
    assert_eq!(
        (made.uid(), made.gid(), made.mode() & 0o777),
        (12_345, 54_321, 0o660)
    );
}

#[test]
fn what_a_killed_proxy_left_is_no_obstacle_but_a_living_one_is() {
    let folder = Folder::new("stale");
    drop(UnixListener::bind(folder.socket()).unwrap());
    assert!(folder.socket().exists());
    let address = Address::Unix(folder.socket());
    let mut door = Door::new(&address, options());
    UnixStream::connect(folder.socket())
        .unwrap()
        .write_all(&PREAMBLE)
        .unwrap();
    door.next();
    let message = refused(&address);
    assert!(
        message.contains("another program listens there"),
        "{message}"
    );
    // Nor is another's file taken away, neither before nor after.
    fs::remove_file(folder.socket()).unwrap();
    fs::write(folder.socket(), "a file").unwrap();
    let message = refused(&address);
    assert!(
        message.ends_with("address already in use (what is there is no socket)"),
        "{message}"
    );
    door.listener.close();
    assert_eq!(fs::read_to_string(folder.socket()).unwrap(), "a file");
}

#[test]
fn who_listens_there_does_not_hear_of_another_who_would() {
    let folder = Folder::new("probed");
    let listener = UnixListener::bind(folder.socket()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let message = refused(&Address::Unix(folder.socket()));
    assert!(
        message.contains("another program listens there"),
        "{message}"
    );
    let heard = listener.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(heard, Err(std::io::ErrorKind::WouldBlock));
}

#[test]
fn where_it_cannot_listen_is_named_with_a_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let tcp = |host: &str, port| Address::Tcp {
        host: host.to_owned(),
        port,
    };
    assert_eq!(
        refused(&tcp("127.0.0.1", port)),
        format!(
            "cannot listen on tcp:127.0.0.1:{port}: address already in use (another program listens there)"
        )
    );
    assert!(refused(&tcp("192.0.2.1", 0)).contains("this host has no such address"));
    assert!(refused(&Address::Unix("/nonexistent/x".into())).contains("make the folder first"));
    let long = Address::Unix(format!("/tmp/{}", "x".repeat(200)).into());
    assert!(refused(&long).contains("107 bytes"));
}

#[test]
fn ipv6_listens_for_ipv4_too() {
    let host = "::".to_owned();
    let door = Door::new(&Address::Tcp { host, port: 0 }, options());
    assert!(
        door.listener
            .address()
            .endpoint(true)
            .starts_with("tls:[::]:")
    );
    // Of IPv6 a /64 counts as one address.
    for (to, from, network) in [
        ("127.0.0.1", "tcp:127.0.0.1:", "127.0.0.1"),
        ("::1", "tcp:[::1]:", "::"),
    ] {
        TcpStream::connect((to, door.port()))
            .unwrap()
            .write_all(&PREAMBLE)
            .unwrap();
        let accepted = door.next();
        assert!(accepted.peer.starts_with(from), "{}", accepted.peer);
        assert_eq!(accepted.network, Some(network.parse().unwrap()));
    }
}

#[test]
fn a_socket_that_listens_already_is_taken_over() {
    let listening: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
    assert!(is_listening(listening.as_fd()));
    let options = ListenOptions {
        preamble: false,
        ..options()
    };
    let door = Door::inherit(listening, options);
    let stream = TcpStream::connect(("127.0.0.1", door.port())).unwrap();
    // Without a preamble it is given out at once.
    let accepted = door.next();
    assert!(accepted.preamble.is_none());
    assert_eq!(
        peer_of(accepted.socket.as_fd(), false),
        format!("tcp:{}", stream.local_addr().unwrap())
    );
    assert!(!is_listening(accepted.socket.as_fd()));
    // No program that is started gets it.
    let flags = rustix::io::fcntl_getfd(&accepted.socket).unwrap();
    assert!(
        flags.contains(rustix::io::FdFlags::CLOEXEC),
        "{}",
        accepted.socket.as_raw_fd()
    );

    let connected: OwnedFd = stream.into();
    let error = Listener::inherit(connected, options, |_| (), |_, _| ())
        .err()
        .unwrap();
    says(&error, "BAD_DESCRIPTOR", &["not a listening socket"]);
}

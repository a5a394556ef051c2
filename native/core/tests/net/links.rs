//! What goes over a link arrives, and its end, too; plain and encrypted.

use crate::certificates::{alone, pinning};
use crate::ends::{Door, Folder, LONG, PREAMBLE, SHORT, both, says};
use pagewire_core::frame::SessionFrame;
use pagewire_core::net::{Address, Link, accept, connect, connect_socket, stream_pair};
use rustix::pipe::pipe;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// The two ends of a link of each kind.
fn pairs() -> Vec<(&'static str, Link, Link)> {
    let (a, b) = (alone(), alone());
    let (source, destination) = both(
        "127.0.0.1",
        &pinning(&a, &[b.fingerprint()]),
        &pinning(&b, &[a.fingerprint()]),
    );
    let tcp = {
        let door = Door::tcp("127.0.0.1");
        let address = door.listener.address().clone();
        let link = connect(&address, &PREAMBLE, None, LONG).unwrap();
        (link, accept(door.next().socket, None, LONG).unwrap())
    };
    let plain = |one: OwnedFd, other: OwnedFd| {
        let both = |fd: OwnedFd| Link::plain(fd.try_clone().unwrap(), fd).unwrap();
        (both(one), both(other))
    };
    let (one, other) = stream_pair().unwrap();
    let unix = plain(one, other);
    let ((read_a, write_a), (read_b, write_b)) = (pipe().unwrap(), pipe().unwrap());
    let pipes = (
        Link::plain(read_a, write_b).unwrap(),
        Link::plain(read_b, write_a).unwrap(),
    );
    vec![
        ("tls", source, destination),
        ("tcp", tcp.0, tcp.1),
        ("unix", unix.0, unix.1),
        ("pipes", pipes.0, pipes.1),
    ]
}

/// The same bytes for the same number.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

fn write_all(link: &Link, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        let mut rest = piece;
        while !rest.is_empty() {
            match link.try_write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }
    while let Err(error) = link.try_flush() {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        thread::yield_now();
    }
}

fn read_exact(link: &Link, length: usize, piece: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        let end = length.min(at + piece);
        match link.try_read(&mut bytes[at..end]) {
            Ok(0) => panic!("it ended after {at} bytes"),
            Ok(n) => at += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    bytes
}

fn read_end(link: &Link) -> std::io::Result<usize> {
    loop {
        match link.try_read(&mut [0; 64]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            result => return result,
        }
    }
}

#[test]
fn bytes_arrive_as_they_were_sent_both_ways_at_once() {
    for (write, read) in [
        (1, 7),
        (1000, 1 << 20),
        (1 << 20, 5000),
        (65_537, 16_384),
        (16_385, 1),
    ] {
        let length = if write.min(read) < 100 {
            60_000
        } else {
            3_000_000
        };
        for (kind, a, b) in pairs() {
            let (there, back) = (content(1, length), content(2, length));
            thread::scope(|scope| {
                scope.spawn(|| write_all(&a, &there, write));
                scope.spawn(|| write_all(&b, &back, write));
                let got = scope.spawn(|| read_exact(&a, length, read));
                assert!(
                    read_exact(&b, length, read) == there,
                    "{kind} {write} {read}"
                );
                assert!(got.join().unwrap() == back, "{kind} {write} {read}");
            });
        }
    }
}

#[test]
fn an_end_is_seen_as_one_after_all_bytes() {
    for (kind, a, b) in pairs() {
        let bytes = content(3, 100_000);
        let reader = thread::scope(|scope| {
            let reader = scope.spawn(|| (read_exact(&b, bytes.len(), 4096), read_end(&b)));
            write_all(&a, &bytes, 10_000);
            while a.unsent_bytes().is_some_and(|unsent| unsent > 0) {
                thread::yield_now();
            }
            drop(a);
            reader.join().unwrap()
        });
        assert!(reader.0 == bytes, "{kind}");
        assert_eq!(reader.1.unwrap(), 0, "{kind}");
        // It stays so.
        assert_eq!(read_end(&b).unwrap(), 0, "{kind}");
    }
}

#[test]
fn a_shutdown_ends_every_wait_and_both_ends() {
    for (kind, a, b) in pairs() {
        thread::scope(|scope| {
            let waiting = scope.spawn(|| a.receive_frame(LONG).err().unwrap());
            // A writer that waits for room, too: nobody reads.
            let full =
                scope.spawn(
                    || {
                        while a.send_frame(SessionFrame::Ping, &[0; 60_000], LONG).is_ok() {}
                    },
                );
            thread::sleep(Duration::from_millis(100));
            a.shutdown();
            a.shutdown();
            says(&waiting.join().unwrap(), "CONNECTION_LOST", &[]);
            full.join().unwrap();
        });
        assert!(
            a.try_write(b"x").is_err() && a.try_read(&mut [0; 8]).is_err(),
            "{kind}"
        );
        // The pipes' other ends see it when the link goes.
        drop(a);
        let mut scrap = vec![0; 1 << 20];
        loop {
            match b.try_read(&mut scrap) {
                Ok(0) => break,
                Err(error) if error.kind() != ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
    }
}

#[test]
fn frames_travel_whole_and_in_time() {
    for (kind, a, b) in pairs() {
        for length in [0, 1, 1000, 65_536] {
            let payload = content(4, length);
            thread::scope(|scope| {
                scope.spawn(|| a.send_frame(SessionFrame::Welcome, &payload, LONG).unwrap());
                let (frame, got) = b.receive_frame(LONG).unwrap();
                assert!(frame == SessionFrame::Welcome && got == payload, "{kind}");
            });
        }
        let began = Instant::now();
        says(
            &b.receive_frame(SHORT).err().unwrap(),
            "TIMED_OUT",
            &["did not answer in time"],
        );
        assert!(began.elapsed() >= SHORT, "{kind}");
        a.send_preamble(&PREAMBLE, LONG).unwrap();
        assert_eq!(b.receive_preamble(LONG).unwrap(), PREAMBLE);
        write_all(&a, &[b'x'; 48], 48);
        says(
            &b.receive_frame(LONG).err().unwrap(),
            "PROTOCOL_ERROR",
            &["not a session's frame"],
        );
    }
}

#[test]
fn what_was_taken_is_not_more_than_what_was_asked_for() {
    // Someone who never reads: what is taken is bounded by the socket and one piece of ours.
    let (a, b) = (alone(), alone());
    let (link, _far) = both(
        "127.0.0.1",
        &pinning(&a, &[b.fingerprint()]),
        &pinning(&b, &[a.fingerprint()]),
    );
    link.set_unsent_limit(128 << 10);
    let bytes = vec![0; 1 << 20];
    let mut taken = 0;
    loop {
        match link.try_write(&bytes) {
            Ok(n) => {
                assert!(n <= 64 << 10);
                taken += n;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    assert_eq!(link.try_flush().unwrap_err().kind(), ErrorKind::WouldBlock);
    let unsent = link.unsent_bytes().unwrap();
    assert!(
        taken > 0 && unsent <= taken as u64 + 10_000,
        "{unsent} of {taken}"
    );
}

// ---------------------------------------------------------------- no connection

#[test]
fn who_is_not_there_is_named_with_a_remedy() {
    let port = TcpListener::bind("[::1]:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let host = |host: &str, port| Address::Tcp {
        host: host.to_owned(),
        port,
    };
    let try_link = |address: &Address| connect(address, &PREAMBLE, None, LONG).err().unwrap();
    assert_eq!(
        try_link(&host("::1", port)).to_string(),
        format!(
            "cannot connect to tcp:[::1]:{port}: connection refused (is the destination proxy running?)"
        )
    );
    let missing = Address::Unix(PathBuf::from("/nonexistent/x.sock"));
    assert_eq!(
        try_link(&missing).to_string(),
        "cannot connect to unix:/nonexistent/x.sock: no such file or directory (is the destination proxy running?)"
    );
    for (libvirt, remedy) in [(false, "-incoming"), (true, "libvirt daemon")] {
        let error = connect_socket(&missing, libvirt, LONG).err().unwrap();
        says(
            &error,
            "CONNECT_FAILED",
            &["unix:/nonexistent/x.sock", remedy],
        );
    }
    let error = try_link(&host("no-such-host.invalid", 1));
    says(
        &error,
        "CONNECT_FAILED",
        &[
            "tcp:no-such-host.invalid:1",
            "no-such-host.invalid cannot be resolved",
        ],
    );
    let long = Address::Unix(PathBuf::from(format!("/{}", "x".repeat(200))));
    says(&try_link(&long), "CONNECT_FAILED", &["xxx"]);
}

#[test]
fn a_stopped_program_behind_a_unix_socket_is_late() {
    let folder = Folder::new("late");
    let path = folder.socket();
    let listener = UnixListener::bind(&path).unwrap();
    // Nobody accepts, and the queue is full.
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let error = connect_socket(&Address::Unix(path), false, SHORT)
        .err()
        .unwrap();
    says(&error, "TIMED_OUT", &["did not answer in time", "stopped"]);
}

#[test]
fn a_qemu_is_reached_by_both_kinds_of_socket() {
    let folder = Folder::new("qemu");
    let path = folder.socket();
    let unix = UnixListener::bind(&path).unwrap();
    let mut there = UnixStream::from(connect_socket(&Address::Unix(path), false, LONG).unwrap());
    there.write_all(b"QEVM").unwrap();
    // As it was, for whoever gets the descriptor: blocking.
    assert!(
        !rustix::fs::fcntl_getfl(&there)
            .unwrap()
            .contains(rustix::fs::OFlags::NONBLOCK)
    );
    drop(unix.accept().unwrap());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    // Of a name's addresses, the first that answers.
    let host = "localhost".to_owned();
    connect_socket(&Address::Tcp { host, port }, false, LONG).unwrap();
    tcp.accept().unwrap();
}

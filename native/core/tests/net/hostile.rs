//! Strangers on a port of ours, and strangers in the place of our peer: refused in time, with bounded memory.

use crate::certificates::{alone, pinning};
use crate::ends::{Door, LONG, PREAMBLE, SHORT, options, relay, says};
use pagewire_core::frame::SessionFrame;
use pagewire_core::net::{Address, ListenOptions, NetError, Tls, accept, connect};
use rustix::net::{AddressFamily, SocketType, bind, socket};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// One end that lets in nobody who comes in these tests.
fn closed() -> Tls {
    pinning(&alone(), &[alone().fingerprint()])
}

/// What the accepting end makes of these bytes behind the preamble, and whether the stranger sees the end then.
fn after_preamble(bytes: &[u8], timeout: Duration) -> (NetError, Vec<u8>) {
    let door = Door::tcp("127.0.0.1");
    let mut stranger = door.stranger();
    stranger.write_all(&PREAMBLE).unwrap();
    stranger.write_all(bytes).unwrap();
    let error = accept(door.next().socket, Some(&closed()), timeout)
        .err()
        .unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = stranger.read_to_end(&mut answer);
    (error, answer)
}

#[test]
fn a_plain_client_at_a_tls_port_is_refused() {
    // The first frame of a source that was told tcp: HELLO.
    let (error, answer) = after_preamble(
        b"\xf3PWF\x10\0\0\0 and so on, for 48 bytes at the least",
        LONG,
    );
    says(
        &error,
        "PROTOCOL_ERROR",
        &["tls:127.0.0.1:", "does not speak TLS", "tcp:"],
    );
    // It is told in the terms of TLS, and in no others: an alert.
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
}

#[test]
fn garbage_is_refused() {
    let garbage: Vec<u8> = (0..100_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let cases: [&[u8]; 6] = [
        &garbage,
        &[0; 1000],
        &[0xff; 1000],
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        // A ClientHello that says that it has 16 MiB, and its first record.
        &[&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 20_000]].concat(),
        // A record longer than any.
        &[&[22, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat(),
    ];
    for garbage in cases {
        let (error, _) = after_preamble(garbage, Duration::from_secs(2));
        let code = error.code();
        assert!(matches!(code, "PROTOCOL_ERROR" | "TIMED_OUT"), "{error}");
    }
}

#[test]
fn a_handshake_without_end_is_ended() {
    // The handshake of a real source, cut off after some bytes of it; the stranger keeps the connection.
    let (door, far) = (
        Door::tcp("127.0.0.1"),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let port = far.local_addr().unwrap().port();
    let source = thread::spawn(move || {
        let host = "127.0.0.1".to_owned();
        connect(
            &Address::Tcp { host, port },
            &PREAMBLE,
            Some(&closed()),
            Duration::from_secs(2),
        )
    });
    let mut hello = [0; 200];
    far.accept().unwrap().0.read_exact(&mut hello).unwrap();
    for length in [32, 33, 37, 100, 199] {
        let mut stranger = door.stranger();
        stranger.write_all(&hello[..length]).unwrap();
        let began = Instant::now();
        let error = accept(door.next().socket, Some(&closed()), SHORT)
            .err()
            .unwrap();
        says(&error, "TIMED_OUT", &["tls:127.0.0.1:", "handshake"]);
        assert!(began.elapsed() >= SHORT);
        assert_eq!(stranger.read(&mut [0; 8]).unwrap(), 0);
    }
    says(
        &source.join().unwrap().err().unwrap(),
        "CONNECTION_LOST",
        &["tls:127.0.0.1:"],
    );
}

#[test]
fn a_handshake_drop_by_drop_is_ended_all_the_same() {
    let door = Door::tcp("127.0.0.1");
    let mut stranger = door.stranger();
    stranger.write_all(&PREAMBLE).unwrap();
    let drops = thread::spawn(move || {
        stranger
            .write_all(&[22, 3, 1, 0x20, 0, 1, 0, 0x1f, 0xfc])
            .unwrap();
        while stranger.write_all(&[3]).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let error = accept(door.next().socket, Some(&closed()), SHORT)
        .err()
        .unwrap();
    says(&error, "TIMED_OUT", &[]);
    drops.join().unwrap();
}

#[test]
fn a_destination_that_is_none_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let try_it = |timeout| {
        let host = "127.0.0.1".to_owned();
        connect(
            &Address::Tcp { host, port },
            &PREAMBLE,
            Some(&closed()),
            timeout,
        )
        .err()
        .unwrap()
    };
    // It says nothing.
    says(&try_it(SHORT), "TIMED_OUT", &["finish the TLS handshake"]);
    let (silent, _) = listener.accept().unwrap();
    drop(silent);
    // It speaks something else.
    let answer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n")
            .unwrap();
        stream.read_exact(&mut [0; 100]).unwrap();
        // It hangs up without a word.
        let (stream, _) = listener.accept().unwrap();
        drop(stream);
    });
    says(&try_it(LONG), "PROTOCOL_ERROR", &["does not speak TLS"]);
    says(&try_it(LONG), "CONNECTION_LOST", &["shaking hands"]);
    answer.join().unwrap();
}

#[test]
fn bytes_that_are_changed_on_the_way_end_the_connection() {
    let (a, b) = (alone(), alone());
    let (source, destination) = (
        pinning(&a, &[b.fingerprint()]),
        pinning(&b, &[a.fingerprint()]),
    );
    let door = Door::tcp("127.0.0.1");
    // The third TLS record that the source sends after the handshake comes with a bit changed.
    let (port, cut) = relay(door.port(), Some(3));
    let host = "127.0.0.1".to_owned();
    let accepting = thread::spawn(move || accept(door.next().socket, Some(&destination), LONG));
    let link = connect(&Address::Tcp { host, port }, &PREAMBLE, Some(&source), LONG).unwrap();
    let far = accepting.join().unwrap().unwrap();
    for i in 0..3 {
        link.send_frame(SessionFrame::Hello, &[i], LONG).unwrap();
    }
    let before: Vec<_> = (0..2).map(|_| far.receive_frame(LONG).unwrap().1).collect();
    assert_eq!(before, [[0], [1]]);
    let mut buffer = [0; 100];
    let error = loop {
        match far.try_read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            result => break result.unwrap_err(),
        }
    };
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    // The other end is told.
    let error = link.receive_frame(LONG).err().unwrap();
    says(&error, "PROTOCOL_ERROR", &["BadRecordMac"]);
    drop(cut);
}

#[test]
fn a_connection_that_is_cut_is_no_end_of_the_stream() {
    let (a, b) = (alone(), alone());
    let (source, destination) = (
        pinning(&a, &[b.fingerprint()]),
        pinning(&b, &[a.fingerprint()]),
    );
    let door = Door::tcp("127.0.0.1");
    let (port, cut) = relay(door.port(), None);
    let host = "127.0.0.1".to_owned();
    let accepting = thread::spawn(move || accept(door.next().socket, Some(&destination), LONG));
    let link = connect(&Address::Tcp { host, port }, &PREAMBLE, Some(&source), LONG).unwrap();
    let far = accepting.join().unwrap().unwrap();
    link.send_frame(SessionFrame::Hello, b"all of it", LONG)
        .unwrap();
    far.receive_frame(LONG).unwrap();
    // Whoever is between the two ends the TCP connection in good order.
    drop(cut);
    for end in [&link, &far] {
        let error = loop {
            match end.try_read(&mut [0; 100]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                result => break result.unwrap_err(),
            }
        };
        let kind = error.kind();
        assert!(
            matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
            "{kind:?}"
        );
    }
}

// ---------------------------------------------------------------- before the preamble

fn waiting(max_pending: usize, timeout: Duration) -> Door {
    let host = "127.0.0.1".to_owned();
    let options = ListenOptions {
        max_pending,
        timeout,
        ..options()
    };
    Door::new(&Address::Tcp { host, port: 0 }, options)
}

/// A connection from another address than 127.0.0.1.
fn from(source: &str, port: u16) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    rustix::net::connect(
        &socket,
        &SocketAddr::new("127.0.0.1".parse().unwrap(), port),
    )
    .unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

#[test]
fn what_does_not_begin_as_we_do_is_refused_at_its_first_wrong_byte() {
    let door = waiting(16, LONG);
    let mut wrong: Vec<Vec<u8>> = vec![b"G".to_vec(), vec![22, 3, 1], vec![0xF3, b'P', b'W', b'F']];
    // Another version, and bytes that must be zero.
    for at in [4, 6, 7, 24, 31] {
        let mut bytes = PREAMBLE;
        bytes[at] ^= 0x40;
        wrong.push(bytes.to_vec());
    }
    for bytes in wrong {
        let mut stranger = door.stranger();
        stranger.write_all(&bytes).unwrap();
        assert_eq!(stranger.read(&mut [0; 1]).unwrap_or(0), 0);
        assert!(
            door.refusal()
                .contains("does not begin as a pagewire connection")
        );
    }
    drop(door.stranger());
    assert!(door.refusal().contains("ended the connection"));
    // All the while it lets in who does.
    door.stranger().write_all(&PREAMBLE).unwrap();
    assert_eq!(door.next().preamble, Some(PREAMBLE));
}

#[test]
fn a_preamble_may_come_in_pieces_but_not_for_ever() {
    let door = waiting(16, Duration::from_secs(5));
    let mut slow = door.stranger();
    for byte in PREAMBLE {
        slow.write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    slow.write_all(b"more").unwrap();
    let mut rest = [0; 4];
    let accepted = door.next();
    assert_eq!(accepted.preamble, Some(PREAMBLE));
    TcpStream::from(accepted.socket)
        .read_exact(&mut rest)
        .unwrap();
    assert_eq!(&rest, b"more");

    let door = waiting(16, SHORT);
    let (mut silent, mut almost) = (door.stranger(), door.stranger());
    almost.write_all(&PREAMBLE[..31]).unwrap();
    for stranger in [&mut silent, &mut almost] {
        assert_eq!(stranger.read(&mut [0; 1]).unwrap(), 0);
        assert!(door.refusal().contains("in time"));
    }
}

#[test]
fn one_address_cannot_take_all_places() {
    let door = waiting(8, LONG);
    let is_closed = |stranger: &mut TcpStream| stranger.read(&mut [0; 1]).unwrap_or(0) == 0;
    let mut others: Vec<_> = (2..5)
        .flat_map(|i| (0..2).map(move |_| i))
        .map(|i| from(&format!("127.0.0.{i}"), door.port()))
        .collect();
    let mut held: Vec<_> = (0..2).map(|_| door.stranger()).collect();
    // All places are taken, and its address has its quarter: one more from there, and the oldest from there goes.
    held.push(door.stranger());
    assert!(is_closed(&mut held[0]));
    assert!(door.refusal().contains("when others came"));
    // One more from elsewhere, and the oldest of all goes.
    let mut last = from("127.0.0.9", door.port());
    assert!(is_closed(&mut others[0]));
    assert!(door.refusal().contains("when others came"));
    // The others are there as they were.
    for stranger in others[1..].iter_mut().chain(&mut held[1..]) {
        stranger.write_all(&PREAMBLE).unwrap();
        assert_eq!(door.next().preamble, Some(PREAMBLE));
    }
    last.write_all(&PREAMBLE).unwrap();
    door.next();
}

#[test]
fn whoever_says_what_it_wants_gets_in_through_any_crowd() {
    let door = waiting(8, LONG);
    let crowd: Vec<_> = (0..40)
        .map(|i| from(&format!("127.0.{i}.1"), door.port()))
        .collect();
    for i in 0..40 {
        let mut good = from(&format!("127.1.{i}.1"), door.port());
        good.write_all(&PREAMBLE).unwrap();
        // So many more that its place is needed, maybe before anybody has looked at what it said.
        let others: Vec<_> = (0..8)
            .map(|other| from(&format!("127.2.{i}.{}", 1 + other), door.port()))
            .collect();
        assert_eq!(door.next().preamble, Some(PREAMBLE));
        drop(others);
    }
    drop(crowd);
}

#[test]
fn a_thousand_connections_cost_no_more_than_their_places() {
    const PLACES: usize = 32;
    let door = waiting(PLACES, LONG);
    let mut open = Vec::new();
    for i in 0..1000 {
        open.push(from(
            &format!("127.0.{}.{}", i % 50, 1 + i % 7),
            door.port(),
        ));
        if open.len() == 100 {
            // All but those that have a place are closed.
            let until = Instant::now() + LONG;
            while held(door.port()) > PLACES {
                assert!(Instant::now() < until, "{} are held", held(door.port()));
                thread::sleep(Duration::from_millis(10));
            }
            open.clear();
        }
    }
    // Whoever comes then gets in.
    let mut good = door.stranger();
    good.write_all(&PREAMBLE).unwrap();
    assert_eq!(door.next().preamble, Some(PREAMBLE));
}

/// Connections to this port that stand and belong to a process at the accepting end.
fn held(port: u16) -> usize {
    /// ESTABLISHED
    const STANDS: &str = "01";
    let own = format!(":{port:04X}");
    std::fs::read_to_string("/proc/net/tcp")
        .unwrap()
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns[1].ends_with(&own) && columns[3] == STANDS && columns[9] != "0")
        .count()
}

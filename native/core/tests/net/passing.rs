//! Descriptors from one process of ours to another.

use crate::ends::{LONG, says};
use pagewire_core::net::{MAX_MESSAGE, Receiver, send_descriptor, socket_pair, stream_pair};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver as Inbox};

type Message = Option<(OwnedFd, Vec<u8>)>;

fn receiver() -> (OwnedFd, Receiver, Inbox<Message>) {
    let (ours, theirs) = socket_pair().unwrap();
    let (give, given) = mpsc::channel();
    let receiver = Receiver::new(theirs, move |message| give.send(message).unwrap()).unwrap();
    (ours, receiver, given)
}

#[test]
fn each_descriptor_arrives_with_its_own_message() {
    let (control, _receiver, given) = receiver();
    let mut ends = Vec::new();
    let messages: Vec<Vec<u8>> = [1, 100, MAX_MESSAGE]
        .iter()
        .map(|n| vec![*n as u8; *n])
        .collect();
    for message in &messages {
        let (mine, sent) = stream_pair().unwrap();
        send_descriptor(control.as_fd(), sent.as_fd(), message).unwrap();
        ends.push(UnixStream::from(mine));
    }
    for (mut mine, message) in ends.into_iter().zip(messages) {
        let (fd, got) = given.recv_timeout(LONG).unwrap().unwrap();
        assert!(got == message);
        let flags = rustix::io::fcntl_getfd(&fd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        UnixStream::from(fd).write_all(b"through it").unwrap();
        let mut text = String::new();
        // The sender's own copy is closed; the other went with the receiver's.
        mine.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through it");
    }
}

#[test]
fn the_receiver_hears_of_the_senders_end() {
    let (control, mut receiver, given) = receiver();
    drop(control);
    assert!(given.recv_timeout(LONG).unwrap().is_none());
    receiver.close();
}

#[test]
fn a_process_that_takes_nothing_holds_nobody() {
    let (control, _nobody_receives) = socket_pair().unwrap();
    let (_, fd) = stream_pair().unwrap();
    let error = loop {
        if let Err(error) = send_descriptor(control.as_fd(), fd.as_fd(), b"x") {
            break error;
        }
    };
    says(&error, "INTERNAL", &["hand a connection on"]);
    for wrong in [0, MAX_MESSAGE + 1] {
        let error = send_descriptor(control.as_fd(), fd.as_fd(), &vec![0; wrong])
            .err()
            .unwrap();
        says(&error, "BAD_DESCRIPTOR", &["1 to 65536 bytes"]);
    }
}

//! Conversations as two daemons have them, whole and mangled, cut in all ways.

use super::*;
use crate::delta::{self, Settings, Stopped};
use crate::qemu::{GuestRam, Writer, replay};
use proptest::prelude::*;

const PAGE: usize = 4096;
const PAGES: u64 = 32;

fn packet(kind: Kind, procedure: u32, serial: u32, status: Status, body: &[u8]) -> Vec<u8> {
    let header = Header {
        length: (HEADER_LEN + body.len()) as u32,
        version: 1,
        key: Key {
            program: program::REMOTE,
            procedure,
            serial,
        },
        kind,
        status,
    };
    [&header.to_bytes()[..], body].concat()
}

fn call(procedure: u32, serial: u32, body: &[u8]) -> Vec<u8> {
    packet(Kind::Call, procedure, serial, Status::Ok, body)
}

const TUNNEL: u32 = procedure::MIGRATE_PREPARE_TUNNEL3_PARAMS;
const FINISH: u32 = procedure::MIGRATE_FINISH3_PARAMS;

fn stream(serial: u32, status: Status, body: &[u8]) -> Vec<u8> {
    packet(Kind::Stream, TUNNEL, serial, status, body)
}

fn ping() -> Vec<u8> {
    let mut header = Header::PONG;
    header.key.procedure = keepalive::PING;
    header.to_bytes().to_vec()
}

/// A guest's stream in which every page comes twice, with little changed. QEMU's device states follow, and no return path.
fn guest(seed: u8) -> Vec<u8> {
    let mut w = Writer::new();
    w.header().configuration(b"pc-i440fx-7.2");
    w.ram_start(2, &[(b"pc.ram", PAGES * PAGE as u64)])
        .end_of_section()
        .footer(2);
    for pass in 0..2 {
        w.section_part(2);
        for number in 0..PAGES {
            let mut page: Vec<u8> = (0..PAGE)
                .map(|at| (at as u8).wrapping_mul(31) ^ seed ^ number as u8)
                .collect();
            page[100] = pass;
            w.page(b"pc.ram", number * PAGE as u64, &page);
        }
        w.end_of_section().footer(2);
    }
    w.section_end(2).end_of_section().footer(2);
    w.full_section(3, b"timer", 2, b"a device's state")
        .footer(3);
    w.end_of_stream(Some(b"{}"));
    w.take()
}

/// What a daemon sends for one migration.
fn migration(serial: u32, guest: &[u8], body: usize) -> Vec<u8> {
    let mut bytes = call(TUNNEL, serial, b"\0\0\0\0");
    for (number, piece) in guest.chunks(body).enumerate() {
        bytes.extend(stream(serial, Status::Continue, piece));
        if number % 7 == 3 {
            bytes.extend(ping());
        }
    }
    bytes.extend(stream(serial, Status::Ok, &[]));
    bytes.extend(call(FINISH, serial + 1, &[0; 16]));
    bytes
}

/// A conversation with two migrations, one after the other, and other calls and streams around them.
fn conversation(body: usize) -> Vec<u8> {
    let upload = 208;
    [
        call(procedure::AUTH_LIST, 0, &[]),
        call(
            procedure::CONNECT_OPEN,
            1,
            b"\0\0\0\x01\0\0\0\x0eqemu:///system\0\0\0\0\0\0",
        ),
        migration(2, &guest(1), body),
        call(upload, 4, &[7; 60]),
        packet(Kind::Stream, upload, 4, Status::Continue, &guest(2)),
        packet(Kind::StreamHole, upload, 4, Status::Continue, &[0; 12]),
        packet(Kind::Stream, upload, 4, Status::Ok, &[]),
        migration(5, &guest(3), body),
        call(procedure::CONNECT_CLOSE, 9, &[]),
    ]
    .concat()
}

/// Takes what comes in frames of this size, which packets do not go beyond.
const FRAME: usize = 100_000;

#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    /// Where the last frame begins.
    frame: usize,
    growing: Growing,
    cache: u64,
}

impl Out {
    /// What came has gone: nothing of it changes any more.
    fn seal(&mut self) {
        self.growing.end();
        self.frame = self.bytes.len();
    }
}

impl delta::Host for Out {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        self.growing.end();
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn guest(&mut self, guest: &GuestRam) -> Result<u64, Stopped> {
        self.cache = delta::full_cache(guest);
        Ok(self.cache)
    }
}

impl Host for Out {
    fn piece(&mut self, of: &Call, mut bytes: &[u8]) -> Result<(), Stopped> {
        while !bytes.is_empty() {
            let filled = self.bytes.len() - self.frame;
            self.bytes.resize(self.frame + FRAME.max(filled), 0);
            let room = &mut self.bytes[self.frame..];
            let (filled, taken) = self.growing.put(of, bytes, room, filled);
            self.bytes.truncate(self.frame + filled);
            bytes = &bytes[taken..];
            if taken == 0 || filled >= FRAME {
                self.seal();
            }
        }
        Ok(())
    }
}

const DELTA: Option<delta::Options> = Some(delta::Options {
    max_delta: usize::MAX,
});

/// The conversation behind a tunnel that gets it in these pieces, and pauses between them where `pauses`.
fn tunnelled<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    options: Option<delta::Options>,
    pauses: bool,
) -> (Vec<u8>, Tunnel) {
    let (mut tunnel, mut out) = (Tunnel::new(options), Out::default());
    for piece in pieces {
        tunnel.push(piece, &mut out).expect("packets");
        if pauses {
            tunnel.pause(&mut out).expect("room");
        }
    }
    assert_eq!(tunnel.finish(&mut out), Ok(None));
    (out.bytes, tunnel)
}

/// Packets with their bodies.
fn packets(mut bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let (mut packets, mut found) = (Packets::default(), Vec::<(Header, Vec<u8>)>::new());
    while let Some(part) = packets.next(&mut bytes).expect("packets") {
        match (part, found.last_mut()) {
            (Part::Header(header), _) => found.push((header, Vec::new())),
            (Part::Body(body), Some((_, whole))) => whole.extend_from_slice(body),
            (Part::Body(_), None) => panic!("a body without a header"),
        }
    }
    assert!(packets.at_border());
    found
}

/// All packets but those that carry a guest, and what stands in those, by their calls.
#[allow(clippy::type_complexity)]
fn apart(bytes: &[u8]) -> (Vec<(Header, Vec<u8>)>, Vec<(u32, Vec<u8>)>) {
    let (mut others, mut guests) = (Vec::new(), Vec::<(u32, Vec<u8>)>::new());
    for (header, body) in packets(bytes) {
        let is_guest = header.kind == Kind::Stream && header.key.procedure == TUNNEL;
        if !is_guest || header.status != Status::Continue {
            others.push((header, body));
            continue;
        }
        assert!(HEADER_LEN + body.len() <= FRAME);
        match guests.last_mut() {
            Some((serial, whole)) if *serial == header.key.serial => whole.extend(body),
            _ => guests.push((header.key.serial, body)),
        }
    }
    (others, guests)
}

#[test]
fn a_guest_gets_smaller_and_all_else_passes_as_it_is() {
    let input = conversation(5000);
    let (output, tunnel) = tunnelled(input.chunks(10_000), DELTA, false);
    assert!(
        output.len() < input.len() * 7 / 10,
        "{} of {}",
        output.len(),
        input.len()
    );
    let (before, after) = (apart(&input), apart(&output));
    assert_eq!(before.0, after.0);
    assert_eq!(after.1.len(), 2);
    for ((serial, before), (same, after)) in before.1.iter().zip(&after.1) {
        assert_eq!(serial, same);
        let digests = |stream: &[u8]| {
            let mut replayed = replay::RamImage::new(1 << 30);
            replayed.push(stream).expect("a stream that loads");
            replayed.digests()
        };
        assert!(after.len() < before.len() * 6 / 10);
        assert_eq!(digests(before), digests(after));
        assert!(after.ends_with(b"{}"));
    }
    let report = tunnel.report();
    assert_eq!((report.begun, report.complete, report.given_up), (2, 2, 0));
    assert!(
        tunnel
            .delta()
            .is_some_and(|counters| counters.total.delta > 0)
    );
}

#[test]
fn pages_get_no_copy_where_they_are_not_to() {
    for takes_in in [false, true] {
        let input = migration(2, &guest(1), 5000);
        let (mut tunnel, mut out) = (Tunnel::new(DELTA), Out::default());
        // Smaller than a page: none is there whole when the stream names the guest's RAM.
        for piece in input.chunks(1000) {
            tunnel.set(Settings {
                takes_in: Some(takes_in),
                ..Settings::default()
            });
            tunnel.push(piece, &mut out).expect("packets");
        }
        assert_eq!(tunnel.finish(&mut out), Ok(None));
        let counters = tunnel.delta().expect("a stream").total;
        assert_eq!(counters.delta > 0, takes_in, "{counters:?}");
        assert_eq!(
            apart(&input) == apart(&out.bytes),
            !takes_in,
            "without copies every page goes as it is"
        );
    }
}

#[test]
fn what_comes_out_does_not_depend_on_how_the_input_is_cut() {
    let input = conversation(3000);
    let (whole, _) = tunnelled(std::iter::once(&input[..]), DELTA, false);
    for size in [1, 27, 28, 29, 4096] {
        let (cut, _) = tunnelled(input.chunks(size), DELTA, false);
        assert!(cut == whole, "pieces of {size}");
        // Where it pauses, packets are cut elsewhere; what stands in them is the same.
        let (paused, _) = tunnelled(input.chunks(size.max(20)), DELTA, true);
        assert!(
            apart(&paused) == apart(&whole),
            "pieces of {size} with pauses"
        );
    }
    let (plain, tunnel) = tunnelled(input.chunks(999), None, true);
    assert!(plain == input, "without delta every byte is the same");
    assert_eq!(tunnel.report().complete, 2);
}

#[test]
fn nothing_waits_when_the_input_pauses_but_the_head_of_a_record() {
    let (mut tunnel, mut out) = (Tunnel::new(DELTA), Out::default());
    // Then every page goes as it is, as soon as its record says which page it is.
    tunnel.set(Settings {
        enabled: Some(false),
        ..Settings::default()
    });
    let input = conversation(8192);
    let head = 8 + 1 + b"pc.ram".len();
    let mut sent = 0;
    for piece in input.chunks(777) {
        tunnel.push(piece, &mut out).expect("packets");
        tunnel.pause(&mut out).expect("room");
        sent += piece.len();
        let (came, went) = (so_far(&input[..sent]), so_far(&out.bytes));
        assert_eq!(
            came.0, went.0,
            "packets that carry no guest, after {sent} bytes"
        );
        assert!(went.1 + head > came.1, "{} of {} bytes", went.1, came.1);
    }
}

#[test]
fn a_stream_of_which_nothing_is_changed_keeps_its_packets_where_each_goes_at_once() {
    for body in [999, 8192, 40_000, 64 << 10] {
        let input = migration(2, &guest(1), body);
        let (mut tunnel, mut out) = (Tunnel::new(DELTA), Out::default());
        tunnel.set(Settings {
            enabled: Some(false),
            ..Settings::default()
        });
        let (mut packets, mut rest) = (Packets::default(), &input[..]);
        while !rest.is_empty() {
            let before = rest;
            packets.next(&mut rest).expect("a packet");
            if packets.body_left() > 0 {
                packets.next(&mut rest).expect("its body");
            }
            let packet = &before[..before.len() - rest.len()];
            tunnel.push(packet, &mut out).expect("packets");
            tunnel.pause(&mut out).expect("room");
            out.seal();
        }
        assert!(out.bytes == input, "packets of {body} bytes");
    }
}

#[test]
fn pieces_that_go_together_are_one_packet() {
    let call = |serial| Call {
        key: Key {
            program: program::REMOTE,
            procedure: TUNNEL,
            serial,
        },
        version: 1,
    };
    let (one, other) = (call(2), call(3));
    let mut room = vec![0; 300 << 10];
    let mut growing = Growing::default();
    let put = |growing: &mut Growing, room: &mut [u8], of, piece: &[u8], filled| {
        let (upto, taken) = growing.put(of, piece, room, filled);
        assert_eq!(taken, piece.len());
        upto
    };
    let mut at = 0;
    for piece in [&[1; 5][..], &[2; 70_000]] {
        at = put(&mut growing, &mut room, &one, piece, at);
        assert_eq!(at_border(&room[..at]), Some(1), "whole at any time");
    }
    at = put(&mut growing, &mut room, &other, &[3], at);
    at = put(&mut growing, &mut room, &one, &[4], at);
    growing.end();
    at = put(&mut growing, &mut room, &one, &[5], at);
    let found = packets(&room[..at]);
    let lengths: Vec<_> = found
        .iter()
        .map(|(header, body)| (header.key.serial, body.len()))
        .collect();
    assert_eq!(lengths, [(2, 70_005), (3, 1), (2, 1), (2, 1)]);

    // A packet has a most, and a room an end: where nothing fits between, nothing is begun.
    let mut growing = Growing::default();
    let long = vec![6; 300 << 10];
    let (at, taken) = growing.put(&one, &long, &mut room, 0);
    assert_eq!((at, taken), (256 << 10, (256 << 10) - HEADER_LEN));
    let (at, rest) = growing.put(&one, &long[taken..], &mut room, at);
    assert_eq!(rest, (44 << 10) - HEADER_LEN);
    assert_eq!(at, 300 << 10);
    assert_eq!(
        growing.put(&one, &long[taken + rest..], &mut room, at),
        (at, 0)
    );
    let mut growing = Growing::default();
    assert_eq!(growing.put(&one, &[7], &mut room[..HEADER_LEN], 0), (0, 0));
    // Nor for a scrap, but for what is whole.
    let most = HEADER_LEN + 1023;
    assert_eq!(growing.put(&one, &long, &mut room[..most], 0), (0, 0));
    let (at, taken) = growing.put(&one, &long[..1023], &mut room[..most], 0);
    assert_eq!((at, taken), (most, 1023));
}

/// How many packets these bytes are, if they end with one.
fn at_border(mut bytes: &[u8]) -> Option<usize> {
    let (mut packets, mut found) = (Packets::default(), 0);
    while let Some(part) = packets.next(&mut bytes).expect("packets") {
        found += usize::from(matches!(part, Part::Header(_)));
    }
    packets.at_border().then_some(found)
}

/// How many packets that carry no guest there are, as far as their headers came, and bytes of all bodies.
fn so_far(bytes: &[u8]) -> (usize, usize) {
    let (mut packets, mut rest, mut found) = (Packets::default(), bytes, (0, 0));
    while let Ok(Some(part)) = packets.next(&mut rest) {
        match part {
            Part::Header(header) => {
                let carries = header.kind == Kind::Stream && header.key.procedure == TUNNEL;
                found.0 += usize::from(!carries || header.status != Status::Continue);
            }
            Part::Body(body) => found.1 += body.len(),
        }
    }
    found
}

#[test]
fn a_conversation_that_is_cut_off_says_where_and_loses_nothing() {
    let input = conversation(3000);
    let whole = migration(2, &guest(1), 3000).len();
    for end in (0..whole).step_by(397) {
        let (mut tunnel, mut out) = (Tunnel::new(DELTA), Out::default());
        tunnel.push(&input[..end], &mut out).expect("packets");
        let within = tunnel.finish(&mut out).expect("room");
        let (mut at, mut rest) = (Packets::default(), &input[..end]);
        while at.next(&mut rest).expect("packets").is_some() {}
        if !at.at_border() {
            assert_eq!(within, Some("a packet"), "{end}");
        }
        let (mut plain, mut same) = (Tunnel::new(None), Out::default());
        plain.push(&input[..end], &mut same).expect("packets");
        plain.finish(&mut same).expect("room");
        assert!(same.bytes == input[..end], "{end}");
    }
}

#[test]
fn lengths_and_types_that_cannot_be_are_refused_where_they_stand() {
    let good = conversation(3000);
    let bad = |word: usize, value: u32| {
        let mut packet = call(procedure::CONNECT_CLOSE, 1, &[1, 2, 3, 4]);
        packet[4 * word..4 * word + 4].copy_from_slice(&value.to_be_bytes());
        [&good[..], &packet].concat()
    };
    for (word, value, says) in [
        (0, 0, "a length of 0 bytes"),
        (0, 27, "a length of 27 bytes"),
        (0, MAX_PACKET + 1, "a length of 33554437 bytes"),
        (0, u32::MAX, "a length of 4294967295 bytes"),
        (4, 7, "the unknown type 7"),
        (6, 3, "the unknown status 3"),
    ] {
        let input = bad(word, value);
        for size in [1, 1000, input.len()] {
            let (mut tunnel, mut out) = (Tunnel::new(DELTA), Out::default());
            let error = input
                .chunks(size)
                .find_map(|piece| tunnel.push(piece, &mut out).err())
                .expect("refused");
            let text = error.to_string();
            assert!(
                text.contains(says) && text.contains(&format!("at byte {}", good.len())),
                "{text}"
            );
            let (mut gate, mut seen) = (Gate::new(Allow::All), Seen::default());
            let error = input
                .chunks(size)
                .find_map(|piece| gate.push(piece, &mut seen).err())
                .expect("refused");
            assert_eq!(error.to_string(), text);
            assert!(seen.passed == good);
        }
    }
}

#[test]
fn a_stream_that_the_destination_gives_up_is_only_copied() {
    let of_guest = guest(1);
    let key = Key {
        program: program::REMOTE,
        procedure: TUNNEL,
        serial: 2,
    };
    for at in [1, 5000, 100_000] {
        let input = migration(2, &of_guest, 4000);
        let (mut tunnel, mut out) = (Tunnel::new(DELTA), Out::default());
        tunnel.push(&input[..at], &mut out).expect("packets");
        tunnel.give_up(&[key], &mut out).expect("room");
        tunnel.push(&input[at..], &mut out).expect("packets");
        assert_eq!(tunnel.finish(&mut out), Ok(None));
        let (before, after) = (apart(&input), apart(&out.bytes));
        assert_eq!(before.0, after.0);
        assert!(after.1[0].1.ends_with(b"{}"));
    }
    // One that the source itself gives up.
    let mut input = migration(2, &of_guest, 4000);
    input.truncate(100_000);
    let whole = packets_whole(&input);
    input.truncate(whole);
    input.extend(stream(2, Status::Error, &[]));
    let (output, tunnel) = tunnelled(input.chunks(5000), DELTA, false);
    assert_eq!((tunnel.report().complete, tunnel.report().given_up), (0, 1));
    assert_eq!(apart(&input).0, apart(&output).0);
}

#[test]
fn nothing_of_a_guests_stream_gets_into_another_packet() {
    let of_guest = guest(1);
    let key = Key {
        program: program::REMOTE,
        procedure: TUNNEL,
        serial: 2,
    };
    // Up to the middle of a page's record, so that delta holds a part of it.
    for upto in [3 * PAGE, 3 * PAGE + 1000] {
        let before = stream(2, Status::Continue, &of_guest[..upto]);
        let other = call(208, 4, &[7; 60]);
        let (head, tail) = other.split_at(HEADER_LEN + 20);
        let (mut tunnel, mut out) = (Tunnel::new(DELTA), Out::default());
        for piece in [&before[..], head] {
            tunnel.push(piece, &mut out).expect("packets");
            tunnel.pause(&mut out).expect("room");
        }
        tunnel.give_up(&[key], &mut out).expect("room");
        let (mut cut, mut cut_out) = (Tunnel::new(DELTA), Out::default());
        cut.push(&[&before[..], head].concat(), &mut cut_out)
            .expect("packets");
        assert!(cut.finish(&mut cut_out).expect("room").is_some());
        assert!(cut_out.bytes.ends_with(head), "behind what was cut off");

        tunnel.push(tail, &mut out).expect("packets");
        tunnel
            .push(&stream(2, Status::Continue, &of_guest[upto..]), &mut out)
            .expect("packets");
        assert_eq!(tunnel.finish(&mut out), Ok(None));
        let (others, guests) = apart(&out.bytes);
        assert_eq!(others[0].1, [7; 60]);
        let all: Vec<u8> = guests.into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(all, of_guest, "a first pass has no differences");
    }
}

fn packets_whole(bytes: &[u8]) -> usize {
    let (mut packets, mut rest, mut whole) = (Packets::default(), bytes, 0);
    while let Ok(Some(_)) = packets.next(&mut rest) {
        if packets.at_border() {
            whole = bytes.len() - rest.len();
        }
    }
    whole
}

#[test]
fn many_streams_at_once_stay_apart() {
    let guests: Vec<_> = (0..10).map(guest).collect();
    let mut input = Vec::new();
    for (serial, _) in (0..).zip(&guests) {
        input.extend(call(TUNNEL, serial, &[]));
    }
    for at in (0..guests[0].len()).step_by(2500) {
        for (serial, guest) in (0..).zip(&guests) {
            let end = guest.len().min(at + 2500);
            input.extend(stream(serial, Status::Continue, &guest[at..end]));
        }
    }
    for (serial, _) in (0..).zip(&guests) {
        input.extend(stream(serial, Status::Ok, &[]));
    }
    let (output, tunnel) = tunnelled(input.chunks(8000), DELTA, false);
    // Of ten, eight are followed; the others pass as they are.
    assert_eq!(tunnel.report().complete, 8);
    for (serial, guest) in (0..).zip(&guests) {
        let of = |bytes: &[u8]| -> Vec<u8> {
            let of = packets(bytes)
                .into_iter()
                .filter(|(header, _)| header.kind == Kind::Stream && header.key.serial == serial);
            of.flat_map(|(_, body)| body).collect()
        };
        let after = of(&output);
        assert_eq!(after == *guest, serial >= 8);
        assert!(after.ends_with(b"{}"));
    }
}

#[derive(Default)]
struct Seen {
    passed: Vec<u8>,
    answers: Vec<Vec<u8>>,
}

impl Outlet for Seen {
    type Error = PacketError;

    fn pass(&mut self, bytes: &[u8]) -> Result<(), PacketError> {
        assert!(!bytes.is_empty());
        self.passed.extend_from_slice(bytes);
        Ok(())
    }

    fn answer(&mut self, packet: Vec<u8>) -> Result<(), PacketError> {
        self.answers.push(packet);
        Ok(())
    }
}

fn gated(input: &[u8], allow: Allow, size: usize) -> Seen {
    let (mut gate, mut seen) = (Gate::new(allow), Seen::default());
    for piece in input.chunks(size) {
        gate.push(piece, &mut seen).expect("packets");
    }
    assert!(gate.at_border());
    seen
}

#[test]
fn only_what_a_migration_needs_passes_and_the_rest_is_answered() {
    let destroy = 12;
    let stranger = {
        let mut packet = call(1, 70, &[9; 8]);
        packet[4..8].copy_from_slice(&0x2000_8087u32.to_be_bytes());
        packet
    };
    let with_fds = packet(Kind::CallWithFds, 1, 71, Status::Ok, &[0; 4]);
    let input = [
        call(procedure::AUTH_LIST, 0, &[]),
        call(destroy, 10, &[5; 40]),
        ping(),
        call(destroy, 11, &[]),
        stranger.clone(),
        with_fds,
        migration(2, &guest(1), 3000),
        packet(Kind::Stream, 208, 12, Status::Continue, &[0; 30]),
        packet(Kind::Reply, destroy, 13, Status::Ok, &[0; 4]),
        call(procedure::CONNECT_CLOSE, 14, &[]),
    ]
    .concat();
    let expected = [
        call(procedure::AUTH_LIST, 0, &[]),
        ping(),
        migration(2, &guest(1), 3000),
        call(procedure::CONNECT_CLOSE, 14, &[]),
    ]
    .concat();
    for size in [1, 13, 28, 100, input.len()] {
        let seen = gated(&input, Allow::default(), size);
        assert!(seen.passed == expected, "pieces of {size}");
        let answers: Vec<_> = seen
            .answers
            .iter()
            .flat_map(|answer| packets(answer))
            .collect();
        let serials: Vec<_> = answers
            .iter()
            .map(|(header, _)| header.key.serial)
            .collect();
        assert_eq!(serials, [10, 11, 70, 71, 12]);
        for (header, body) in answers {
            let kind = if header.key.serial == 12 {
                Kind::Stream
            } else {
                Kind::Reply
            };
            assert_eq!((header.kind, header.status), (kind, Status::Error));
            assert_eq!(body[..12], [0, 0, 0, 88, 0, 0, 0, 7, 0, 0, 0, 1]);
            assert_eq!(body.len() % 4, 0);
            assert!(String::from_utf8_lossy(&body).contains("--libvirt-allow"));
        }
        let more = gated(&input, Allow::Migration(vec![destroy]), size);
        assert_eq!(more.answers.len(), 3);
        assert!(gated(&input, Allow::All, size).passed == input);
    }
}

#[test]
fn a_migration_past_the_tunnel_is_told_how_to_go_through_it() {
    for number in [61, 108, 214, 303] {
        let seen = gated(&call(number, 7, &[1; 40]), Allow::default(), 100);
        let [answer] = &seen.answers[..] else {
            panic!("{} answers to {number}", seen.answers.len());
        };
        let said = String::from_utf8_lossy(answer);
        assert!(said.contains("--p2p --tunnelled"), "{number}: {said}");
        assert!(!said.contains("--libvirt-allow"), "{number}: {said}");
        assert!(seen.passed.is_empty());
    }
}

#[test]
fn the_guest_may_run_from_the_call_that_lets_it_to_its_reply() {
    let finish = call(FINISH, 7, &[1, 2, 3, 4, 0, 0, 0, 0]);
    let before = conversation(3000);
    let reply = packet(Kind::Reply, FINISH, 7, Status::Ok, &[3; 20]);
    let mut doubt = Doubt::default();
    for piece in before.chunks(1000) {
        doubt.sent(piece);
    }
    // Those of the conversation wait, too.
    for serial in [3, 6] {
        doubt.returned(&packet(Kind::Reply, FINISH, serial, Status::Ok, &[3; 20]));
    }
    let end = (before.len() + finish.len()) as u64;
    for byte in &finish {
        assert!(!doubt.in_doubt(u64::MAX));
        doubt.sent(std::slice::from_ref(byte));
    }
    assert!(doubt.in_doubt(end) && !doubt.in_doubt(end - 1));
    assert!(
        doubt
            .unanswered()
            .iter()
            .any(|header| header.key.serial == 7)
    );
    for byte in &reply {
        assert!(doubt.in_doubt(end));
        doubt.returned(std::slice::from_ref(byte));
    }
    assert!(!doubt.in_doubt(end) && doubt.at_border());
    assert!(
        doubt
            .unanswered()
            .iter()
            .all(|header| header.key.serial != 7)
    );
    // One that says that all is cancelled lets nothing run.
    doubt.sent(&call(FINISH, 8, &[0, 0, 0, 0, 0, 0, 0, 1]));
    assert!(!doubt.in_doubt(u64::MAX));
}

#[test]
fn what_is_not_answered_is_kept_within_bounds() {
    let mut doubt = Doubt::default();
    for serial in 0..1000 {
        doubt.sent(&call(FINISH, serial, &[0; 8]));
    }
    assert_eq!(doubt.unanswered().len(), 64);
    // The first are the ones that are known.
    for serial in 0..64 {
        assert!(doubt.in_doubt(u64::MAX));
        doubt.returned(&packet(Kind::Reply, FINISH, serial, Status::Ok, &[]));
    }
    assert!(!doubt.in_doubt(u64::MAX) && doubt.unanswered().is_empty());
    // Nor does a call wait for an answer that can no longer come.
    doubt.return_ended();
    doubt.sent(&call(FINISH, 1000, &[0; 8]));
    assert!(!doubt.in_doubt(u64::MAX));
}

#[test]
fn a_daemon_that_goes_leaves_its_last_call_in_doubt() {
    let mut doubt = Doubt::default();
    doubt.sent(&call(FINISH, 7, &[0; 8]));
    doubt.return_ended();
    assert!(doubt.in_doubt(u64::MAX) && doubt.needs_answers());
    assert_eq!(doubt.unfinished(), Some(Unfinished::LastCall));
}

#[test]
fn a_migration_lasts_from_its_preparation_to_its_last_answer() {
    let stream = |status| packet(Kind::Stream, TUNNEL, 3, status, &[]);
    let mut doubt = Doubt::default();
    assert!(doubt.unfinished().is_none() && !doubt.needs_answers() && !doubt.is_settled());
    doubt.sent(&call(TUNNEL, 3, &[0; 8]));
    assert_eq!(doubt.unfinished(), Some(Unfinished::Migration));
    doubt.returned(&packet(Kind::Reply, TUNNEL, 3, Status::Ok, &[]));
    assert!(doubt.unfinished().is_some() && doubt.unanswered().is_empty());
    doubt.sent(&stream(Status::Continue));
    assert_eq!(doubt.unanswered().len(), 1);
    doubt.returned(&stream(Status::Error));
    // What was on its way by then begins nothing anew.
    doubt.sent(&stream(Status::Continue));
    assert!(doubt.unfinished().is_some() && doubt.unanswered().is_empty());
    // The migration was cancelled, and that ends it too.
    doubt.sent(&call(FINISH, 4, &[0, 0, 0, 0, 0, 0, 0, 1]));
    assert!(!doubt.is_settled());
    doubt.returned(&packet(Kind::Reply, FINISH, 4, Status::Error, &[]));
    assert!(doubt.unfinished().is_none() && !doubt.needs_answers());
    // What is called behind it is of no weight, until another migration begins.
    let mut leaving = doubt.clone();
    leaving.sent(&call(361, 5, &[]));
    assert!(leaving.is_settled() && !leaving.needs_answers() && leaving.unanswered().len() == 1);
    leaving.sent(&call(TUNNEL, 6, &[0; 8]));
    assert!(!leaving.is_settled() && leaving.needs_answers());
    // Of two at once it is not known which has ended.
    for serial in [5, 6] {
        doubt.sent(&call(TUNNEL, serial, &[0; 8]));
    }
    doubt.returned(&packet(Kind::Reply, FINISH, 7, Status::Ok, &[]));
    doubt.returned(&packet(Kind::Reply, TUNNEL, 5, Status::Error, &[]));
    assert!(doubt.unfinished().is_none());
    // One that is not taken never begins.
    doubt.sent(&call(TUNNEL, 5, &[0; 8]));
    doubt.returned(&packet(Kind::Reply, TUNNEL, 5, Status::Error, &[]));
    assert!(doubt.unfinished().is_none());
}

#[test]
fn a_refused_migration_is_noted() {
    let mut doubt = Doubt::default();
    doubt.sent(&call(TUNNEL, 4, &[]));
    doubt.sent(&stream(4, Status::Continue, b"QEVM"));
    assert_eq!(doubt.unanswered().len(), 2);
    doubt.returned(&packet(Kind::Reply, TUNNEL, 4, Status::Error, &[0; 8]));
    let given_up = doubt.take_given_up();
    assert!(given_up.len() == 1 && given_up[0].serial == 4);
    doubt.returned(&stream(4, Status::Error, &[0; 8]));
    assert_eq!(doubt.take_given_up(), given_up);
    assert!(doubt.take_given_up().is_empty() && doubt.unanswered().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is changed in a conversation, it is refused or goes on; nothing panics, and nothing is lost or put in before
    /// the place where it is refused.
    #[test]
    fn mangled(at in 0usize..20_000, value: [u8; 4], size in 1usize..5000, drop in 0usize..40) {
        let mut input = conversation(3000);
        let at = at.min(input.len() - 50);
        input[at..at + 4].copy_from_slice(&value);
        input.drain(at + 4..at + 4 + drop);
        let (mut tunnel, mut out) = (Tunnel::new(DELTA), Out::default());
        let (mut plain, mut same) = (Tunnel::new(None), Out::default());
        let (mut gate, mut seen) = (Gate::new(Allow::All), Seen::default());
        let mut doubt = Doubt::default();
        for piece in input.chunks(size) {
            let (a, b) = (tunnel.push(piece, &mut out), plain.push(piece, &mut same));
            prop_assert_eq!(a.is_ok(), b.is_ok());
            prop_assert_eq!(a.is_ok(), gate.push(piece, &mut seen).is_ok());
            doubt.sent(piece);
            doubt.returned(piece);
            if a.is_err() {
                break;
            }
        }
        let _ = (tunnel.finish(&mut out), plain.finish(&mut same));
        prop_assert!(input.starts_with(&same.bytes));
        prop_assert!(input.starts_with(&seen.passed));
    }
}

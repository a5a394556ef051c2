//! Which of the two guests may run: the way there, the way back, and both together.

use pagewire_core::qemu::wire::{BITMAP_END, command, flag};
use pagewire_core::qemu::{Doubt, Phase, Reason, ReturnPath, Switchover, Writer};
use proptest::prelude::*;

const PAGE: usize = 4096;
const RAM: &[u8] = b"pc.ram";

/// What a [`Switchover`] says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Said {
    phase: Phase,
    critical_from: Option<u64>,
    return_path: bool,
    truncated: bool,
}

fn said(switchover: &Switchover) -> Said {
    Said {
        phase: switchover.phase(),
        critical_from: switchover.critical_from(),
        return_path: switchover.has_return_path(),
        truncated: switchover.is_truncated(),
    }
}

/// A stream, and what must be said from which byte on: after the byte at that offset has been pushed.
#[derive(Default)]
struct Script {
    stream: Writer,
    phases: Vec<(usize, Phase)>,
    critical_from: Option<usize>,
}

impl Script {
    fn precopy(return_path: bool, postcopy: bool) -> Self {
        let mut script = Self::default();
        let s = &mut script.stream;
        s.header().configuration(b"pc-q35-11.0").capabilities(&[]);
        if return_path {
            s.command(command::OPEN_RETURN_PATH, &[])
                .command(command::PING, &[0, 0, 0, 1]);
        }
        if postcopy {
            s.postcopy_advise(4096, 4096);
        }
        s.ram_start(2, &[(RAM, 8 * PAGE as u64), (b"vga", PAGE as u64)])
            .end_of_section()
            .footer(2);
        s.raw(&[0x02, 0, 0, 0]);
        script.next_byte_brings(Phase::Precopy);
        let s = &mut script.stream;
        s.u8(2)
            .page(RAM, 0, &[7; PAGE])
            .page(b"vga", 0, &[8; PAGE])
            .fill(RAM, PAGE as u64, 0)
            .xbzrle(RAM, 0, &[1, 1, 5])
            .be64(flag::MULTIFD_FLUSH)
            .be64(flag::HOOK)
            .end_of_section()
            .footer(2)
            .command(command::SWITCHOVER_START, &[]);
        script
    }

    /// The next byte brings this.
    fn next_byte_brings(&mut self, phase: Phase) {
        self.phases.push((self.stream.bytes.len(), phase));
    }

    fn discards(&mut self) -> &mut Self {
        let s = &mut self.stream;
        let mut payload = b"\0\x06pc.ram\0".to_vec();
        payload.extend([0; 8]);
        payload.extend((2 * PAGE as u64).to_be_bytes());
        s.raw(&[0x08, 0, 6, 0]);
        self.phases.push((s.bytes.len(), Phase::Discard));
        s.u8(payload.len() as u8).raw(&payload);
        s.command(command::POSTCOPY_RAM_DISCARD, b"\0\x03vga\0");
        s.command(command::PING, &[0, 0, 0, 2]);
        self
    }

    fn package(&mut self, content: &[u8]) -> &mut Self {
        let s = &mut self.stream;
        let length = (content.len() as u32).to_be_bytes();
        s.raw(&[0x08, 0, 7, 0, 4]).raw(&length[..3]);
        self.next_byte_brings(Phase::Package);
        self.stream.raw(&length[3..]);
        self.stream.raw(&content[..content.len() - 1]);
        self.next_byte_brings(Phase::Postcopy);
        self.stream.raw(&content[content.len() - 1..]);
        self
    }

    fn postcopy(&mut self, footers: bool) -> &mut Self {
        let s = &mut self.stream;
        s.command(command::PING, &[0, 0, 0, 4]);
        s.name_again();
        for part in [2, 2, 3] {
            s.u8(part).be32(2);
            if part == 2 {
                s.page(RAM, 2 * PAGE as u64, &[0x10; PAGE])
                    .page(RAM, 3 * PAGE as u64, &[0; PAGE])
                    .fill(b"vga", 0, 3)
                    .be64(flag::MULTIFD_FLUSH);
            }
            s.end_of_section();
            if footers {
                s.footer(2);
            }
        }
        self.next_byte_brings(Phase::Ended);
        self.stream.u8(0);
        self
    }

    /// Every byte by itself, every prefix at once, and what was expected all agree.
    fn check(&self) {
        let bytes = &self.stream.bytes;
        let mut bytewise = Switchover::new();
        let mut critical = None;
        let mut phase = Phase::Setup;
        for at in 0..bytes.len() {
            bytewise.push(&bytes[at..=at]);
            let mut whole = Switchover::new();
            whole.push(&bytes[..=at]);
            assert_eq!(said(&bytewise), said(&whole), "at {at}");
            assert_eq!(
                (bytewise.offset(), whole.offset()),
                (at as u64 + 1, at as u64 + 1)
            );
            if let Some((_, new)) = self.phases.iter().find(|(from, _)| *from == at) {
                phase = *new;
            }
            if self.critical_from == Some(at) {
                critical = Some(at as u64);
            }
            assert_eq!(bytewise.phase(), phase, "at {at}");
            assert_eq!(bytewise.critical_from(), critical, "at {at}");
        }
    }
}

/// A package: LISTEN, a device, PINGs and RUN.
fn package(pings: &[u32]) -> Vec<u8> {
    let mut s = Writer::new();
    s.command(command::POSTCOPY_LISTEN, &[])
        .full_section(3, b"timer", 2, &[1; 3000])
        // what a package ends with, where it does not
        .raw(b"\x08\0\x02\0\x04\0\0\0\x42\x08\0\x05\0\0")
        .footer(3);
    for ping in pings {
        s.command(command::PING, &ping.to_be_bytes());
    }
    s.command(command::POSTCOPY_RUN, &[]);
    s.bytes
}

/// The first device's state and all behind it.
fn devices(script: &mut Script) {
    script.critical_from = Some(script.stream.bytes.len());
    script.next_byte_brings(Phase::Devices);
    script
        .stream
        .full_section(0, b"timer", 2, &[8; 300])
        .footer(0)
        .end_of_stream(Some(b"{}"));
}

#[test]
fn precopy_is_critical_from_the_first_device_on() {
    for return_path in [false, true] {
        let mut script = Script::precopy(return_path, false);
        script
            .stream
            .section_end(2)
            .page(RAM, 0, &[9; PAGE])
            .end_of_section()
            .footer(2);
        devices(&mut script);
        script.check();
        let mut switchover = Switchover::new();
        switchover.push(&script.stream.bytes);
        assert_eq!(switchover.has_return_path(), return_path);
        assert!(!switchover.is_truncated());
    }
}

#[test]
fn a_snapshot_in_the_background_has_no_last_part() {
    let mut script = Script::precopy(false, false);
    devices(&mut script);
    script.check();
}

#[test]
fn a_package_that_waits_for_its_pong_is_critical_with_its_last_byte() {
    for footers in [true, false] {
        let mut script = Script::precopy(true, true);
        script.discards().package(&package(&[3, 0x42]));
        script.critical_from = Some(script.stream.bytes.len() - 1);
        script.postcopy(footers).check();
    }
}

#[test]
fn a_package_that_waits_for_nothing_is_not_critical() {
    for pings in [&[3][..], &[0x42, 3]] {
        let mut script = Script::precopy(true, true);
        script.discards().package(&package(pings)).postcopy(true);
        // Nothing after it is critical either, understood or not.
        script.stream.raw(&[0xff; 20]);
        script.check();
    }
}

#[test]
fn a_package_of_another_end_is_critical() {
    let without_ping = package(&[]);
    let behind_run = [package(&[3]), vec![0]].concat();
    for content in [
        &b"\0"[..],
        b"\x08\0\x05\0\0",
        &[9; 40],
        &without_ping,
        &behind_run,
    ] {
        let mut script = Script::precopy(true, true);
        script.discards().package(content);
        script.critical_from = Some(script.stream.bytes.len() - 1);
        script.postcopy(true).check();
    }
}

#[test]
fn a_package_may_come_without_discards_and_be_empty() {
    let mut script = Script::precopy(true, true);
    script.stream.raw(&[8, 0, 7, 0, 4, 0, 0, 0, 0]);
    let mut switchover = Switchover::new();
    switchover.push(&script.stream.bytes);
    assert_eq!(switchover.phase(), Phase::Package);
    switchover.push(&[8]);
    assert_eq!(switchover.phase(), Phase::Postcopy);
    assert!(switchover.critical_from().is_some());
}

#[test]
fn what_is_not_understood_is_critical_from_there_on() {
    let lost = |rest: &[u8], reason, behind: fn(&mut Script)| {
        let mut script = Script::precopy(true, true);
        behind(&mut script);
        let from = script.stream.bytes.len();
        script.stream.raw(rest);
        let mut switchover = Switchover::new();
        for byte in &script.stream.bytes {
            switchover.push(std::slice::from_ref(byte));
        }
        assert_eq!(switchover.phase(), Phase::Opaque(reason), "{rest:?}");
        assert_eq!(switchover.critical_from(), Some(from as u64), "{rest:?}");
        assert!(!switchover.is_truncated());
    };
    let foreign = b"\x01\0\0\0\x09\x05block\0\0\0\0\0\0\0\x01";
    lost(foreign, Reason::ForeignSection, |_| ());
    lost(&[9], Reason::SectionType, |_| ());
    lost(&[8, 0, 200, 0, 0], Reason::Command, |_| ());
    // Not in a package.
    lost(&[8, 0, 4, 0, 0], Reason::Command, |_| ());
    lost(&[8, 0, 5, 0, 0], Reason::Command, |_| ());
    lost(&[4], Reason::SectionType, |script| {
        script.discards();
    });
    lost(&[2, 0, 0, 0, 7], Reason::SectionId, |script| {
        script.discards();
    });
    lost(&[0x7e], Reason::SectionType, |script| {
        script.discards();
    });

    // virtio-mem's state comes before RAM.
    let mut early = Writer::new();
    early.header().configuration(b"pc-q35-11.0");
    early.command(command::OPEN_RETURN_PATH, &[]);
    let from = early.bytes.len() as u64;
    early.full_section(1, b"virtio-mem-device-early", 1, &[0; 20]);
    let mut switchover = Switchover::new();
    switchover.push(&early.bytes);
    assert_eq!(switchover.phase(), Phase::Opaque(Reason::DeviceState));
    assert_eq!(switchover.critical_from(), Some(from));
}

#[test]
fn what_is_not_understood_behind_the_package_changes_nothing() {
    for (pings, critical) in [(&[3, 0x42][..], true), (&[3], false)] {
        for rest in [
            &[9][..],
            &[4],
            &[8, 0, 6, 0, 0],
            &[2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0x40, 0],
            &[2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0x04],
        ] {
            let mut script = Script::precopy(true, true);
            script.discards().package(&package(pings));
            let from = script.stream.bytes.len() as u64 - 1;
            script.stream.raw(rest).raw(&[0; 300]);
            let mut switchover = Switchover::new();
            switchover.push(&script.stream.bytes);
            assert!(matches!(switchover.phase(), Phase::Opaque(_)), "{rest:?}");
            assert_eq!(switchover.critical_from(), critical.then_some(from));
        }
    }
}

#[test]
fn a_recovered_connection_has_no_header_and_is_never_critical() {
    let mut script = Script::default();
    script.stream.raw(&[8, 0, 10, 0]);
    script.next_byte_brings(Phase::Recovery);
    script.stream.u8(7).name(RAM);
    script
        .stream
        .command(command::RECV_BITMAP, b"\x03vga")
        .command(command::POSTCOPY_RESUME, &[])
        .raw(&[2, 0, 0, 0, 2])
        .raw(&[0xee; 50]);
    script.check();

    let mut script = Script::default();
    script.stream.raw(&[8, 0, 10, 0]);
    script.next_byte_brings(Phase::Recovery);
    script.stream.u8(7).name(RAM).raw(&[8, 0, 1, 0]);
    script.next_byte_brings(Phase::Opaque(Reason::Command));
    script.stream.u8(0).raw(&[3; 30]);
    script.check();
}

#[test]
fn other_connections_are_never_critical() {
    for (start, told_at) in [
        (&b"\x11\x22\x33\x44\0\0\0\x01"[..], 0),
        (b"\0\0\0\0\0\0\x10\x08", 0),
        (b"QEVX", 3),
        (b"\x16\x03\x02", 2),
        (b"\x08\0\x01\0\0", 4),
        (b"\x08\0\x0a\0\x01", 4),
    ] {
        let mut script = Script::default();
        script
            .phases
            .push((told_at, Phase::Opaque(Reason::NotQemu)));
        script.stream.raw(start).raw(&[5; 100]);
        script.check();
    }
}

#[test]
fn what_qemu_encrypts_is_critical_from_its_start() {
    let mut switchover = Switchover::new();
    switchover.push(&[0x16, 3]);
    assert_eq!(switchover.critical_from(), None);
    switchover.push(&[1]);
    assert_eq!(switchover.critical_from(), Some(0));
    assert_eq!(switchover.phase(), Phase::Opaque(Reason::NotQemu));
}

#[test]
fn a_stream_of_ram_alone_is_critical_at_its_end() {
    let mut script = Script::precopy(true, false);
    script.critical_from = Some(script.stream.bytes.len());
    script.next_byte_brings(Phase::Ended);
    script.stream.end_of_stream(Some(b"{}"));
    script.check();
}

/// One byte after the other and all at once: the messages, with the offsets behind them, and whether the rest is opaque.
fn returned(bytes: &[u8]) -> (Vec<String>, bool) {
    let tell = |path: &mut ReturnPath, bytes: &[u8], seen: &mut Vec<String>| {
        path.push(bytes, |offset, message| {
            seen.push(format!("{offset} {message:?}"))
        });
    };
    let (mut path, mut whole) = (ReturnPath::new(), Vec::new());
    tell(&mut path, bytes, &mut whole);
    let (mut bytewise, mut seen) = (ReturnPath::new(), Vec::new());
    for at in 0..bytes.len() {
        tell(&mut bytewise, &bytes[at..=at], &mut seen);
        assert_eq!(bytewise.offset(), at as u64 + 1);
        let (mut prefix, mut before) = (ReturnPath::new(), Vec::new());
        tell(&mut prefix, &bytes[..=at], &mut before);
        assert_eq!(seen, before);
        assert_eq!(prefix.is_opaque(), bytewise.is_opaque());
        assert_eq!(prefix.is_within_message(), bytewise.is_within_message());
    }
    assert_eq!(seen, whole);
    (whole, path.is_opaque())
}

/// A message of these parts.
fn message(kind: u16, data: &[&[u8]]) -> Vec<u8> {
    let data = data.concat();
    [
        &kind.to_be_bytes(),
        &(data.len() as u16).to_be_bytes(),
        &data[..],
    ]
    .concat()
}

#[test]
fn every_message_is_told_when_its_last_byte_has_passed() {
    let bitmap = |bytes: &[u8]| {
        [
            &message(5, &[b"\x06pc.ram"])[..],
            &(bytes.len() as u64).to_be_bytes(),
            bytes,
            &BITMAP_END.to_be_bytes(),
        ]
        .concat()
    };
    let start = 0x1000_u64.to_be_bytes();
    let messages = [
        (message(2, &[&[0, 0, 0, 1]]), "Pong(1)"),
        (message(7, &[]), "SwitchoverAck"),
        (message(2, &[&[0, 0, 0, 0x42]]), "Pong(66)"),
        (
            message(3, &[&start, &[0, 0, 0x10, 0], b"\x03vga"]),
            "RequestPages { block: Some([118, 103, 97]), start: 4096, length: 4096 }",
        ),
        (
            message(4, &[&start, &[0, 0, 0x20, 0]]),
            "RequestPages { block: None, start: 4096, length: 8192 }",
        ),
        (
            bitmap(&[0, 1, 0, 4, 0xff]),
            "Bitmap { block: [112, 99, 46, 114, 97, 109], bytes: 5 }",
        ),
        (
            bitmap(&[]),
            "Bitmap { block: [112, 99, 46, 114, 97, 109], bytes: 0 }",
        ),
        (message(6, &[&[0, 0, 0, 1]]), "ResumeAck(1)"),
        (message(9, &[&[1; 700]]), "Other { kind: 9, length: 700 }"),
        (message(8, &[]), "Other { kind: 8, length: 0 }"),
        (
            message(3, &[&start, &[0, 0, 0x10, 0], b"\xff", &[1; 255]]),
            &format!(
                "RequestPages {{ block: Some({:?}), start: 4096, length: 4096 }}",
                [1; 255]
            ),
        ),
        (message(1, &[&[0, 0, 0, 0]]), "Shut(0)"),
    ];
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for (message, told) in messages {
        bytes.extend(message);
        expected.push(format!("{} {told}", bytes.len()));
    }
    assert_eq!(returned(&bytes), (expected, false));
}

#[test]
fn what_is_no_message_ends_the_telling() {
    let start = 0x1000_u64.to_be_bytes();
    let no_end = [
        &message(5, &[b"\x03vga"])[..],
        &[0, 0, 0, 0, 0, 0, 0, 1, 9],
        &(BITMAP_END + 1).to_be_bytes(),
    ];
    for malformed in [
        message(0, &[]),
        message(1, &[&[0; 5]]),
        message(2, &[]),
        message(4, &[&[0; 11]]),
        message(6, &[&[0; 8]]),
        message(7, &[&[0]]),
        message(0x1603, &[]),
        message(3, &[&start, &[0; 4], b"\x04vga"]),
        message(3, &[&start, &[0; 4]]),
        message(5, &[b"\x04vga"]),
        message(5, &[&[0]]),
        no_end.concat(),
    ] {
        let pong = message(2, &[&[0, 0, 0, 1]]);
        let bytes = [&pong[..], &malformed, &message(1, &[&[0; 4]])].concat();
        assert_eq!(returned(&bytes), (vec!["8 Pong(1)".into()], true));
    }
}

#[test]
fn an_endless_bitmap_is_stepped_over_without_memory() {
    let mut path = ReturnPath::new();
    path.push(&message(5, &[b"\x03vga"]), |_, _| ());
    path.push(&[0xff; 8], |_, _| ());
    for _ in 0..100 {
        path.push(&[1; 1 << 16], |_, message| panic!("{message:?}"));
    }
    assert!(path.is_within_message() && !path.is_opaque());
}

const SHUT: &[u8] = &[0, 1, 0, 4, 0, 0, 0, 0];
const SHUT_FAILED: &[u8] = &[0, 1, 0, 4, 0, 0, 0, 1];
const PONG_1: &[u8] = &[0, 2, 0, 4, 0, 0, 0, 1];
const PONG_3: &[u8] = &[0, 2, 0, 4, 0, 0, 0, 3];
const PONG_42: &[u8] = &[0, 2, 0, 4, 0, 0, 0, 0x42];

#[test]
fn precopy_is_in_doubt_from_the_first_device_until_shut() {
    for shut in [SHUT, SHUT_FAILED] {
        let mut script = Script::precopy(true, false);
        script.stream.section_end(2).end_of_section().footer(2);
        devices(&mut script);
        let from = script.critical_from.expect("devices") as u64;
        let mut doubt = Doubt::default();
        doubt.sent(&script.stream.bytes);
        doubt.returned(PONG_1);
        assert!(!doubt.in_doubt(from));
        assert!(doubt.in_doubt(from + 1) && !doubt.switchover().is_postcopy());
        doubt.returned(&shut[..7]);
        assert!(doubt.in_doubt(u64::MAX));
        doubt.returned(&shut[7..]);
        assert!(!doubt.in_doubt(u64::MAX));
    }
}

#[test]
fn precopy_without_a_return_path_is_never_in_doubt() {
    let mut script = Script::precopy(false, false);
    devices(&mut script);
    let mut doubt = Doubt::default();
    doubt.sent(&script.stream.bytes);
    assert!(doubt.switchover().critical_from().is_some());
    assert!(!doubt.in_doubt(u64::MAX));
}

#[test]
fn postcopy_is_in_doubt_from_the_end_of_its_package_until_its_pong() {
    let mut script = Script::precopy(true, true);
    script.discards().package(&package(&[3, 0x42]));
    let package_end = script.stream.bytes.len() as u64;
    script.postcopy(true);
    for answer in [PONG_42, SHUT_FAILED] {
        let mut doubt = Doubt::default();
        doubt.returned(PONG_1);
        doubt.sent(&script.stream.bytes);
        assert!(!doubt.in_doubt(package_end - 1));
        assert!(doubt.in_doubt(package_end));
        // Requests may come before: devices are loaded.
        doubt.returned(&[0, 4, 0, 12, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 0]);
        assert!(doubt.in_doubt(package_end));
        doubt.returned(answer);
        assert!(!doubt.in_doubt(u64::MAX));
        doubt.returned(SHUT);
        assert!(!doubt.in_doubt(u64::MAX));
    }

    let mut script = Script::precopy(true, true);
    script.discards().package(&package(&[3])).postcopy(true);
    let mut doubt = Doubt::default();
    doubt.sent(&script.stream.bytes);
    assert!(!doubt.in_doubt(u64::MAX));
}

#[test]
fn what_is_not_understood_is_in_doubt_if_there_are_answers() {
    // Lost before it could be known whether a return path is opened.
    let mut stream = Writer::new();
    stream
        .header()
        .configuration(b"pc")
        .subsection(b"configuration/new", 1, &[0; 50]);
    let mut doubt = Doubt::default();
    doubt.sent(&stream.bytes);
    assert!(!doubt.in_doubt(u64::MAX));
    doubt.returned(PONG_1);
    assert!(doubt.in_doubt(u64::MAX));
    doubt.returned(SHUT);
    assert!(!doubt.in_doubt(u64::MAX));
}

#[test]
fn what_comes_back_malformed_answers_nothing() {
    let mut script = Script::precopy(true, false);
    devices(&mut script);
    let mut doubt = Doubt::default();
    doubt.sent(&script.stream.bytes);
    doubt.returned(&[0, 0, 0, 0]);
    doubt.returned(SHUT);
    assert!(doubt.return_path().is_opaque());
    assert!(doubt.in_doubt(u64::MAX));
}

#[test]
fn a_destination_that_is_gone_answers_too() {
    let mut script = Script::precopy(true, false);
    devices(&mut script);
    let mut doubt = Doubt::default();
    doubt.sent(&script.stream.bytes);
    assert!(doubt.in_doubt(u64::MAX));
    doubt.return_ended();
    assert!(!doubt.in_doubt(u64::MAX));
}

#[test]
fn a_destination_that_has_all_and_not_the_guest_has_failed() {
    let failure = |return_path: bool, answers: &[&[u8]]| {
        let mut script = Script::precopy(return_path, false);
        devices(&mut script);
        let mut doubt = Doubt::default();
        doubt.sent(&script.stream.bytes);
        for answer in answers {
            doubt.returned(answer);
        }
        doubt.return_ended();
        doubt.failure()
    };
    assert_eq!(failure(true, &[PONG_1, SHUT]), None);
    let said = failure(true, &[PONG_1, SHUT_FAILED]).expect("it said so");
    assert!(said.contains("SHUT 1") && said.contains("stays"), "{said}");
    let gone = failure(true, &[PONG_1]).expect("it said nothing");
    assert!(gone.contains("without saying"), "{gone}");
    // Nothing is known without a return path, nor of one that is not understood.
    assert_eq!(failure(false, &[]), None);
    assert_eq!(failure(true, &[&[0; 4]]), None);

    let mut script = Script::precopy(true, true);
    script
        .discards()
        .package(&package(&[3, 0x42]))
        .postcopy(true);
    let mut doubt = Doubt::default();
    doubt.sent(&script.stream.bytes);
    doubt.returned(&[PONG_3, PONG_42, SHUT_FAILED].concat());
    let said = doubt.failure().expect("it said so");
    assert!(!said.contains("stays"), "the guest runs there: {said}");
}

#[test]
fn what_a_source_that_is_gone_does_not_hear_tells_how_it_ended() {
    let mut script = Script::precopy(true, false);
    devices(&mut script);
    for (shut, has_failed) in [(SHUT, false), (SHUT_FAILED, true)] {
        let mut doubt = Doubt::default();
        doubt.sent(&script.stream.bytes);
        doubt.returned(&shut[..3]);
        doubt.unheard(&shut[3..]);
        assert!(doubt.in_doubt(u64::MAX), "it is no answer");
        doubt.return_ended();
        assert_eq!(doubt.failure().is_some(), has_failed);
    }
}

#[test]
fn a_package_that_waits_for_nothing_is_in_transit_until_it_is_loaded() {
    for (answer, arrives) in [(PONG_3, true), (SHUT_FAILED, true), (PONG_1, false)] {
        let mut script = Script::precopy(true, true);
        script.discards().package(&package(&[3]));
        let (before, last) = script.stream.bytes.split_at(script.stream.bytes.len() - 1);
        let mut doubt = Doubt::default();
        doubt.sent(before);
        assert!(!doubt.must_hold(u64::MAX) && !doubt.switchover().is_postcopy());
        doubt.sent(last);
        assert!(doubt.guest_in_transit() && !doubt.in_doubt(u64::MAX));
        assert!(doubt.must_hold(u64::MAX) && doubt.switchover().is_postcopy());
        doubt.returned(answer);
        assert_eq!(doubt.guest_in_transit(), !arrives);
    }
    let mut script = Script::precopy(true, true);
    script.discards().package(&package(&[3, 0x42]));
    let mut doubt = Doubt::default();
    doubt.sent(&script.stream.bytes);
    assert!(!doubt.guest_in_transit() && doubt.in_doubt(u64::MAX));
    doubt.returned(&[PONG_3, PONG_42].concat());
    assert!(!doubt.guest_in_transit() && !doubt.in_doubt(u64::MAX));
}

/// Scripts of all kinds.
fn scripts() -> Vec<Vec<u8>> {
    let mut scripts = Vec::new();
    for return_path in [false, true] {
        let mut script = Script::precopy(return_path, false);
        devices(&mut script);
        scripts.push(script.stream.bytes);
    }
    for pings in [&[3, 0x42][..], &[3], &[]] {
        let mut script = Script::precopy(true, true);
        script
            .discards()
            .package(&package(pings))
            .postcopy(pings.len() > 1);
        scripts.push(script.stream.bytes);
    }
    let mut recovery = Writer::new();
    recovery
        .command(command::RECV_BITMAP, b"\x03vga")
        .command(command::POSTCOPY_RESUME, &[])
        .raw(&[2; 99]);
    scripts.push(recovery.bytes);
    scripts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Damaged in a few places, and cut anywhere.
    #[test]
    fn cuts_do_not_matter(
        which in 0..6_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let mut bytes = scripts().swap_remove(which);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut pieces = Switchover::new();
        let mut from = 0;
        for to in cuts {
            pieces.push(&bytes[from..to]);
            from = to;
            let mut whole = Switchover::new();
            whole.push(&bytes[..to]);
            prop_assert_eq!(said(&pieces), said(&whole));
            prop_assert_eq!(pieces.package_ping(), whole.package_ping());
            prop_assert_eq!(pieces.offset(), to as u64);
        }
    }

    /// Anything at all, cut anywhere.
    #[test]
    fn cuts_do_not_matter_on_the_way_back(
        messages in prop::collection::vec((0..9_u16, prop::collection::vec(any::<u8>(), 0..30)), 0..8),
        fit in any::<bool>(),
    ) {
        let bytes: Vec<u8> = messages
            .iter()
            .flat_map(|(kind, data)| {
                let length = match kind {
                    1 | 2 | 6 if fit => 4,
                    4 if fit => 12,
                    7 if fit => 0,
                    _ => data.len(),
                };
                let mut data = data.clone();
                data.resize(length, 0);
                message(*kind, &[&data])
            })
            .collect();
        returned(&bytes);
    }
}

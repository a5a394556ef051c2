//! What is said of a migration is the same however its bytes are cut, is said once and for good, and is nothing while
//! the reader understands it as RAM.
//!
//! Input: a byte that says how to cut, then the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_core::qemu::{Parsed, Phase, Reader, Switchover};

fuzz_target!(|input: &[u8]| {
    let Some((&cut, stream)) = input.split_first() else {
        return;
    };
    let mut pieces = Switchover::new();
    let mut critical_from = None;
    for piece in stream.chunks(usize::from(cut) + 1) {
        pieces.push(piece);
        if critical_from.is_some() {
            assert_eq!(pieces.critical_from(), critical_from, "for good");
        }
        critical_from = pieces.critical_from();
        assert!(critical_from.is_none_or(|from| from < pieces.offset()));
    }
    let mut whole = Switchover::new();
    whole.push(stream);
    assert_eq!(said(&pieces), said(&whole));

    let (mut reader, mut at) = (Reader::new(), 0);
    while let Parsed::Element(_, length) = reader.next(&stream[at..]) {
        at += length;
    }
    if reader.reason().is_none() {
        assert!(matches!(whole.phase(), Phase::Setup | Phase::Precopy));
        assert_eq!(critical_from, None);
    } else if let Some(from) = critical_from {
        // At the end mark, it is the mark itself.
        assert!(from == 0 || from + 1 >= at as u64);
    }
});

fn said(switchover: &Switchover) -> String {
    format!(
        "{:?} {:?} {:?} {} {} {}",
        switchover.phase(),
        switchover.critical_from(),
        switchover.package_ping(),
        switchover.has_return_path(),
        switchover.is_truncated(),
        switchover.offset()
    )
}

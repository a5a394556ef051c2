//! The messages on the way back are those that a parser of whole input finds, however they are cut.
//!
//! Input: a byte that says how to cut, then the messages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_core::qemu::wire::BITMAP_END;
use pagewire_core::qemu::{Message, ReturnPath};

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let mut path = ReturnPath::new();
    let mut told = Vec::new();
    for piece in bytes.chunks(usize::from(cut) + 1) {
        path.push(piece, |offset, message| {
            told.push((offset, format!("{message:?}")))
        });
    }
    assert_eq!(path.offset(), bytes.len() as u64);
    let mut at = 0;
    let mut expected = Vec::new();
    while let Some((message, length)) = message(&bytes[at..]) {
        at += length;
        expected.push((at as u64, format!("{message:?}")));
    }
    assert_eq!(told, expected);
});

/// The message at the start, and its length.
fn message(bytes: &[u8]) -> Option<(Message<'_>, usize)> {
    let be = |range: std::ops::Range<usize>| -> Option<u64> {
        let bytes = bytes.get(range)?;
        Some(
            bytes
                .iter()
                .fold(0, |value, byte| value << 8 | u64::from(*byte)),
        )
    };
    let kind = be(0..2)? as u16;
    let length = be(2..4)? as u16;
    let mut end = 4 + usize::from(length);
    let data = bytes.get(4..end)?;
    let name = |at: usize| -> Option<&[u8]> {
        let (length, name) = data.get(at..)?.split_first()?;
        (!name.is_empty() && name.len() == usize::from(*length)).then_some(name)
    };
    let message = match (kind, length) {
        (0 | 0x100.., _) => return None,
        (1, 4) => Message::Shut(be(4..8)? as u32),
        (2, 4) => Message::Pong(be(4..8)? as u32),
        (3, _) | (4, 12) => Message::RequestPages {
            block: if kind == 3 { Some(name(12)?) } else { None },
            start: be(4..12)?,
            length: be(12..16)? as u32,
        },
        (5, _) => {
            let (block, count) = (name(0)?, be(end..end + 8)?);
            let bitmap_end = usize::try_from(count).ok()?.checked_add(end + 8)?;
            end = bitmap_end.checked_add(8)?;
            if be(bitmap_end..end)? != BITMAP_END {
                return None;
            }
            Message::Bitmap {
                block,
                bytes: count,
            }
        }
        (6, 4) => Message::ResumeAck(be(4..8)? as u32),
        (7, 0) => Message::SwitchoverAck,
        (1..=7, _) => return None,
        _ => Message::Other { kind, length },
    };
    Some((message, end))
}

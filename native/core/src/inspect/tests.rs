use super::*;
use crate::qemu::{Writer, wire};
use proptest::prelude::*;

const PAGE: u64 = 4096;

fn random(seed: u32) -> [u8; 4096] {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    std::array::from_fn(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
}

/// A small guest's stream: a page with small changes, one unchanged, one all new, a zero page that becomes another.
fn stream() -> Vec<u8> {
    let mut changed = random(1);
    changed[100] ^= 1;
    let mut word = [0; 4096];
    word[8] = 1;
    let mut s = Writer::new();
    s.header().configuration(b"pc-q35-10.0");
    s.subsection(b"configuration/uuid", 1, &[7; 16]);
    s.command(wire::command::PING, &[0, 0, 0, 1]);
    s.ram_start(2, &[(b"pc.ram", 6 * PAGE), (b"vga", 2 * PAGE)]);
    s.end_of_section().footer(2).section_part(2);
    s.page(b"pc.ram", 0, &random(1))
        .page(b"pc.ram", PAGE, &random(2))
        .fill(b"pc.ram", 2 * PAGE, 0)
        .fill(b"pc.ram", 3 * PAGE, 9)
        .page(b"vga", PAGE, &random(1))
        .compress_page(b"vga", PAGE, b"opaque");
    s.end_of_section().footer(2).section_part(2);
    s.page(b"pc.ram", 0, &changed)
        .page(b"pc.ram", PAGE, &random(2))
        .page(b"pc.ram", 2 * PAGE, &word)
        .page(b"vga", PAGE, &random(3));
    s.end_of_section().footer(2);
    s.command(wire::command::SWITCHOVER_START, &[]);
    s.section_end(2);
    // The byte that was changed goes back.
    s.xbzrle(b"pc.ram", 0, &[100, 1, random(1)[100]])
        .page(b"pc.ram", 0, &random(1))
        .page(b"pc.ram", PAGE, &random(4));
    s.end_of_section().footer(2);
    s.full_section(5, b"timer", 2, &[9; 300])
        .end_of_stream(Some(b"{}"));
    s.bytes
}

fn inspect(pieces: &[&[u8]]) -> Inspector {
    let mut inspector = Inspector::new(1 << 20);
    for piece in pieces {
        inspector.feed(piece);
    }
    inspector
}

/// All that there is to know, to be compared.
fn told(inspector: &Inspector) -> String {
    let pages = inspector.pages().map(|pages| {
        (
            (pages.total, &pages.blocks, &pages.passes),
            (&pages.deltas, pages.without_base, pages.resent()),
            (pages.contents.equal(), pages.contents.looked_at()),
        )
    });
    format!(
        "{:?}",
        (
            inspector.outline(),
            pages,
            (inspector.bytes(), inspector.understood()),
            (inspector.reason(), inspector.place()),
            inspector.device_state(),
        )
    )
}

#[test]
fn it_tells_what_is_in_a_stream() {
    let bytes = stream();
    let inspector = inspect(&[&bytes]);
    let outline = inspector.outline();
    assert_eq!(outline.machine, b"pc-q35-10.0");
    assert_eq!((outline.uuid, outline.footers), (Some([7; 16]), true));
    assert_eq!(bytes[outline.configuration_end as usize], 0x08);

    let commands: Vec<u16> = outline.commands.iter().map(|c| c.code).collect();
    assert_eq!((commands, outline.command_count), (vec![2, 11], 2));
    let sections = &outline.sections;
    let kinds: Vec<(SectionKind, u64)> = sections.iter().map(|s| (s.kind, s.pages)).collect();
    assert_eq!(
        kinds,
        [
            (SectionKind::Start, 0),
            (SectionKind::Part, 6),
            (SectionKind::Part, 4),
            (SectionKind::End, 3),
        ]
    );
    for section in sections {
        let first = bytes[section.offset as usize];
        assert_eq!(first, section.kind as u8 + 1);
        let footer = &bytes[(section.offset + section.bytes) as usize - 5..][..5];
        assert_eq!(footer, [0x7e, 0, 0, 0, 2]);
    }

    let pages = inspector.pages().expect("pages");
    let total = pages.total;
    assert_eq!((total.raw, total.zero, total.fill), (9, 1, 1));
    assert_eq!((total.xbzrle, total.compressed, total.pages()), (1, 1, 13));
    let blocks: Vec<u64> = pages.blocks.iter().map(Tally::pages).collect();
    assert_eq!(blocks, [10, 3]);
    let passes: Vec<u64> = pages.passes.iter().map(|pass| pass.tally.pages()).collect();
    assert_eq!(
        passes,
        [5, 1, 4, 1, 2],
        "a page twice in a row begins a pass too"
    );

    let resent = pages.resent().expect("counted");
    assert_eq!((resent.sent, resent.more_than_once), (5, 4));
    assert_eq!((resent.records, resent.most), (8, 4));
    // Twice unchanged, one byte, one word on zeros; one all new; one without a base behind a page that QEMU packed.
    assert_eq!(pages.deltas.counts[..2], [2, 2]);
    assert_eq!((pages.deltas.too_large, pages.without_base), (1, 1));
    assert_eq!((pages.contents.equal(), pages.contents.looked_at()), (1, 7));

    assert_eq!(inspector.reason(), Some(Reason::DeviceState));
    let devices = inspector.device_state().expect("all of them");
    assert_eq!(devices, &bytes[inspector.understood() as usize..]);
    assert_eq!(devices[0], 0x04);
    assert_eq!(inspector.into_sample().bytes(), bytes.len() as u64);
}

#[test]
fn one_byte_at_a_time_it_sees_the_same() {
    let bytes = stream();
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(told(&inspect(&single)), told(&inspect(&[&bytes])));
}

#[test]
fn a_difference_that_does_not_fit_ends_it_where_it_stands() {
    let mut bytes = stream();
    let delta = [1, 0, 3, 100, 1, random(1)[100]];
    let at = bytes
        .windows(delta.len())
        .position(|window| window == delta)
        .expect("the record");
    bytes[at + 3] = 0xff;
    bytes[at + 4] = 0x7f;
    let inspector = inspect(&[&bytes]);
    assert_eq!(inspector.reason(), Some(Reason::Delta));
    // The word, and the block's name, which follows another block.
    assert_eq!(inspector.understood(), at as u64 - 8 - 7);
}

#[test]
fn a_guest_that_is_only_said_to_be_large_takes_no_memory() {
    let mut s = Writer::new();
    s.header().configuration(b"pc-q35-10.0");
    s.ram_start(2, &[(b"pc.ram", 1 << 62), (b"vga", PAGE)]);
    s.fill(b"vga", 0, 0)
        .page(b"pc.ram", (1 << 62) - PAGE, &random(1))
        .page(b"pc.ram", (1 << 62) - PAGE, &random(2));
    let inspector = inspect(&[&s.bytes]);
    let pages = inspector.pages().expect("pages");
    assert_eq!((pages.total.pages(), pages.resent()), (3, None));
    assert_eq!(pages.deltas.compared(), 0);
    assert_eq!(inspector.reason(), None);
}

#[test]
fn sections_and_commands_beyond_the_bound_are_counted() {
    let mut s = Writer::new();
    s.header().configuration(b"pc-q35-10.0");
    s.ram_start(2, &[(b"pc.ram", PAGE)]).end_of_section();
    for _ in 0..MAX_SECTIONS + 100 {
        s.section_part(2).fill(b"pc.ram", 0, 0).end_of_section();
        s.command(wire::command::PING, &[0; 4]);
    }
    let inspector = inspect(&[&s.bytes]);
    let outline = inspector.outline();
    assert_eq!(outline.sections.len(), MAX_SECTIONS);
    let last = outline.sections.last().expect("sections");
    assert_eq!((last.count, last.pages), (102, 102));
    assert_eq!(outline.command_count, MAX_SECTIONS as u64 + 100);
    assert_eq!(outline.commands.len(), MAX_COMMANDS);
    assert_eq!(inspector.pages().expect("pages").passes.len(), MAX_PASSES);
}

proptest! {
    #[test]
    fn how_the_stream_is_cut_does_not_matter(cuts in proptest::collection::vec(1usize..9000, 0..20)) {
        let bytes = stream();
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(rest);
        prop_assert_eq!(told(&inspect(&pieces)), told(&inspect(&[&bytes])));
    }

    #[test]
    fn a_damaged_stream_is_no_harm(at in 0usize..60_000, byte in any::<u8>(), piece in 1usize..20_000, length in 0usize..60_000) {
        let mut bytes = stream();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(length);
        let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
        let inspector = inspect(&pieces);
        prop_assert!(inspector.understood() <= inspector.bytes());
        prop_assert_eq!(told(&inspector), told(&inspect(&[&bytes])));
    }
}

//! What becomes of single records, and what must not wait.

use super::guest::{BLOCKS, Change, Collect, Ending, Model, Op, PAGE, cache_bytes, filter, replay};
use pagewire_core::delta::{Filter, Host, Options, Settings, Stopped, StreamEnd, full_cache};
use pagewire_core::qemu::wire::{command, flag};
use pagewire_core::qemu::{Element, GuestRam, Parsed, Place, Reader, Reason, Writer};

const ALL: u64 = 33;
const RAM: &[u8] = BLOCKS[0].0;
const VGA: &[u8] = BLOCKS[2].0;

/// In the records of the first part.
fn begun() -> Writer {
    let mut s = Writer::new();
    s.header().configuration(b"pc");
    s.ram_start(1, &BLOCKS.map(|(name, pages)| (name, pages * PAGE as u64)));
    s.end_of_section().footer(1).section_part(1);
    s
}

fn page(seed: u8) -> Vec<u8> {
    (0..PAGE)
        .map(|at| (at as u8).wrapping_mul(seed).wrapping_add((at >> 8) as u8))
        .collect()
}

/// The page records of a stream: kind, block, address, whether named.
fn page_records(stream: &[u8]) -> Vec<(char, u32, u64, bool)> {
    let (mut reader, mut at, mut records) = (Reader::new(), 0, Vec::new());
    while let Parsed::Element(element, length) = reader.next(&stream[at..]) {
        at += length;
        let (kind, at) = match element {
            Element::Page { at, .. } => ('p', at),
            Element::Fill { at, .. } => ('f', at),
            Element::Xbzrle { at, .. } => ('x', at),
            Element::CompressPage { at, .. } => ('z', at),
            _ => continue,
        };
        records.push((kind, at.block, at.address / PAGE as u64, at.named));
    }
    records
}

fn run(stream: &Writer) -> (Vec<u8>, Filter) {
    let (out, _, filter) = filter(&stream.bytes, Options::default(), cache_bytes(ALL));
    assert_eq!(replay(&stream.bytes), replay(&out));
    (out, filter)
}

#[test]
fn unchanged_is_left_out_and_changed_is_a_difference() {
    let mut s = begun();
    let mut changed = page(3);
    changed[100] ^= 1;
    s.page(RAM, 0, &page(3))
        .page(RAM, 0, &page(3))
        .page(RAM, 0, &changed)
        .page(RAM, 0, &changed);
    s.page(RAM, 0, &page(7))
        .end_of_section()
        .footer(1)
        .section_end(1)
        .end_of_section();
    let (out, filter) = run(&s);
    assert_eq!(
        page_records(&out),
        [('p', 0, 0, true), ('x', 0, 0, false), ('p', 0, 0, false)]
    );
    let total = filter.counters().total;
    assert_eq!(
        (total.raw, total.delta, total.skipped, total.delta_payload),
        (2, 1, 2, 3)
    );
    assert_eq!(s.bytes.len() - out.len(), 2 * (8 + PAGE) + PAGE - 3 - 3);
    assert_eq!(filter.counters().cache.hits, 4);
}

#[test]
fn fill_pages_always_go_and_are_bases() {
    let mut s = begun();
    let mut changed = vec![7; PAGE];
    changed[4095] = 8;
    s.fill(RAM, 0, 7)
        .fill(RAM, 0, 7)
        .page(RAM, 0, &[7; PAGE])
        .page(RAM, 0, &changed)
        .fill(RAM, 0, 0);
    s.page(RAM, 0, &changed).end_of_section();
    let (out, filter) = run(&s);
    let kinds: String = page_records(&out).iter().map(|record| record.0).collect();
    // The last one differs from a zero page all over.
    assert_eq!(kinds, "ffxfp");
    let total = filter.counters().total;
    assert_eq!(
        (total.fill, total.skipped, total.delta, total.raw),
        (3, 1, 1, 1)
    );
}

#[test]
fn a_difference_must_pay() {
    let mut s = begun();
    let mut changed = page(3);
    changed[1000..1600]
        .iter_mut()
        .for_each(|byte| *byte ^= 0xff);
    s.page(RAM, 0, &page(3))
        .page(RAM, 0, &changed)
        .page(RAM, 0, &page(3))
        .end_of_section();
    for (max_delta, kinds) in [(usize::MAX, "pxx"), (604, "pxx"), (603, "ppp"), (0, "ppp")] {
        let (out, _, _) = filter(&s.bytes, Options { max_delta }, cache_bytes(ALL));
        assert_eq!(
            page_records(&out)
                .iter()
                .map(|record| record.0)
                .collect::<String>(),
            kinds
        );
        assert_eq!(replay(&s.bytes), replay(&out));
    }
    // One byte in two, so that the encoding would be larger than the page.
    let mut s = begun();
    let changed: Vec<u8> = page(3).iter().map(|byte| byte ^ 0x55).collect();
    s.page(RAM, 0, &page(3))
        .page(RAM, 0, &changed)
        .end_of_section();
    assert_eq!(run(&s).0, s.bytes);
}

#[test]
fn qemus_own_differences_are_followed() {
    let mut s = begun();
    let mut changed = page(3);
    changed[9] = 99;
    s.page(RAM, 0, &page(3))
        .xbzrle(RAM, 0, &[9, 1, 99])
        .page(RAM, 0, &changed);
    changed[9] = 98;
    s.page(RAM, 0, &changed)
        .fill(VGA, 0, 1)
        .xbzrle(VGA, 0, &[0, 1, 2]);
    let mut vga = vec![1; PAGE];
    vga[0] = 2;
    s.page(VGA, 0, &vga).end_of_section();
    let (out, filter) = run(&s);
    assert_eq!(
        page_records(&out)
            .iter()
            .map(|record| record.0)
            .collect::<String>(),
        "pxxfx"
    );
    assert_eq!(filter.counters().total.skipped, 2);
    assert_eq!(filter.counters().total.xbzrle_in, 2);
}

#[test]
fn compressed_pages_are_not_followed() {
    let mut zlib = vec![0; 2 * PAGE];
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let length = compressor.zlib_compress(&page(5), &mut zlib).unwrap();
    let mut s = begun();
    s.page(RAM, 0, &page(5))
        .compress_page(RAM, 0, &zlib[..length])
        .page(RAM, 0, &page(5))
        .end_of_section();
    let (out, filter) = run(&s);
    assert_eq!(out, s.bytes);
    assert_eq!(filter.counters().total.compressed_in, 1);
}

#[test]
fn a_record_after_one_left_out_names_its_block() {
    let mut s = begun();
    s.page(RAM, 0, &page(1)).page(VGA, 0, &page(2));
    // Unchanged in RAM, then a new page of it with CONTINUE; then unchanged in VGA, then fill with CONTINUE.
    s.page(RAM, 0, &page(1))
        .page(RAM, 4096, &page(3))
        .page(VGA, 0, &page(2))
        .fill(VGA, 4096, 1);
    let mut changed = page(1);
    changed[1] ^= 1;
    // Unchanged, then a difference.
    s.page(RAM, 4096, &page(3))
        .page(RAM, 0, &changed)
        .end_of_section();
    let (out, _) = run(&s);
    let expected = [
        ('p', 0, 0, true),
        ('p', 2, 0, true),
        ('p', 0, 1, true),
        ('f', 2, 1, true),
        ('x', 0, 0, true),
    ];
    assert_eq!(page_records(&out), expected);
}

#[test]
fn no_name_where_continue_still_does() {
    let mut s = begun();
    s.page(RAM, 0, &page(1))
        .page(VGA, 0, &page(2))
        .page(RAM, 0, &page(1))
        .page(VGA, 0, &page(2));
    s.page(VGA, 4096, &page(3)).end_of_section();
    let (out, _) = run(&s);
    assert_eq!(
        page_records(&out),
        [('p', 0, 0, true), ('p', 2, 0, true), ('p', 2, 1, false)]
    );
}

#[test]
fn the_last_block_is_the_inputs_where_copying_begins() {
    // The last page before the end of parsing is left out, and of another block than the one before.
    let mut s = begun();
    s.page(VGA, 0, &page(1))
        .page(RAM, 8192, &page(2))
        .page(VGA, 0, &page(1));
    for (what, tail) in [
        ("flush", Writer::new().be64(flag::MULTIFD_FLUSH).take()),
        ("hook", Writer::new().be64(flag::HOOK).take()),
        ("unknown", Writer::new().be64(0x400).take()),
        (
            "the section's end",
            Writer::new()
                .end_of_section()
                .footer(1)
                .command(command::PACKAGED, &[0; 4])
                .take(),
        ),
        (
            "no footer",
            Writer::new().end_of_section().section_part(1).take(),
        ),
    ] {
        let mut stream = s.clone();
        stream.raw(&tail);
        let (out, filter) = run(&stream);
        let records = page_records(&out);
        assert_eq!(records[..2], [('p', 2, 0, true), ('p', 0, 2, true)]);
        assert_eq!(records[2..], [('x', 2, 0, true)], "{what}");
        assert!(out.ends_with(&tail));
        assert_eq!(filter.counters().total.skipped, 1);
    }
    // Not where the blocks are the same.
    let mut s = begun();
    s.page(VGA, 0, &page(1))
        .page(VGA, 0, &page(1))
        .end_of_section();
    assert_eq!(page_records(&run(&s).0).len(), 1);
}

#[test]
fn a_record_cut_short_belongs_to_its_block() {
    let mut s = begun();
    s.page(VGA, 0, &page(1))
        .page(RAM, 8192, &page(2))
        .page(VGA, 0, &page(1));
    let start = s.bytes.len();
    s.page(VGA, 4096, &page(7));
    let (out, end, _) = filter(
        &s.bytes[..start + 500],
        Options::default(),
        cache_bytes(ALL),
    );
    assert_eq!(page_records(&out).last(), Some(&('x', 2, 0, true)));
    assert_eq!(out[out.len() - 500..], s.bytes[start..start + 500]);
    let (element, end_at) = (start as u64, start as u64 + 500);
    assert_eq!(
        end,
        StreamEnd::Truncated {
            within: Place::Records,
            element,
            end: end_at
        }
    );
}

#[test]
fn where_parsing_ended_is_told() {
    for (tail, reason) in [
        (
            Writer::new().be64(flag::MULTIFD_FLUSH).take(),
            Reason::PagesElsewhere,
        ),
        (Writer::new().fill(b"rom", 0, 0).take(), Reason::Block),
        (
            Writer::new().end_of_section().u8(4).take(),
            Reason::DeviceState,
        ),
        (Writer::new().xbzrle(RAM, 0, &[0, 0]).take(), Reason::Delta),
    ] {
        let mut s = begun();
        s.page(RAM, 0, &page(1));
        s.raw(&tail);
        let (out, end, filter) = filter(&s.bytes, Options::default(), cache_bytes(ALL));
        assert_eq!(out, s.bytes);
        assert_eq!(end, StreamEnd::Complete);
        assert!(filter.is_verbatim());
        let verbatim = filter.counters().verbatim.unwrap();
        let at = s.bytes.len() - tail.len() + if reason == Reason::DeviceState { 8 } else { 0 };
        assert_eq!((verbatim.reason, verbatim.offset), (reason, at as u64));
    }
}

#[test]
fn ends() {
    let at_end = |bytes: &[u8]| filter(bytes, Options::default(), cache_bytes(ALL)).1;
    assert_eq!(at_end(b""), StreamEnd::NotQemu);
    assert_eq!(at_end(b"QEVM\0\0\0"), StreamEnd::NotQemu);
    assert_eq!(at_end(b"hello, world"), StreamEnd::NotQemu);
    let truncated = |within, element, end| StreamEnd::Truncated {
        within,
        element,
        end,
    };
    assert_eq!(
        at_end(b"QEVM\0\0\0\x03"),
        truncated(Place::Configuration, 8, 8)
    );
    let mut s = begun();
    s.end_of_section();
    let length = s.bytes.len() as u64;
    assert_eq!(
        at_end(&s.bytes),
        truncated(Place::BetweenSections, length, length)
    );
    assert_eq!(
        at_end(&s.bytes[..s.bytes.len() - 3]),
        truncated(Place::Records, length - 8, length - 3)
    );
    assert_eq!(at_end(&s.footer(1).u8(0).bytes), StreamEnd::Complete);
}

#[test]
fn switched_off_pages_go_as_they_are_and_are_no_bases() {
    let mut s = begun();
    s.page(RAM, 0, &page(1)).page(RAM, 4096, &page(2));
    let first = s.bytes.len();
    s.page(RAM, 0, &page(3));
    let second = s.bytes.len();
    s.page(RAM, 0, &page(3))
        .page(RAM, 4096, &page(2))
        .end_of_section();
    let (mut filter, mut host) = (
        Filter::new(Options::default()),
        Collect::new(cache_bytes(ALL)),
    );
    filter.push(&s.bytes[..first], &mut host).unwrap();
    let enabled = |on| Settings {
        enabled: Some(on),
        ..Settings::default()
    };
    filter.set(enabled(false));
    filter.push(&s.bytes[first..second], &mut host).unwrap();
    filter.set(enabled(true));
    filter.push(&s.bytes[second..], &mut host).unwrap();
    assert_eq!(replay(&s.bytes), replay(&host.out));
    assert_eq!(page_records(&host.out).len(), 4);
    assert_eq!(filter.counters().total.skipped, 1);
}

#[test]
fn pages_that_are_not_taken_in_go_as_they_are_and_the_others_stay() {
    let mut s = begun();
    s.page(RAM, 0, &page(1)).fill(RAM, 4096, 0);
    let first = s.bytes.len();
    s.page(RAM, 4096, &page(2)).page(RAM, 8192, &page(3));
    let second = s.bytes.len();
    s.page(RAM, 0, &page(1))
        .page(RAM, 4096, &page(2))
        .page(RAM, 8192, &page(3))
        .end_of_section();
    let (mut filter, mut host) = (
        Filter::new(Options::default()),
        Collect::new(cache_bytes(ALL)),
    );
    filter.push(&s.bytes[..first], &mut host).unwrap();
    let takes_in = |on| Settings {
        takes_in: Some(on),
        ..Settings::default()
    };
    filter.set(takes_in(false));
    filter.push(&s.bytes[first..second], &mut host).unwrap();
    filter.set(takes_in(true));
    filter.push(&s.bytes[second..], &mut host).unwrap();
    assert_eq!(replay(&s.bytes), replay(&host.out));
    assert_eq!(filter.counters().total.raw, 5);
    assert_eq!(filter.counters().total.skipped, 1);
}

#[test]
fn without_memory_everything_is_copied() {
    let model = Model {
        footers: true,
        machine: true,
        ops: vec![Op::Sweep, Op::Page(3, Change::Bytes(1), 1), Op::Sweep],
        ending: Ending::DeviceState,
    };
    let stream = model.stream();
    assert_eq!(filter(&stream, Options::default(), 0).0, stream);
}

#[test]
fn the_guest_is_told_before_its_pages() {
    let s = begun();
    let (mut filter, mut host) = (
        Filter::new(Options::default()),
        Collect::new(cache_bytes(ALL)),
    );
    filter.push(&s.bytes, &mut host).unwrap();
    let guest = &host.guests[0];
    assert_eq!(
        (guest.pages(), guest.page_size, guest.total_bytes),
        (ALL, 4096, ALL * 4096)
    );
    assert_eq!(&*guest.machine, b"pc");
    assert_eq!(guest.blocks.len(), BLOCKS.len());
    assert_eq!(full_cache(guest), cache_bytes(ALL));
}

#[test]
fn passes() {
    let model = Model {
        footers: true,
        machine: true,
        ops: vec![
            Op::Sweep,
            Op::Section(None),
            Op::Page(3, Change::Bytes(4), 1),
            Op::Fill(9, 1),
            Op::Sweep,
        ],
        ending: Ending::DeviceState,
    };
    let stream = model.stream();
    let (_, _, filter) = filter(&stream, Options::default(), cache_bytes(ALL));
    let counters = filter.counters();
    let by_pass: Vec<_> = counters.passes.iter().map(|pass| pass.tally).collect();
    assert_eq!(
        by_pass
            .iter()
            .map(|tally| tally.pages())
            .collect::<Vec<_>>(),
        [ALL, 2, ALL]
    );
    assert_eq!(
        (
            by_pass[0].raw,
            by_pass[1].delta,
            by_pass[1].fill,
            by_pass[2].skipped
        ),
        (ALL, 1, 1, ALL)
    );
    assert_eq!(
        by_pass.iter().map(|tally| tally.bytes_in).sum::<u64>(),
        counters.total.bytes_in
    );
    assert_eq!(
        by_pass.iter().map(|tally| tally.bytes_out).sum::<u64>(),
        counters.total.bytes_out
    );
    assert!(counters.passes[0].start <= counters.passes[1].start);
    assert!(!counters.passes_merged);
    // More of them than are kept.
    let mut s = begun();
    for _ in 0..300 {
        s.fill(RAM, 0, 1);
    }
    let counters = run(&s).1.counters().clone();
    assert_eq!((counters.passes.len(), counters.passes_merged), (256, true));
    assert_eq!(counters.passes[255].tally.fill, 300 - 255);
}

#[test]
fn nothing_waits_but_a_record() {
    let model = Model {
        footers: true,
        machine: true,
        ops: vec![
            Op::Page(3, Change::All, 1),
            Op::Section(Some((2, 4))),
            Op::Fill(4, 1),
            Op::LastSection,
        ],
        ending: Ending::DeviceState,
    };
    let stream = model.stream();
    // Where a record of pages begins, and where it ends.
    let (mut reader, mut at, mut in_records) = (Reader::new(), 0, vec![false; stream.len() + 1]);
    while let Parsed::Element(_, length) = {
        let records = reader.place() == Place::Records;
        let parsed = reader.next(&stream[at..]);
        if let (true, Parsed::Element(_, length)) = (records, parsed) {
            in_records[at + 1..at + length].fill(true);
        }
        parsed
    } {
        at += length;
    }
    let (mut filter, mut host) = (
        Filter::new(Options::default()),
        Collect::new(cache_bytes(ALL)),
    );
    let mut start = 0;
    for end in 1..=stream.len() {
        start += filter.push(&stream[start..end], &mut host).unwrap();
        filter.pause(&stream[start..end], &mut host).unwrap();
        filter.pause(&stream[start..end], &mut host).unwrap();
        assert!(
            in_records[end] || host.out == stream[..end],
            "byte {end} waits"
        );
    }
    assert_eq!(
        filter.finish(&stream[start..], &mut host),
        Ok(StreamEnd::Complete)
    );
    assert_eq!(host.out, stream);
}

#[test]
fn a_page_that_goes_as_it_is_in_any_case_waits_for_nothing() {
    let mut s = begun();
    s.page(RAM, 0, &page(3)).page(RAM, PAGE as u64, &page(5));
    let first = s.bytes.len();
    s.page(RAM, 0, &page(7));
    let stream = s.bytes;
    // Of the second page there is no copy: what came of it is out. Of the first there is one, so its next record waits.
    for (end, out) in [(first - 100, first - 100), (first + 100, first)] {
        let mut filter = Filter::new(Options::default());
        let mut host = Collect::new(cache_bytes(ALL));
        let used = filter.push(&stream[..end], &mut host).unwrap();
        assert!(used < end);
        assert_eq!(host.out.len(), out);
        assert_eq!(host.out, stream[..out]);
        let used = used + filter.push(&stream[used..], &mut host).unwrap();
        assert_eq!(used, stream.len());
        assert_eq!(replay(&host.out), replay(&stream));
        assert_eq!(filter.counters().total.pages(), 3);
    }
}

#[test]
fn a_host_that_stops_is_obeyed() {
    struct Full;
    impl Host for Full {
        fn put(&mut self, _: &[u8]) -> Result<(), Stopped> {
            Err(Stopped)
        }
        fn guest(&mut self, _: &GuestRam) -> Result<u64, Stopped> {
            Err(Stopped)
        }
    }
    let mut filter = Filter::new(Options::default());
    assert_eq!(filter.push(b"QEVM", &mut Full), Ok(0));
    assert_eq!(filter.pause(b"QEVM", &mut Full), Err(Stopped));
    assert_eq!(filter.push(&begun().bytes, &mut Full), Err(Stopped));
}

#[test]
fn pages_of_64k() {
    let mut s = Writer::new();
    s.header()
        .configuration(b"virt")
        .target_page_bits(16)
        .ram_start(1, &[(b"ram", 1 << 18)]);
    s.end_of_section().section_part(1);
    let mut content = vec![0u8; 1 << 16];
    let mut seed = 1u32;
    content.iter_mut().for_each(|byte| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (seed >> 24) as u8;
    });
    s.fill(b"ram", 3 << 16, 0).page(b"ram", 0, &content);
    for (from, to) in [
        (65535, 65536),
        (0, 1),
        (0, 20_000),
        (16383, 16384),
        (16384, 16385),
        (40_000, 60_000),
    ] {
        content[from..to].iter_mut().for_each(|byte| *byte ^= 0x80);
        s.page(b"ram", 0, &content).page(b"ram", 3 << 16, &content);
    }
    s.page(b"ram", 0, &content).end_of_section();
    let (out, _, filter) = filter(&s.bytes, Options::default(), u64::MAX);
    assert_eq!(replay(&s.bytes), replay(&out));
    assert!(replay(&out).error.is_none());
    assert_eq!(filter.counters().total.skipped, 1);
}

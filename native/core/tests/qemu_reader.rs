//! The reader, element by element.

use pagewire_core::qemu::wire::{command, flag};
use pagewire_core::qemu::{Element, MAX_ELEMENT, Parsed, Place, Reader, Reason, Writer};

const PAGE: usize = 4096;

/// A stream up to its first RAM section's list, with two blocks.
fn begun() -> Writer {
    let mut stream = Writer::new();
    stream.header().configuration(b"pc-q35-9.2");
    stream.ram_start(
        2,
        &[(b"pc.ram", 4 * PAGE as u64), (b"vga.vram", 2 * PAGE as u64)],
    );
    stream
}

/// In the records of the second section.
fn in_records() -> Writer {
    let mut stream = begun();
    stream.end_of_section().footer(2).section_part(2);
    stream
}

/// Reads all of it at once, and says what the elements were and how it ended.
fn read(bytes: &[u8]) -> (Vec<String>, Result<Place, Reason>, usize) {
    let mut reader = Reader::new();
    let mut at = 0;
    let mut elements = Vec::new();
    loop {
        match reader.next(&bytes[at..]) {
            Parsed::Element(element, length) => {
                assert!(length > 0 && length <= MAX_ELEMENT);
                at += length;
                assert_eq!(reader.offset(), at as u64);
                elements.push(brief(element));
            }
            Parsed::NeedMore => return (elements, Ok(reader.place()), at),
            Parsed::Verbatim(reason) => {
                assert_eq!(reader.reason(), Some(reason));
                assert_eq!(reader.next(&[]), Parsed::Verbatim(reason), "for good");
                return (elements, Err(reason), at);
            }
        }
    }
}

fn brief(element: Element<'_>) -> String {
    match element {
        Element::Page { at, content } => {
            format!(
                "page {}:{:x} #{} {}",
                at.block, at.address, at.number, content[0]
            )
        }
        Element::Fill { at, byte } => {
            format!("fill {}:{:x} #{} {byte}", at.block, at.address, at.number)
        }
        Element::Xbzrle { at, delta } => format!("xbzrle {}:{:x} {delta:?}", at.block, at.address),
        Element::CompressPage { at, zlib } => {
            format!("zlib {}:{:x} {}", at.block, at.address, zlib.len())
        }
        Element::Machine(name) => format!("machine {}", String::from_utf8_lossy(name)),
        Element::Uuid(uuid) => format!("uuid {}", uuid.len()),
        Element::Command { code, payload } => format!("command {code} {}", payload.len()),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Reads one byte after the other, and checks that the same comes of it.
fn read_both_ways(bytes: &[u8]) -> (Vec<String>, Result<Place, Reason>, usize) {
    let whole = read(bytes);
    let mut reader = Reader::new();
    let (mut at, mut elements) = (0, Vec::new());
    let mut end = Ok(reader.place());
    'input: for available in 0..=bytes.len() {
        loop {
            match reader.next(&bytes[at..available]) {
                Parsed::Element(element, length) => {
                    at += length;
                    elements.push(brief(element));
                }
                Parsed::NeedMore => break,
                Parsed::Verbatim(reason) => {
                    end = Err(reason);
                    break 'input;
                }
            }
        }
        end = Ok(reader.place());
    }
    assert_eq!((elements, end, at), whole);
    whole
}

/// That the stream is read up to `rest` and no further.
fn ends(stream: &Writer, rest: &[u8], reason: Reason) {
    let mut bytes = stream.bytes.clone();
    let before = bytes.len();
    bytes.extend_from_slice(rest);
    let (_, end, at) = read_both_ways(&bytes);
    assert_eq!(end, Err(reason));
    assert_eq!(at, before);
}

#[test]
fn a_stream_of_everything() {
    let mut s = Writer::new();
    s.header().configuration(b"virt-9.2").target_page_bits(14);
    s.subsection(b"configuration/uuid", 1, &[7; 16])
        .capabilities(&[]);
    s.command(command::OPEN_RETURN_PATH, &[])
        .command(command::PING, &[0, 0, 0, 1]);
    s.postcopy_advise(4096, 16384);
    s.ram_start(5, &[(b"mach-virt.ram", 3 << 14), (b"flash", 1 << 14)]);
    s.end_of_section().footer(5);
    s.section_part(5);
    s.page(b"mach-virt.ram", 0, &[9; 1 << 14]);
    s.fill(b"mach-virt.ram", 2 << 14, 3);
    s.page(b"flash", 0, &[8; 1 << 14]);
    s.xbzrle(b"flash", 0, &[1, 1, 5]);
    s.compress_page(b"mach-virt.ram", 1 << 14, &[0; 20]);
    s.end_of_section()
        .section_part(5)
        .end_of_section()
        .footer(5);
    s.command(command::SWITCHOVER_START, &[]);
    s.section_end(5);
    s.fill(b"mach-virt.ram", 1 << 14, 0);
    s.end_of_section().footer(5);
    let before_devices = s.bytes.len();
    s.full_section(0, b"timer", 2, &[1; 30]);
    let (elements, end, at) = read_both_ways(&s.bytes);
    let expected = [
        "header",
        "machine virt-9.2",
        "targetpagebits(14)",
        "uuid 16",
        "capabilities(0)",
        "command 1 0",
        "command 2 4",
        "command 3 16",
        "sectionstart(5)",
        "memsize(65536)",
        "memblock(0)",
        "memblock(1)",
        "endofsection",
        "footer(5)",
        "sectionpart(5)",
        "page 0:0 #0 9",
        "fill 0:8000 #2 3",
        "page 1:0 #3 8",
        "xbzrle 1:0 [1, 1, 5]",
        "zlib 0:4000 20",
        "endofsection",
        "sectionpart(5)",
        "endofsection",
        "footer(5)",
        "command 11 0",
        "sectionend(5)",
        "fill 0:4000 #1 0",
        "endofsection",
        "footer(5)",
    ];
    assert_eq!(elements, expected);
    assert_eq!(end, Err(Reason::DeviceState));
    assert_eq!(at, before_devices);
}

#[test]
fn the_end_mark_and_its_description() {
    let mut s = begun();
    s.end_of_section()
        .footer(2)
        .section_end(2)
        .end_of_section()
        .footer(2);
    s.end_of_stream(Some(b"{}"));
    let (elements, end, at) = read_both_ways(&s.bytes);
    assert_eq!(elements.last().map(String::as_str), Some("endofstream"));
    assert_eq!((end, at), (Err(Reason::EndOfStream), s.bytes.len() - 7));
}

#[test]
fn not_qemu() {
    for bytes in [
        &b"\x16\x03\x01"[..],
        b"QEVN",
        b"QEVM\0\0\0\x02",
        b"QEVM\0\0\0\x04",
        b"\0",
    ] {
        let (elements, end, at) = read_both_ways(bytes);
        assert_eq!((elements.len(), end, at), (0, Err(Reason::NotQemu), 0));
    }
    for length in 0..8 {
        assert_eq!(
            read_both_ways(&b"QEVM\0\0\0\x03"[..length]).1,
            Ok(Place::Header)
        );
    }
}

#[test]
fn page_size_must_be_certain() {
    for (machine, known) in [
        (&b"pc"[..], true),
        (b"pc-1.0", true),
        (b"q35", true),
        (b"pc-i440fx-rhel7.6.0", true),
        (b"isapc", true),
        (b"microvm", true),
        (b"xenfv-4.2", true),
        (b"s390-ccw-virtio-9.1", true),
        (b"pseries-9.0", true),
        (b"virt-9.2", false),
        (b"pcx", false),
        (b"pseriesx", false),
        (b"malta", false),
    ] {
        let mut s = Writer::new();
        s.header().configuration(machine);
        let mut start = Writer::new();
        start.ram_start(1, &[(b"ram", 4096)]);
        if known {
            s.raw(&start.bytes);
            assert_eq!(read_both_ways(&s.bytes).1, Ok(Place::Records));
        } else {
            ends(&s, &start.bytes, Reason::PageSize);
        }
    }
    // No configuration at all.
    let mut s = Writer::new();
    s.header();
    ends(
        &s,
        &Writer::new().ram_start(1, &[(b"ram", 4096)]).bytes,
        Reason::PageSize,
    );
    // POSTCOPY_ADVISE tells it.
    s.configuration(b"virt")
        .postcopy_advise(4096, 4096)
        .ram_start(1, &[(b"ram", 4096)])
        .end_of_section();
    assert_eq!(read_both_ways(&s.bytes).1, Ok(Place::BetweenSections));
    for bits in [0, 10, 11, 17, 40] {
        let mut s = Writer::new();
        s.header().configuration(b"virt");
        ends(
            &s,
            &Writer::new().target_page_bits(bits).bytes,
            Reason::PageSize,
        );
    }
}

#[test]
fn configuration() {
    let mut s = Writer::new();
    s.header();
    ends(
        &s,
        &Writer::new().configuration(&[b'x'; 257]).bytes,
        Reason::Configuration,
    );
    ends(
        &s,
        &Writer::new().configuration(b"").bytes,
        Reason::Configuration,
    );
    s.configuration(b"pc");
    ends(
        &s,
        &Writer::new().capabilities(&[b"mapped-ram"]).bytes,
        Reason::Capability,
    );
    ends(
        &s,
        &Writer::new()
            .capabilities(&[b"x-ignore-shared", b"new"])
            .bytes,
        Reason::Capability,
    );
    ends(
        &s,
        &Writer::new()
            .subsection(b"configuration/new", 1, &[0; 4])
            .bytes,
        Reason::Configuration,
    );
    ends(
        &s,
        &Writer::new()
            .subsection(b"configuration/uuid", 2, &[0; 16])
            .bytes,
        Reason::Configuration,
    );
    ends(
        &s,
        &Writer::new().configuration(b"pc").bytes,
        Reason::SectionType,
    );
}

#[test]
fn mem_size_with_ignore_shared() {
    let mut s = Writer::new();
    s.header()
        .configuration(b"pc")
        .capabilities(&[b"x-ignore-shared"]);
    s.section_start(1, b"ram", 0, 4).mem_size(3 * 4096);
    s.name(b"a")
        .be64(4096)
        .be64(0)
        .name(b"b")
        .be64(8192)
        .be64(4096);
    s.end_of_section();
    let (elements, end, _) = read_both_ways(&s.bytes);
    assert_eq!(
        elements[4..],
        [
            "memsize(12288)",
            "memblock(0)",
            "memblock(1)",
            "endofsection"
        ]
    );
    assert_eq!(end, Ok(Place::BetweenSections));
    // With host pages of several sizes it could not be told which field is which.
    let mut s = Writer::new();
    s.header()
        .configuration(b"pc")
        .capabilities(&[b"x-ignore-shared"])
        .postcopy_advise(0x20_1000, 4096);
    s.section_start(1, b"ram", 0, 4);
    ends(&s, &Writer::new().mem_size(4096).bytes, Reason::MemSize);
}

#[test]
fn mem_size_with_host_page_sizes() {
    for (sizes, blocks) in [
        (
            &[
                (&b"a"[..], Some(2 << 20)),
                (b"b", None),
                (b"c", Some(1 << 30)),
            ][..],
            3,
        ),
        (&[(b"a", None), (b"b", Some(65536)), (b"c", None)], 3),
        (&[(b"a", None)], 1),
        (&[(b"a", Some(2 << 20))], 1),
    ] {
        let mut s = Writer::new();
        s.header()
            .configuration(b"pc")
            .postcopy_advise(0x20_1000, 4096);
        s.section_start(1, b"ram", 0, 4).mem_size(4096 * blocks);
        for (name, size) in sizes {
            s.name(name).be64(4096);
            if let Some(size) = *size {
                s.be64(size);
            }
        }
        s.end_of_section();
        let (elements, end, _) = read_both_ways(&s.bytes);
        assert_eq!(end, Ok(Place::BetweenSections));
        assert_eq!(
            elements
                .iter()
                .filter(|e| e.starts_with("memblock("))
                .count() as u64,
            blocks
        );
        let expected = sizes.iter().filter(|size| size.1.is_some()).count();
        assert_eq!(
            elements
                .iter()
                .filter(|e| e.starts_with("memblockpagesize"))
                .count(),
            expected
        );
    }
    let mut s = Writer::new();
    s.header()
        .configuration(b"pc")
        .postcopy_advise(0x20_1000, 4096);
    s.section_start(1, b"ram", 0, 4)
        .mem_size(8192)
        .name(b"a")
        .be64(4096);
    ends(&s, &0x3000u64.to_be_bytes(), Reason::MemSize);
    ends(&s, &0u64.to_be_bytes(), Reason::MemSize);
    // Without advice there are none: a name of no bytes.
    let mut s = Writer::new();
    s.header()
        .configuration(b"pc")
        .command(command::POSTCOPY_ADVISE, &[]);
    s.section_start(1, b"ram", 0, 4)
        .mem_size(8192)
        .name(b"a")
        .be64(4096);
    ends(
        &s,
        &[&0x0020_0000u64.to_be_bytes()[..], &[0; 8]].concat(),
        Reason::MemSize,
    );
}

#[test]
fn mem_size_must_add_up() {
    let mut s = Writer::new();
    s.header()
        .configuration(b"pc")
        .section_start(1, b"ram", 0, 4);
    ends(&s, &Writer::new().mem_size(0).bytes, Reason::MemSize);
    s.mem_size(8192);
    ends(
        &s,
        &Writer::new().name(b"a").be64(12288).bytes,
        Reason::MemSize,
    );
    ends(
        &s,
        &Writer::new().name(b"a").be64(u64::MAX - 4095).bytes,
        Reason::MemSize,
    );
    ends(
        &s,
        &Writer::new().name(b"a").be64(4095).bytes,
        Reason::MemSize,
    );
    ends(
        &s,
        &Writer::new().name(b"").be64(4096).bytes,
        Reason::MemSize,
    );
    s.name(b"a").be64(4096);
    ends(
        &s,
        &Writer::new().name(b"a").be64(4096).bytes,
        Reason::MemSize,
    );
    s.name(b"b").be64(4096);
    ends(&s, &Writer::new().mem_size(8192).bytes, Reason::MemSize);
    // Only at the section's start.
    let mut s = Writer::new();
    s.header()
        .configuration(b"pc")
        .section_start(1, b"ram", 0, 4)
        .end_of_section()
        .section_part(1);
    ends(&s, &Writer::new().mem_size(4096).bytes, Reason::MemSize);
    // Not before it.
    let mut s = Writer::new();
    s.header()
        .configuration(b"pc")
        .section_start(1, b"ram", 0, 4);
    ends(&s, &Writer::new().fill(b"a", 0, 0).bytes, Reason::MemSize);
    // A bounded number of blocks.
    s.mem_size(1 << 40);
    for block in 0..4096 {
        s.name(format!("block{block}").as_bytes()).be64(4096);
    }
    ends(
        &s,
        &Writer::new().name(b"another").be64(4096).bytes,
        Reason::MemSize,
    );
}

#[test]
fn sections() {
    let mut s = begun();
    s.end_of_section();
    ends(&s, &Writer::new().footer(1).bytes, Reason::SectionId);
    s.footer(2);
    ends(&s, &Writer::new().footer(2).bytes, Reason::SectionType);
    ends(&s, &Writer::new().section_part(1).bytes, Reason::SectionId);
    ends(&s, &Writer::new().section_end(3).bytes, Reason::SectionId);
    ends(
        &s,
        &Writer::new().section_start(3, b"dirty-bitmap", 0, 1).bytes,
        Reason::ForeignSection,
    );
    ends(
        &s,
        &Writer::new().ram_start(2, &[(b"a", 4096)]).bytes,
        Reason::ForeignSection,
    );
    ends(&s, &[4], Reason::DeviceState);
    for kind in [5, 6, 7, 9, 0x7f, 0xff] {
        ends(&s, &[kind, 0, 0, 0, 2], Reason::SectionType);
    }
    s.section_end(2).end_of_section();
    ends(&s, &Writer::new().section_part(2).bytes, Reason::SectionId);
    let mut s = Writer::new();
    s.header().configuration(b"pc");
    ends(
        &s,
        &Writer::new().section_start(1, b"ram", 0, 3).bytes,
        Reason::ForeignSection,
    );
    ends(
        &s,
        &Writer::new().section_start(1, b"ram", 1, 4).bytes,
        Reason::ForeignSection,
    );
    ends(&s, &Writer::new().section_part(0).bytes, Reason::SectionId);
}

#[test]
fn commands() {
    let mut s = Writer::new();
    s.header().configuration(b"pc");
    for (code, length) in [(1, 1), (2, 0), (2, 3), (3, 8), (3, 17), (11, 4), (2, 65535)] {
        ends(
            &s,
            &Writer::new().command(code, &vec![0; length]).bytes,
            Reason::Command,
        );
    }
    for code in [0, 4, 5, 6, 7, 8, 9, 10, 12, 65535] {
        ends(&s, &Writer::new().command(code, &[]).bytes, Reason::Command);
    }
    ends(
        &s,
        &Writer::new().postcopy_advise(4096, 8192).bytes,
        Reason::PageSize,
    );
    s.postcopy_advise(4096, 4096);
    ends(
        &s,
        &Writer::new().postcopy_advise(4096, 4096).bytes,
        Reason::Command,
    );
    // What is wrong is known before it has come as a whole.
    ends(&s, &[8, 0, 6, 0, 200], Reason::Command);
}

#[test]
fn records() {
    let s = in_records();
    let word = |flags: u64, address: u64| (address | flags).to_be_bytes();
    ends(&s, &word(flag::PAGE | flag::CONTINUE, 0), Reason::Block);
    ends(&s, &Writer::new().fill(b"rom", 0, 0).bytes, Reason::Block);
    ends(&s, &Writer::new().fill(b"", 0, 0).bytes, Reason::Block);
    ends(
        &s,
        &Writer::new().fill(b"pc.ram", 4 * 4096, 0).bytes,
        Reason::Address,
    );
    ends(
        &s,
        &Writer::new().fill(b"vga.vram", !4095, 0).bytes,
        Reason::Address,
    );
    for flags in [
        0,
        1,
        0x400,
        0x800,
        flag::PAGE | flag::FILL,
        flag::CONTINUE,
        flag::EOS | flag::CONTINUE,
    ] {
        ends(&s, &word(flags, 0), Reason::Record);
    }
    ends(&s, &word(flag::EOS, 4096), Reason::Record);
    ends(&s, &word(flag::MULTIFD_FLUSH, 4096), Reason::Record);
    ends(&s, &word(flag::HOOK | flag::CONTINUE, 0), Reason::Record);
    let xbzrle = |encoding: u8, length: u16| {
        let mut w = Writer::new();
        w.head(b"pc.ram", 0, flag::XBZRLE).u8(encoding).be16(length);
        w.bytes
    };
    ends(&s, &xbzrle(0, 1), Reason::Length);
    ends(&s, &xbzrle(1, 0), Reason::Length);
    ends(&s, &xbzrle(1, 4097), Reason::Length);
    for length in [0, 4096 + 513, u32::MAX] {
        let mut w = Writer::new();
        w.head(b"pc.ram", 0, flag::COMPRESS_PAGE).be32(length);
        ends(&s, &w.bytes, Reason::Length);
    }
    let mut s = in_records();
    s.be64(flag::HOOK)
        .be64(flag::MULTIFD_FLUSH)
        .xbzrle(b"pc.ram", 0, &[1; 4096])
        .end_of_section();
    let (elements, end, _) = read_both_ways(&s.bytes);
    assert_eq!(
        elements[elements.len() - 4..elements.len() - 2],
        ["hook", "multifdflush"]
    );
    assert_eq!(end, Ok(Place::BetweenSections));
}

#[test]
fn pages_larger_than_4k_have_no_addresses_between() {
    let mut s = Writer::new();
    s.header()
        .configuration(b"virt")
        .target_page_bits(16)
        .ram_start(1, &[(b"a", 1 << 20)]);
    ends(
        &s,
        &Writer::new().fill(b"a", 4096, 0).bytes,
        Reason::Address,
    );
    s.page(b"a", 0xf0000, &[1; 65536]);
    assert_eq!(
        read_both_ways(&s.bytes).0.last().map(String::as_str),
        Some("page 0:f0000 #15 1")
    );
}

#[test]
fn continue_goes_on_over_sections() {
    let mut s = in_records();
    s.fill(b"vga.vram", 0, 0)
        .end_of_section()
        .footer(2)
        .section_part(2)
        .fill(b"vga.vram", 4096, 1);
    assert_eq!(
        read_both_ways(&s.bytes).0.last().map(String::as_str),
        Some("fill 1:1000 #5 1")
    );
}

//! Streams of a made-up guest, and what the tests run them through.

use pagewire_core::delta::{Filter, Host, Options, Stopped, StreamEnd};
use pagewire_core::qemu::replay::{RamImage, ReplayError};
use pagewire_core::qemu::wire::{command, flag};
use pagewire_core::qemu::{GuestRam, Parsed, Reader, Writer};
use proptest::prelude::*;

pub const PAGE: usize = 4096;
/// Names and pages of the guest's blocks.
pub const BLOCKS: [(&[u8], u64); 4] = [
    (b"pc.ram", 20),
    (b"/rom@etc/acpi/tables", 3),
    (b"vga.vram", 9),
    (b"x", 1),
];

/// A host that collects the output.
pub struct Collect {
    pub out: Vec<u8>,
    pub cache_bytes: u64,
    pub guests: Vec<GuestRam>,
}

impl Collect {
    pub fn new(cache_bytes: u64) -> Self {
        Self {
            out: Vec::new(),
            cache_bytes,
            guests: Vec::new(),
        }
    }
}

impl Host for Collect {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        assert!(!bytes.is_empty(), "nothing put");
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn guest(&mut self, guest: &GuestRam) -> Result<u64, Stopped> {
        self.guests.push(guest.clone());
        Ok(self.cache_bytes)
    }
}

/// The budget of a cache with room for so many copies.
pub fn cache_bytes(copies: u64) -> u64 {
    let pages: u64 = BLOCKS.iter().map(|block| block.1).sum();
    4 * pages + copies * (PAGE as u64 + 8)
}

/// The filter's output for a stream that comes at once.
pub fn filter(stream: &[u8], options: Options, cache_bytes: u64) -> (Vec<u8>, StreamEnd, Filter) {
    let mut host = Collect::new(cache_bytes);
    let mut filter = Filter::new(options);
    let taken = filter.push(stream, &mut host).unwrap();
    let end = filter.finish(&stream[taken..], &mut host).unwrap();
    let total = filter.counters().total;
    assert_eq!(total.bytes_in, stream.len() as u64);
    assert_eq!(total.bytes_out, host.out.len() as u64);
    (host.out, end, filter)
}

/// The RAM that a stream leaves.
#[derive(PartialEq)]
pub struct Left {
    pub blocks: Vec<Vec<u8>>,
    pub error: Option<ReplayErrorKind>,
    pub pages_elsewhere: bool,
}

impl std::fmt::Debug for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for block in &self.blocks {
            f.debug_list()
                .entries(
                    block
                        .chunks(PAGE)
                        .map(|page| pagewire_core::checksum::xxh3_64(page) >> 48),
                )
                .finish()?;
        }
        write!(f, " {:?} {}", self.error, self.pages_elsewhere)
    }
}

/// A replay's error without its offset, which filtering changes.
#[derive(Debug, PartialEq)]
pub enum ReplayErrorKind {
    TooLarge,
    Xbzrle,
    Zlib,
    Other,
}

pub fn replay(stream: &[u8]) -> Left {
    let mut image = RamImage::new(1 << 20);
    let error = image.push(stream).err().map(|error| match error {
        ReplayError::TooLarge { .. } => ReplayErrorKind::TooLarge,
        ReplayError::Xbzrle { .. } => ReplayErrorKind::Xbzrle,
        ReplayError::Zlib { .. } => ReplayErrorKind::Zlib,
        _ => ReplayErrorKind::Other,
    });
    let blocks = (0..)
        .map_while(|index| image.block(index).map(<[u8]>::to_vec))
        .collect();
    Left {
        blocks,
        error,
        pages_elsewhere: image.pages_elsewhere(),
    }
}

/// What a loader knows where it stops to parse: the last block, and what is left.
pub fn at_the_end_of_parsing(stream: &[u8]) -> (Option<u32>, &[u8]) {
    let (mut reader, mut at) = (Reader::new(), 0);
    while let Parsed::Element(_, length) = reader.next(&stream[at..]) {
        at += length;
    }
    (reader.last_block(), &stream[at..])
}

/// How a page changes.
#[derive(Clone, Debug)]
pub enum Change {
    Nothing,
    /// So many bytes somewhere.
    Bytes(usize),
    /// Every nth byte.
    Every(usize),
    All,
    To(u8),
}

#[derive(Clone, Debug)]
pub enum Op {
    Page(u64, Change, u64),
    /// The page as QEMU's own difference.
    Xbzrle(u64, Change, u64),
    Compressed(u64, Change, u64),
    Fill(u64, u8),
    /// All pages of the guest, unchanged.
    Sweep,
    NameAgain,
    /// Ends the section and begins another one, with a command between.
    Section(Option<(u16, usize)>),
    /// Ends the section with `03`, a part of no pages after it cannot be.
    LastSection,
}

#[derive(Clone, Debug)]
pub enum Ending {
    None,
    InRecord,
    DeviceState,
    EndOfStream,
    ForeignSection,
    Discard,
    /// Some pages are sent elsewhere, then the records go on with CONTINUE.
    Multifd,
    UnknownRecord,
    /// A difference that fits no page, in mid-records.
    BadXbzrle,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub footers: bool,
    pub machine: bool,
    pub ops: Vec<Op>,
    pub ending: Ending,
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 8
    }
}

fn change(page: &mut [u8], change: &Change, seed: u64) {
    let mut random = Random(seed);
    match *change {
        Change::Nothing => {}
        Change::Bytes(count) => {
            let at = random.next() as usize % PAGE;
            for (index, byte) in page.iter_mut().skip(at).take(count).enumerate() {
                *byte = byte.wrapping_add(1 + (seed as u8 ^ index as u8) % 3);
            }
        }
        Change::Every(nth) => page
            .iter_mut()
            .step_by(nth)
            .for_each(|byte| *byte = byte.wrapping_add(1)),
        Change::All => page.iter_mut().for_each(|byte| *byte = random.next() as u8),
        Change::To(byte) => page.fill(byte),
    }
}

/// XBZRLE as the format says, byte by byte.
pub fn naive_xbzrle(old: &[u8], new: &[u8]) -> Vec<u8> {
    let length = |out: &mut Vec<u8>, n: usize| {
        if n < 128 {
            out.push(n as u8);
        } else {
            out.extend_from_slice(&[n as u8 | 0x80, (n >> 7) as u8]);
        }
    };
    let (mut out, mut at) = (Vec::new(), 0);
    while at < old.len() {
        let equal = (at..old.len()).take_while(|&i| old[i] == new[i]).count();
        let differ = (at + equal..old.len())
            .take_while(|&i| old[i] != new[i])
            .count();
        if differ == 0 {
            break;
        }
        length(&mut out, equal);
        length(&mut out, differ);
        at += equal;
        out.extend_from_slice(&new[at..at + differ]);
        at += differ;
    }
    out
}

impl Model {
    pub fn pages() -> u64 {
        BLOCKS.iter().map(|block| block.1).sum()
    }

    /// The block and address of the page of this number.
    fn find(number: u64) -> (&'static [u8], u64) {
        let mut rest = number % Self::pages();
        for (name, pages) in BLOCKS {
            if rest < pages {
                return (name, rest * PAGE as u64);
            }
            rest -= pages;
        }
        unreachable!()
    }

    pub fn stream(&self) -> Vec<u8> {
        let id = 3;
        let mut ram = vec![vec![0; PAGE]; Self::pages() as usize];
        let mut s = Writer::new();
        s.header();
        if self.machine {
            s.configuration(b"pc-q35-10.0")
                .subsection(b"configuration/uuid", 1, &[1; 16]);
        } else {
            s.configuration(b"virt-10.0").target_page_bits(12);
        }
        s.command(command::OPEN_RETURN_PATH, &[])
            .command(command::PING, &[0, 0, 0, 1]);
        s.ram_start(id, &BLOCKS.map(|(name, pages)| (name, pages * PAGE as u64)));
        let end_section = |s: &mut Writer| {
            s.end_of_section();
            if self.footers {
                s.footer(id);
            }
        };
        end_section(&mut s);
        s.section_part(id);
        let mut last = false;
        for op in &self.ops {
            match op {
                Op::Page(number, how, seed) => {
                    let page = &mut ram[(number % Self::pages()) as usize];
                    change(page, how, *seed);
                    let (block, address) = Self::find(*number);
                    s.page(block, address, page);
                }
                Op::Xbzrle(number, how, seed) => {
                    let page = &mut ram[(number % Self::pages()) as usize];
                    let old = page.clone();
                    change(page, how, *seed);
                    let (block, address) = Self::find(*number);
                    let delta = naive_xbzrle(&old, page);
                    if (1..=PAGE).contains(&delta.len()) {
                        s.xbzrle(block, address, &delta);
                    } else {
                        s.page(block, address, page);
                    }
                }
                Op::Compressed(number, how, seed) => {
                    let page = &mut ram[(number % Self::pages()) as usize];
                    change(page, how, *seed);
                    let mut zlib = vec![0; 2 * PAGE];
                    let mut compressor =
                        libdeflater::Compressor::new(libdeflater::CompressionLvl::fastest());
                    let length = compressor.zlib_compress(page, &mut zlib).unwrap();
                    let (block, address) = Self::find(*number);
                    s.compress_page(block, address, &zlib[..length]);
                }
                Op::Fill(number, byte) => {
                    ram[(number % Self::pages()) as usize].fill(*byte);
                    let (block, address) = Self::find(*number);
                    s.fill(block, address, *byte);
                }
                Op::Sweep => {
                    for (number, page) in ram.iter().enumerate() {
                        let (block, address) = Self::find(number as u64);
                        s.page(block, address, page);
                    }
                }
                Op::NameAgain => {
                    s.name_again();
                }
                Op::Section(between) if !last => {
                    end_section(&mut s);
                    if let Some((code, length)) = between {
                        s.command(*code, &vec![0; *length]);
                    }
                    s.section_part(id);
                }
                Op::LastSection if !last => {
                    last = true;
                    end_section(&mut s);
                    s.command(command::SWITCHOVER_START, &[]).section_end(id);
                }
                Op::Section(_) | Op::LastSection => {}
            }
        }
        let (block, address) = Self::find(self.ops.len() as u64);
        match self.ending {
            Ending::None => end_section(&mut s),
            Ending::InRecord => {
                s.head(block, address, flag::PAGE).raw(&[1; 1000]);
            }
            Ending::DeviceState => {
                end_section(&mut s);
                s.full_section(0, b"timer", 2, &[2, 0, 0, 0, 3, 8, 0x7e, 1, 2, 3]);
                s.end_of_stream(Some(b"{\"page_size\": 4096}"));
            }
            Ending::EndOfStream => {
                end_section(&mut s);
                s.end_of_stream(Some(b"{}"));
            }
            Ending::ForeignSection => {
                end_section(&mut s);
                s.section_start(9, b"dirty-bitmap", 0, 1)
                    .raw(&[1; 20])
                    .section_part(id);
                s.page(block, address, &[5; PAGE]).end_of_section();
            }
            Ending::Discard => {
                end_section(&mut s);
                s.command(command::POSTCOPY_RAM_DISCARD, &[0, 1, b'x', 0])
                    .section_part(id);
                s.page(block, address, &[5; PAGE]).end_of_section();
            }
            Ending::Multifd => {
                s.be64(flag::MULTIFD_FLUSH);
                s.page(block, address, &[5; PAGE])
                    .page(block, 0, &[6; PAGE]);
                end_section(&mut s);
            }
            Ending::UnknownRecord => {
                s.be64(0x800).page(block, address, &[5; PAGE]);
            }
            Ending::BadXbzrle => {
                s.xbzrle(block, address, &[0xff, 0x7f, 1, 1])
                    .page(block, address, &[5; PAGE]);
            }
        }
        s.take()
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => Just(Change::Nothing),
        6 => (1..40usize).prop_map(Change::Bytes),
        1 => (1..PAGE).prop_map(Change::Bytes),
        2 => (1..200usize).prop_map(Change::Every),
        2 => Just(Change::All),
        1 => any::<u8>().prop_map(Change::To),
        1 => Just(Change::To(0)),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let page = 0..Model::pages();
    let commands = prop_oneof![Just((1, 0)), Just((2, 4)), Just((11, 0))];
    prop_oneof![
        20 => (page.clone(), any_change(), any::<u64>()).prop_map(|(page, how, seed)| Op::Page(page, how, seed)),
        3 => (page.clone(), any_change(), any::<u64>()).prop_map(|(page, how, seed)| Op::Xbzrle(page, how, seed)),
        1 => (page.clone(), any_change(), any::<u64>()).prop_map(|(page, how, seed)| Op::Compressed(page, how, seed)),
        3 => (page, prop_oneof![Just(0), any::<u8>()]).prop_map(|(page, byte)| Op::Fill(page, byte)),
        1 => Just(Op::Sweep),
        1 => Just(Op::NameAgain),
        3 => prop::option::of(commands).prop_map(Op::Section),
        1 => Just(Op::LastSection),
    ]
}

pub fn any_model(most_ops: usize) -> impl Strategy<Value = Model> {
    let ending = prop_oneof![
        Just(Ending::None),
        Just(Ending::InRecord),
        Just(Ending::DeviceState),
        Just(Ending::EndOfStream),
        Just(Ending::ForeignSection),
        Just(Ending::Discard),
        Just(Ending::Multifd),
        Just(Ending::UnknownRecord),
        Just(Ending::BadXbzrle),
    ];
    (
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(any_op(), 0..most_ops),
        ending,
    )
        .prop_map(|(footers, machine, ops, ending)| Model {
            footers,
            machine,
            ops,
            ending,
        })
}

pub fn any_options() -> impl Strategy<Value = Options> {
    prop_oneof![Just(usize::MAX), 0..5000usize, Just(1024)]
        .prop_map(|max_delta| Options { max_delta })
}

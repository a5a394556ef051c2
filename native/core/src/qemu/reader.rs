//! The pull parser: one element at a time out of contiguous input.

use super::GuestRam;
use super::wire::{HEADER, PAGE_BITS, RAM, RAM_VERSION, XBZRLE_ENCODING, command, flag, section};

/// No element is longer: a compressed page of 64 KiB with its block's name and lengths. Whoever offers this many bytes gets an element or a [`Reason`], never [`Parsed::NeedMore`].
pub const MAX_ELEMENT: usize = 8 + 1 + 255 + 4 + max_compressed(1 << *PAGE_BITS.end());

/// The longest that a compressed page may be. zlib's own bound is the page and 14 bytes for each 4 KiB; QEMU refuses
/// more than zlib's bound.
const fn max_compressed(page_size: usize) -> usize {
    page_size + page_size / 8
}

/// Longest machine type name. Real ones have less than 40 characters.
const MAX_MACHINE: u32 = 256;
/// Most capabilities that a configuration may list. QEMU 11 knows 22 altogether.
const MAX_CAPABILITIES: u32 = 64;
/// Most RAM blocks. A guest with all devices has a few dozen, one with 256 DIMMs 300.
const MAX_BLOCKS: usize = 4096;

/// A piece of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Element<'a> {
    /// The stream's magic and version.
    Header,
    /// The configuration's first part: the machine type's name.
    Machine(&'a [u8]),
    /// Configuration: the number of bits in a target page's address.
    TargetPageBits(u32),
    /// Configuration: the guest's identity.
    Uuid(&'a [u8]),
    /// Configuration: how many migration capabilities the stream depends on, all of them known.
    Capabilities(u32),
    /// `01`: the RAM section of this id begins.
    SectionStart(u32),
    /// `02`: a further part.
    SectionPart(u32),
    /// `03`: the last part.
    SectionEnd(u32),
    /// `7e`: a check that the section of this id is over.
    Footer(u32),
    /// `08`: one of the commands that do not change the stream's form.
    Command {
        /// Its number, see [`command`].
        code: u16,
        /// What it carries.
        payload: &'a [u8],
    },
    /// `00`: nothing but a description follows.
    EndOfStream,
    /// MEM_SIZE: the list of blocks begins, all together of so many bytes.
    MemSize(u64),
    /// An entry of that list; [`GuestRam`] has its length. The number of the block.
    MemBlock(u32),
    /// The page size of the host's memory behind the block before it.
    MemBlockPageSize(u64),
    /// A page as it is.
    Page {
        /// Which.
        at: PageAt,
        /// As long as the page size says.
        content: &'a [u8],
    },
    /// A page that is one byte all over.
    Fill {
        /// Which.
        at: PageAt,
        /// The byte.
        byte: u8,
    },
    /// A page as a difference that QEMU made.
    Xbzrle {
        /// Which.
        at: PageAt,
        /// The encoding, 1 byte to a page long.
        delta: &'a [u8],
    },
    /// A page compressed by QEMU.
    CompressPage {
        /// Which.
        at: PageAt,
        /// A zlib stream, 1 byte to a page and an eighth long.
        zlib: &'a [u8],
    },
    /// The data of a RAM section is over.
    EndOfSection,
    /// RDMA: pages travel elsewhere.
    Hook,
    /// multifd: pages travel elsewhere.
    MultifdFlush,
}

impl Element<'_> {
    /// Where it belongs, if it is a page record.
    #[inline]
    #[must_use]
    pub fn page(&self) -> Option<PageAt> {
        match self {
            Element::Page { at, .. }
            | Element::Fill { at, .. }
            | Element::Xbzrle { at, .. }
            | Element::CompressPage { at, .. } => Some(*at),
            _ => None,
        }
    }
}

/// Where a page record belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageAt {
    /// The block's index in [`GuestRam::blocks`].
    pub block: u32,
    /// Whether the record names its block, rather than saying "as before".
    pub named: bool,
    /// Length of the record's word and name.
    pub head: u16,
    /// The page's offset in its block.
    pub address: u64,
    /// The page's number, counted over all blocks.
    pub number: u64,
}

/// What [`Reader::next`] found at the start of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// An element and the number of bytes it takes.
    Element(Element<'a>, usize),
    /// The input ends inside of an element. Offer it again with more behind it.
    NeedMore,
    /// From the start of this input on, and for good, the stream is not understood.
    Verbatim(Reason),
}

/// Why a stream is not parsed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// It does not begin as one.
    NotQemu,
    /// `00` came: the regular end, a description may follow.
    EndOfStream,
    /// `04` came: devices' states, which tell no length, the regular end of RAM.
    DeviceState,
    /// A configuration that is too long or has a part of unknown name or version.
    Configuration,
    /// A capability that may change the stream's form.
    Capability,
    /// Nothing says how large a page is, or it is not 4 to 64 KiB.
    PageSize,
    /// An iterable section other than RAM, another version of RAM, or a second one.
    ForeignSection,
    /// A section type that does not exist, or out of its place.
    SectionType,
    /// A part of a section that has not begun, or a footer of another one.
    SectionId,
    /// A command that changes the stream's form, is unknown, or is of odd length.
    Command,
    /// A list of blocks that does not add up, is ambiguous, or comes again.
    MemSize,
    /// A RAM record with unknown flags.
    Record,
    /// A RAM record for a block that is not in the list.
    Block,
    /// A RAM record for an address that the block does not have.
    Address,
    /// A RAM record whose length is beyond its bounds.
    Length,
    /// Pages travel over other channels, unseen.
    PagesElsewhere,
    /// A difference that does not fit its page.
    Delta,
}

impl Reason {
    /// Whether it is where the RAM ends as it should.
    #[must_use]
    pub fn is_regular(self) -> bool {
        matches!(self, Self::DeviceState | Self::EndOfStream)
    }

    /// A few words for reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotQemu => "not a QEMU stream",
            Self::EndOfStream => "end of the QEMU stream",
            Self::DeviceState => "device state",
            Self::Configuration => "unknown configuration",
            Self::Capability => "unknown capability",
            Self::PageSize => "unknown page size",
            Self::ForeignSection => "iterable section other than RAM",
            Self::SectionType => "unknown section type",
            Self::SectionId => "unexpected section id",
            Self::Command => "command that changes the stream",
            Self::MemSize => "inconsistent list of RAM blocks",
            Self::Record => "unknown RAM record",
            Self::Block => "unknown RAM block",
            Self::Address => "address outside of its RAM block",
            Self::Length => "RAM record of impossible length",
            Self::PagesElsewhere => "pages travel over other channels",
            Self::Delta => "malformed XBZRLE record",
        }
    }
}

/// Where in a stream the reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Place {
    /// Before the end of the header.
    Header,
    /// Where the configuration's parts are.
    Configuration,
    /// Where a section, a command or the end must come.
    BetweenSections,
    /// In the list of RAM blocks.
    MemSize,
    /// In the records of a RAM section.
    Records,
    /// Where the stream is not parsed any more.
    Verbatim,
}

impl Place {
    /// A few words for reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "the header",
            Self::Configuration => "the configuration",
            Self::BetweenSections => "between sections",
            Self::MemSize => "the list of RAM blocks",
            Self::Records => "the records of a RAM section",
            Self::Verbatim => "what is not parsed",
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    /// Behind the header: a configuration or a section.
    Configuration,
    /// Behind a configuration's part: a further one or a section.
    Subsection,
    Section,
    /// Behind a section's data: its footer or a section.
    Footer,
    MemSize,
    Records,
    Verbatim(Reason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RamPhase {
    None,
    Setup,
    Parts,
    Ended,
}

/// The list of blocks while it is read.
#[derive(Clone, Debug)]
struct Listing {
    ram: GuestRam,
    /// Bytes that the blocks to come have together.
    left: u64,
    /// The entry before may still be followed by a page size.
    page_size_may_follow: bool,
}

/// Parses a stream element by element. Its state changes only with whole elements, so how the input is cut does not
/// matter.
#[derive(Clone, Debug)]
pub struct Reader {
    state: State,
    offset: u64,
    machine: Box<[u8]>,
    page_size: Option<u32>,
    ignore_shared: bool,
    /// What POSTCOPY_ADVISE said about the page sizes of the host's memory, ORed.
    advised_page_sizes: Option<u64>,
    ram_id: u32,
    phase: RamPhase,
    listing: Option<Listing>,
    guest: Option<GuestRam>,
    last_block: Option<u32>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

/// Why no element could be had.
enum Stop {
    More,
    Verbatim(Reason),
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Verbatim(reason)
    }
}

impl Reader {
    /// A reader at the very start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Header,
            offset: 0,
            machine: Box::default(),
            page_size: None,
            ignore_shared: false,
            advised_page_sizes: None,
            ram_id: 0,
            phase: RamPhase::None,
            listing: None,
            guest: None,
            last_block: None,
        }
    }

    /// The next element. `input` begins where the last element ended.
    #[inline]
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Parsed<'a> {
        let mut input = Input {
            bytes: input,
            at: 0,
        };
        match self.element(&mut input) {
            Ok(element) => {
                self.offset += input.at as u64;
                Parsed::Element(element, input.at)
            }
            Err(Stop::More) => Parsed::NeedMore,
            Err(Stop::Verbatim(reason)) => {
                self.state = State::Verbatim(reason);
                Parsed::Verbatim(reason)
            }
        }
    }

    /// Bytes taken so far. Behind a [`Reason`]: where parsing ended.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The guest's RAM, once its list is complete.
    #[must_use]
    pub fn guest(&self) -> Option<&GuestRam> {
        self.guest.as_ref()
    }

    /// The block that a record without a name would belong to.
    #[must_use]
    pub fn last_block(&self) -> Option<u32> {
        self.last_block
    }

    /// Where the next element stands.
    #[must_use]
    pub fn place(&self) -> Place {
        match self.state {
            State::Header => Place::Header,
            State::Configuration | State::Subsection => Place::Configuration,
            State::Section | State::Footer => Place::BetweenSections,
            // Behind the last entry, what comes may be a record already.
            State::MemSize
                if self
                    .listing
                    .as_ref()
                    .is_some_and(|listing| listing.left > 0) =>
            {
                Place::MemSize
            }
            State::MemSize | State::Records => Place::Records,
            State::Verbatim(_) => Place::Verbatim,
        }
    }

    /// Why parsing ended, if it did.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self.state {
            State::Verbatim(reason) => Some(reason),
            _ => None,
        }
    }

    #[inline]
    fn element<'a>(&mut self, input: &mut Input<'a>) -> Result<Element<'a>, Stop> {
        match self.state {
            State::Records => self.record(input),
            State::MemSize => self.mem_size_entry(input),
            State::Verbatim(reason) => Err(reason.into()),
            _ => self.between_records(input),
        }
    }

    #[cold]
    fn between_records<'a>(&mut self, input: &mut Input<'a>) -> Result<Element<'a>, Stop> {
        match self.state {
            State::Header => self.header(input),
            State::Configuration if input.peek()? == section::CONFIGURATION => self.machine(input),
            State::Subsection if input.peek()? == section::SUBSECTION => self.subsection(input),
            State::Footer if input.peek()? == section::FOOTER => self.footer(input),
            _ => self.section(input),
        }
    }

    fn header<'a>(&mut self, input: &mut Input<'a>) -> Result<Element<'a>, Stop> {
        let seen = input.bytes.len().min(HEADER.len());
        if input.bytes[..seen] != HEADER[..seen] {
            return Err(Reason::NotQemu.into());
        }
        input.take(HEADER.len())?;
        self.state = State::Configuration;
        Ok(Element::Header)
    }

    fn machine<'a>(&mut self, input: &mut Input<'a>) -> Result<Element<'a>, Stop> {
        input.u8()?;
        let length = input.be32()?;
        if !(1..=MAX_MACHINE).contains(&length) {
            return Err(Reason::Configuration.into());
        }
        let machine = input.take(length as usize)?;
        self.machine = machine.into();
        self.page_size = has_4k_pages(machine).then_some(4096);
        self.state = State::Subsection;
        Ok(Element::Machine(machine))
    }

    fn subsection<'a>(&mut self, input: &mut Input<'a>) -> Result<Element<'a>, Stop> {
        input.u8()?;
        let name = input.name()?;
        let version = input.be32()?;
        if version != 1 {
            return Err(Reason::Configuration.into());
        }
        match name {
            b"configuration/target-page-bits" => {
                let bits = input.be32()?;
                if !PAGE_BITS.contains(&bits) {
                    return Err(Reason::PageSize.into());
                }
                self.page_size = Some(1 << bits);
                Ok(Element::TargetPageBits(bits))
            }
            b"configuration/uuid" => Ok(Element::Uuid(input.take(16)?)),
            b"configuration/capabilities" => {
                let count = input.be32()?;
                if count > MAX_CAPABILITIES {
                    return Err(Reason::Configuration.into());
                }
                let mut ignore_shared = false;
                for _ in 0..count {
                    match input.name()? {
                        b"x-ignore-shared" => ignore_shared = true,
                        _ => return Err(Reason::Capability.into()),
                    }
                }
                self.ignore_shared |= ignore_shared;
                Ok(Element::Capabilities(count))
            }
            _ => Err(Reason::Configuration.into()),
        }
    }

    fn section<'a>(&mut self, input: &mut Input<'a>) -> Result<Element<'a>, Stop> {
        let element = match input.u8()? {
            section::START => {
                let id = input.be32()?;
                let name = input.name()?;
                let instance = input.be32()?;
                let version = input.be32()?;
                if name != RAM
                    || instance != 0
                    || version != RAM_VERSION
                    || self.phase != RamPhase::None
                {
                    return Err(Reason::ForeignSection.into());
                }
                if self.page_size.is_none() {
                    return Err(Reason::PageSize.into());
                }
                self.ram_id = id;
                self.phase = RamPhase::Setup;
                self.state = State::Records;
                return Ok(Element::SectionStart(id));
            }
            kind @ (section::PART | section::END) => {
                let id = input.be32()?;
                if id != self.ram_id || !matches!(self.phase, RamPhase::Setup | RamPhase::Parts) {
                    return Err(Reason::SectionId.into());
                }
                self.state = State::Records;
                return Ok(if kind == section::END {
                    self.phase = RamPhase::Ended;
                    Element::SectionEnd(id)
                } else {
                    self.phase = RamPhase::Parts;
                    Element::SectionPart(id)
                });
            }
            section::COMMAND => self.command(input)?,
            section::END_OF_STREAM => {
                self.state = State::Verbatim(Reason::EndOfStream);
                return Ok(Element::EndOfStream);
            }
            section::FULL => return Err(Reason::DeviceState.into()),
            _ => return Err(Reason::SectionType.into()),
        };
        self.state = State::Section;
        Ok(element)
    }

    fn command<'a>(&mut self, input: &mut Input<'a>) -> Result<Element<'a>, Stop> {
        let code = input.be16()?;
        let length = input.be16()?;
        let known = match code {
            command::OPEN_RETURN_PATH | command::SWITCHOVER_START => length == 0,
            command::PING => length == 4,
            // It is said once and before RAM, or it would change how a list already read should have been read.
            command::POSTCOPY_ADVISE => {
                (length == 0 || length == 16)
                    && self.phase == RamPhase::None
                    && self.advised_page_sizes.is_none()
            }
            _ => false,
        };
        if !known {
            return Err(Reason::Command.into());
        }
        let payload = input.take(length.into())?;
        if code == command::POSTCOPY_ADVISE && length == 16 {
            let mut fields = Input {
                bytes: payload,
                at: 0,
            };
            let host = fields.be64()?;
            let target = fields.be64()?;
            // The destination's QEMU compares it with its own, so it is the target's page size for certain.
            match self.page_size {
                Some(size) if u64::from(size) != target => return Err(Reason::PageSize.into()),
                None if PAGE_BITS.clone().any(|bits| target == 1 << bits) => {
                    self.page_size = Some(target as u32)
                }
                _ => {}
            }
            self.advised_page_sizes = Some(host);
        }
        Ok(Element::Command { code, payload })
    }

    fn footer<'a>(&mut self, input: &mut Input<'a>) -> Result<Element<'a>, Stop> {
        input.u8()?;
        let id = input.be32()?;
        if id != self.ram_id {
            return Err(Reason::SectionId.into());
        }
        self.state = State::Section;
        Ok(Element::Footer(id))
    }

    /// The page whose record, as it is, begins here: its head has come, whole. Takes nothing.
    #[must_use]
    pub fn begun_page(&self, input: &[u8]) -> Option<PageAt> {
        let mut input = Input {
            bytes: input,
            at: 0,
        };
        if self.state != State::Records {
            return None;
        }
        let word = input.be64().ok()?;
        if word & flag::MASK & !flag::CONTINUE != flag::PAGE {
            return None;
        }
        self.head(word, &mut input).ok().map(|(at, _)| at)
    }

    #[inline]
    fn record<'a>(&mut self, input: &mut Input<'a>) -> Result<Element<'a>, Stop> {
        let word = input.be64()?;
        let kind = word & flag::MASK & !flag::CONTINUE;
        if !matches!(
            kind,
            flag::PAGE | flag::FILL | flag::XBZRLE | flag::COMPRESS_PAGE
        ) {
            return self.other_record(word);
        }
        let (at, page_size) = self.head(word, input)?;
        let element = match kind {
            flag::PAGE => Element::Page {
                at,
                content: input.take(page_size as usize)?,
            },
            flag::FILL => Element::Fill {
                at,
                byte: input.u8()?,
            },
            flag::XBZRLE => {
                let encoding = input.u8()?;
                let length = u32::from(input.be16()?);
                if encoding != XBZRLE_ENCODING || length == 0 || length > page_size {
                    return Err(Reason::Length.into());
                }
                Element::Xbzrle {
                    at,
                    delta: input.take(length as usize)?,
                }
            }
            _ => {
                let length = input.be32()?;
                if length == 0 || length as usize > max_compressed(page_size as usize) {
                    return Err(Reason::Length.into());
                }
                Element::CompressPage {
                    at,
                    zlib: input.take(length as usize)?,
                }
            }
        };
        self.last_block = Some(at.block);
        Ok(element)
    }

    /// What the head of a page's record says, behind its word; and the page size.
    #[inline(always)]
    fn head(&self, word: u64, input: &mut Input<'_>) -> Result<(PageAt, u32), Stop> {
        let Some(guest) = &self.guest else {
            return Err(Reason::MemSize.into());
        };
        let named = word & flag::CONTINUE == 0;
        let block = if named {
            let name = input.name()?;
            match self.last_block {
                Some(last) if *guest.blocks[last as usize].name == *name => last,
                _ => guest.find(name).ok_or(Reason::Block)?,
            }
        } else {
            self.last_block.ok_or(Reason::Block)?
        };
        let address = word & !flag::MASK;
        let page_size = guest.page_size;
        let details = &guest.blocks[block as usize];
        // The lengths are multiples of the page size, so a page that begins inside of its block ends inside.
        if address & u64::from(page_size - 1) != 0 || address >= details.used_length {
            return Err(Reason::Address.into());
        }
        let at = PageAt {
            block,
            named,
            head: input.at as u16,
            address,
            number: details.first_page + (address >> page_size.trailing_zeros()),
        };
        Ok((at, page_size))
    }

    #[cold]
    fn other_record<'a>(&mut self, word: u64) -> Result<Element<'a>, Stop> {
        match word {
            flag::EOS => {
                self.state = State::Footer;
                Ok(Element::EndOfSection)
            }
            flag::HOOK => Ok(Element::Hook),
            flag::MULTIFD_FLUSH => Ok(Element::MultifdFlush),
            _ if word & flag::MASK == flag::MEM_SIZE => {
                let total = word & !flag::MASK;
                if self.phase != RamPhase::Setup || self.guest.is_some() || total == 0 {
                    return Err(Reason::MemSize.into());
                }
                // Both options add fields, and which are there can then not be told.
                if self.ignore_shared && self.advised_page_sizes.is_some_and(|sizes| sizes != 4096)
                {
                    return Err(Reason::MemSize.into());
                }
                let page_size = self.page_size.ok_or(Reason::PageSize)?;
                let ram = GuestRam::new(self.machine.clone(), page_size);
                self.listing = Some(Listing {
                    ram,
                    left: total,
                    page_size_may_follow: false,
                });
                self.state = State::MemSize;
                Ok(Element::MemSize(total))
            }
            _ => Err(Reason::Record.into()),
        }
    }

    /// In the list of blocks: an entry, the page size that belongs to the entry before, or what follows the list.
    #[cold]
    fn mem_size_entry<'a>(&mut self, input: &mut Input<'a>) -> Result<Element<'a>, Stop> {
        let Some(listing) = &mut self.listing else {
            return Err(Reason::MemSize.into());
        };
        if listing.page_size_may_follow {
            // A name has at least one byte, and a record at least one flag: a page size has neither.
            let page_size_follows = if listing.left > 0 {
                input.peek()? == 0
            } else {
                input.peek_be64()? & flag::MASK == 0
            };
            if page_size_follows {
                let page_size = input.be64()?;
                if page_size < 4096 || !page_size.is_power_of_two() {
                    return Err(Reason::MemSize.into());
                }
                listing.page_size_may_follow = false;
                self.end_list_if_complete();
                return Ok(Element::MemBlockPageSize(page_size));
            }
            if listing.left == 0 {
                listing.page_size_may_follow = false;
                self.end_list_if_complete();
                return self.record(input);
            }
        }
        let name = input.name()?;
        let used_length = input.be64()?;
        if self.ignore_shared {
            input.be64()?;
        }
        let page_size = u64::from(listing.ram.page_size);
        if name.is_empty()
            || used_length > listing.left
            || used_length % page_size != 0
            || listing.ram.blocks.len() == MAX_BLOCKS
            || !listing.ram.add(name, used_length)
        {
            return Err(Reason::MemSize.into());
        }
        listing.left -= used_length;
        listing.page_size_may_follow = self.advised_page_sizes.is_some() && !self.ignore_shared;
        let block = listing.ram.blocks.len() as u32 - 1;
        self.end_list_if_complete();
        Ok(Element::MemBlock(block))
    }

    fn end_list_if_complete(&mut self) {
        if self
            .listing
            .as_ref()
            .is_some_and(|listing| listing.left == 0 && !listing.page_size_may_follow)
        {
            self.guest = self.listing.take().map(|listing| listing.ram);
            self.state = State::Records;
        }
    }
}

/// Machine types whose pages are 4 KiB although their streams do not say so: x86, s390x and POWER have no others.
fn has_4k_pages(machine: &[u8]) -> bool {
    const NAMES: [&[u8]; 7] = [
        b"pc",
        b"q35",
        b"isapc",
        b"microvm",
        b"xenfv",
        b"s390-ccw-virtio",
        b"pseries",
    ];
    const FAMILIES: [&[u8]; 4] = [b"pc-", b"xenfv-", b"s390-ccw-virtio-", b"pseries-"];
    NAMES.contains(&machine) || FAMILIES.iter().any(|family| machine.starts_with(family))
}

/// What is left of the input while an element is read.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    #[inline(always)]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let taken = self
            .bytes
            .get(self.at..self.at + length)
            .ok_or(Stop::More)?;
        self.at += length;
        Ok(taken)
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let (taken, _) = self.bytes[self.at..]
            .split_first_chunk::<N>()
            .ok_or(Stop::More)?;
        self.at += N;
        Ok(*taken)
    }

    fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::More)
    }

    fn peek_be64(&self) -> Result<u64, Stop> {
        Input {
            bytes: self.bytes,
            at: self.at,
        }
        .be64()
    }

    #[inline(always)]
    fn u8(&mut self) -> Result<u8, Stop> {
        Ok(self.array::<1>()?[0])
    }

    #[inline(always)]
    fn be16(&mut self) -> Result<u16, Stop> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    #[inline(always)]
    fn be32(&mut self) -> Result<u32, Stop> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    #[inline(always)]
    fn be64(&mut self) -> Result<u64, Stop> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A length byte and so many bytes.
    #[inline(always)]
    fn name(&mut self) -> Result<&'a [u8], Stop> {
        let length = self.u8()?;
        self.take(length.into())
    }
}

//! Follows a migration on its way to the destination, to know from where on the destination's guest may run.
//!
//! ```text
//!  precopy    setup │ RAM … 03 ram │ 04 devices …                                     answered by SHUT
//!                                   ▲ critical
//!  postcopy   setup │ RAM … │ discards │ PACKAGED: LISTEN, devices, PING 0x42, RUN │ RAM … 03 ram │ 00
//!                                                       answered by PONG 0x42     ▲ critical
//! ```
//! [`Reader`] parses as far as it can. Behind that, pages are of no interest any more, only where things end: what
//! follows is read here, with no more held than the head of a record.

use super::wire::{PING_BEFORE_RUN, command, flag, section};
use super::{Element, MAX_ELEMENT, Parsed, Reader, Reason};

/// How a package ends: RUN, a command without data.
const RUN: [u8; 5] = *b"\x08\0\x05\0\0";
/// What stands before it: PING, its number apart.
const PING: [u8; 5] = *b"\x08\0\x02\0\x04";

/// How a connection begins that QEMU itself encrypts: a TLS record with a handshake.
const TLS: [u8; 3] = [0x16, 3, 1];

/// How much is added at a time to an element that was cut: a page of the usual size and the longest head.
const CARRY_STEP: usize = 4096 + 8 + 1 + 255;

/// What a migration is doing, as its bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Up to the list of RAM blocks. So is a stream of which nothing has come yet.
    Setup,
    /// RAM is sent while the guest runs at the source. Its last part is sent with the guest stopped.
    Precopy,
    /// Device states, to the end of a precopy stream. Their lengths are not told, so the end is not known.
    Devices,
    /// The destination is told which pages it has in vain: postcopy begins, the guest stands still.
    Discard,
    /// In the command that carries the device states.
    Package,
    /// RAM is sent, and the guest may run at the destination.
    Postcopy,
    /// The end mark has come.
    Ended,
    /// A connection by which a paused postcopy goes on: it has no header. Only its commands are read.
    Recovery,
    /// Not understood from here on: not QEMU's main connection at all ([`Reason::NotQemu`]), or something new.
    Opaque(Reason),
}

impl Phase {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Setup => "the setup",
            Phase::Precopy => "RAM",
            Phase::Devices => "device states",
            Phase::Discard => "the start of postcopy",
            Phase::Package => "postcopy's package",
            Phase::Postcopy => "postcopy's RAM",
            Phase::Ended => "what follows the end",
            Phase::Recovery => "a recovery",
            Phase::Opaque(_) => "what is not understood",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// [`Reader`] reads.
    Reader,
    /// At the start of a stream that has no header.
    Headless,
    /// Where a section, a command or the end must come.
    Section,
    /// Behind a section's data: its footer or a section.
    Footer,
    /// In the records of a RAM section.
    Records,
    /// In a package of which so many bytes are left.
    Package(u64),
    /// In the commands of a recovered connection.
    Recovery,
    /// Nothing is read any more.
    Rest,
}

/// Follows the bytes from source to destination, in order and cut anywhere.
///
/// It is pushed to before the bytes are handed on. Pages are stepped over where they are; of an element that was cut by
/// the end of the input, less than [`MAX_ELEMENT`] bytes are kept.
#[derive(Clone, Debug)]
pub struct Switchover {
    reader: Reader,
    state: State,
    phase: Phase,
    /// Where the next element begins.
    offset: u64,
    /// What there was of it.
    carry: Vec<u8>,
    /// Bytes to be stepped over first.
    skip: u64,
    ram_id: u32,
    return_path: bool,
    /// The source does not resume its guest by itself any more, or only if an answer stays out.
    committed: bool,
    /// The last bytes of the package.
    package_tail: [u8; PING.len() + 4 + RUN.len()],
    package_ping: Option<u32>,
    critical_from: Option<u64>,
}

impl Default for Switchover {
    fn default() -> Self {
        Self::new()
    }
}

/// What an attempt to read an element gave.
enum Step {
    /// So many bytes are done with; may be none, if only the state changed.
    Taken(usize),
    More,
    Opaque(Reason),
}

impl Switchover {
    /// At the very start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self {
            reader: Reader::new(),
            state: State::Reader,
            phase: Phase::Setup,
            offset: 0,
            carry: Vec::new(),
            skip: 0,
            ram_id: 0,
            return_path: false,
            committed: false,
            package_tail: [0; PING.len() + 4 + RUN.len()],
            package_ping: None,
            critical_from: None,
        }
    }

    /// Follows what comes next.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.carry.is_empty() {
                match self.step(bytes) {
                    Step::Taken(length) => {
                        self.offset += length as u64;
                        bytes = &bytes[length..];
                    }
                    Step::More => return self.carry.extend_from_slice(bytes),
                    Step::Opaque(reason) => self.lose(reason),
                }
            } else {
                bytes = self.push_carried(bytes);
            }
        }
    }

    /// Completes the element that was cut, if there is enough. Returns what is left of the input.
    #[cold]
    fn push_carried<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut carry = std::mem::take(&mut self.carry);
        let old = carry.len();
        let added = bytes.len().min(CARRY_STEP).min(MAX_ELEMENT - old);
        carry.extend_from_slice(&bytes[..added]);
        let mut rest = &bytes[added..];
        match self.step(&carry) {
            Step::Taken(length) => {
                self.offset += length as u64;
                if length < old {
                    carry.truncate(old);
                    carry.drain(..length);
                    rest = bytes;
                } else {
                    carry.clear();
                    rest = &bytes[length - old..];
                }
            }
            Step::More => {}
            Step::Opaque(reason) => {
                self.lose(reason);
                carry.truncate(old);
                rest = bytes;
            }
        }
        self.carry = carry;
        rest
    }

    /// Bytes pushed so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset + self.carry.len() as u64
    }

    /// What the migration is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the source has opened a return path. Without one QEMU takes a migration for done as soon as it has sent
    /// it all, so nothing that is sent can be in doubt.
    #[must_use]
    pub fn has_return_path(&self) -> bool {
        self.return_path
    }

    /// The offset of the first byte that may let the destination's guest run while the source could still resume its own,
    /// if the source waits for an answer at all ([`has_return_path`](Self::has_return_path)). Once known, it stays.
    ///
    /// - Precopy: the first byte of the first device's state. The guest runs when the last is read, but where that ends
    ///   is not known.
    /// - Postcopy: the last byte of a package that ends with PING 0x42 and RUN (QEMU 11, whatever the machine type): it is
    ///   carried out when all of it has come, and until PONG 0x42 the source is `postcopy-device`. A package that ends with
    ///   another PING and RUN (QEMU 7.2, 10) is not critical, whatever follows it: its source is paused by a fault, never
    ///   resumed. One that ends in any other way is.
    /// - Where a migration is not understood any more before any of these: from there on.
    /// - A connection that is encrypted by QEMU itself: from its start.
    #[must_use]
    pub fn critical_from(&self) -> Option<u64> {
        self.critical_from
    }

    /// The number of the PING right before RUN in the package, once all of it has come: its PONG says that the
    /// destination has loaded the devices.
    #[must_use]
    pub fn package_ping(&self) -> Option<u32> {
        self.package_ping
    }

    /// Whether the guest has left in postcopy's package, or is in a recovery of postcopy: whoever runs it needs the source
    /// for the pages that are still there.
    #[must_use]
    pub fn is_postcopy(&self) -> bool {
        self.committed
    }

    /// Whether the stream, if it ended here, would end where it cannot: QEMU has cancelled, or failed. `false` also if
    /// that cannot be known, as in device states.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        match self.phase {
            // Too short to tell what it is.
            Phase::Setup => self.offset > 0,
            Phase::Precopy | Phase::Discard | Phase::Package | Phase::Postcopy => true,
            Phase::Devices | Phase::Ended | Phase::Recovery | Phase::Opaque(_) => false,
        }
    }

    /// One element at the start of `input`, which is not empty.
    #[inline]
    fn step(&mut self, input: &[u8]) -> Step {
        if self.skip > 0 {
            let length =
                usize::try_from(self.skip).map_or(input.len(), |skip| skip.min(input.len()));
            self.skip -= length as u64;
            return Step::Taken(length);
        }
        match self.state {
            State::Reader => match self.reader.next(input) {
                Parsed::Element(element, length) => {
                    if !matches!(element, Element::Page { .. }) {
                        self.note(element);
                    }
                    Step::Taken(length)
                }
                Parsed::NeedMore => Step::More,
                Parsed::Verbatim(reason) => self.leave_reader(reason),
            },
            State::Rest => Step::Taken(input.len()),
            State::Package(left) => self.package(left, input),
            State::Records => self.record(input),
            State::Headless => self.headless(input),
            State::Section | State::Footer | State::Recovery => self.section(input),
        }
    }

    /// What the reader has found, pages apart.
    fn note(&mut self, element: Element<'_>) {
        match element {
            Element::Command {
                code: command::OPEN_RETURN_PATH,
                ..
            } => self.return_path = true,
            Element::SectionStart(id) => self.ram_id = id,
            Element::SectionPart(_) | Element::SectionEnd(_) => self.phase = Phase::Precopy,
            Element::EndOfStream => {
                // No device's state came, so for all that is known this is what the destination waits for.
                self.critical_from.get_or_insert(self.offset);
                self.end();
            }
            _ => {}
        }
    }

    fn leave_reader(&mut self, reason: Reason) -> Step {
        self.state = match reason {
            Reason::NotQemu if self.offset == 0 => State::Headless,
            Reason::Command => State::Section,
            // Devices that are set up early (virtio-mem) have their states before RAM.
            Reason::DeviceState if self.phase == Phase::Precopy => {
                self.critical_from = Some(self.offset);
                self.phase = Phase::Devices;
                State::Rest
            }
            _ => return Step::Opaque(reason),
        };
        Step::Taken(0)
    }

    /// The stream is not understood any more.
    fn lose(&mut self, reason: Reason) {
        if reason != Reason::NotQemu && !self.committed {
            self.critical_from.get_or_insert(self.offset);
        }
        self.phase = Phase::Opaque(reason);
        self.state = State::Rest;
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.state = State::Rest;
    }

    /// A connection that does not begin with QEMU's header.
    fn headless(&mut self, input: &[u8]) -> Step {
        let seen = input.len().min(TLS.len());
        if input[..seen] == TLS[..seen] {
            if seen < TLS.len() {
                return Step::More;
            }
            self.critical_from = Some(self.offset);
        } else if input[0] == section::COMMAND {
            self.state = State::Recovery;
            return Step::Taken(0);
        }
        Step::Opaque(Reason::NotQemu)
    }

    /// Where a section, a footer, a command or the end can stand.
    fn section(&mut self, input: &[u8]) -> Step {
        match (self.state, input[0]) {
            (_, section::COMMAND) => return self.command(input),
            (State::Section | State::Footer, section::END_OF_STREAM) if self.committed => {
                self.end();
                return Step::Taken(1);
            }
            (State::Section | State::Footer, section::PART | section::END)
            | (State::Footer, section::FOOTER) => {}
            _ => return Step::Opaque(Reason::SectionType),
        }
        let Some(&[kind, ref id @ ..]) = input.first_chunk::<5>() else {
            return Step::More;
        };
        if u32::from_be_bytes(*id) != self.ram_id {
            return Step::Opaque(Reason::SectionId);
        }
        self.state = if kind == section::FOOTER {
            State::Section
        } else {
            State::Records
        };
        Step::Taken(5)
    }

    fn command(&mut self, input: &[u8]) -> Step {
        let Some(&[_, c0, c1, l0, l1]) = input.first_chunk::<5>() else {
            return Step::More;
        };
        let (code, length) = (u16::from_be_bytes([c0, c1]), u16::from_be_bytes([l0, l1]));
        let state = match (self.state, code, length) {
            (State::Recovery, command::RECV_BITMAP, 2..=256) => State::Recovery,
            (State::Recovery, command::POSTCOPY_RESUME, 0) => State::Rest,
            (State::Recovery, ..) if self.phase != Phase::Recovery => {
                return Step::Opaque(Reason::NotQemu);
            }
            (State::Section | State::Footer, command::PING, 4)
            | (State::Section | State::Footer, command::SWITCHOVER_START, 0) => State::Section,
            (State::Section | State::Footer, command::POSTCOPY_RAM_DISCARD, _)
                if !self.committed =>
            {
                self.phase = Phase::Discard;
                State::Section
            }
            (State::Section | State::Footer, command::PACKAGED, 4) if !self.committed => {
                let Some(&[.., n0, n1, n2, n3]) = input.first_chunk::<9>() else {
                    return Step::More;
                };
                self.phase = Phase::Package;
                self.state = State::Package(u32::from_be_bytes([n0, n1, n2, n3]).into());
                return Step::Taken(9);
            }
            _ => return Step::Opaque(Reason::Command),
        };
        if self.state == State::Recovery {
            self.phase = Phase::Recovery;
            self.committed = true;
        }
        self.state = state;
        self.skip = length.into();
        Step::Taken(5)
    }

    /// In a package of which `left` bytes are to come.
    fn package(&mut self, left: u64, input: &[u8]) -> Step {
        let length = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        let (content, tail) = (&input[..length], &mut self.package_tail);
        match content.last_chunk() {
            Some(last) => *tail = *last,
            None => {
                tail.copy_within(length.., 0);
                let kept = tail.len() - length;
                tail[kept..].copy_from_slice(content);
            }
        }
        if length as u64 == left {
            let last = self.offset + (length as u64).saturating_sub(1);
            self.package_ping = match tail.split_at(PING.len()) {
                (ping, &[n0, n1, n2, n3, ref run @ ..]) if *ping == PING && *run == RUN => {
                    Some(u32::from_be_bytes([n0, n1, n2, n3]))
                }
                _ => None,
            };
            if matches!(self.package_ping, None | Some(PING_BEFORE_RUN)) {
                self.critical_from.get_or_insert(last);
            }
            self.committed = true;
            self.phase = Phase::Postcopy;
            self.state = State::Section;
        } else {
            self.state = State::Package(left - length as u64);
        }
        Step::Taken(length)
    }

    /// A record of a RAM section behind the package, its content apart.
    fn record(&mut self, input: &[u8]) -> Step {
        let Some(word) = input.first_chunk::<8>() else {
            return Step::More;
        };
        let word = u64::from_be_bytes(*word);
        match word {
            flag::EOS => {
                self.state = State::Footer;
                return Step::Taken(8);
            }
            flag::HOOK | flag::MULTIFD_FLUSH => return Step::Taken(8),
            _ => {}
        }
        let named = word & flag::CONTINUE == 0;
        let name = match (named, input.get(8)) {
            (false, _) => 0,
            (true, Some(&name)) => 1 + usize::from(name),
            (true, None) => return Step::More,
        };
        let content = match word & flag::MASK & !flag::CONTINUE {
            flag::PAGE => match self.reader.guest() {
                Some(guest) => guest.page_size,
                None => return Step::Opaque(Reason::MemSize),
            },
            flag::FILL => 1,
            _ => return Step::Opaque(Reason::Record),
        };
        if input.len() < 8 + name {
            return Step::More;
        }
        self.skip = content.into();
        Step::Taken(8 + name)
    }
}

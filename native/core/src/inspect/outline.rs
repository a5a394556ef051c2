//! What stands in a stream beside pages: its configuration, its sections and its commands.

use crate::qemu::{Element, Found};

/// Sections told apart. A guest that is migrated for minutes has a few hundred parts; those beyond are added to the last
/// one.
pub const MAX_SECTIONS: usize = 4096;

/// Commands told one by one; those beyond are only counted.
pub const MAX_COMMANDS: usize = 1024;

/// What a section of the guest's RAM begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// `01`: the list of blocks.
    Start,
    /// `02`: records.
    Part,
    /// `03`: the last records.
    End,
}

/// A section of the guest's RAM, or several in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Which of the three; of the first where it is several.
    pub kind: SectionKind,
    /// Its number in the stream.
    pub id: u32,
    /// Where it begins.
    pub offset: u64,
    /// How long it is, with its footer.
    pub bytes: u64,
    /// Page records in it.
    pub pages: u64,
    /// How many sections it is.
    pub count: u64,
}

/// A command to the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its number, see [`crate::qemu::wire::command`].
    pub code: u16,
    /// Where it begins.
    pub offset: u64,
    /// What it carries; 16 bytes at the most.
    pub payload: Vec<u8>,
}

/// The stream's parts. Those behind the RAM are not here: their length is not told.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// The machine type; empty where the stream does not tell it.
    pub machine: Vec<u8>,
    /// The guest's identity.
    pub uuid: Option<[u8; 16]>,
    /// Capabilities that the stream depends on.
    pub capabilities: u32,
    /// Where the configuration ends; 0 where there is none.
    pub configuration_end: u64,
    /// At most [`MAX_SECTIONS`].
    pub sections: Vec<Section>,
    /// The first [`MAX_COMMANDS`].
    pub commands: Vec<Command>,
    /// How many there are.
    pub command_count: u64,
    /// Whether sections end with footers.
    pub footers: bool,
    /// Pages travel over other channels: multifd or RDMA.
    pub pages_elsewhere: bool,
}

impl Outline {
    #[inline]
    pub(super) fn add(&mut self, found: &Found<'_>) {
        if found.element.page().is_some() {
            if let Some(section) = self.sections.last_mut() {
                section.pages += 1;
                section.bytes = found.end - section.offset;
            }
        } else {
            self.add_other(found);
        }
    }

    #[cold]
    fn add_other(&mut self, found: &Found<'_>) {
        match found.element {
            Element::Machine(name) => {
                self.machine = name.to_vec();
                self.configuration_end = found.end;
            }
            Element::Uuid(uuid) => {
                self.uuid = uuid.try_into().ok();
                self.configuration_end = found.end;
            }
            Element::Capabilities(count) => {
                self.capabilities += count;
                self.configuration_end = found.end;
            }
            Element::TargetPageBits(_) => self.configuration_end = found.end,
            Element::SectionStart(id) => self.begin(SectionKind::Start, id, found),
            Element::SectionPart(id) => self.begin(SectionKind::Part, id, found),
            Element::SectionEnd(id) => self.begin(SectionKind::End, id, found),
            Element::Command { code, payload } => {
                self.command_count += 1;
                if self.commands.len() < MAX_COMMANDS {
                    self.commands.push(Command {
                        code,
                        offset: found.start,
                        payload: payload[..payload.len().min(16)].to_vec(),
                    });
                }
            }
            Element::Header | Element::EndOfStream => {}
            _ => {
                self.footers |= matches!(found.element, Element::Footer(_));
                self.pages_elsewhere |=
                    matches!(found.element, Element::Hook | Element::MultifdFlush);
                if let Some(section) = self.sections.last_mut() {
                    section.bytes = found.end - section.offset;
                }
            }
        }
    }

    fn begin(&mut self, kind: SectionKind, id: u32, found: &Found<'_>) {
        if self.sections.len() == MAX_SECTIONS {
            if let Some(section) = self.sections.last_mut() {
                section.count += 1;
                section.bytes = found.end - section.offset;
            }
            return;
        }
        self.sections.push(Section {
            kind,
            id,
            offset: found.start,
            bytes: found.end - found.start,
            pages: 0,
            count: 1,
        });
    }
}

//! Builds streams, as QEMU would: for tests, for the simulator, and the record heads that `delta` writes.

use super::wire::{HEADER, RAM, RAM_VERSION, XBZRLE_ENCODING, command, flag, section};

/// The longest head of a page record: its word and a name.
pub const MAX_RECORD_HEAD: usize = 8 + 1 + 255;

/// Writes the head of a page record: `address | kind`, and the block's name, or CONTINUE in its place. Returns its
/// length. `name` has at most 255 bytes.
#[inline]
pub fn record_head(
    head: &mut [u8; MAX_RECORD_HEAD],
    address: u64,
    kind: u64,
    name: Option<&[u8]>,
) -> usize {
    let word = address | kind | if name.is_some() { 0 } else { flag::CONTINUE };
    head[..8].copy_from_slice(&word.to_be_bytes());
    let Some(name) = name else { return 8 };
    head[8] = name.len() as u8;
    head[9..9 + name.len()].copy_from_slice(name);
    9 + name.len()
}

/// Appends a stream's elements to a buffer. It writes what it is told, sense or nonsense; it only keeps account of which
/// block was named last, to say CONTINUE where QEMU does.
///
/// Lengths of names must fit their byte (panics otherwise): this is no place for input from outside.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    /// What was written and not [taken](Self::take).
    pub bytes: Vec<u8>,
    last_block: Option<Vec<u8>>,
}

impl Writer {
    /// Nothing written yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives away what was written so far; the account of blocks goes on.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// The magic and version.
    pub fn header(&mut self) -> &mut Self {
        self.raw(&HEADER)
    }

    /// The machine type's name.
    pub fn configuration(&mut self, machine: &[u8]) -> &mut Self {
        self.u8(section::CONFIGURATION)
            .be32(machine.len() as u32)
            .raw(machine)
    }

    /// A part of the configuration.
    pub fn subsection(&mut self, name: &[u8], version: u32, data: &[u8]) -> &mut Self {
        self.u8(section::SUBSECTION)
            .name(name)
            .be32(version)
            .raw(data)
    }

    /// The configuration's part that says how large a page is.
    pub fn target_page_bits(&mut self, bits: u32) -> &mut Self {
        self.subsection(b"configuration/target-page-bits", 1, &bits.to_be_bytes())
    }

    /// The configuration's part that names capabilities.
    pub fn capabilities(&mut self, names: &[&[u8]]) -> &mut Self {
        let mut data = (names.len() as u32).to_be_bytes().to_vec();
        for name in names {
            data.push(u8::try_from(name.len()).expect("a name of at most 255 bytes"));
            data.extend_from_slice(name);
        }
        self.subsection(b"configuration/capabilities", 1, &data)
    }

    /// A command.
    pub fn command(&mut self, code: u16, payload: &[u8]) -> &mut Self {
        self.u8(section::COMMAND)
            .be16(code)
            .be16(payload.len() as u16)
            .raw(payload)
    }

    /// POSTCOPY_ADVISE with the ORed page sizes of the host's memory and the target's page size.
    pub fn postcopy_advise(&mut self, host: u64, target: u64) -> &mut Self {
        let payload = [host.to_be_bytes(), target.to_be_bytes()].concat();
        self.command(command::POSTCOPY_ADVISE, &payload)
    }

    /// Begins an iterable section.
    pub fn section_start(
        &mut self,
        id: u32,
        name: &[u8],
        instance: u32,
        version: u32,
    ) -> &mut Self {
        self.u8(section::START)
            .be32(id)
            .name(name)
            .be32(instance)
            .be32(version)
    }

    /// Begins the RAM section and lists the blocks: name and length.
    pub fn ram_start(&mut self, id: u32, blocks: &[(&[u8], u64)]) -> &mut Self {
        self.section_start(id, RAM, 0, RAM_VERSION);
        self.mem_size(blocks.iter().map(|block| block.1).sum());
        for (name, length) in blocks {
            self.name(name).be64(*length);
        }
        self
    }

    /// The record that begins the list of blocks.
    pub fn mem_size(&mut self, total: u64) -> &mut Self {
        self.be64(total | flag::MEM_SIZE)
    }

    /// A further part of a section.
    pub fn section_part(&mut self, id: u32) -> &mut Self {
        self.u8(section::PART).be32(id)
    }

    /// A section's last part.
    pub fn section_end(&mut self, id: u32) -> &mut Self {
        self.u8(section::END).be32(id)
    }

    /// The check at a section's end.
    pub fn footer(&mut self, id: u32) -> &mut Self {
        self.u8(section::FOOTER).be32(id)
    }

    /// A device's state, which is of any form.
    pub fn full_section(&mut self, id: u32, name: &[u8], version: u32, data: &[u8]) -> &mut Self {
        self.u8(section::FULL)
            .be32(id)
            .name(name)
            .be32(0)
            .be32(version)
            .raw(data)
    }

    /// The stream's end and the description behind it.
    pub fn end_of_stream(&mut self, description: Option<&[u8]>) -> &mut Self {
        self.u8(section::END_OF_STREAM);
        match description {
            Some(json) => self
                .u8(section::DESCRIPTION)
                .be32(json.len() as u32)
                .raw(json),
            None => self,
        }
    }

    /// A page as it is.
    pub fn page(&mut self, block: &[u8], address: u64, content: &[u8]) -> &mut Self {
        self.head(block, address, flag::PAGE).raw(content)
    }

    /// A page of one byte.
    pub fn fill(&mut self, block: &[u8], address: u64, byte: u8) -> &mut Self {
        self.head(block, address, flag::FILL).u8(byte)
    }

    /// A page as a difference to what it was.
    pub fn xbzrle(&mut self, block: &[u8], address: u64, delta: &[u8]) -> &mut Self {
        self.head(block, address, flag::XBZRLE)
            .u8(XBZRLE_ENCODING)
            .be16(delta.len() as u16)
            .raw(delta)
    }

    /// A page as a zlib stream.
    pub fn compress_page(&mut self, block: &[u8], address: u64, zlib: &[u8]) -> &mut Self {
        self.head(block, address, flag::COMPRESS_PAGE)
            .be32(zlib.len() as u32)
            .raw(zlib)
    }

    /// The end of a RAM section's data.
    pub fn end_of_section(&mut self) -> &mut Self {
        self.be64(flag::EOS)
    }

    /// Says that the next page record shall name its block, whichever it is.
    pub fn name_again(&mut self) -> &mut Self {
        self.last_block = None;
        self
    }

    /// A page record's word and name.
    pub fn head(&mut self, block: &[u8], address: u64, kind: u64) -> &mut Self {
        let again = self.last_block.as_deref() == Some(block);
        let mut head = [0; MAX_RECORD_HEAD];
        assert!(block.len() <= 255, "a name of at most 255 bytes");
        let length = record_head(&mut head, address, kind, (!again).then_some(block));
        if !again {
            self.last_block = Some(block.to_vec());
        }
        self.raw(&head[..length])
    }

    /// A length byte and the name.
    pub fn name(&mut self, name: &[u8]) -> &mut Self {
        self.u8(u8::try_from(name.len()).expect("a name of at most 255 bytes"))
            .raw(name)
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    /// A big-endian number.
    pub fn be16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// A big-endian number.
    pub fn be32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// A big-endian number.
    pub fn be64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }
}

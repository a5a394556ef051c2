//! What a stream says about the guest's RAM before it sends any of it.

use std::collections::HashMap;

/// A RAM block, in the order of the stream's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The block's name; QEMU makes no promise about its characters.
    pub name: Box<[u8]>,
    /// Bytes of it that are in use: a multiple of the page size.
    pub used_length: u64,
    /// Number of its first page, counted over all blocks.
    pub first_page: u64,
}

/// The guest's RAM as its stream names it.
#[derive(Clone, Debug, Default)]
pub struct GuestRam {
    /// The machine type's name; empty if the stream does not tell it.
    pub machine: Box<[u8]>,
    /// Bytes in a target page: a power of two, 4 to 64 KiB.
    pub page_size: u32,
    /// The sum of the blocks' lengths.
    pub total_bytes: u64,
    /// The blocks in the stream's order.
    pub blocks: Vec<Block>,
    by_name: HashMap<Box<[u8]>, u32>,
}

impl GuestRam {
    /// How many pages there are in all blocks.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.total_bytes / u64::from(self.page_size.max(1))
    }

    /// The index of the block of that name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(super) fn new(machine: Box<[u8]>, page_size: u32) -> Self {
        Self {
            machine,
            page_size,
            ..Self::default()
        }
    }

    /// Appends a block; `false` if there is one of that name.
    pub(super) fn add(&mut self, name: &[u8], used_length: u64) -> bool {
        let index = self.blocks.len() as u32;
        if self.by_name.insert(name.into(), index).is_some() {
            return false;
        }
        self.blocks.push(Block {
            name: name.into(),
            used_length,
            first_page: self.pages(),
        });
        self.total_bytes += used_length;
        true
    }
}

//! Packing and unpacking: what a worker does to a slot, in place as far as anyone outside can see.

use super::arena::Slot;
use super::{FlowError, Shared};
use crate::checksum::xxh3_64;
use crate::codec::{Codec, Packer, Unpacker};
use crate::descriptor::thread_cpu_ns;
use crate::frame::FrameError;
use std::cell::RefCell;
use std::sync::atomic::Ordering;

thread_local! {
    // A context of zstd costs up to tens of MiB and is worth keeping; a worker thread has one of each kind.
    static PACKER: RefCell<Packer> = RefCell::new(Packer::new());
    static UNPACKER: RefCell<Unpacker> = RefCell::new(Unpacker::new());
}

/// Packs a slot's frame, or stores it where that is no larger.
pub(super) fn pack(
    shared: &Shared,
    mut slot: Slot,
    codec: Codec,
    level: i32,
) -> Result<Slot, FlowError> {
    let started = thread_cpu_ns();
    if codec != Codec::None {
        let mut packed = shared.arena.spare().ok_or(FlowError::Stopped)?;
        let n = PACKER
            .with_borrow_mut(|packer| packer.pack(codec, level, slot.payload(), packed.room()));
        if let Some(n) = n {
            packed.header = slot.header;
            packed.header.codec = codec;
            packed.header.level = codec.effective_level(level) as i8;
            packed.header.packed_len = n as u32;
            packed.swap_homes(&mut slot);
            slot = packed;
        }
    }
    slot.header.payload_hash = xxh3_64(slot.payload());
    shared
        .counters
        .packed_bytes
        .fetch_add(u64::from(slot.header.packed_len), Ordering::Relaxed);
    spent(shared, started);
    Ok(slot)
}

/// Checks a slot's payload and unpacks it.
pub(super) fn unpack(shared: &Shared, mut slot: Slot) -> Result<Slot, FlowError> {
    let started = thread_cpu_ns();
    // Nothing looks into a payload before its checksum has been seen to match.
    if !slot.checked {
        slot.header
            .check_payload(slot.payload())
            .map_err(|source| slot.origin.error(source))?;
    }
    if slot.header.codec != Codec::None {
        let mut raw = shared.arena.spare().ok_or(FlowError::Stopped)?;
        let codec = slot.header.codec;
        let out = &mut raw.room()[..slot.header.raw_len as usize];
        let unpacked =
            UNPACKER.with_borrow_mut(|unpacker| unpacker.unpack(codec, slot.payload(), out));
        unpacked.map_err(|e| {
            slot.origin.error(FrameError::Unpack {
                codec: codec.name(),
                reason: e.to_string(),
            })
        })?;
        raw.header = slot.header;
        raw.header.codec = Codec::None;
        raw.header.packed_len = raw.header.raw_len;
        raw.origin = slot.origin;
        raw.swap_homes(&mut slot);
        slot = raw;
    }
    spent(shared, started);
    Ok(slot)
}

fn spent(shared: &Shared, started: u64) {
    let ns = thread_cpu_ns().saturating_sub(started);
    shared
        .counters
        .codec_cpu_ns
        .fetch_add(ns, Ordering::Relaxed);
}

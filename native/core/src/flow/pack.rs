//! Packing and unpacking: what a worker does to a slot, in place as far as anyone outside can see.

use super::arena::Slot;
use super::{FlowError, Shared};
use crate::checksum::xxh3_64;
use crate::codec::{Codec, Packer, Unpacker};
use crate::descriptor::thread_cpu_ns;
use crate::frame::{FrameError, FrameType};
use crate::matching::{
    Base, Keeps, Matcher, Place, Reference, ReferenceError, Scratch, Source, references,
};
use std::cell::RefCell;
use std::sync::atomic::Ordering;

thread_local! {
    // A context of zstd costs up to tens of MiB and is worth keeping; a worker thread has one of each kind.
    static PACKER: RefCell<Packer> = RefCell::new(Packer::new());
    static UNPACKER: RefCell<Unpacker> = RefCell::new(Unpacker::new());
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// The length of the body of a frame with references, before the packed body.
const BODY_LEN: usize = 4;

/// Packs a slot's frame, or stores it where that is no larger.
pub(super) fn pack(
    shared: &Shared,
    mut slot: Slot,
    codec: Codec,
    level: i32,
) -> Result<Slot, FlowError> {
    let started = thread_cpu_ns();
    let of_base = match &shared.index {
        Some(index) => index.look(slot.header.offset, slot.payload()),
        None => Vec::new(),
    };
    let place = slot.place.take();
    let is_looked_through = shared.matcher.is_some() && place.is_some();
    let body = match (&shared.matcher, place) {
        (Some(matcher), Some(place)) => matched(shared, matcher, place, &slot, &of_base)?,
        _ => None,
    };
    slot = match body {
        Some((body, len)) => pack_matched(slot, body, len, codec, level),
        None => pack_plain(shared, slot, codec, level)?,
    };
    if is_looked_through && shared.keeps == Keeps::Some {
        slot.header.keep();
    }
    slot = finished(shared, slot);
    spent(shared, started);
    Ok(slot)
}

/// Leaves a slot's frame as it is, out of the window: later frames cannot refer to it. What its checksum takes is not worth
/// two looks at a clock, and no codec's.
pub(super) fn store(shared: &Shared, mut slot: Slot) -> Slot {
    slot.place = None;
    finished(shared, slot)
}

/// The frame is as it goes out: its checksum.
fn finished(shared: &Shared, mut slot: Slot) -> Slot {
    slot.header.payload_hash = xxh3_64(slot.payload());
    shared
        .counters
        .packed_bytes
        .fetch_add(u64::from(slot.header.packed_len), Ordering::Relaxed);
    slot
}

fn pack_plain(
    shared: &Shared,
    mut slot: Slot,
    codec: Codec,
    level: i32,
) -> Result<Slot, FlowError> {
    if codec == Codec::None {
        return Ok(slot);
    }
    let mut packed = shared.arena.spare().ok_or(FlowError::Stopped)?;
    let n =
        PACKER.with_borrow_mut(|packer| packer.pack(codec, level, slot.payload(), packed.room()));
    if let Some(n) = n {
        packed.header = slot.header;
        packed.header.codec = codec;
        packed.header.level = codec.effective_level(level) as i8;
        packed.header.packed_len = n as u32;
        packed.swap_homes(&mut slot);
        slot = packed;
    }
    Ok(slot)
}

/// Replaces what stands in the window by references, where that is shorter. Gives another slot with the body behind room
/// for its length, and that length. Either way, later frames may refer to what of this one stays literal.
fn matched(
    shared: &Shared,
    matcher: &Matcher,
    mut place: Place,
    slot: &Slot,
    of_base: &[Reference],
) -> Result<Option<(Slot, usize)>, FlowError> {
    SCRATCH.with_borrow_mut(|scratch| {
        let raw = slot.payload();
        matcher.find(&place, raw, of_base, scratch);
        let mut body = None;
        if !scratch.references().is_empty() {
            let mut out = shared.arena.spare().ok_or(FlowError::Stopped)?;
            // With the length, it must be shorter than the frame.
            let room = &mut out.room()[BODY_LEN..raw.len() - 1];
            body = references::write(scratch.references(), slot.header.offset, raw, room)
                .map(|len| (out, len));
        }
        matcher.commit(&mut place, raw, body.is_some(), scratch);
        if body.is_some() {
            let matched = scratch.references().iter().map(|r| u64::from(r.len));
            let counter = &shared.counters.matched_bytes;
            counter.fetch_add(matched.sum(), Ordering::Relaxed);
        }
        Ok(body)
    })
}

/// Packs the body, into the slot whose bytes it stands for.
fn pack_matched(mut slot: Slot, mut body: Slot, len: usize, codec: Codec, level: i32) -> Slot {
    let header = slot.header;
    let bytes = &body.room()[BODY_LEN..BODY_LEN + len];
    let packed = PACKER
        .with_borrow_mut(|packer| packer.pack(codec, level, bytes, &mut slot.room()[BODY_LEN..]));
    let packed_len = match packed {
        Some(n) => {
            slot.header.codec = codec;
            slot.header.level = codec.effective_level(level) as i8;
            n
        }
        None => {
            body.header = header;
            body.swap_homes(&mut slot);
            slot = body;
            len
        }
    };
    slot.header.kind = FrameType::Matched;
    slot.header.packed_len = (BODY_LEN + packed_len) as u32;
    slot.room()[..BODY_LEN].copy_from_slice(&(len as u32).to_le_bytes());
    slot
}

/// Checks a slot's payload and unpacks it.
pub(super) fn unpack(shared: &Shared, mut slot: Slot) -> Result<Slot, FlowError> {
    // One that goes on as it is takes less than two looks at a clock.
    let is_work =
        !slot.checked || slot.header.codec != Codec::None || slot.header.kind == FrameType::Matched;
    let started = is_work.then(thread_cpu_ns);
    // Nothing looks into a payload before its checksum has been seen to match.
    if !slot.checked {
        slot.header
            .check_payload(slot.payload())
            .map_err(|source| slot.origin.error(source))?;
    }
    if slot.header.kind == FrameType::Matched {
        slot = unpack_matched(shared, slot)?;
    } else {
        let is_kept = slot.header.is_kept();
        if slot.header.codec != Codec::None {
            slot = unpack_plain(shared, slot)?;
        }
        // Later frames may refer to it.
        match slot.place.take() {
            Some(mut place) if is_kept || place.keeps() == Keeps::All => {
                place.put(0, slot.payload());
                slot.place = Some(place);
            }
            _ => {}
        }
    }
    if let Some(started) = started {
        spent(shared, started);
    }
    Ok(slot)
}

fn unpack_plain(shared: &Shared, mut slot: Slot) -> Result<Slot, FlowError> {
    let mut raw = shared.arena.spare().ok_or(FlowError::Stopped)?;
    let out = &mut raw.room()[..slot.header.raw_len as usize];
    unpack_bytes(&slot, slot.payload(), out)?;
    raw.header = slot.header;
    raw.header.codec = Codec::None;
    raw.header.packed_len = raw.header.raw_len;
    raw.origin = slot.origin;
    raw.place = slot.place.take();
    raw.swap_homes(&mut slot);
    Ok(raw)
}

/// Unpacks a frame with references and leaves it as one without: what they lead to is copied from the window, except where
/// an earlier frame has not come so far yet; the sink, which sees the frames in their order, does the rest.
fn unpack_matched(shared: &Shared, mut slot: Slot) -> Result<Slot, FlowError> {
    let header = slot.header;
    let mut body = shared.arena.spare().ok_or(FlowError::Stopped)?;
    let (len, packed) = slot
        .payload()
        .split_first_chunk::<BODY_LEN>()
        .map_or((0, &[][..]), |(len, packed)| {
            (u32::from_le_bytes(*len), packed)
        });
    if len >= header.raw_len {
        let (value, limit) = (u64::from(len), u64::from(header.raw_len).saturating_sub(1));
        return Err(slot.origin.error(FrameError::Field {
            field: "body length",
            value,
            limit,
        }));
    }
    unpack_bytes(&slot, packed, &mut body.room()[..len as usize])?;
    body.header.packed_len = len;

    let mut references = std::mem::take(&mut slot.references);
    let literals = references::read(
        body.payload(),
        header.offset,
        header.raw_len,
        &mut references,
    )
    .map_err(|error| slot.origin.error(FrameError::References(error)))?;
    let mut place = slot.place.take().ok_or_else(|| no_place(&slot))?;
    let base = slot.base.take();
    slot.header.kind = FrameType::Data;
    slot.header.codec = Codec::None;
    slot.header.packed_len = header.raw_len;
    let out = &mut slot.room()[..header.raw_len as usize];
    references::place_literals(&references, literals, &mut place, out);
    from_base(&mut references, header.offset, base.as_deref(), out)
        .map_err(|error| slot.origin.error(FrameError::References(error)))?;
    let out = &mut slot.room()[..header.raw_len as usize];
    references.retain(|reference| match reference.source {
        Source::Window(from) => !place.get(
            from,
            &mut out[reference.at as usize..reference.end() as usize],
        ),
        Source::Base(_) => true,
    });
    slot.references = references;
    slot.place = Some(place);
    Ok(slot)
}

/// Copies what the references of a frame into the base lead to, and drops them from the list.
fn from_base(
    references: &mut Vec<Reference>,
    offset: u64,
    base: Option<&dyn Base>,
    out: &mut [u8],
) -> Result<(), ReferenceError> {
    let mut wrong = None;
    references.retain(|reference| {
        let (Source::Base(from), None) = (reference.source, &wrong) else {
            return true;
        };
        let out = &mut out[reference.at as usize..reference.end() as usize];
        let read = match base {
            Some(base) => base.read(from, out),
            None => Err("none was given".into()),
        };
        wrong = read.err().map(|reason| ReferenceError::Base {
            at: offset + u64::from(reference.at),
            reason,
        });
        false
    });
    wrong.map_or(Ok(()), Err)
}

/// Copies what the references of a frame lead to, where its worker could not. All frames before it must have been unpacked.
pub(super) fn resolve(mut slot: Slot) -> Result<Slot, FlowError> {
    let references = std::mem::take(&mut slot.references);
    if references.is_empty() {
        return Ok(slot);
    }
    let place = slot.place.take().ok_or_else(|| no_place(&slot))?;
    for reference in &references {
        let at = slot.header.offset + u64::from(reference.at);
        let wrong = match reference.source {
            Source::Window(from) => {
                let out = &mut slot.room()[reference.at as usize..reference.end() as usize];
                (!place.get(from, out)).then(|| ReferenceError::Target {
                    at,
                    to: from,
                    len: reference.len,
                    window: place.reach(),
                })
            }
            Source::Base(_) => Some(ReferenceError::Base {
                at,
                reason: "none was given".into(),
            }),
        };
        if let Some(wrong) = wrong {
            return Err(slot.origin.error(FrameError::References(wrong)));
        }
    }
    slot.place = Some(place);
    Ok(slot)
}

/// A fault of ours: more frames were on their way than the window has room for.
fn no_place(slot: &Slot) -> FlowError {
    FlowError::Panicked {
        message: format!("frame {} has no place in the window", slot.origin.number),
    }
}

fn unpack_bytes(slot: &Slot, packed: &[u8], out: &mut [u8]) -> Result<(), FlowError> {
    let codec = slot.header.codec;
    let unpacked = UNPACKER.with_borrow_mut(|unpacker| unpacker.unpack(codec, packed, out));
    unpacked.map_err(|e| {
        slot.origin.error(FrameError::Unpack {
            codec: codec.name(),
            reason: e.to_string(),
        })
    })
}

fn spent(shared: &Shared, started: u64) {
    let ns = thread_cpu_ns().saturating_sub(started);
    shared
        .counters
        .codec_cpu_ns
        .fetch_add(ns, Ordering::Relaxed);
}

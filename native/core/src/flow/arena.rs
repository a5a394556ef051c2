//! Slots for the frames in flight: one mapping, cut into pieces of a frame and its header.
//!
//! A slot is owned by one thread at a time ([`Slot`]); while its number is on its way through JavaScript it is parked
//! in the arena, and [`Arena::claim`] gives it out once. A number that is claimed twice is an error, not a data race.

use super::{FlowError, lock};
use crate::frame::{FrameError, HEADER_LEN, Header};
use crate::lock::Awaited;
use crate::matching::{Base, Place, Reference};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Room before the payload: the header stands at its end, so that header and payload are one write and the payload
/// begins on a cache line.
const HEADROOM: usize = 64;

pub(super) struct Arena {
    base: NonNull<u8>,
    len: usize,
    stride: usize,
    frame_size: usize,
    in_flight: u32,
    parked: Vec<Mutex<Option<Slot>>>,
    free: Awaited<Free>,
}

// SAFETY: `base` is only ever turned into slices through a `Slot`, and there is one `Slot` for each index.
unsafe impl Send for Arena {}
// SAFETY: as above; everything else in the arena is behind a lock or constant.
unsafe impl Sync for Arena {}

#[derive(Default)]
struct Free {
    /// For sources: a slot that carries a frame from source to sink.
    flight: Vec<u32>,
    /// For packers: a slot to pack into. There is one for each thread that may pack at once, so that packing never
    /// waits for a slot that only packing could free.
    spare: Vec<u32>,
    closed: bool,
}

/// Which pool a slot goes back to. Packing swaps the homes of its two slots, so the pools keep their sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Flight,
    Spare,
}

impl Arena {
    pub(super) fn bytes(frame_size: usize, in_flight: u32, packers: u32) -> u64 {
        Self::stride(frame_size) as u64 * (u64::from(in_flight) + u64::from(packers))
    }

    fn stride(frame_size: usize) -> usize {
        (HEADROOM + frame_size).next_multiple_of(4096)
    }

    pub(super) fn new(
        frame_size: usize,
        in_flight: u32,
        packers: u32,
    ) -> Result<Arc<Self>, FlowError> {
        let (stride, count) = (Self::stride(frame_size), in_flight + packers);
        let len = stride * count as usize;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let mapped = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let memory = |source| FlowError::Memory {
            bytes: len as u64,
            source,
        };
        let base = NonNull::new(mapped.map_err(|e| memory(e.into()))?.cast::<u8>())
            .ok_or_else(|| memory(std::io::ErrorKind::OutOfMemory.into()))?;
        // The lowest numbers last, and a slot that comes back is the next to go: few slots are touched, and warm.
        let free = Free {
            flight: (0..in_flight).rev().collect(),
            spare: (in_flight..count).rev().collect(),
            closed: false,
        };
        Ok(Arc::new(Arena {
            base,
            len,
            stride,
            frame_size,
            in_flight,
            parked: (0..count).map(|_| Mutex::new(None)).collect(),
            free: Awaited::new(free),
        }))
    }

    /// The raw bytes that a slot has room for.
    pub(super) fn frame_size(&self) -> usize {
        self.frame_size
    }

    /// How many frames may be on their way at once.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Waits until no frame is on its way any more, `mine` apart, which the caller has. `false` once the arena is closed.
    pub(super) fn wait_for_all_but(&self, mine: usize) -> bool {
        let mut free = self.free.lock();
        while !free.closed && free.flight.len() + mine < self.in_flight as usize {
            free = free.wait();
        }
        !free.closed
    }

    /// A slot for a new frame; waits until one is free, `None` once the arena is closed.
    pub(super) fn acquire(self: &Arc<Self>) -> Option<Slot> {
        self.take(Home::Flight)
    }

    /// A slot to pack into.
    pub(super) fn spare(self: &Arc<Self>) -> Option<Slot> {
        self.take(Home::Spare)
    }

    fn take(self: &Arc<Self>, home: Home) -> Option<Slot> {
        let mut free = self.free.lock();
        loop {
            if free.closed {
                return None;
            }
            let pool = match home {
                Home::Flight => &mut free.flight,
                Home::Spare => &mut free.spare,
            };
            if let Some(index) = pool.pop() {
                return Some(Slot {
                    arena: Arc::clone(self),
                    index,
                    home,
                    header: Header::EMPTY,
                    origin: Origin::default(),
                    checked: false,
                    place: None,
                    references: Vec::new(),
                    base: None,
                });
            }
            free = free.wait();
        }
    }

    /// Ends every wait for a slot, now and later.
    pub(super) fn close(&self) {
        let mut free = self.free.lock();
        free.closed = true;
        free.wake();
        // A parked slot holds the arena, which holds the slot: let go of them.
        for parked in &self.parked {
            drop(lock(parked).take());
        }
    }

    /// Leaves a slot under its number for whoever claims it.
    pub(super) fn park(&self, slot: Slot) -> u32 {
        let index = slot.index;
        *lock(&self.parked[index as usize]) = Some(slot);
        if self.free.lock().closed {
            // `close` may have emptied this place before we filled it, and a parked slot keeps the arena alive.
            drop(lock(&self.parked[index as usize]).take());
        }
        index
    }

    /// The slot that was parked under this number. `operation` is for the message.
    pub(super) fn claim(&self, slot: u32, operation: &'static str) -> Result<Slot, FlowError> {
        if self.free.lock().closed {
            return Err(FlowError::Stopped);
        }
        let parked = self
            .parked
            .get(slot as usize)
            .and_then(|parked| lock(parked).take());
        // `close` may have come between the two looks, and has emptied the place then.
        parked.ok_or_else(|| match self.free.lock().closed {
            true => FlowError::Stopped,
            false => FlowError::Slot { slot, operation },
        })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no slot is left: each holds the arena.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// One piece of the arena, owned: a frame's header and room for its payload.
pub(super) struct Slot {
    arena: Arc<Arena>,
    index: u32,
    home: Home,
    /// Of the frame in it; `packed_len` says how much of the room is its payload.
    pub(super) header: Header,
    /// Where the frame stood in the input, when decoding.
    pub(super) origin: Origin,
    /// The payload was held against its checksum already.
    pub(super) checked: bool,
    /// In the window, where the stream has one.
    pub(super) place: Option<Place>,
    /// Those whose bytes are still to be copied out of the window, when decoding.
    pub(super) references: Vec<Reference>,
    /// What others of them lead into, when decoding.
    pub(super) base: Option<Arc<dyn Base>>,
}

/// The place of a frame in the input of a decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// The number of the frame, from 0, over all concatenated streams.
    pub(super) number: u64,
    /// Where its header begins, in bytes.
    pub(super) offset: u64,
}

impl Origin {
    /// What is wrong with the frame that stands here.
    pub(super) fn error(self, source: FrameError) -> FlowError {
        FlowError::Frame {
            number: self.number,
            offset: self.offset,
            source,
        }
    }
}

impl Slot {
    /// All the room for a payload.
    pub(super) fn room(&mut self) -> &mut [u8] {
        // SAFETY: HEADROOM + frame_size bytes at index * stride lie within the mapping, and this slot alone owns them.
        unsafe { std::slice::from_raw_parts_mut(self.at(HEADROOM), self.arena.frame_size) }
    }

    /// The payload, as long as the header says.
    pub(super) fn payload(&self) -> &[u8] {
        let len = (self.header.packed_len as usize).min(self.arena.frame_size);
        // SAFETY: as in `room`; the mapping is zeroed at first, so every byte is initialised.
        unsafe { std::slice::from_raw_parts(self.at(HEADROOM), len) }
    }

    /// The length of [`wire`](Self::wire).
    pub(super) fn wire_len(&self) -> usize {
        HEADER_LEN + self.payload().len()
    }

    /// Writes the header before the payload and returns both, ready for the wire.
    pub(super) fn wire(&mut self) -> &[u8] {
        let header = self.header.to_bytes();
        let len = HEADER_LEN + self.payload().len();
        // SAFETY: HEADROOM ≥ HEADER_LEN, so these bytes lie within this slot's piece, and this slot alone owns it.
        let wire = unsafe { std::slice::from_raw_parts_mut(self.at(HEADROOM - HEADER_LEN), len) };
        wire[..HEADER_LEN].copy_from_slice(&header);
        wire
    }

    fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: `index` is below the number of pieces and `offset` within one, so the result is inside the mapping.
        unsafe {
            self.arena
                .base
                .as_ptr()
                .add(self.index as usize * self.arena.stride + offset)
        }
    }

    /// Makes `other` go where this slot would have gone, and the other way round.
    pub(super) fn swap_homes(&mut self, other: &mut Slot) {
        std::mem::swap(&mut self.home, &mut other.home);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The next frame, in this slot, needs its room in the window.
        self.place = None;
        let mut free = self.arena.free.lock();
        match self.home {
            Home::Flight => free.flight.push(self.index),
            Home::Spare => free.spare.push(self.index),
        }
        free.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_given_out_once() {
        let arena = Arena::new(4096, 1, 1).expect("memory");
        let mut slot = arena.acquire().expect("free");
        slot.room().fill(7);
        slot.header.packed_len = 10;
        let number = arena.park(slot);
        let slot = arena.claim(number, "tested").expect("parked");
        assert_eq!(slot.payload(), [7; 10]);
        assert!(matches!(
            arena.claim(number, "tested"),
            Err(FlowError::Slot { .. })
        ));
        assert!(matches!(
            arena.claim(99, "tested"),
            Err(FlowError::Slot { .. })
        ));
    }

    #[test]
    fn swapped_homes_keep_the_pools_as_large_as_they_were() {
        let arena = Arena::new(4096, 1, 1).expect("memory");
        for _ in 0..3 {
            let (mut a, mut b) = (arena.acquire().expect("free"), arena.spare().expect("free"));
            a.swap_homes(&mut b);
            drop(a);
            drop(b);
        }
        let free = arena.free.lock();
        assert_eq!((free.flight.len(), free.spare.len()), (1, 1));
    }

    #[test]
    fn closing_ends_a_wait() {
        let arena = Arena::new(4096, 1, 0).expect("memory");
        let held = arena.acquire();
        let waiting = {
            let arena = Arc::clone(&arena);
            std::thread::spawn(move || arena.acquire().is_none())
        };
        std::thread::sleep(std::time::Duration::from_millis(20));
        arena.close();
        assert!(waiting.join().expect("no panic"));
        drop(held);
    }
}

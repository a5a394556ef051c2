//! What making an index takes, held against what it tells: every byte that is allocated is counted.

use pagewire_core::archive::{Builder, Scribe, Watcher, index_bytes};
use pagewire_core::frame::{End, Ending, FrameType, Header};
use pagewire_core::qemu::Writer;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is the system's allocator's; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const FRAME: usize = 1 << 20;
const IN_FLIGHT: usize = 12;
const PAGES: u64 = 1 << 40;

/// Records of pages of one byte each, as far apart as they can be: nothing shorter is in a stream, and nothing takes more here.
fn filled(length: usize) -> Vec<u8> {
    let mut s = Writer::new();
    s.header().configuration(b"pc-q35-9.2");
    s.ram_start(2, &[(b"pc.ram", PAGES * 4096)]);
    s.end_of_section().footer(2).section_part(2);
    s.fill(b"pc.ram", 0, 0);
    let mut number = 1u64;
    while s.bytes.len() < length {
        number = (number.wrapping_mul(0x5851_f42d_4c95_7f2d) + 1) % PAGES;
        s.fill(b"pc.ram", number * 4096, number as u8);
    }
    s.bytes
}

#[test]
fn an_index_takes_no_more_than_it_tells_while_every_slot_is_on_its_way() {
    let stream = filled(3 * IN_FLIGHT * FRAME);
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let builder = Arc::new(Builder::new(true, None));
    let mut watcher = Watcher::new(Arc::clone(&builder));
    let mut scribe = Scribe::new(Arc::clone(&builder));
    let mut index = 0;
    let numbered = || stream.chunks(FRAME).enumerate();
    let mut write = |number: usize, raw: &[u8]| {
        let mut header =
            Header::stored(FrameType::Data, number as u32, (number * FRAME) as u64, &[]);
        header.raw_len = raw.len() as u32;
        header.packed_len = raw.len() as u32;
        index += scribe.before(&mut header, &mut []).len();
    };
    let frames: Vec<(usize, &[u8])> = numbered().collect();
    for (number, raw) in &frames {
        watcher.sealed((number * FRAME) as u64, raw);
        let _ = builder.look((number * FRAME) as u64, raw);
        if let Some(first) = (number + 1).checked_sub(IN_FLIGHT) {
            write(first, frames[first].1);
        }
    }
    for (number, raw) in &frames[frames.len() + 1 - IN_FLIGHT..] {
        write(*number, raw);
    }
    watcher.finish();
    let end = End {
        raw_bytes: stream.len() as u64,
        frames: frames.len() as u64,
        content_hash: 0,
        ending: Ending::Complete,
        index: 0,
    };
    let mut payload = end.to_bytes();
    let mut header = Header::stored(FrameType::End, 0, stream.len() as u64, &payload);
    scribe.before(&mut header, &mut payload);
    let most = MOST.load(Ordering::Relaxed) - before;
    let told = index_bytes(FRAME, IN_FLIGHT as u32, 9, false) as usize;
    assert!(End::from_bytes(&payload).expect("END").index > 0);
    assert!(index > 20 << 20, "{index} bytes of an index");
    assert!(most <= told, "{most} bytes, {told} were told");
    // Every slot was on its way, with records that cannot be kept much smaller.
    assert!(most > IN_FLIGHT * FRAME, "{most} bytes");
}

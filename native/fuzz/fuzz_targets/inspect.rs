//! A stream that is looked at: however it is cut and whatever is in it, nothing panics, the same is seen, and the numbers
//! agree with each other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_core::inspect::{Inspector, Tally};

/// Bytes for the last versions of pages: a few, so that some do not fit.
const CACHE: u64 = 64 << 10;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, stream)) = input.split_first() else {
        return;
    };
    let mut whole = Inspector::new(CACHE);
    whole.feed(stream);
    let mut pieces = Inspector::new(CACHE);
    for piece in stream.chunks(usize::from(cut) + 1) {
        pieces.feed(piece);
    }
    assert_eq!(whole.understood(), pieces.understood());
    assert_eq!(whole.reason(), pieces.reason());
    assert_eq!(whole.device_state(), pieces.device_state());
    assert_eq!(whole.outline().sections, pieces.outline().sections);
    assert!(whole.understood() <= whole.bytes());
    if let (Some(pages), Some(again)) = (whole.pages(), pieces.pages()) {
        assert_eq!(pages.total, again.total);
        assert_eq!(pages.deltas.counts, again.deltas.counts);
        let all = pages.total.pages();
        assert_eq!(pages.blocks.iter().map(Tally::pages).sum::<u64>(), all);
        assert_eq!(
            pages.passes.iter().map(|p| p.tally.pages()).sum::<u64>(),
            all
        );
        // A look at each page of a guest that only claims to be large would take all the time.
        let is_small = whole.guest().is_some_and(|guest| guest.pages() < 1 << 16);
        if let Some(resent) = is_small.then(|| pages.resent()).flatten() {
            assert_eq!(resent.sent + resent.records, all);
        }
    }
});

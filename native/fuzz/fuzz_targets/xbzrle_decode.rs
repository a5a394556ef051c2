//! The XBZRLE decoder takes and refuses on each tier what a naive one does, and makes the same page of it.
//!
//! Input: a byte that chooses the page's length, then the delta.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_core::xbzrle::{Tier, decode_with};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, delta)) = input.split_first() else {
        return;
    };
    let old = vec![0x55; [0, 64, 1024, 4096, 65536][usize::from(choice) % 5]];
    let expected = naive(delta, &old);
    for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
        let mut new = old.clone();
        let decoded = decode_with(tier, delta, &mut new).expect("available");
        assert_eq!(decoded.ok().map(|()| new), expected, "{tier}");
    }
});

/// From the format, a byte at a time. `None`: refused.
fn naive(delta: &[u8], old: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = delta.iter().copied().peekable();
    let mut page = old.to_vec();
    let mut at = 0;
    let mut first = true;
    while bytes.peek().is_some() {
        let mut lengths = [0; 2];
        for length in &mut lengths {
            *length = usize::from(bytes.next()?);
            if *length >= 0x80 {
                let high = usize::from(bytes.next().filter(|high| (1..0x80).contains(high))?);
                *length += high * 0x80 - 0x80;
            }
        }
        let [same, changed] = lengths;
        if (same == 0 && !first) || changed == 0 {
            return None;
        }
        first = false;
        at += same;
        for _ in 0..changed {
            *page.get_mut(at)? = bytes.next()?;
            at += 1;
        }
    }
    (delta.len() <= old.len()).then_some(page)
}

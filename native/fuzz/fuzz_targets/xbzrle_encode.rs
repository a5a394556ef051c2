//! What the XBZRLE encoder makes decodes to the new page, and is the same on every tier of this machine.
//!
//! Input: a limit (two bytes), then a list of (gap, length of a changed run), two bytes each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_core::xbzrle::{Tier, decode, encode_with};

fuzz_target!(|input: &[u8]| {
    let [low, high, layout @ ..] = input else {
        return;
    };
    let limit = usize::from(u16::from_le_bytes([*low, *high]));
    let old: Vec<u8> = (0..4096u32).map(|at| (at * 7) as u8).collect();
    let mut new = old.clone();
    let mut at = 0;
    for pair in layout.chunks_exact(2) {
        at += usize::from(pair[0]);
        for byte in new.iter_mut().skip(at).take(usize::from(pair[1])) {
            *byte ^= 0xff;
        }
        at += usize::from(pair[1]);
    }

    let [mut out, mut expected] = [vec![0; limit], vec![0; limit]];
    let length = encode_with(Tier::Scalar, &old, &new, &mut expected).expect("available");
    for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
        assert_eq!(
            encode_with(tier, &old, &new, &mut out),
            Ok(length),
            "{tier}"
        );
        let Some(length) = length else { continue };
        assert_eq!(out[..length], expected[..length], "{tier}");
        let mut page = old.clone();
        decode(&out[..length], &mut page).expect("decodes");
        assert!(page == new, "{tier}");
    }
});

//! The index of a file, its checksums apart: any body is read or refused, within the format's bounds, and what is read
//! is what its bytes say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_core::archive::{Directory, Part};

/// As for a guest of 64 MiB.
const PAGE_SIZE: u32 = 4096;
const PAGES: u64 = 16 << 10;
const UPTO: u64 = 70 << 20;

fuzz_target!(|input: &[u8]| {
    for kind in [1, 2] {
        // Stored, so that the fuzzer sees what it does.
        let mut payload = vec![kind, 0, 0, 0];
        payload.extend_from_slice(&(input.len() as u32).to_le_bytes());
        payload.extend_from_slice(input);
        if let Ok(part) = Part::from_payload(&payload, PAGE_SIZE, PAGES, UPTO) {
            assert!(part.pages.iter().all(|page| page.number < PAGES));
            let again = Part::from_payload(&part.to_payload(PAGE_SIZE), PAGE_SIZE, PAGES, UPTO);
            assert_eq!(again.as_ref(), Ok(&part), "nothing is lost");
        }
        if let Ok(directory) = Directory::from_payload(&payload) {
            let again = Directory::from_payload(&directory.to_payload());
            assert_eq!(again.as_ref(), Ok(&directory), "nothing is lost");
        }
    }
});

//! BLAKE3 of many pages at once.
//!
//! A page is a few chunks of 1 KiB, a quarter of what the widest vector units hash side by side. So the chunks that stand
//! at the same place of many pages are hashed together, then their parents: a sixteenth of the calls, each with all lanes
//! in use.

use blake3::IncrementCounter;
use blake3::platform::Platform;

/// The first 16 bytes of a page's BLAKE3.
pub type PageHash = [u8; 16];

const CHUNK: usize = blake3::CHUNK_LEN;
const NODE: usize = blake3::OUT_LEN;

/// Pages that are hashed together: as many as the widest vector units have lanes.
const TOGETHER: usize = 16;

/// BLAKE3's key where there is none, and its flags, as its paper has them.
const KEY: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
const CHUNK_START: u8 = 1 << 0;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;

/// The hash of a page.
pub(super) fn hash_page(content: &[u8]) -> PageHash {
    let mut hash = PageHash::default();
    hash.copy_from_slice(&blake3::hash(content).as_bytes()[..16]);
    hash
}

/// The hashes of pages of one size, in their order.
pub(super) fn hash_pages(pages: &[&[u8]]) -> Vec<PageHash> {
    let mut hashes = Vec::with_capacity(pages.len());
    let Some(chunks) = pages.first().map(|page| page.len() / CHUNK) else {
        return hashes;
    };
    // The tree over other numbers of chunks is not even. QEMU knows no such page.
    let even = chunks > 1 && chunks.is_power_of_two();
    if !even || pages.iter().any(|page| page.len() != chunks * CHUNK) {
        hashes.extend(pages.iter().map(|page| hash_page(page)));
        return hashes;
    }
    let mut nodes = vec![0; chunks * NODE * TOGETHER.min(pages.len())];
    for pages in pages.chunks(TOGETHER) {
        let nodes = &mut nodes[..chunks * NODE * pages.len()];
        hash_together(pages, chunks, nodes);
        let roots = nodes.chunks_exact(NODE).take(pages.len());
        hashes.extend(roots.filter_map(|root| root.first_chunk().copied()));
    }
    hashes
}

/// Hashes pages of so many chunks. Their roots are the first of the nodes then.
fn hash_together(pages: &[&[u8]], chunks: usize, nodes: &mut [u8]) {
    let platform = Platform::detect();
    let row = pages.len() * NODE;
    for (at, out) in nodes.chunks_exact_mut(row).enumerate() {
        let inputs = pages
            .iter()
            .filter_map(|page| page[at * CHUNK..].first_chunk::<CHUNK>());
        let inputs: Vec<&[u8; CHUNK]> = inputs.collect();
        platform.hash_many(
            &inputs,
            &KEY,
            at as u64,
            IncrementCounter::No,
            0,
            CHUNK_START,
            CHUNK_END,
            out,
        );
    }
    // From the leaves to the root: rows of one place in all pages, of which two become one.
    let mut rows = chunks;
    while rows > 1 {
        rows /= 2;
        let flags = if rows == 1 { PARENT | ROOT } else { PARENT };
        for at in 0..rows {
            let mut parents = [[0; 2 * NODE]; TOGETHER];
            let parents = &mut parents[..pages.len()];
            for (page, parent) in parents.iter_mut().enumerate() {
                for (child, to) in parent.chunks_exact_mut(NODE).enumerate() {
                    let from = (2 * at + child) * row + page * NODE;
                    to.copy_from_slice(&nodes[from..from + NODE]);
                }
            }
            let inputs: Vec<&[u8; 2 * NODE]> = parents.iter().collect();
            let out = &mut nodes[at * row..][..row];
            platform.hash_many(&inputs, &KEY, 0, IncrementCounter::No, flags, 0, 0, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn together_as_alone(
            bytes in proptest::collection::vec(any::<u8>(), 1000), seed in any::<u32>(),
            count in 0usize..40, size in prop::sample::select(vec![100, 1024, 2048, 3072, 4096, 16384, 65536]),
        ) {
            let page = |number: usize| -> Vec<u8> {
                let number = number as u32 ^ seed;
                (0..size).map(|at| bytes[(at * 7 + at / 1000) % 1000] ^ (number >> (at % 4 * 8)) as u8).collect()
            };
            let pages: Vec<Vec<u8>> = (0..count).map(page).collect();
            let pages: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
            let alone: Vec<PageHash> = pages.iter().map(|page| hash_page(page)).collect();
            prop_assert_eq!(hash_pages(&pages), alone);
        }
    }

    #[test]
    fn a_page_of_another_size_is_hashed_alone() {
        let (page, other) = ([1; 4096], [2; 2048]);
        let pages: [&[u8]; 3] = [&page, &other, &page];
        let alone: Vec<PageHash> = pages.iter().map(|page| hash_page(page)).collect();
        assert_eq!(hash_pages(&pages), alone);
    }
}

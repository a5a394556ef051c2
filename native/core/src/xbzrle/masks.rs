//! The encoder over masks, written once for all instruction sets.
//!
//! 1. One mask of differing bytes for each 64 bytes of the page, without a branch.
//! 2. The *edges* where runs begin and end, in turns, by shifts of the masks. Gaps of one and two equal bytes belong to
//!    a run. Blocks without an edge are sorted out.
//! 3. The edges' positions are taken out in groups, whatever their number: a loop that runs as often as there are edges
//!    would be mispredicted for nearly every block.
//! 4. One loop over the pairs of positions writes the runs.

use super::PAGE_GRAIN;
use super::vector::{BLOCK, BLOCKS, Differ};
use super::writer::Writer;

const _: () = assert!(PAGE_GRAIN == BLOCK);

/// Positions that are taken out before their runs are written. Enough that the loops are seldom changed, few enough
/// that the page is given up soon after the limit, and that zeroing them costs little.
const POSITIONS: usize = 96;
/// The most that one block can add: two edges for four bytes (gaps are of three and more), rounded up.
const POSITIONS_OF_BLOCK: usize = 40;
/// The positions that are taken out at a time. Measured (AVX2, EPYC of family 25): 4 is 15 % faster than 8 on counters
/// that lie 64 bytes apart, and as fast on pages full of changes.
const GROUP: usize = 4;

/// Encodes with the instruction set `D`.
///
/// # Safety
/// The processor has it.
#[inline(always)]
pub(super) unsafe fn encode<D: Differ>(old: &[u8], new: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut writer = Writer::new(old, new, out);
    // A run that has begun and not ended yet.
    let mut open = None;
    // Before the masks of a part stands the last one of the part before.
    let mut last = 0;
    for part in (0..new.len()).step_by(BLOCKS * BLOCK) {
        let end = new.len().min(part + BLOCKS * BLOCK);
        let mut masks = [0u64; 1 + BLOCKS];
        masks[0] = last;
        let mut any = last;
        for (mask, (old, new)) in masks[1..]
            .iter_mut()
            .zip(blocks(&old[part..end]).zip(blocks(&new[part..end])))
        {
            // SAFETY: the caller vouches for the instruction set.
            *mask = unsafe { D::differ(old, new) };
            any |= *mask;
        }
        if any == 0 {
            continue;
        }
        last = masks[BLOCKS];

        // In place: mask `i` becomes the edges of block `i`, which begins at mask `i + 1`.
        for i in 0..BLOCKS {
            masks[i] = edges_of(masks[i], masks[i + 1]);
        }
        let Some(edges) = masks.first_chunk::<BLOCKS>() else {
            unreachable!("{BLOCKS} and one more")
        };
        // SAFETY: as above.
        let mut work = unsafe { D::nonzero(edges) };

        let mut positions = Positions::new(open);
        while work != 0 {
            while work != 0 && positions.found < POSITIONS {
                let block = work.trailing_zeros() as usize % BLOCKS;
                work &= work - 1;
                positions.take_out(edges[block], part + block * BLOCK);
            }
            open = positions.write(&mut writer)?;
        }
    }
    // Ends are late, so the last one may stand behind the page's end.
    let edges = edges_of(last, 0);
    if edges != 0 {
        let mut positions = Positions::new(open);
        positions.take_out(edges, new.len());
        positions.write(&mut writer)?;
    }
    Some(writer.written())
}

/// Where runs begin and end, in turns.
struct Positions {
    of: [u32; POSITIONS + POSITIONS_OF_BLOCK],
    found: usize,
}

impl Positions {
    #[inline(always)]
    fn new(open: Option<u32>) -> Self {
        let mut of = [0; POSITIONS + POSITIONS_OF_BLOCK];
        of[0] = open.unwrap_or(0);
        Positions {
            of,
            found: usize::from(open.is_some()),
        }
    }

    /// Takes out the positions of a block's edges.
    #[inline(always)]
    fn take_out(&mut self, mut edges: u64, block: usize) {
        let base = block as u32;
        let mut at = self.found;
        self.found += edges.count_ones() as usize;
        loop {
            let Some(group) = self.of[at..].first_chunk_mut::<GROUP>() else {
                unreachable!("enough for a block")
            };
            for position in group {
                *position = base.wrapping_add(edges.trailing_zeros());
                edges &= edges.wrapping_sub(1);
            }
            at += GROUP;
            if at >= self.found {
                break;
            }
        }
    }

    /// Writes the runs whose ends are known, and returns the beginning of one whose end is not.
    #[inline(always)]
    fn write(&mut self, writer: &mut Writer<'_>) -> Option<Option<u32>> {
        let runs = self.of[..self.found].chunks_exact(2);
        let open = runs.remainder().first().copied();
        for run in runs {
            writer.run(run[0] as usize, run[1] as usize - LATE)?;
        }
        self.of[0] = open.unwrap_or(0);
        self.found = usize::from(open.is_some());
        Some(open)
    }
}

/// How many bits the end of a run is late in [`edges_of`].
const LATE: usize = 2;

/// Where runs begin and end in `mask`, after `before`: a bit for each edge.
///
/// A run begins at a byte that differs after three that do not, and it is known to have ended at the third equal byte
/// after it. So gaps of one and two bytes need not be filled, nor the masks behind looked at; but ends are [`LATE`].
#[inline(always)]
fn edges_of(before: u64, mask: u64) -> u64 {
    let behind = |bytes: u32| mask << bytes | before >> (64 - bytes);
    (mask ^ behind(3)) & !(behind(1) | behind(2))
}

#[inline(always)]
fn blocks(page: &[u8]) -> impl Iterator<Item = &[u8; BLOCK]> {
    page.chunks_exact(BLOCK)
        .filter_map(|block| block.first_chunk())
}

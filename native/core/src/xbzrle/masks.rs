//! The encoder over masks, written once for all instruction sets.
//!
//! 1. One mask of differing bytes for each 64 bytes of the page, without a branch. A page in which more bytes differ
//!    than there is room for is given up here.
//! 2. The *edges* where runs begin and end, in turns, by shifts of the masks. Gaps of one and two equal bytes belong to
//!    a run. Blocks without an edge are sorted out.
//! 3. The edges' positions are taken out in groups, whatever their number: a loop that runs as often as there are edges
//!    would be mispredicted for nearly every block.
//! 4. The pairs of positions are runs. Those of short ones are made into records eight at a time.

use super::PAGE_GRAIN;
use super::vector::{BLOCK, BLOCKS, Differ, EIGHT, Masks, PART, POSITIONS_OF_BLOCK, RUNS};
use super::writer::Writer;

const _: () = assert!(PAGE_GRAIN == BLOCK);

/// Positions that are taken out before their runs are written. Enough that the loops are seldom changed, few enough
/// that the page is given up soon after the limit, and that zeroing them costs little.
const POSITIONS: usize = 128;

/// Encodes pages that are a multiple of [`PART`] long with the instruction set `D`.
///
/// # Safety
/// The processor has it.
#[inline(always)]
pub(super) unsafe fn encode<D: Differ>(old: &[u8], new: &[u8], out: &mut [u8]) -> Option<usize> {
    let length = new.len();
    debug_assert!(length % PART == 0);
    let limit = out.len().min(length);
    let mut writer = Writer::new(old, new, out);
    // A run that has begun and not ended yet.
    let mut open = None;
    // Before the masks of a part stands the last one of the part before.
    let mut last = 0;
    let mut differing = 0;
    for start in (0..length).step_by(PART) {
        let (Some(old), Some(new)) = (
            old[start..].first_chunk::<PART>(),
            new[start..].first_chunk::<PART>(),
        ) else {
            unreachable!("whole parts")
        };
        let before = differing;
        let mut masks: Masks = [0; BLOCKS];
        for ((masks, old), new) in masks
            .chunks_exact_mut(EIGHT)
            .zip(old.chunks_exact(EIGHT * BLOCK))
            .zip(new.chunks_exact(EIGHT * BLOCK))
        {
            for ((mask, old), new) in masks.iter_mut().zip(blocks(old)).zip(blocks(new)) {
                // SAFETY: the caller vouches for the instruction set.
                *mask = unsafe { D::differ(old, new) };
                differing += mask.count_ones() as usize;
            }
        }
        if differing == before && last == 0 {
            continue;
        }
        // A record takes two bytes at least besides those that it changes.
        if differing + 2 > limit {
            return None;
        }

        let mut edges: Masks = [0; BLOCKS];
        // SAFETY: as above.
        let some = unsafe { D::edges(last, &masks, &mut edges) };
        last = masks[BLOCKS - 1];
        // Ends are late, so the last one may stand behind the page's end.
        let behind = (start + PART == length).then(|| edges_of(last, 0));
        // SAFETY: as above.
        open = unsafe { write_runs::<D>(&mut writer, open, start, &edges, some, behind)? };
    }
    Some(writer.written())
}

/// Writes the runs of the part that begins at `start`: of its `edges`, of which those of the blocks in `some` are not 0,
/// and of those of the block `behind` it. Returns where a run begins whose end is not known yet, as `open` was.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn write_runs<D: Differ>(
    writer: &mut Writer<'_>,
    mut open: Option<u16>,
    start: usize,
    edges: &Masks,
    mut some: u64,
    behind: Option<u64>,
) -> Option<Option<u16>> {
    // Where runs begin and end, in turns, after two of the run before. A page ends at 64 KiB at the most: that wraps
    // around to 0.
    let mut positions = [0u16; 2 + POSITIONS + 2 * POSITIONS_OF_BLOCK];
    loop {
        positions[1] = (writer.end() as u16).wrapping_add(LATE);
        positions[2] = open.unwrap_or(0);
        let mut found = 2 + usize::from(open.is_some());
        while some != 0 && found < 2 + POSITIONS {
            let block = some.trailing_zeros() as usize % BLOCKS;
            some &= some - 1;
            let edges = edges[block];
            let Some(free) = positions[found..].first_chunk_mut() else {
                unreachable!("enough for a block")
            };
            // SAFETY: the caller vouches for the instruction set.
            unsafe { D::positions(edges, (start + block * BLOCK) as u16, free) };
            found += edges.count_ones() as usize;
        }
        if let (Some(edges), 0) = (behind, some) {
            // Without a branch: so it is with every second page full of changes.
            positions[found] = ((start + PART) as u16).wrapping_add(edges.trailing_zeros() as u16);
            found += usize::from(edges != 0);
        }

        let end = |at: usize| usize::from(positions[at].wrapping_sub(LATE + 1)) + 1;
        let mut at = 2;
        while at + 2 * RUNS <= found {
            let Some(runs) = positions[at - 2..].first_chunk() else {
                unreachable!("of the same array")
            };
            // SAFETY: as above.
            let heads = unsafe { D::heads(runs) };
            if !writer.short_runs(runs, &heads) {
                for run in (at..at + 2 * RUNS).step_by(2) {
                    writer.run(usize::from(positions[run]), end(run + 1))?;
                }
            }
            at += 2 * RUNS;
        }
        while at + 2 <= found {
            writer.run(usize::from(positions[at]), end(at + 1))?;
            at += 2;
        }
        open = (at < found).then(|| positions[at]);
        if some == 0 {
            return Some(open);
        }
    }
}

/// How many bits the end of a run is late in [`edges_of`].
pub(super) const LATE: u16 = 2;

/// Where runs begin and end in `mask`, after `before`: a bit for each edge.
///
/// A run begins at a byte that differs after three that do not, and it is known to have ended at the third equal byte
/// after it. So gaps of one and two bytes need not be filled, nor the masks behind looked at; but ends are [`LATE`].
#[inline(always)]
pub(super) fn edges_of(before: u64, mask: u64) -> u64 {
    let behind = |bytes: u32| mask << bytes | before >> (64 - bytes);
    (mask ^ behind(3)) & !(behind(1) | behind(2))
}

#[inline(always)]
fn blocks(of: &[u8]) -> impl Iterator<Item = &[u8; BLOCK]> {
    of.chunks_exact(BLOCK)
        .filter_map(|block| block.first_chunk())
}

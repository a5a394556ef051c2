//! A smaller stream of the same kind: with some of the guest's pages instead of all, whenever they come.

use super::BenchError;
use super::walk::walk;
use crate::qemu::{Found, MAX_RECORD_HEAD, PageAt, Part, record_head, wire::flag};
use std::io::{self, Read, Write};

/// Pages are kept in runs of so many neighbours, as they lie in memory: 1 MiB of pages of 4 KiB.
const RUN: u64 = 256;
/// What is kept of what stands behind the RAM, in bytes.
const MAX_REST: u64 = 32 << 20;
/// A stream that is no QEMU stream is kept in pieces of so many bytes.
const PIECE: u64 = 1 << 20;

/// Of the guest's RAM, so many times the limit is kept at the most: records of empty pages are small, and whoever reads the
/// sample remembers each page.
const RAM_FACTOR: u64 = 16;

/// How large a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of it.
    pub bytes: u64,
    /// Bytes of its guest's RAM; 0 where it names none.
    pub ram_bytes: u64,
}

impl Extent {
    /// Whether a stream has to be thinned for a limit: its length, or its guest, is too large.
    #[must_use]
    pub fn is_beyond(&self, limit: u64) -> bool {
        self.bytes > limit || self.ram_bytes > limit.saturating_mul(RAM_FACTOR)
    }
}

/// How large a stream is, read as far as it must be: to its end where its length is not known before.
///
/// # Errors
/// If reading fails.
pub fn extent(input: impl Read, known: Option<u64>) -> Result<Extent, BenchError> {
    let mut extent = Extent::default();
    walk(input, |reader, part, offset, bytes| {
        extent.bytes = offset + bytes.len() as u64;
        extent.ram_bytes = reader.guest().map_or(0, |guest| guest.total_bytes);
        let may_be_named = extent.ram_bytes == 0 && matches!(part, Part::Element(_));
        Ok::<bool, BenchError>(known.is_none() || may_be_named)
    })?;
    extent.bytes = known.unwrap_or(extent.bytes);
    Ok(extent)
}

/// What was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thinned {
    /// Bytes of the stream.
    pub bytes: u64,
    /// Bytes of what was written.
    pub kept: u64,
}

/// Writes a stream of this extent, if it is within `limit`, or about so many bytes of it. Of a QEMU stream each run of pages is kept or left out as a
/// whole and through all passes, so what is kept is a stream of a smaller guest, which any QEMU could read. What is not
/// understood is kept in pieces, evenly. Never writes more than a quarter beyond `limit`, but for what stands behind the
/// RAM (32 MiB at the most), and keeps no more of the guest's RAM than 16 times `limit`, as near as chance allows.
///
/// # Errors
/// If reading or writing fails.
pub fn thin(
    mut input: impl Read,
    extent: Extent,
    limit: u64,
    output: &mut impl Write,
) -> Result<Thinned, BenchError> {
    if !extent.is_beyond(limit) {
        let bytes = io::copy(&mut input, output).map_err(BenchError::of_writing)?;
        return Ok(Thinned { bytes, kept: bytes });
    }
    let one_of = extent.bytes.div_ceil(limit.max(1)).max(1);
    let most = limit + limit / 4;
    let mut result = Thinned::default();
    let mut last_block = None;
    let mut rest = 0;
    walk(input, |reader, part, offset, bytes| {
        result.bytes = offset + bytes.len() as u64;
        let element = match part {
            Part::Element(Found { element, .. }) => element,
            Part::Opaque(_) => {
                // Behind the RAM: the devices' states. Else whatever it is.
                let is_kept = match reader.guest() {
                    Some(_) => rest + bytes.len() as u64 <= MAX_REST,
                    None => (offset / PIECE) % one_of == 0 && result.kept < most,
                };
                if is_kept {
                    output.write_all(bytes).map_err(BenchError::Write)?;
                    result.kept += bytes.len() as u64;
                    rest += bytes.len() as u64;
                }
                return Ok::<bool, BenchError>(true);
            }
        };
        let Some(at) = element.page() else {
            // Of a stream of a guest they are few.
            if result.kept <= most + MAX_REST {
                output.write_all(bytes).map_err(BenchError::Write)?;
                result.kept += bytes.len() as u64;
            }
            return Ok(true);
        };
        let ram = reader.guest().map_or(0, |guest| guest.total_bytes);
        let one_of = one_of.max(ram.div_ceil(limit.max(1).saturating_mul(RAM_FACTOR)));
        if !is_chosen(at.number / RUN, one_of) || result.kept > most {
            return Ok(true);
        }
        let name = (last_block != Some(at.block))
            .then(|| reader.guest()?.blocks.get(at.block as usize))
            .flatten();
        let mut head = [0; MAX_RECORD_HEAD];
        let length = record_head(&mut head, at.address, kind(bytes), name.map(|b| &*b.name));
        let payload = payload(bytes, at);
        output
            .write_all(&head[..length])
            .map_err(BenchError::Write)?;
        output.write_all(payload).map_err(BenchError::Write)?;
        last_block = Some(at.block);
        result.kept += (length + payload.len()) as u64;
        Ok(true)
    })?;
    Ok(result)
}

/// What a record is, without CONTINUE, which [`record_head`] sets.
fn kind(record: &[u8]) -> u64 {
    let word = record
        .first_chunk()
        .map_or(0, |word| u64::from_be_bytes(*word));
    word & flag::MASK & !flag::CONTINUE
}

fn payload(record: &[u8], at: PageAt) -> &[u8] {
    record.get(usize::from(at.head)..).unwrap_or_default()
}

/// One run of `one_of`, by a hash: content of a guest is often laid out in powers of two.
fn is_chosen(run: u64, one_of: u64) -> bool {
    let mixed = (run ^ (run >> 15)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 20) % one_of == 0
}

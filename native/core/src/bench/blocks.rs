//! A block codec over the blocks of a sample, one behind the other, on one thread.

use super::{BenchError, expect};
use crate::codec::{Codec, Packer, Unpacker};

/// Packs and unpacks blocks of one size with one codec and level; a block that would not become smaller is stored.
pub struct BlockCodec {
    codec: Codec,
    level: i32,
    block: usize,
    packer: Packer,
    unpacker: Unpacker,
}

impl BlockCodec {
    /// For blocks of `block` bytes, at least 1.
    #[must_use]
    pub fn new(codec: Codec, level: i32, block: usize) -> Self {
        Self {
            codec,
            level,
            block: block.max(1),
            packer: Packer::new(),
            unpacker: Unpacker::new(),
        }
    }

    /// Packs `raw` block by block into `out`, which is as long, and writes each result's length. Returns their sum.
    ///
    /// # Errors
    /// If `out` or `lengths` is not as long as it must be.
    pub fn pack(
        &mut self,
        raw: &[u8],
        out: &mut [u8],
        lengths: &mut [u32],
    ) -> Result<usize, BenchError> {
        expect("room for packed blocks", out.len(), raw.len())?;
        expect("lengths", lengths.len(), raw.len().div_ceil(self.block))?;
        let mut at = 0;
        for (block, length) in raw.chunks(self.block).zip(lengths) {
            let room = &mut out[at..at + block.len()];
            let packed = self.packer.pack(self.codec, self.level, block, room);
            let packed = packed.unwrap_or_else(|| {
                room.copy_from_slice(block);
                block.len()
            });
            *length = packed as u32;
            at += packed;
        }
        Ok(at)
    }

    /// Unpacks what [`pack`](Self::pack) made into `out`, which is as long as what was packed.
    ///
    /// # Errors
    /// If a length is not as it must be, or a block does not unpack.
    pub fn unpack(
        &mut self,
        packed: &[u8],
        lengths: &[u32],
        out: &mut [u8],
    ) -> Result<(), BenchError> {
        expect("lengths", lengths.len(), out.len().div_ceil(self.block))?;
        let mut rest = packed;
        for (piece, (room, &length)) in out.chunks_mut(self.block).zip(lengths).enumerate() {
            let (block, after) =
                rest.split_at_checked(length as usize)
                    .ok_or(BenchError::Length {
                        what: "packed blocks",
                        actual: packed.len(),
                        expected: packed.len() - rest.len() + length as usize,
                    })?;
            rest = after;
            let codec = if block.len() == room.len() {
                Codec::None
            } else {
                self.codec
            };
            self.unpacker
                .unpack(codec, block, room)
                .map_err(|error| BenchError::Decode {
                    piece,
                    reason: error.to_string(),
                })?;
        }
        expect("packed blocks", packed.len() - rest.len(), packed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_what_does_not_fit_is_refused() {
        let raw: Vec<u8> = (0..70_000u32)
            .map(|i| {
                if i < 30_000 {
                    (i % 7) as u8
                } else {
                    (i.wrapping_mul(i) >> 7) as u8
                }
            })
            .collect();
        for codec in Codec::ALL {
            let mut blocks = BlockCodec::new(codec, 1, 16 << 10);
            let (mut out, mut lengths) = (vec![0; raw.len()], vec![0; 5]);
            let packed = blocks.pack(&raw, &mut out, &mut lengths).expect("packs");
            let mut back = vec![1; raw.len()];
            blocks
                .unpack(&out[..packed], &lengths, &mut back)
                .expect("unpacks");
            assert!(back == raw, "{codec:?}");
            assert!(blocks.pack(&raw, &mut out[1..], &mut lengths).is_err());
            assert!(blocks.pack(&raw, &mut out, &mut lengths[1..]).is_err());
            assert!(
                blocks
                    .unpack(&out[..packed - 1], &lengths, &mut back)
                    .is_err()
            );
            lengths[0] = u32::MAX;
            assert!(blocks.unpack(&out[..packed], &lengths, &mut back).is_err());
        }
    }
}

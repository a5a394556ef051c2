//! zlib streams (RFC 1950), by libdeflate: several times as fast as zlib on blocks, and any zlib reads the result.

use super::UnpackError;
use libdeflater::{CompressionLvl, Compressor, Decompressor};

#[derive(Default)]
pub(super) struct Packer(Option<(i32, Compressor)>);

impl Packer {
    pub(super) fn pack(&mut self, level: i32, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        if self
            .0
            .as_ref()
            .is_none_or(|(made_for, _)| *made_for != level)
        {
            let lvl = CompressionLvl::new(level).unwrap_or_default();
            self.0 = Some((level, Compressor::new(lvl)));
        }
        let (_, compressor) = self.0.as_mut()?;
        compressor.zlib_compress(raw, out).ok()
    }
}

#[derive(Default)]
pub(super) struct Unpacker(Option<Decompressor>);

impl Unpacker {
    pub(super) fn unpack(&mut self, packed: &[u8], out: &mut [u8]) -> Result<usize, UnpackError> {
        let decompressor = self.0.get_or_insert_with(Decompressor::new);
        decompressor
            .zlib_decompress(packed, out)
            .map_err(|e| UnpackError::Corrupt(e.to_string()))
    }
}

/// libdeflate's compressor: about 0.5 MiB up to level 9, about 9 MiB from 10 on (its near-optimal parser).
pub(super) fn context_bytes(level: i32) -> u64 {
    if level >= 10 { 9 << 20 } else { 1 << 20 }
}

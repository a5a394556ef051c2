//! LZ4 blocks, by liblz4.

use super::UnpackError;
use lz4::block::{CompressionMode, compress_to_buffer, decompress_to_buffer};

/// The first level of lz4hc, as liblz4's LZ4HC_CLEVEL_MIN has it less one (the lz4 program's -3).
const HC_FROM: i32 = 3;

pub(super) fn pack(level: i32, raw: &[u8], out: &mut [u8]) -> Option<usize> {
    let mode = match level {
        HC_FROM.. => CompressionMode::HIGHCOMPRESSION(level),
        level => CompressionMode::FAST(1 - level.min(1)), // below 0: acceleration
    };
    compress_to_buffer(raw, Some(mode), false, out).ok()
}

pub(super) fn unpack(packed: &[u8], out: &mut [u8]) -> Result<usize, UnpackError> {
    if out.is_empty() || packed.is_empty() {
        return Err(UnpackError::Corrupt("an empty block".into()));
    }
    let size = i32::try_from(out.len()).map_err(|e| UnpackError::Corrupt(e.to_string()))?;
    decompress_to_buffer(packed, Some(size), out)
        .map_err(|_| UnpackError::Corrupt("not a valid LZ4 block".into()))
}

/// LZ4_sizeofState() is 16 KiB, LZ4_sizeofStateHC() 256 KiB; liblz4 makes one for each call.
pub(super) fn context_bytes(level: i32) -> u64 {
    if level >= HC_FROM {
        263 << 10
    } else {
        17 << 10
    }
}

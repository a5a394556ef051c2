//! Zstandard frames, by libzstd: one frame a block, its size in the header, no checksum (our frame has one).

use super::UnpackError;
use crate::frame::MAX_RAW;
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, get_error_name};

/// A decoder allocates no window: a block is unpacked in one piece. The cap only refuses what no encoder of ours makes.
const WINDOW_LOG_MAX: u32 = MAX_RAW.ilog2();

#[derive(Default)]
pub(super) struct Packer(Option<(i32, CCtx<'static>)>);

impl Packer {
    pub(super) fn pack(&mut self, level: i32, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        if self.0.is_none() {
            self.0 = Some((i32::MIN, CCtx::try_create()?));
        }
        let (set_to, context) = self.0.as_mut()?;
        if *set_to != level {
            context
                .set_parameter(CParameter::CompressionLevel(level))
                .ok()?;
            *set_to = level;
        }
        context.compress2(out, raw).ok()
    }
}

#[derive(Default)]
pub(super) struct Unpacker(Option<DCtx<'static>>);

impl Unpacker {
    pub(super) fn unpack(&mut self, packed: &[u8], out: &mut [u8]) -> Result<usize, UnpackError> {
        let corrupt = |code| UnpackError::Corrupt(get_error_name(code).to_owned());
        if self.0.is_none() {
            let mut context =
                DCtx::try_create().ok_or_else(|| UnpackError::Corrupt("out of memory".into()))?;
            context
                .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
                .map_err(corrupt)?;
            self.0 = Some(context);
        }
        match &mut self.0 {
            Some(context) => context.decompress(out, packed).map_err(corrupt),
            None => Ok(0),
        }
    }
}

/// As ZSTD_estimateCCtxSize tells for blocks of 1 MiB (libzstd 1.5), rounded up; it grows with the block from there on.
pub(super) fn context_bytes(level: i32, block: usize) -> u64 {
    let mib = match level {
        i32::MIN..=2 => 2,
        3..=4 => 4,
        5..=12 => 8,
        13..=15 => 16,
        _ => 24,
    };
    (mib << 20) * (block.div_ceil(1 << 20).max(1) as u64)
}

//! The binding of `pagewire-core` to Node: thin. Page bytes never become JavaScript values; JavaScript gets handles,
//! slot numbers, lengths and counters.

#![allow(missing_docs)] // napi-derive's generated items
#![cfg_attr(test, allow(dead_code))] // in a test build napi-derive registers nothing

mod archive;
mod bench;
mod descriptor;
mod file;
mod flow;
mod inspect;
mod measuring;
mod net;
mod session;

use napi_derive::napi;

/// What the core chose for this machine.
#[napi(object)]
pub struct Simd {
    /// The tier of the XBZRLE kernels: `scalar`, `avx2`, `avx512bw`, `avx512vbmi2` or `neon`.
    pub tier: String,
    /// Why `PAGEWIRE_SIMD` was not followed, where it was not.
    pub note: Option<String>,
}

/// Memory of one thread that packs frames of `frameSize` bytes with this codec and level, in bytes.
#[napi]
pub fn packer_bytes(codec: u8, level: i32, frame_size: u32) -> napi::Result<f64> {
    Ok(flow::codec(codec)?.packer_bytes(level, frame_size as usize) as f64)
}

/// The levels of a codec, lowest and highest.
#[napi]
pub fn codec_levels(codec: u8) -> napi::Result<Vec<i32>> {
    let levels = flow::codec(codec)?.levels();
    Ok(vec![*levels.start(), *levels.end()])
}

/// Which SIMD tier the XBZRLE kernels use.
#[napi]
pub fn simd() -> Simd {
    let selection = pagewire_core::xbzrle::selection();
    Simd {
        tier: selection.tier.to_string(),
        note: selection.refused.clone(),
    }
}

//! What `pagewire bench` measures with. The only place where a stream's bytes go to JavaScript and back: the codecs that
//! are written there are measured on them.

use crate::flow::codec;
use crate::net::{Coded, promise};
use napi::bindgen_prelude::{Buffer, Object, Uint8Array, Uint32Array};
use napi::{Env, Error, Result};
use napi_derive::napi;
use pagewire_core::bench::{
    BenchError, BlockCodec, DeltaCodec, Rival, StreamFacts, facts, pairs, ram_digest,
};
use std::fs::File;

impl Coded for BenchError {
    fn code(&self) -> &'static str {
        match self {
            BenchError::Input(error) => error.code(),
            BenchError::Write(_) => "WRITE_FAILED",
            BenchError::Io(_) | BenchError::Record { .. } => "READ_FAILED",
            _ => "INTERNAL",
        }
    }
}

fn coded(error: BenchError) -> Error<String> {
    Error::new(error.code().to_owned(), error.to_string())
}

/// A block codec on one thread.
#[napi]
pub struct NativeBlockCodec(BlockCodec);

#[napi]
impl NativeBlockCodec {
    #[napi(constructor)]
    pub fn new(number: u8, level: i32, block_size: u32) -> Result<Self> {
        let codec = codec(number)?;
        if !codec.levels().contains(&level) {
            return Err(Error::from_reason(format!(
                "{} has no level {level}",
                codec.name()
            )));
        }
        Ok(Self(BlockCodec::new(codec, level, block_size as usize)))
    }

    /// Packs the blocks of `raw` into `out`, which is as long; the sum of `lengths`.
    #[napi]
    pub fn pack(
        &mut self,
        raw: Uint8Array,
        mut out: Uint8Array,
        mut lengths: Uint32Array,
    ) -> Result<f64, String> {
        // SAFETY: JavaScript stands still during the call, and gives three arrays that do not share memory.
        let (out, lengths) = unsafe { (out.as_mut(), lengths.as_mut()) };
        let packed = self.0.pack(&raw, out, lengths).map_err(coded)?;
        Ok(packed as f64)
    }

    /// Unpacks into `out`, which is as long as what was packed.
    #[napi]
    pub fn unpack(
        &mut self,
        packed: Uint8Array,
        lengths: Uint32Array,
        mut out: Uint8Array,
    ) -> Result<(), String> {
        // SAFETY: as in `pack`.
        let out = unsafe { out.as_mut() };
        self.0.unpack(&packed, &lengths, out).map_err(coded)
    }
}

/// XBZRLE, or what could stand in its place, on one thread.
#[napi]
pub struct NativeDeltaCodec(DeltaCodec);

#[napi]
impl NativeDeltaCodec {
    #[napi(constructor)]
    pub fn new(rival: String, level: i32, page_size: u32) -> Result<Self> {
        let known = Rival::named(&rival)
            .ok_or_else(|| Error::from_reason(format!("no way of deltas is named {rival}")))?;
        let codec = DeltaCodec::new(known, level, page_size as usize)
            .ok_or_else(|| Error::from_reason(format!("no page has {page_size} bytes")))?;
        Ok(Self(codec))
    }

    /// Makes the deltas of the pages in `new` against those in `old` into `out`; all three are as long. The sum of
    /// `lengths`.
    #[napi]
    pub fn encode(
        &mut self,
        old: Uint8Array,
        new: Uint8Array,
        mut out: Uint8Array,
        mut lengths: Uint32Array,
    ) -> Result<f64, String> {
        // SAFETY: JavaScript stands still during the call, and gives arrays that do not share memory.
        let (out, lengths) = unsafe { (out.as_mut(), lengths.as_mut()) };
        let made = self.0.encode(&old, &new, out, lengths).map_err(coded)?;
        Ok(made as f64)
    }

    /// Makes the new pages in `out`, which is as long as `old`.
    #[napi]
    pub fn decode(
        &mut self,
        deltas: Uint8Array,
        lengths: Uint32Array,
        old: Uint8Array,
        mut out: Uint8Array,
    ) -> Result<(), String> {
        // SAFETY: as in `encode`.
        let out = unsafe { out.as_mut() };
        self.0.decode(&deltas, &lengths, &old, out).map_err(coded)
    }
}

/// See `StreamFacts` in src/native.ts.
#[napi(object)]
pub struct NativeStreamFacts {
    pub is_qemu: bool,
    pub machine: String,
    pub ram_bytes: f64,
    pub page_size: u32,
    pub records: f64,
    pub whole: f64,
    pub again: f64,
    pub distinct: f64,
    pub fault: Option<NativeFault>,
}

#[napi(object)]
pub struct NativeFault {
    pub offset: f64,
    pub reason: String,
}

impl From<StreamFacts> for NativeStreamFacts {
    fn from(facts: StreamFacts) -> Self {
        Self {
            is_qemu: facts.is_qemu,
            machine: facts.machine,
            ram_bytes: facts.ram_bytes as f64,
            page_size: facts.page_size,
            records: facts.records as f64,
            whole: facts.whole as f64,
            again: facts.again as f64,
            distinct: facts.distinct as f64,
            fault: facts.fault.map(|(offset, reason)| NativeFault {
                offset: offset as f64,
                reason: reason.as_str().to_owned(),
            }),
        }
    }
}

/// Two versions of pages, side by side.
#[napi(object)]
pub struct NativePairs {
    pub old: Buffer,
    pub new: Buffer,
}

/// What stands in a stream.
#[napi(ts_return_type = "Promise<StreamFacts>")]
pub fn stream_facts(env: Env, path: String) -> Result<Object<'static>> {
    let work = move || facts(File::open(path)?);
    promise(env, work, NativeStreamFacts::from)
}

/// Pages of a stream that had come before, with what they were: at most `limit` bytes of either.
#[napi(ts_return_type = "Promise<Pairs>")]
pub fn stream_pairs(env: Env, path: String, again: f64, limit: f64) -> Result<Object<'static>> {
    let work = move || pairs(File::open(path)?, again as u64, limit as u64);
    promise(env, work, |pairs| NativePairs {
        old: pairs.old.into(),
        new: pairs.new.into(),
    })
}

/// What a destination has after the stream, as 32 hexadecimal digits.
#[napi(ts_return_type = "Promise<string>")]
pub fn stream_ram_digest(env: Env, path: String) -> Result<Object<'static>> {
    let work = move || ram_digest(File::open(path)?);
    promise(env, work, |digest| format!("{digest:032x}"))
}

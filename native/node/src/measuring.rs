//! An input that is looked at, or measured on.

use crate::flow::owned;
use crate::inspect::NativeInspection;
use crate::net::{Coded, promise};
use napi::bindgen_prelude::{Buffer, Object, Uint8Array};
use napi::{Env, Result};
use napi_derive::napi;
use pagewire_core::bench::{BenchError, Extent, extent, thin};
use pagewire_core::flow::FlowError;
use pagewire_core::inspect::inspect;
use pagewire_core::measuring::Reader;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

impl Coded for FlowError {
    fn code(&self) -> &'static str {
        FlowError::code(self)
    }
}

/// See `Extent` in src/native.ts.
#[napi(object)]
pub struct NativeExtent {
    pub bytes: f64,
    pub ram_bytes: f64,
    pub is_beyond: bool,
}

/// Reads an input, on threads of its own; the descriptor is duplicated and stays the caller's.
#[napi]
pub struct NativeReader {
    reader: Arc<Reader>,
}

fn thrown(error: &FlowError) -> napi::Error<String> {
    napi::Error::new(error.code().to_owned(), error.to_string())
}

#[napi]
impl NativeReader {
    #[napi(factory)]
    pub fn open(fd: i32) -> Result<Self, String> {
        let reader = Reader::new(owned(fd)?).map_err(|error| thrown(&error))?;
        Ok(Self {
            reader: Arc::new(reader),
        })
    }

    /// The next bytes; fewer at the input's end.
    #[napi]
    pub fn read(&self, env: Env, length: u32) -> Result<Object<'static>> {
        let reader = Arc::clone(&self.reader);
        promise(env, move || reader.read(length as usize), Buffer::from)
    }

    /// Reads a stream to its end, of which `head` was read before.
    #[napi]
    pub fn inspect(&self, env: Env, head: Uint8Array, cache_bytes: f64) -> Result<Object<'static>> {
        let reader = Arc::clone(&self.reader);
        let head = head.to_vec();
        let work =
            move || inspect(reader.stream(&head), cache_bytes as u64).map(NativeInspection::from);
        promise::<_, _, FlowError>(env, work, |inspection| inspection)
    }

    /// How large a stream is, and whether that is beyond `limit`: see `core::bench::Extent`.
    #[napi]
    pub fn extent(
        &self,
        env: Env,
        head: Uint8Array,
        known: Option<f64>,
        limit: f64,
    ) -> Result<Object<'static>> {
        let reader = Arc::clone(&self.reader);
        let head = head.to_vec();
        let work = move || extent(reader.stream(&head), known.map(|bytes| bytes as u64));
        promise::<_, _, BenchError>(env, work, move |extent| NativeExtent {
            bytes: extent.bytes as f64,
            ram_bytes: extent.ram_bytes as f64,
            is_beyond: extent.is_beyond(limit as u64),
        })
    }

    /// Writes a stream to a file, or about `limit` bytes of it: see `core::bench::thin`.
    #[napi]
    pub fn thin(
        &self,
        env: Env,
        head: Uint8Array,
        its: NativeExtent,
        limit: f64,
        to: String,
    ) -> Result<Object<'static>> {
        let reader = Arc::clone(&self.reader);
        let head = head.to_vec();
        let extent = Extent {
            bytes: its.bytes as u64,
            ram_bytes: its.ram_bytes as u64,
        };
        let work = move || {
            let file = File::create(to).map_err(BenchError::Write)?;
            let mut output = BufWriter::with_capacity(1 << 20, file);
            thin(reader.stream(&head), extent, limit as u64, &mut output)?;
            output.flush().map_err(BenchError::Write)
        };
        promise::<_, _, BenchError>(env, work, |()| ())
    }

    /// Whoever reads, now or later, is told STOPPED.
    #[napi]
    pub fn stop(&self) {
        self.reader.stop();
    }
}

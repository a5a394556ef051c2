//! Files: what they are, whether they are right, a page, what is whole. Each runs on a thread of its own.

use crate::net::{Coded, promise};
use napi::bindgen_prelude::{Buffer, Object};
use napi::{Env, Result};
use napi_derive::napi;
use pagewire_core::archive::{
    Archive, ArchiveError, BasePages, Bases, Builder, Info, Verified, salvage, verify,
};
use pagewire_core::frame::Ending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Coded for ArchiveError {
    fn code(&self) -> &'static str {
        ArchiveError::code(self)
    }
}

/// How an encoder's output becomes a file: see `index` in src/native.ts.
#[napi(object)]
pub struct NativeIndexOptions {
    pub hashes: bool,
    pub base: Option<String>,
    pub bases: Vec<String>,
}

impl NativeIndexOptions {
    /// Reads the base's index, which takes a moment for a large guest.
    pub(crate) fn builder(self) -> std::result::Result<Arc<Builder>, ArchiveError> {
        let base = match self.base {
            Some(path) => {
                let archive = Archive::open(Path::new(&path), &named(self.bases))?;
                Some(BasePages::load(Arc::new(archive))?)
            }
            None => None,
        };
        Ok(Arc::new(Builder::new(self.hashes, base)))
    }
}

pub(crate) fn named(bases: Vec<String>) -> Bases {
    Bases {
        named: bases.into_iter().map(PathBuf::from).collect(),
        beside: None,
    }
}

/// A RAM block.
#[napi(object)]
pub struct NativeBlock {
    pub name: String,
    pub bytes: f64,
}

/// See `ArchiveInfo` in src/native.ts.
#[napi(object)]
pub struct NativeArchiveInfo {
    pub file_bytes: f64,
    pub start: f64,
    pub minor: u8,
    pub frame_size: u32,
    pub window: f64,
    pub frames: f64,
    pub raw_bytes: f64,
    pub content_hash: String,
    pub truncated: bool,
    pub base: Option<NativeBaseName>,
    pub index: Option<NativeIndex>,
}

#[napi(object)]
pub struct NativeBaseName {
    pub path: String,
    pub identity: String,
}

/// See `ArchiveIndex` in src/native.ts.
#[napi(object)]
pub struct NativeIndex {
    pub machine: String,
    pub page_size: u32,
    pub blocks: Vec<NativeBlock>,
    pub configuration: Vec<f64>,
    pub device_state: Option<f64>,
    pub understood: f64,
    pub reason: Option<String>,
    pub hashes: bool,
    pub codecs: Vec<f64>,
    pub matched: f64,
    pub level: i8,
    pub pages_whole: f64,
    pub pages_fill: f64,
    pub pages_packed: f64,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

impl From<Info> for NativeArchiveInfo {
    fn from(info: Info) -> Self {
        let index = info.directory.map(|directory| NativeIndex {
            machine: text(&directory.machine),
            page_size: directory.page_size,
            blocks: directory
                .blocks
                .iter()
                .map(|(name, bytes)| NativeBlock {
                    name: text(name),
                    bytes: *bytes as f64,
                })
                .collect(),
            configuration: vec![
                directory.configuration.0 as f64,
                directory.configuration.1 as f64,
            ],
            device_state: directory.device_state.map(|offset| offset as f64),
            understood: directory.understood as f64,
            reason: (!directory.reason.is_empty()).then(|| text(&directory.reason)),
            hashes: directory.hashes,
            codecs: directory.tally.codecs.iter().map(|n| *n as f64).collect(),
            matched: directory.tally.matched as f64,
            level: directory.tally.level,
            pages_whole: directory.tally.records[0] as f64,
            pages_fill: directory.tally.records[1] as f64,
            pages_packed: directory.tally.records[2] as f64,
        });
        NativeArchiveInfo {
            file_bytes: info.file_bytes as f64,
            start: info.start as f64,
            minor: info.minor,
            frame_size: info.frame_size,
            window: info.window as f64,
            frames: info.end.frames as f64 + 1.0,
            raw_bytes: info.end.raw_bytes as f64,
            content_hash: format!("{:032x}", info.end.content_hash),
            truncated: info.end.ending == Ending::TruncatedInput,
            base: info.base.map(|base| NativeBaseName {
                identity: base.identity(),
                path: base.path.to_string_lossy().into_owned(),
            }),
            index,
        }
    }
}

/// What a file is; its bases are not looked for.
#[napi]
pub fn archive_info(env: Env, path: String) -> Result<Object<'static>> {
    let work = move || Archive::open_alone(Path::new(&path))?.info();
    promise(env, work, NativeArchiveInfo::from)
}

/// See `Verified` in src/native.ts.
#[napi(object)]
pub struct NativeVerified {
    pub streams: f64,
    pub frames: f64,
    pub raw_bytes: f64,
    pub pages: f64,
    pub without_index: f64,
    pub truncated_inputs: f64,
}

impl From<Verified> for NativeVerified {
    fn from(verified: Verified) -> Self {
        NativeVerified {
            streams: verified.streams as f64,
            frames: verified.frames as f64,
            raw_bytes: verified.raw_bytes as f64,
            pages: verified.pages as f64,
            without_index: verified.without_index as f64,
            truncated_inputs: verified.truncated_inputs as f64,
        }
    }
}

/// Reads all of a file and holds it against what it says of itself.
#[napi]
pub fn archive_verify(env: Env, path: String, bases: Vec<String>) -> Result<Object<'static>> {
    let work = move || verify(Path::new(&path), &named(bases));
    promise(env, work, NativeVerified::from)
}

/// The last version of a page. The only page that becomes a JavaScript value: somebody asks for this one.
#[napi]
pub fn archive_page(
    env: Env,
    path: String,
    block: String,
    address: f64,
    bases: Vec<String>,
) -> Result<Object<'static>> {
    let work = move || {
        let archive = Archive::open(Path::new(&path), &named(bases))?;
        archive.page(block.as_bytes(), address as u64)
    };
    promise(env, work, Buffer::from)
}

/// A stretch of the original stream that is whole.
#[napi(object)]
pub struct NativePiece {
    pub offset: f64,
    pub length: f64,
    pub path: Option<String>,
}

/// See `Salvaged` in src/native.ts.
#[napi(object)]
pub struct NativeSalvaged {
    pub whole: bool,
    pub raw_bytes: Option<f64>,
    pub pieces: Vec<NativePiece>,
    pub faults: Vec<String>,
}

/// Finds out what of a file is whole; with `output`, writes each piece to a file.
#[napi]
pub fn archive_salvage(
    env: Env,
    path: String,
    bases: Vec<String>,
    output: Option<String>,
) -> Result<Object<'static>> {
    let work = move || {
        let salvaged = salvage(Path::new(&path), &named(bases))?;
        let mut pieces = Vec::new();
        for piece in &salvaged.pieces {
            let path = output.as_ref().map(|output| match piece.offset {
                0 => output.clone(),
                offset => format!("{output}.at-{offset}"),
            });
            if let Some(path) = &path {
                salvaged.copy_to_file(*piece, Path::new(path))?;
            }
            pieces.push(NativePiece {
                offset: piece.offset as f64,
                length: piece.length as f64,
                path,
            });
        }
        Ok(NativeSalvaged {
            whole: salvaged.whole,
            raw_bytes: salvaged.raw_bytes.map(|bytes| bytes as f64),
            pieces,
            faults: salvaged.faults,
        })
    };
    promise::<_, _, ArchiveError>(env, work, |salvaged| salvaged)
}

//! What is in a stream, and what codecs make of a sample of it.

use crate::flow::codec;
use crate::net::{Coded, promise};
use napi::bindgen_prelude::{Buffer, Object};
use napi::{Env, Result};
use napi_derive::napi;
use pagewire_core::inspect::{
    Command, Inspected, Measured, Mismatch, Outline, Pages, Sample, Section, SectionKind, Tally,
};
use pagewire_core::qemu::{GuestRam, Reason};
use std::sync::Arc;
use std::time::Duration;

impl Coded for Mismatch {
    fn code(&self) -> &'static str {
        "INTERNAL"
    }
}

/// See `StreamReport` in src/native.ts.
#[napi(object)]
#[derive(Clone)]
pub struct NativeStreamReport {
    pub bytes: f64,
    pub understood: f64,
    pub ended: String,
    pub reason: Option<String>,
    pub within: String,
    pub read_error: Option<String>,
    pub machine: String,
    pub uuid: Option<String>,
    pub capabilities: u32,
    pub configuration_end: f64,
    pub sections: Vec<NativeSection>,
    pub commands: Vec<NativeCommand>,
    pub command_count: f64,
    pub footers: bool,
    pub pages_elsewhere: bool,
    pub guest: Option<NativeGuestPages>,
}

#[napi(object)]
#[derive(Clone)]
pub struct NativeSection {
    pub kind: String,
    pub id: u32,
    pub offset: f64,
    pub bytes: f64,
    pub pages: f64,
    pub count: f64,
}

#[napi(object)]
#[derive(Clone)]
pub struct NativeCommand {
    pub code: u32,
    pub offset: f64,
    pub payload: String,
}

#[napi(object)]
#[derive(Clone)]
pub struct NativeGuestPages {
    pub page_size: u32,
    pub blocks: Vec<NativeBlockPages>,
    pub total: NativeTally,
    pub passes: Vec<NativePassPages>,
    pub passes_merged: bool,
    pub resent: Option<NativeResent>,
    pub deltas: NativeDeltaSizes,
    pub contents: NativeContents,
}

#[napi(object)]
#[derive(Clone)]
pub struct NativeBlockPages {
    pub name: String,
    pub bytes: f64,
    pub tally: NativeTally,
}

#[napi(object)]
#[derive(Clone)]
pub struct NativePassPages {
    pub offset: f64,
    pub tally: NativeTally,
}

#[napi(object)]
#[derive(Clone)]
pub struct NativeTally {
    pub raw: f64,
    pub zero: f64,
    pub fill: f64,
    pub xbzrle: f64,
    pub compressed: f64,
    pub bytes: f64,
}

#[napi(object)]
#[derive(Clone)]
pub struct NativeResent {
    pub sent: f64,
    pub more_than_once: f64,
    pub records: f64,
    pub most: u8,
}

#[napi(object)]
#[derive(Clone)]
pub struct NativeDeltaSizes {
    pub bounds: Vec<u32>,
    pub counts: Vec<f64>,
    pub too_large: f64,
    pub bytes: f64,
    pub without_base: f64,
}

#[napi(object)]
#[derive(Clone)]
pub struct NativeContents {
    pub looked_at: f64,
    pub equal: f64,
    pub one_in: f64,
}

/// See `Measured` in src/native.ts.
#[napi(object)]
pub struct NativeMeasured {
    pub frames: f64,
    pub raw_bytes: f64,
    pub packed_bytes: f64,
    pub pack_seconds: f64,
    pub unpack_seconds: f64,
}

impl From<Measured> for NativeMeasured {
    fn from(measured: Measured) -> Self {
        Self {
            frames: measured.frames as f64,
            raw_bytes: measured.raw as f64,
            packed_bytes: measured.packed as f64,
            pack_seconds: measured.pack.as_secs_f64(),
            unpack_seconds: measured.unpack.as_secs_f64(),
        }
    }
}

/// Names from the stream may hold anything.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn section(section: &Section) -> NativeSection {
    let kind = match section.kind {
        SectionKind::Start => "start",
        SectionKind::Part => "part",
        SectionKind::End => "end",
    };
    NativeSection {
        kind: kind.to_owned(),
        id: section.id,
        offset: section.offset as f64,
        bytes: section.bytes as f64,
        pages: section.pages as f64,
        count: section.count as f64,
    }
}

fn command(command: &Command) -> NativeCommand {
    NativeCommand {
        code: command.code.into(),
        offset: command.offset as f64,
        payload: hex(&command.payload),
    }
}

fn tally(tally: &Tally) -> NativeTally {
    NativeTally {
        raw: tally.raw as f64,
        zero: tally.zero as f64,
        fill: tally.fill as f64,
        xbzrle: tally.xbzrle as f64,
        compressed: tally.compressed as f64,
        bytes: tally.bytes as f64,
    }
}

fn guest(guest: &GuestRam, pages: &Pages) -> NativeGuestPages {
    NativeGuestPages {
        page_size: guest.page_size,
        blocks: guest
            .blocks
            .iter()
            .zip(&pages.blocks)
            .map(|(block, its)| NativeBlockPages {
                name: text(&block.name),
                bytes: block.used_length as f64,
                tally: tally(its),
            })
            .collect(),
        total: tally(&pages.total),
        passes: pages
            .passes
            .iter()
            .map(|pass| NativePassPages {
                offset: pass.offset as f64,
                tally: tally(&pass.tally),
            })
            .collect(),
        passes_merged: pages.passes_merged,
        resent: pages.resent().map(|resent| NativeResent {
            sent: resent.sent as f64,
            more_than_once: resent.more_than_once as f64,
            records: resent.records as f64,
            most: resent.most,
        }),
        deltas: NativeDeltaSizes {
            bounds: pages.deltas.bounds.clone(),
            counts: pages.deltas.counts.iter().map(|n| *n as f64).collect(),
            too_large: pages.deltas.too_large as f64,
            bytes: pages.deltas.bytes as f64,
            without_base: pages.without_base as f64,
        },
        contents: NativeContents {
            looked_at: pages.contents.looked_at() as f64,
            equal: pages.contents.equal() as f64,
            one_in: pages.contents.one_in() as f64,
        },
    }
}

fn report(Inspected { inspector, failed }: &Inspected) -> NativeStreamReport {
    let outline: &Outline = inspector.outline();
    NativeStreamReport {
        bytes: inspector.bytes() as f64,
        understood: inspector.understood() as f64,
        ended: match inspector.reason() {
            None => "open",
            Some(Reason::EndOfStream) => "end",
            Some(Reason::DeviceState) => "devices",
            Some(_) => "unknown",
        }
        .to_owned(),
        reason: inspector.reason().map(|reason| reason.as_str().to_owned()),
        within: inspector.place().as_str().to_owned(),
        read_error: failed.as_ref().map(ToString::to_string),
        machine: text(&outline.machine),
        uuid: outline.uuid.map(|uuid| hex(&uuid)),
        capabilities: outline.capabilities,
        configuration_end: outline.configuration_end as f64,
        sections: outline.sections.iter().map(section).collect(),
        commands: outline.commands.iter().map(command).collect(),
        command_count: outline.command_count as f64,
        footers: outline.footers,
        pages_elsewhere: outline.pages_elsewhere,
        guest: inspector
            .guest()
            .zip(inspector.pages())
            .map(|(ram, pages)| guest(ram, pages)),
    }
}

/// A stream that was looked at.
#[napi]
pub struct NativeInspection {
    report: NativeStreamReport,
    device_state: Option<Vec<u8>>,
    sample: Arc<Sample>,
}

impl From<Inspected> for NativeInspection {
    fn from(inspected: Inspected) -> Self {
        Self {
            report: report(&inspected),
            device_state: inspected.inspector.device_state().map(<[u8]>::to_vec),
            sample: Arc::new(inspected.inspector.into_sample()),
        }
    }
}

#[napi]
impl NativeInspection {
    #[napi]
    pub fn report(&self) -> NativeStreamReport {
        self.report.clone()
    }

    /// What stands behind the RAM; no page is in it.
    #[napi]
    pub fn device_state(&self) -> Option<Buffer> {
        self.device_state.clone().map(Buffer::from)
    }

    /// Bytes of the sample, and of how many frames one is in it.
    #[napi]
    pub fn sample(&self) -> Vec<f64> {
        vec![self.sample.bytes() as f64, self.sample.one_in() as f64]
    }

    /// What a codec makes of the sample, on a thread of its own.
    #[napi]
    pub fn measure(
        &self,
        env: Env,
        number: u8,
        level: i32,
        limit_ms: u32,
    ) -> Result<Object<'static>> {
        let codec = codec(number)?;
        let sample = Arc::clone(&self.sample);
        let limit = Duration::from_millis(limit_ms.into());
        let work = move || sample.measure(codec, level, limit);
        promise(env, work, NativeMeasured::from)
    }
}

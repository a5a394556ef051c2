//! What is in a QEMU stream, found out in one pass over it and in bounded memory.
//!
//! [`Inspector`] reads a stream as it comes, cut anyhow: its [`Outline`] (configuration, sections, commands), its
//! [`Pages`] (by kind, by pass, sent again, differences), its device states as bytes, and a [`Sample`] of it, by which
//! codecs can be measured afterwards. It parses nothing itself: [`crate::qemu::Elements`] does.

mod contents;
mod deltas;
mod outline;
mod pages;
mod sample;

pub use contents::{Contents, MAX_CONTENTS};
pub use deltas::{DeltaSizes, Size};
pub use outline::{Command, MAX_COMMANDS, MAX_SECTIONS, Outline, Section, SectionKind};
pub use pages::{MAX_COUNTED, MAX_PASSES, Pages, Pass, Resent, Tally};
pub use sample::{FRAME, MAX_FRAMES, Measured, Mismatch, Sample};

use crate::flow::FlowError;
use crate::measuring::{Stream, flow_error};
use crate::qemu::{Elements, GuestRam, Part, Place, Reason};
use std::io::Read;
use std::ops::ControlFlow;

/// Bytes that are read at a time: larger ones fall out of a core's cache before they are looked at.
const CHUNK: usize = 256 << 10;

/// The most bytes of device states, with the description behind them, that are kept. QEMU's take some 200 KiB; those
/// that are longer stay opaque.
pub const MAX_DEVICE_STATE: usize = 16 << 20;

/// What was seen of a stream.
pub struct Inspected {
    /// As far as it could be read.
    pub inspector: Inspector,
    /// Why not to its end.
    pub failed: Option<FlowError>,
}

/// Looks at a stream to its end. The last versions of pages, for differences, may take `cache_bytes`.
///
/// # Errors
/// If it was stopped; what fails otherwise is told with what was seen before.
pub fn inspect(mut stream: Stream<'_>, cache_bytes: u64) -> Result<Inspected, FlowError> {
    let mut inspector = Inspector::new(cache_bytes);
    let mut buffer = vec![0; CHUNK];
    let failed = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break None,
            Ok(length) => inspector.feed(&buffer[..length]),
            Err(error) => match flow_error(error, inspector.bytes()) {
                FlowError::Stopped => return Err(FlowError::Stopped),
                error => break Some(error),
            },
        }
    };
    Ok(Inspected { inspector, failed })
}

/// Looks at a stream.
pub struct Inspector {
    elements: Elements,
    outline: Outline,
    pages: Option<Pages>,
    /// Bytes that the last versions of pages may take.
    cache_bytes: u64,
    /// Where a record stands that cannot be applied.
    malformed: Option<u64>,
    sample: Sample,
    /// Bytes of the stream so far.
    bytes: u64,
    devices: Vec<u8>,
}

impl Inspector {
    /// At the very start of a stream. The last versions of pages, for differences, may take `cache_bytes`.
    #[must_use]
    pub fn new(cache_bytes: u64) -> Self {
        Self {
            elements: Elements::new(),
            outline: Outline::default(),
            pages: None,
            cache_bytes,
            malformed: None,
            sample: Sample::default(),
            bytes: 0,
            devices: Vec::new(),
        }
    }

    /// Looks at the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.sample.add(bytes);
        self.bytes += bytes.len() as u64;
        let Self {
            elements,
            outline,
            pages,
            cache_bytes,
            malformed,
            devices,
            ..
        } = self;
        elements.feed_all(bytes, |reader, part| {
            let found = match part {
                Part::Element(found) => found,
                Part::Opaque(bytes) => {
                    if reader.reason().is_some_and(Reason::is_regular) {
                        let room = MAX_DEVICE_STATE - devices.len();
                        devices.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    }
                    return ControlFlow::Continue(());
                }
            };
            outline.add(&found);
            let pages = match (&mut *pages, reader.guest()) {
                (Some(pages), _) => pages,
                (none, Some(guest)) => none.insert(Pages::new(guest, *cache_bytes)),
                (None, None) => return ControlFlow::Continue(()),
            };
            if pages.add(&found) {
                return ControlFlow::Continue(());
            }
            *malformed = Some(found.start);
            ControlFlow::Break(Reason::Delta)
        });
    }

    /// Bytes of the stream.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes from the stream's start on that were understood.
    #[must_use]
    pub fn understood(&self) -> u64 {
        self.malformed.unwrap_or(self.elements.understood())
    }

    /// Why what follows them was not, if so; the regular ones are [`Reason::DeviceState`] and [`Reason::EndOfStream`].
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.elements.reason()
    }

    /// What the stream stands in, as far as it is parsed.
    #[must_use]
    pub fn place(&self) -> Place {
        self.elements.reader().place()
    }

    /// Configuration, sections and commands.
    #[must_use]
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// The guest's RAM, once the stream has listed it.
    #[must_use]
    pub fn guest(&self) -> Option<&GuestRam> {
        self.elements.reader().guest()
    }

    /// The guest's pages, once the stream has listed its RAM.
    #[must_use]
    pub fn pages(&self) -> Option<&Pages> {
        self.pages.as_ref()
    }

    /// What follows the RAM, from [`understood`](Self::understood) on: device states and their description. `None` where
    /// it is more than [`MAX_DEVICE_STATE`].
    #[must_use]
    pub fn device_state(&self) -> Option<&[u8]> {
        let all = self.bytes - self.understood();
        (self.devices.len() as u64 == all).then_some(&self.devices[..])
    }

    /// Gives up what was only needed to look at more, and keeps the sample.
    #[must_use]
    pub fn into_sample(self) -> Sample {
        self.sample
    }
}

#[cfg(test)]
mod tests;

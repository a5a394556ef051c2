//! The source of an encoder: reads any stream, puts it through delta where it is QEMU's, and fills slots.

mod filler;
mod grant;
mod last_word;
mod options;
mod publish;
mod tunnel;

pub use grant::GuestReport;
pub use options::{CacheSize, DeltaOptions, EncodeOptions, MatchOptions};

use super::{FlowError, Shared, StreamEnd};
use crate::delta::{self, Filter};
use crate::descriptor::Input;
use crate::frame::{Ending, FrameType, Start};
use crate::libvirt::Tunnel;
use crate::session::Wire;
use filler::{Filler, Urgency};
use last_word::{LastWord, Unsaid};
use publish::{PUBLISH_EVERY, Publish};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The sink is about to run dry when it has no more frames than this before it: one that is being written while the
/// next is being packed. With 0, the wire would stand still while each frame is packed; with more, frames get smaller
/// than they need be.
pub(super) const DRY: usize = 1;

/// What the parser reads at once: a stretch of the stream that stays in the L2 cache while it is parsed, and larger
/// than any element of a QEMU stream.
const PARSE_BUFFER: usize = 256 << 10;
const _: () = assert!(PARSE_BUFFER >= 2 * crate::qemu::MAX_ELEMENT);

/// `last_word`: what is left to be said where it fails.
pub(super) fn run(
    shared: &Shared,
    input: Input,
    options: EncodeOptions,
    wire: Option<Arc<Wire>>,
    last_word: &mut Option<LastWord>,
) -> Result<StreamEnd, FlowError> {
    let mut source = Source {
        input,
        filler: Filler::new(shared, wire, &options),
        bytes_in: 0,
        paused: false,
        is_empty: false,
        was_full: false,
        unsaid: None,
    };
    let result = source.run(&options);
    let Source {
        input,
        filler,
        unsaid,
        ..
    } = source;
    if let (Some(unsaid), Some(wire)) = (unsaid, filler.wire) {
        *last_word = Some(LastWord {
            unsaid,
            input,
            wire,
        });
    }
    result
}

struct Source<'a> {
    input: Input,
    filler: Filler<'a>,
    bytes_in: u64,
    /// There was no input at the last look.
    paused: bool,
    /// The last read has found nothing.
    is_empty: bool,
    /// The link has held the stream up at some time.
    was_full: bool,
    /// In a conversation of libvirt's that has failed.
    unsaid: Option<Unsaid>,
}

/// Why a wait for input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// There is input, or its end.
    Readable,
    /// There is none just now: what need not wait should go into the slot. Told once for each pause.
    Paused,
}

impl Source<'_> {
    fn run(&mut self, options: &EncodeOptions) -> Result<StreamEnd, FlowError> {
        if options.frames {
            let start = Start {
                frame_size: options.frame_size as u32,
                window: options.matching.map_or(0, |matching| matching.window),
                keeps: self.filler.shared.keeps,
            };
            let mut payload = start.to_bytes().to_vec();
            let index = self.filler.shared.index.as_ref();
            if let Some(base) = index.and_then(|index| index.base_name()) {
                payload.extend_from_slice(&base.to_bytes());
            }
            self.filler.send_control(FrameType::Start, &payload)?;
        }
        let result = self.read_all(options);
        // Whatever came before a failure is good, and belongs to whoever reads the output.
        self.filler.seal(Urgency::None)?;
        self.filler.tell_cpu_time();
        // A stream that is copied may still be a QEMU's, followed by the session.
        let cut_off = self.filler.wire.as_ref().and_then(|wire| wire.cut_off());
        let result = result.map(|end| match cut_off {
            Some(within) if end.ending == Ending::Complete => StreamEnd {
                ending: Ending::TruncatedInput,
                within: Some(within),
            },
            _ => end,
        });
        match result {
            Ok(end) => {
                if options.frames {
                    self.filler.end(end.ending)?;
                }
                Ok(end)
            }
            Err(error) => {
                // Where the far guest may run, whether to give up is for the listener to say.
                let waits = self.filler.wire.as_ref().is_some_and(|wire| wire.unread());
                if options.frames && !waits && !matches!(error, FlowError::Stopped) {
                    self.filler
                        .send_control(FrameType::Abort, error.to_string().as_bytes())?;
                }
                Err(error)
            }
        }
    }

    fn read_all(&mut self, options: &EncodeOptions) -> Result<StreamEnd, FlowError> {
        let delta = options.delta.as_ref().map(|delta| delta::Options {
            max_delta: delta.max_delta,
        });
        if options.libvirt {
            return self.tunnelled(Tunnel::new(delta));
        }
        if let Some(delta) = delta {
            if let Some(end) = self.filtered(Filter::new(delta))? {
                return Ok(end);
            }
        }
        self.copied()
    }

    /// Through the parser and delta, until the end or until the rest is only to be copied (`None`): then parser and
    /// page cache go.
    fn filtered(&mut self, mut filter: Filter) -> Result<Option<StreamEnd>, FlowError> {
        let mut buffer = vec![0; PARSE_BUFFER];
        let mut held = 0;
        // Bytes of input when delta's counters were last published.
        let mut published_at = 0;
        loop {
            if self.wait()? == Wait::Paused {
                let paused = filter.pause(&buffer[..held], &mut self.filler);
                self.filler.host(paused)?;
                self.publish_counters(filter.counters(), Publish::IfFree);
                continue;
            }
            let Some(n) = self.read(&mut buffer[held..])? else {
                continue;
            };
            if n == 0 {
                let ended = filter.finish(&buffer[..held], &mut self.filler);
                let ended = self.filler.host(ended)?;
                self.publish_counters(filter.counters(), Publish::Last);
                return Ok(Some(match ended {
                    delta::StreamEnd::Truncated { within, .. } => StreamEnd {
                        ending: Ending::TruncatedInput,
                        within: Some(within.to_string()),
                    },
                    _ => StreamEnd {
                        ending: Ending::Complete,
                        within: None,
                    },
                }));
            }
            filter.set(self.changed_settings());
            let end = held + n;
            let used = filter.push(&buffer[..end], &mut self.filler);
            let used = self.filler.host(used)?;
            buffer.copy_within(used..end, 0);
            held = end - used;
            if filter.is_verbatim() && held == 0 {
                self.publish_counters(filter.counters(), Publish::Last);
                return Ok(None);
            }
            if self.bytes_in - published_at >= PUBLISH_EVERY {
                published_at = self.bytes_in;
                self.publish_counters(filter.counters(), Publish::IfFree);
            }
        }
    }

    /// What changes for delta: what was asked for, and whether pages without a copy get one. A link that takes all at once
    /// leaves nothing to gain by differences: copies would only cost time. One that was full once may be hungry because
    /// of them.
    fn changed_settings(&mut self) -> delta::Settings {
        let takes_in = self.filler.wire.as_ref().is_none_or(|wire| {
            self.was_full |= wire.is_full();
            self.was_full
        });
        delta::Settings {
            takes_in: Some(takes_in),
            ..self.filler.shared.changed_settings()
        }
    }

    /// Straight from the descriptor into slots.
    fn copied(&mut self) -> Result<StreamEnd, FlowError> {
        loop {
            if self.wait()? == Wait::Readable && self.read_into_slot()? == Some(0) {
                return Ok(StreamEnd {
                    ending: Ending::Complete,
                    within: None,
                });
            }
        }
    }

    /// Waits for input. Where it pauses, the slot is sealed as soon as the sink is about to run dry; there is no timer:
    /// either the input or the sink ends the wait.
    fn wait(&mut self) -> Result<Wait, FlowError> {
        let shared = self.filler.shared;
        loop {
            if shared.stopped() {
                return Err(FlowError::Stopped);
            }
            let holds = self.filler.holds();
            shared.source_holds.store(holds, Ordering::SeqCst);
            if self.paused && holds && shared.in_flight.load(Ordering::SeqCst) <= DRY {
                // Nobody need wake this thread for it.
                shared.source_holds.store(false, Ordering::SeqCst);
                self.filler.seal(Urgency::Now)?;
                continue;
            }
            let ready = if !self.paused && self.input.never_blocks() {
                // The read that comes next tells.
                Ok(!std::mem::take(&mut self.is_empty))
            } else {
                self.input.wait(&shared.source_wake, self.paused)
            };
            if ready.map_err(|e| self.failed(e))? {
                shared.source_holds.store(false, Ordering::SeqCst);
                return Ok(Wait::Readable);
            }
            if !self.paused {
                self.paused = true;
                return Ok(Wait::Paused);
            }
        }
    }

    /// `None` where there turns out to be nothing yet.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, FlowError> {
        match self.input.read(buffer) {
            Ok(n) => {
                (self.paused, self.is_empty) = (false, false);
                self.bytes_in += n as u64;
                self.filler
                    .shared
                    .counters
                    .bytes_in
                    .store(self.bytes_in, Ordering::Relaxed);
                Ok(Some(n))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_empty = true;
                Ok(None)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn read_into_slot(&mut self) -> Result<Option<usize>, FlowError> {
        let mut slot = self.filler.take_slot()?;
        let free = self.filler.free();
        let result = self.read(&mut slot.room()[free]);
        let came = if let Ok(Some(n)) = result { n } else { 0 };
        self.filler.put_back(slot, came)?;
        result
    }

    fn failed(&self, source: io::Error) -> FlowError {
        FlowError::Read {
            offset: self.bytes_in,
            source,
        }
    }
}

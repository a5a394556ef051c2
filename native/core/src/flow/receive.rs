//! The source of a decoder whose frames come over a session: what [`super::decode`] is for a file or a pipe.

use super::arena::{Origin, Slot};
use super::{FlowError, Shared, StreamEnd};
use crate::frame::{End, Ending, FrameError, FrameType, Header, Start};
use crate::matching::Window;
use crate::session::{Broken, Receiver, Wire, WireError};
use std::sync::Arc;

pub(super) fn run(shared: &Shared, wire: &Wire, frame_limit: u32) {
    let mut source = Source {
        shared,
        receiver: wire.receiver(),
        frames: 0,
        offset: 0,
        frame_limit,
        frame_size: 0,
        window: None,
    };
    let result = loop {
        match source.frame() {
            Ok(FrameType::End) => {
                break Ok(StreamEnd {
                    ending: Ending::Complete,
                    within: None,
                });
            }
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    let goes_on = matches!(result, Ok(_) | Err(FlowError::Stopped));
    shared.source_ended(result);
    // Behind the stream's end, and when nobody takes the stream any more, the session still needs what comes: ACK, PING,
    // BYE, for as long as it lasts.
    if goes_on {
        if let Err(error) = source.rest() {
            wire.fail(error.to_string());
        }
    }
}

struct Source<'a> {
    shared: &'a Shared,
    receiver: Receiver<'a>,
    frames: u64,
    offset: u64,
    /// What START may ask for at the most.
    frame_limit: u32,
    frame_size: u32,
    window: Option<Arc<Window>>,
}

impl Source<'_> {
    /// Takes the next frame of the stream and passes it on. Its order is held against the one before, whatever links
    /// the two came over.
    fn frame(&mut self) -> Result<FrameType, FlowError> {
        loop {
            let header = match self.receiver.header() {
                Ok(header) => header,
                Err(Broken::Link) => continue,
                Err(Broken::Ended(error)) => return Err(error.into()),
            };
            self.in_order(&header)?;
            let Some(mut slot) = self.shared.arena.acquire() else {
                // What comes behind the frame is still wanted.
                let _ = self.receiver.skip_payload(&header);
                return Err(FlowError::Stopped);
            };
            let payload = &mut slot.room()[..header.packed_len as usize];
            match self.receiver.payload(&header, payload) {
                Ok(()) => {}
                Err(Broken::Link) => continue,
                Err(Broken::Ended(error)) => return Err(error.into()),
            }
            slot.header = header;
            slot.origin = Origin {
                number: self.frames,
                offset: header.offset,
            };
            slot.checked = true;
            if header.kind.is_content() {
                let window = self.window.as_ref();
                slot.place = window.and_then(|window| window.open(header.offset, header.raw_len));
            }
            self.take(&header, slot)?;
            return Ok(header.kind);
        }
    }

    fn in_order(&self, header: &Header) -> Result<(), FlowError> {
        let wrong = |expected: String, found: String| {
            Err(self.wrong(FrameError::Order { expected, found }))
        };
        if header.sequence != self.frames as u32 {
            return wrong(
                format!("frame {} of the stream", self.frames as u32),
                format!("frame {}", header.sequence),
            );
        }
        if header.offset != self.offset {
            return wrong(
                format!("byte {} of the stream", self.offset),
                format!("byte {}", header.offset),
            );
        }
        if (header.kind == FrameType::Start) != (self.frames == 0) {
            return wrong(
                "START as the first frame, and nowhere else".into(),
                format!("a frame of type {:#04x}", header.kind.to_byte()),
            );
        }
        if header.kind == FrameType::Matched && self.window.is_none() {
            return wrong(
                "DATA, since the stream's START announces no references".into(),
                "a frame with references".into(),
            );
        }
        if header.kind.is_content() && header.raw_len > self.frame_size {
            return Err(self.wrong(FrameError::Field {
                field: "raw length",
                value: header.raw_len.into(),
                limit: self.frame_size.into(),
            }));
        }
        Ok(())
    }

    fn take(&mut self, header: &Header, slot: Slot) -> Result<(), FlowError> {
        match header.kind {
            FrameType::Start => {
                let start = Start::from_bytes(slot.payload()).map_err(|e| self.wrong(e))?;
                if start.frame_size > self.frame_limit {
                    return Err(self.wrong(FrameError::Field {
                        field: "START payload's frame size",
                        value: start.frame_size.into(),
                        limit: self.frame_limit.into(),
                    }));
                }
                self.frame_size = start.frame_size;
                self.window = self.shared.window_of(&start, 0, slot.origin)?;
            }
            FrameType::Data | FrameType::Matched => self.offset += u64::from(header.raw_len),
            FrameType::End => {
                let end = End::from_bytes(slot.payload()).map_err(|e| self.wrong(e))?;
                if (end.frames, end.raw_bytes) != (self.frames, self.offset) {
                    return Err(self.wrong(FrameError::Total {
                        what: "frames and bytes of the stream",
                        expected: format!("{} and {}", end.frames, end.raw_bytes),
                        actual: format!("{} and {}", self.frames, self.offset),
                    }));
                }
            }
            _ => {}
        }
        self.frames += 1;
        self.shared.pass(slot)
    }

    fn rest(&mut self) -> Result<(), FlowError> {
        loop {
            match self.receiver.skip() {
                Ok(()) | Err(Broken::Link) => {}
                Err(Broken::Ended(WireError::Closed)) => return Ok(()),
                Err(Broken::Ended(error)) => return Err(error.into()),
            }
        }
    }

    fn wrong(&self, source: FrameError) -> FlowError {
        Origin {
            number: self.frames,
            offset: self.offset,
        }
        .error(source)
    }
}

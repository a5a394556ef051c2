//! The source of a decoder whose frames come over a session: what [`super::decode`] is for a file or a pipe.

use super::arena::{Origin, Slot};
use super::order::Order;
use super::{FlowError, Shared, StreamEnd};
use crate::frame::{End, Ending, FrameError, FrameType, Header, Start};
use crate::session::{Broken, Receiver, Wire, WireError};

pub(super) fn run(shared: &Shared, wire: &Wire, frame_limit: u32) {
    let mut source = Source {
        shared,
        receiver: wire.receiver(),
        order: Order::default(),
        frame_limit,
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
    order: Order,
    /// What START may ask for at the most.
    frame_limit: u32,
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
            self.order.check(&header).map_err(|e| self.wrong(e))?;
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
                number: self.order.frames,
                offset: header.offset,
            };
            slot.checked = true;
            if header.kind.is_content() {
                let window = self.order.window.as_ref();
                slot.place = window.and_then(|window| window.open(header.offset, header.raw_len));
            }
            self.take(&header, slot)?;
            return Ok(header.kind);
        }
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
                let window = self.shared.window_of(&start, 0, slot.origin)?;
                self.order.begin(&start, window);
            }
            FrameType::End => {
                let end = End::from_bytes(slot.payload()).map_err(|e| self.wrong(e))?;
                let Order { frames, offset, .. } = self.order;
                if (end.frames, end.raw_bytes) != (frames, offset) {
                    return Err(self.wrong(FrameError::Total {
                        what: "frames and bytes of the stream",
                        expected: format!("{} and {}", end.frames, end.raw_bytes),
                        actual: format!("{frames} and {offset}"),
                    }));
                }
            }
            _ => {}
        }
        self.order.advance(header);
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
            number: self.order.frames,
            offset: self.order.offset,
        }
        .error(source)
    }
}

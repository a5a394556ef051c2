//! What frames of a stream must be to follow one another, whatever they come by.

use crate::frame::{FrameError, FrameType, Header, Start};
use crate::matching::Window;
use std::sync::Arc;

/// Where a stream has come to: what its next frame has to continue.
#[derive(Default)]
pub(super) struct Order {
    /// Frames of the stream so far.
    pub(super) frames: u64,
    /// Bytes of the original stream so far.
    pub(super) offset: u64,
    /// What START has said.
    frame_size: u32,
    pub(super) window: Option<Arc<Window>>,
}

impl Order {
    /// START was read.
    pub(super) fn begin(&mut self, start: &Start, window: Option<Arc<Window>>) {
        (self.frame_size, self.window) = (start.frame_size, window);
    }

    /// Whether this frame is the next one: sequence and offset go on without a gap, and it is no larger than START said.
    pub(super) fn check(&self, header: &Header) -> Result<(), FrameError> {
        let wrong = |expected: String, found: String| Err(FrameError::Order { expected, found });
        if (header.kind == FrameType::Start) != (self.frames == 0) {
            let expected = "START as the first frame, and nowhere else".into();
            return wrong(expected, name(header.kind));
        }
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
        if header.kind == FrameType::Matched && self.window.is_none() {
            let expected = "DATA, since the stream's START announces no references".into();
            return wrong(expected, name(header.kind));
        }
        if header.kind.is_content() && header.raw_len > self.frame_size {
            return Err(FrameError::Field {
                field: "raw length",
                value: header.raw_len.into(),
                limit: self.frame_size.into(),
            });
        }
        Ok(())
    }

    /// The next one is what comes behind this frame.
    pub(super) fn advance(&mut self, header: &Header) {
        if header.kind.is_content() {
            self.offset += u64::from(header.raw_len);
        }
        self.frames += 1;
    }
}

/// A frame's type, for people.
pub(super) fn name(kind: FrameType) -> String {
    match kind {
        FrameType::Start => "START".into(),
        FrameType::Data => "DATA".into(),
        FrameType::Matched => "a frame with references".into(),
        FrameType::End => "END".into(),
        FrameType::Abort => "ABORT".into(),
        FrameType::Session(_) | FrameType::Other(_) => {
            format!("a frame of type {:#04x}", kind.to_byte())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::Keeps;

    fn header(kind: FrameType, sequence: u32, offset: u64, raw_len: u32) -> Header {
        Header {
            kind,
            sequence,
            offset,
            raw_len,
            ..Header::EMPTY
        }
    }

    #[test]
    fn only_the_next_frame_is_in_order() {
        let start = header(FrameType::Start, 0, 0, 16);
        let data = |sequence, offset, raw_len| header(FrameType::Data, sequence, offset, raw_len);
        let mut order = Order::default();
        let told = |order: &Order, header| order.check(&header).map_err(|e| e.to_string());
        let wrong =
            |expected: &str, found: &str| Err(format!("expected {expected}, found {found}"));
        let no_start = "START as the first frame, and nowhere else";
        assert_eq!(told(&order, data(0, 0, 1)), wrong(no_start, "DATA"));
        assert_eq!(told(&order, start), Ok(()));
        let parameters = Start {
            frame_size: 4096,
            window: 0,
            keeps: Keeps::All,
        };
        order.begin(&parameters, None);
        order.advance(&start);
        assert_eq!(told(&order, data(1, 0, 4096)), Ok(()));
        order.advance(&data(1, 0, 4096));

        assert_eq!(told(&order, start), wrong(no_start, "START"));
        let skipped = wrong("frame 2 of the stream", "frame 3");
        assert_eq!(told(&order, data(3, 4096, 1)), skipped);
        let again = wrong("byte 4096 of the stream", "byte 0");
        assert_eq!(told(&order, data(2, 0, 1)), again);
        let matched = header(FrameType::Matched, 2, 4096, 100);
        let none = "DATA, since the stream's START announces no references";
        assert_eq!(
            told(&order, matched),
            wrong(none, "a frame with references")
        );
        assert!(matches!(
            order.check(&data(2, 4096, 4097)),
            Err(FrameError::Field {
                value: 4097,
                limit: 4096,
                ..
            })
        ));
        // What is no content is no part of the stream's bytes.
        let other = header(FrameType::Other(0x81), 2, 4096, 5000);
        assert_eq!(told(&order, other), Ok(()));
        order.advance(&other);
        assert_eq!((order.frames, order.offset), (3, 4096));

        // The numbers begin again after 2^32 frames.
        order.frames = 1 << 32;
        assert_eq!(told(&order, data(0, 4096, 1)), Ok(()));
    }
}

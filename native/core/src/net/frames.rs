//! Whole session frames over a link, for the exchange before a session has it. Each call has a deadline.

use super::link::Link;
use super::listen::PREAMBLE_LEN;
use super::{NetError, error, tls};
use crate::codec::Codec;
use crate::descriptor::{Ready, Wake};
use crate::frame::{FrameError, FrameType, HEADER_LEN, Header, MAX_CONTROL, SessionFrame};
use std::io;
use std::time::{Duration, Instant};

impl Link {
    /// Sends a session frame.
    ///
    /// # Panics
    /// If the payload is longer than [`MAX_CONTROL`].
    pub fn send_frame(
        &self,
        kind: SessionFrame,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<(), NetError> {
        assert!(payload.len() <= MAX_CONTROL, "a session frame is small");
        let length = payload.len() as u32;
        let header = Header {
            kind: FrameType::Session(kind),
            codec: Codec::None,
            level: 0,
            channel: 0,
            sequence: 0,
            offset: 0,
            raw_len: length,
            packed_len: length,
            payload_hash: crate::checksum::xxh3_64(payload),
        };
        let mut frame = header.to_bytes().to_vec();
        frame.extend_from_slice(payload);
        self.send_all(&frame, "take our message", Instant::now() + timeout)
    }

    /// Receives the next frame, which must be a session's.
    pub fn receive_frame(&self, timeout: Duration) -> Result<(SessionFrame, Vec<u8>), NetError> {
        let until = Instant::now() + timeout;
        let operation = "answer";
        let mut header = [0; HEADER_LEN];
        self.receive_all(&mut header, operation, until)?;
        let wrong = |error: FrameError| NetError::Protocol {
            endpoint: self.peer().address.clone(),
            reason: format!("sent something that is not a session's frame: {error}"),
        };
        let header = Header::from_bytes(&header).map_err(wrong)?;
        let FrameType::Session(kind) = header.kind else {
            return Err(wrong(FrameError::Order {
                expected: "a frame of a session".to_owned(),
                found: format!("one of type {:#04x}", header.kind.to_byte()),
            }));
        };
        let mut payload = vec![0; header.packed_len as usize];
        self.receive_all(&mut payload, operation, until)?;
        header.check_payload(&payload).map_err(wrong)?;
        Ok((kind, payload))
    }

    /// Sends the routing preamble, where the connection was not made by [`super::connect`].
    pub fn send_preamble(
        &self,
        preamble: &[u8; PREAMBLE_LEN],
        timeout: Duration,
    ) -> Result<(), NetError> {
        self.send_all(preamble, "take the preamble", Instant::now() + timeout)
    }

    /// Receives the routing preamble, where the connection was not accepted by a [`super::Listener`].
    pub fn receive_preamble(&self, timeout: Duration) -> Result<[u8; PREAMBLE_LEN], NetError> {
        let mut preamble = [0; PREAMBLE_LEN];
        let until = Instant::now() + timeout;
        self.receive_all(&mut preamble, "send its preamble", until)?;
        match super::listen::fault(&preamble) {
            None => Ok(preamble),
            Some(fault) => Err(NetError::Protocol {
                endpoint: self.peer().address.clone(),
                reason: fault.to_owned(),
            }),
        }
    }

    fn send_all(
        &self,
        mut bytes: &[u8],
        operation: &'static str,
        until: Instant,
    ) -> Result<(), NetError> {
        let wake = Wake::new().map_err(NetError::system("make an eventfd"))?;
        loop {
            let step = if bytes.is_empty() {
                self.try_flush().map(|()| None)
            } else {
                self.try_write(bytes).map(Some)
            };
            match step {
                Ok(None) => return Ok(()),
                Ok(Some(n)) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = self.wait_writable(&wake, left(until));
                    self.in_time(ready, operation)?;
                }
                Err(error) => return Err(self.lost(&error, "sending to it")),
            }
        }
    }

    fn receive_all(
        &self,
        mut bytes: &mut [u8],
        operation: &'static str,
        until: Instant,
    ) -> Result<(), NetError> {
        let wake = Wake::new().map_err(NetError::system("make an eventfd"))?;
        while !bytes.is_empty() {
            match self.try_read(bytes) {
                Ok(0) => {
                    let end = io::ErrorKind::UnexpectedEof.into();
                    return Err(self.lost(&end, "waiting for its answer"));
                }
                Ok(n) => bytes = &mut bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = self.wait_readable(&wake, left(until));
                    self.in_time(ready, operation)?;
                }
                Err(error) => return Err(self.lost(&error, "waiting for its answer")),
            }
        }
        Ok(())
    }

    fn in_time(&self, ready: io::Result<Ready>, operation: &'static str) -> Result<(), NetError> {
        match ready.map_err(NetError::system("wait for the connection"))? {
            Ready::TimedOut => Err(NetError::TimedOut {
                endpoint: self.peer().address.clone(),
                operation,
                remedy: "does it hang, or is it not a pagewire?",
            }),
            _ => Ok(()),
        }
    }

    /// What a failed read or write means for people.
    pub(crate) fn lost(&self, failure: &io::Error, operation: &'static str) -> NetError {
        let endpoint = self.peer().address.clone();
        let told = failure
            .get_ref()
            .and_then(|e| e.downcast_ref::<rustls::Error>());
        match (told, self.own_fingerprint()) {
            (Some(told), Some(fingerprint)) => tls::explain(told, fingerprint, &endpoint),
            _ => NetError::Lost {
                endpoint,
                operation,
                reason: match failure.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        "it closed the connection (its log says why)".to_owned()
                    }
                    _ => error::reason(failure),
                },
            },
        }
    }
}

fn left(until: Instant) -> Option<Duration> {
    Some(until.saturating_duration_since(Instant::now()))
}

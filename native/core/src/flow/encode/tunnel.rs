//! The source of an encoder whose input is the conversation of two libvirt daemons.

use super::last_word::Unsaid;
use super::{PARSE_BUFFER, PUBLISH_EVERY, Publish, Source, Urgency, Wait};
use crate::descriptor::has_hung_up;
use crate::flow::{FlowError, StreamEnd};
use crate::frame::Ending;
use crate::libvirt::{Report, Tunnel, TunnelError, Unfinished};
use rustix::event::PollFlags;
use std::os::fd::AsFd;
use std::time::Duration;

/// How often to look whether a last answer has come.
const LOOK: Duration = Duration::from_millis(20);

impl Source<'_> {
    /// Through the tunnel, to the end.
    pub(super) fn tunnelled(&mut self, mut tunnel: Tunnel) -> Result<StreamEnd, FlowError> {
        let mut buffer = vec![0; PARSE_BUFFER];
        let mut came = 0;
        let result = self.converse(&mut tunnel, &mut buffer, &mut came);
        if result.is_err() {
            let calls = tunnel.calls(&buffer[came - tunnel.unread()..came]);
            self.unsaid = Some(Unsaid { tunnel, calls });
        }
        result
    }

    /// `came`: bytes that the last read has put into the buffer.
    fn converse(
        &mut self,
        tunnel: &mut Tunnel,
        buffer: &mut [u8],
        came: &mut usize,
    ) -> Result<StreamEnd, FlowError> {
        let mut told = Report::default();
        let mut published_at = 0;
        loop {
            if self.wait()? == Wait::Paused {
                let paused = tunnel.pause(&mut self.filler);
                self.filler.host(paused)?;
                self.publish_tunnel(tunnel, &mut told, Publish::IfFree);
                continue;
            }
            if let Some(wire) = &self.filler.wire {
                let calls = wire.take_given_up();
                let given_up = tunnel.give_up(&calls, &mut self.filler);
                self.filler.host(given_up)?;
            }
            let Some(n) = self.read(buffer)? else {
                continue;
            };
            if n == 0 {
                let within = tunnel.finish(&mut self.filler);
                let within = match self.filler.host(within)? {
                    Some(within) => Some(within),
                    None => self.last_answer()?,
                };
                self.publish_tunnel(tunnel, &mut told, Publish::Last);
                return match within {
                    Some(within) => Err(FlowError::HungUp { within }),
                    None => Ok(StreamEnd {
                        ending: Ending::Complete,
                        within: None,
                    }),
                };
            }
            tunnel.set(self.changed_settings());
            self.filler.granted = tunnel.granted();
            *came = n;
            match tunnel.push(&buffer[..n], &mut self.filler) {
                Ok(()) => {}
                Err(TunnelError::Packet(error)) => return Err(FlowError::Packet(error)),
                Err(TunnelError::Stopped(stopped)) => self.filler.host(Err(stopped))?,
            }
            if tunnel.report() != told || self.bytes_in - published_at >= PUBLISH_EVERY {
                published_at = self.bytes_in;
                self.publish_tunnel(tunnel, &mut told, Publish::IfFree);
            }
        }
    }

    /// The daemon says nothing more. While it waits for the answer that tells it which guest runs, so do we, unless it has
    /// gone altogether. Returns where the conversation stands, if it may not end there.
    fn last_answer(&mut self) -> Result<Option<&'static str>, FlowError> {
        self.filler.seal(Urgency::None)?;
        let Some(wire) = self.filler.wire.clone() else {
            return Ok(None);
        };
        let shared = self.filler.shared;
        loop {
            let unfinished = wire.unfinished();
            let has_gone = has_hung_up(self.input.as_fd())
                .map_err(FlowError::system("look at libvirt's connection"))?;
            if has_gone || unfinished != Some(Unfinished::LastCall) {
                return Ok(unfinished.map(Unfinished::as_str));
            }
            if shared.stopped() {
                return Err(FlowError::Stopped);
            }
            let _ = shared
                .source_wake
                .wait(self.input.as_fd(), PollFlags::empty(), Some(LOOK));
        }
    }
}

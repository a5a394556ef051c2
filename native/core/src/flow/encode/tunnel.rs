//! The source of an encoder whose input is the conversation of two libvirt daemons.

use super::{EncodeOptions, Filler, PARSE_BUFFER, PUBLISH_EVERY, Publish, Source, Wait};
use crate::delta;
use crate::flow::{Event, FlowError, StreamEnd, lock};
use crate::frame::Ending;
use crate::libvirt::{Report, Tunnel, TunnelError};
use std::sync::atomic::Ordering;

impl Source<'_> {
    /// Through the tunnel, to the end.
    pub(super) fn tunnelled(&mut self, options: &EncodeOptions) -> Result<StreamEnd, FlowError> {
        let delta = options.delta.as_ref().map(|delta| delta::Options {
            max_delta: delta.max_delta,
        });
        let mut tunnel = Tunnel::new(delta);
        let mut told = Report::default();
        let mut buffer = vec![0; PARSE_BUFFER];
        let mut published_at = 0;
        loop {
            if self.wait()? == Wait::Paused {
                let paused = tunnel.pause(&mut self.filler);
                self.filler.host(paused)?;
                self.filler
                    .publish_tunnel(&tunnel, &mut told, Publish::IfFree);
                continue;
            }
            let Some(n) = self.read(&mut buffer)? else {
                continue;
            };
            if let Some(wire) = &self.filler.wire {
                let calls = wire.take_given_up();
                let given_up = tunnel.give_up(&calls, &mut self.filler);
                self.filler.host(given_up)?;
            }
            if n == 0 {
                let within = tunnel.finish(&mut self.filler);
                let within = self.filler.host(within)?;
                self.filler
                    .publish_tunnel(&tunnel, &mut told, Publish::Last);
                return Ok(StreamEnd {
                    ending: match within {
                        Some(_) => Ending::TruncatedInput,
                        None => Ending::Complete,
                    },
                    within: within.map(str::to_owned),
                });
            }
            self.apply_to_tunnel(&mut tunnel);
            self.filler.granted = tunnel.granted();
            match tunnel.push(&buffer[..n], &mut self.filler) {
                Ok(()) => {}
                Err(TunnelError::Packet(error)) => return Err(FlowError::Packet(error)),
                Err(TunnelError::Stopped(stopped)) => self.filler.host(Err(stopped))?,
            }
            if tunnel.report() != told || self.bytes_in - published_at >= PUBLISH_EVERY {
                published_at = self.bytes_in;
                self.filler
                    .publish_tunnel(&tunnel, &mut told, Publish::IfFree);
            }
        }
    }

    fn apply_to_tunnel(&mut self, tunnel: &mut Tunnel) {
        let shared = self.filler.shared;
        if shared.settings_changed.swap(false, Ordering::AcqRel) {
            let mut settings = lock(&shared.settings);
            if let Some(on) = settings.delta.take() {
                tunnel.set_enabled(on);
            }
            if let Some(bytes) = settings.cache_bytes.take() {
                tunnel.set_cache_bytes(bytes);
            }
        }
    }
}

impl Filler<'_> {
    /// Tells of migrations that have begun or ended since the last time.
    fn publish_tunnel(&self, tunnel: &Tunnel, told: &mut Report, when: Publish) {
        if let Some(counters) = tunnel.delta() {
            self.publish_counters(counters, when);
        }
        let report = tunnel.report();
        if *told != report {
            *told = report;
            lock(&self.shared.tunnel).clone_from(told);
            self.shared.tell(Event::Tunnel);
        }
    }
}

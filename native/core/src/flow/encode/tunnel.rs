//! The source of an encoder whose input is the conversation of two libvirt daemons.

use super::{EncodeOptions, Filler, PARSE_BUFFER, PUBLISH_EVERY, Publish, Source, Urgency, Wait};
use crate::delta::{self, Stopped};
use crate::descriptor::{Input, Ready, has_hung_up};
use crate::flow::{Event, FlowError, Shared, StreamEnd, lock};
use crate::frame::Ending;
use crate::libvirt::{
    self, Call, Header, Key, Kind, Report, Status, Tunnel, TunnelError, Unfinished,
};
use crate::session::Wire;
use rustix::event::PollFlags;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a daemon whose connection has failed gets to take in why: `LAST_WORD_MS` of whoever closes it then.
const LAST_WORD: Duration = Duration::from_millis(500);

/// How often to look whether a last answer has come.
const LOOK: Duration = Duration::from_millis(20);

/// Streams that a daemon is told of as having failed; it has one over each connection.
const MOST_REFUSED: usize = 64;

impl Source<'_> {
    /// Through the tunnel, to the end.
    pub(super) fn tunnelled(&mut self, options: &EncodeOptions) -> Result<StreamEnd, FlowError> {
        let delta = options.delta.as_ref().map(|delta| delta::Options {
            max_delta: delta.max_delta,
        });
        let mut tunnel = Tunnel::new(delta);
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
                self.filler
                    .publish_tunnel(tunnel, &mut told, Publish::IfFree);
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
                self.filler.publish_tunnel(tunnel, &mut told, Publish::Last);
                return match within {
                    Some(within) => Err(FlowError::HungUp { within }),
                    None => Ok(StreamEnd {
                        ending: Ending::Complete,
                        within: None,
                    }),
                };
            }
            let changed = self.filler.shared.changed_settings();
            if let Some(on) = changed.delta {
                tunnel.set_enabled(on);
            }
            if let Some(bytes) = changed.cache_bytes {
                tunnel.set_cache_bytes(bytes);
            }
            tunnel.set_takes_in(self.takes_in());
            self.filler.granted = tunnel.granted();
            *came = n;
            match tunnel.push(&buffer[..n], &mut self.filler) {
                Ok(()) => {}
                Err(TunnelError::Packet(error)) => return Err(FlowError::Packet(error)),
                Err(TunnelError::Stopped(stopped)) => self.filler.host(Err(stopped))?,
            }
            if tunnel.report() != told || self.bytes_in - published_at >= PUBLISH_EVERY {
                published_at = self.bytes_in;
                self.filler
                    .publish_tunnel(tunnel, &mut told, Publish::IfFree);
            }
        }
    }
}

impl Source<'_> {
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

/// A conversation that has failed.
pub(super) struct Unsaid {
    tunnel: Tunnel,
    /// Calls that have come and were not handed on.
    calls: Vec<Header>,
}

/// What the daemon is told once its conversation has failed.
pub(in crate::flow) struct LastWord {
    pub(super) unsaid: Unsaid,
    pub(super) input: Input,
    pub(super) wire: Arc<Wire>,
}

impl LastWord {
    /// To be called when the listener knows of the failure, which may have been here. What becomes of the session is for the
    /// listener to say, by stopping the flow: it may be held in doubt. Where it has failed, the daemon was told so before. It
    /// takes that in when what it sends is out, and what it calls after that fails for the same reason: that is what libvirt
    /// shows.
    pub(in crate::flow) fn say(self, shared: &Shared) {
        let LastWord {
            unsaid: Unsaid { mut tunnel, calls },
            input,
            wire,
        } = self;
        let wake = &shared.source_wake;
        while !shared.stopped() {
            match wake.wait(input.as_fd(), PollFlags::empty(), None) {
                // The daemon has gone.
                Ok(Ready::Yes) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let daemon = wire.daemon();
        let Some(reason) = daemon.failing() else {
            return;
        };
        let mut refused = Vec::new();
        let mut refuse = |mut calls: Vec<Header>| {
            calls.retain(|header| is_waited_for(header, &mut refused));
            daemon.refuse(&calls, &reason);
        };
        refuse([wire.unanswered(), calls].concat());
        let mut buffer = vec![0; PARSE_BUFFER];
        let until = Instant::now() + LAST_WORD;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            match wake.wait(input.as_fd(), PollFlags::IN, Some(left)) {
                Ok(Ready::Yes) => match input.read(&mut buffer) {
                    Ok(n @ 1..) => refuse(tunnel.calls(&buffer[..n])),
                    _ => return,
                },
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

/// Whether the daemon is to be told that this has failed: each call and each end of a stream, and of a stream's other pieces
/// one.
fn is_waited_for(header: &Header, refused: &mut Vec<Key>) -> bool {
    if header.kind != Kind::Stream || header.status != Status::Continue {
        return true;
    }
    let is_first = refused.len() < MOST_REFUSED && !refused.contains(&header.key);
    if is_first {
        refused.push(header.key);
    }
    is_first
}

impl libvirt::Host for Filler<'_> {
    fn piece(&mut self, of: &Call, bytes: &[u8]) -> Result<(), Stopped> {
        self.fill_packets(of, bytes).map_err(|error| {
            self.refused = Some(error);
            Stopped
        })
    }
}

impl Filler<'_> {
    /// Puts a piece of a stream into the slot in packets, each of which lies in one frame. The last of them grows with what
    /// comes next, until the frame is sealed: a daemon has less to do for what comes in fewer packets.
    fn fill_packets(&mut self, of: &Call, mut bytes: &[u8]) -> Result<(), FlowError> {
        while !bytes.is_empty() {
            let mut slot = self.take_slot()?;
            let room = &mut slot.room()[..self.limit];
            let (filled, taken) = self.growing.put(of, bytes, room, self.filled);
            self.slot = Some(slot);
            bytes = &bytes[taken..];
            self.filled = filled;
            if taken == 0 || filled == self.limit {
                self.seal(Urgency::None)?;
            }
        }
        Ok(())
    }

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

//! What libvirt's daemon is told once its conversation has failed.

use super::PARSE_BUFFER;
use crate::descriptor::{Input, Ready};
use crate::flow::Shared;
use crate::libvirt::{Header, Key, Kind, Status, Tunnel};
use crate::session::Wire;
use rustix::event::PollFlags;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a daemon whose connection has failed gets to take in why: `LAST_WORD_MS` of whoever closes it then.
const LAST_WORD: Duration = Duration::from_millis(500);

/// Streams that a daemon is told of as having failed; it has one over each connection.
const MOST_REFUSED: usize = 64;

/// A conversation that has failed.
pub(super) struct Unsaid {
    pub(super) tunnel: Tunnel,
    /// Calls that have come and were not handed on.
    pub(super) calls: Vec<Header>,
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

//! Whether the guest may run at the destination while the source's daemon would take a broken connection for a failure.

use super::packet::{Header, Key, Kind, Packets, Part, Status};
use super::{carries_guest, lets_run, program};

/// Calls that may be without an answer at one time; libvirt makes one after the other.
const CALLS: usize = 64;

/// Follows both directions of a conversation at the source.
///
/// QEMU sends a tunnelled stream without a return path, so what lets the guest run is libvirt's call of FINISH3, whose last
/// argument says that the migration was not cancelled. If the connection breaks before the reply is there, the source's
/// daemon resumes its guest ("There is a small chance that the domain could in fact be running on the destination", says
/// libvirt). So from the last byte of that call until the reply is with the daemon, the session must not be given up.
#[derive(Clone, Debug, Default)]
pub struct Doubt {
    sent: Side,
    /// The last argument of the call of FINISH3 that is being sent.
    last_word: [u8; 4],
    /// Where the calls of FINISH3 end that let a guest run and have no answer.
    finishing: Vec<(Key, u64)>,
    /// Calls without an answer.
    calls: Vec<Header>,
    /// Streams that the destination has not ended.
    streams: Vec<Header>,
    /// Those that it has ended: late pieces do not begin them anew.
    ended: Vec<Key>,
    /// Calls that prepare migrations of which FINISH3 is not answered.
    migrations: Vec<Key>,
    /// A call of FINISH3 was answered.
    has_finished: bool,
    returned: Side,
    /// Calls whose streams the destination has given up.
    given_up: Vec<Key>,
    /// Nothing comes from the destination any more.
    is_over: bool,
    keepalive: bool,
}

/// Where a conversation stands that may not end there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// In a migration.
    Migration,
    /// Behind the call that lets the guest run.
    LastCall,
}

impl Unfinished {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Unfinished::Migration => "a migration",
            Unfinished::LastCall => "a migration's last call",
        }
    }
}

/// One direction.
#[derive(Clone, Debug, Default)]
struct Side {
    packets: Packets,
    /// The packet that is under way.
    now: Option<Header>,
    /// It is not libvirt's protocol.
    lost: bool,
}

impl Side {
    /// Tells of each packet's parts of its body, and then, when all of it has come, of the packet (with no bytes).
    fn follow(&mut self, mut bytes: &[u8], mut tell: impl FnMut(&Header, &[u8], u64)) {
        while !self.lost {
            let body = match self.packets.next(&mut bytes) {
                Ok(None) => return,
                Err(_) => {
                    self.lost = true;
                    return;
                }
                Ok(Some(Part::Header(header))) => {
                    self.now = Some(header);
                    &[]
                }
                Ok(Some(Part::Body(body))) => body,
            };
            let Some(header) = self.now else {
                return;
            };
            if !body.is_empty() {
                tell(&header, body, self.packets.offset());
            }
            if self.packets.body_left() == 0 {
                tell(&header, &[], self.packets.offset());
            }
        }
    }
}

impl Doubt {
    /// What comes next from the source. To be told before it is handed on.
    pub fn sent(&mut self, bytes: &[u8]) {
        let Doubt {
            sent,
            last_word,
            finishing,
            calls,
            streams,
            ended,
            migrations,
            is_over,
            keepalive,
            ..
        } = self;
        sent.follow(bytes, |header, body, end| {
            let key = header.key;
            *keepalive |= key.program == program::KEEPALIVE;
            let is_open = header.kind == Kind::Stream && header.status == Status::Continue;
            let is_known = ended.contains(&key) || streams.iter().any(|of| of.key == key);
            if is_open && !is_known && streams.len() < CALLS {
                streams.push(*header);
            }
            if header.kind != Kind::Call {
                return;
            }
            if !body.is_empty() {
                if lets_run(key.program, key.procedure) {
                    for byte in &body[body.len().saturating_sub(4)..] {
                        last_word.rotate_left(1);
                        last_word[3] = *byte;
                    }
                }
                return;
            }
            if calls.len() < CALLS {
                calls.push(*header);
            }
            if carries_guest(key.program, key.procedure) && migrations.len() < CALLS {
                migrations.push(key);
            }
            let finishes = lets_run(key.program, key.procedure) && *last_word == [0; 4];
            if finishes && !*is_over && finishing.len() < CALLS {
                finishing.push((key, end));
            }
        });
    }

    /// What comes next from the destination. To be told when the source's daemon has it.
    pub fn returned(&mut self, bytes: &[u8]) {
        let Doubt {
            returned,
            finishing,
            calls,
            streams,
            ended,
            migrations,
            has_finished,
            given_up,
            keepalive,
            ..
        } = self;
        returned.follow(bytes, |header, body, _| {
            let key = header.key;
            *keepalive |= key.program == program::KEEPALIVE;
            let is_reply = matches!(header.kind, Kind::Reply | Kind::ReplyWithFds);
            if !body.is_empty() || !(is_reply || header.kind == Kind::Stream) {
                return;
            }
            if header.kind == Kind::Stream && header.status != Status::Continue {
                streams.retain(|of| of.key != key);
                if ended.len() == CALLS {
                    ended.remove(0);
                }
                ended.push(key);
            }
            let is_refused =
                header.status == Status::Error && carries_guest(key.program, key.procedure);
            let finishes = lets_run(key.program, key.procedure);
            *has_finished |= is_reply && finishes;
            if is_reply && (is_refused || finishes) {
                // FINISH3 does not say of which. libvirt carries one after the other.
                let of = migrations.iter().position(|of| *of == key).unwrap_or(0);
                if !migrations.is_empty() {
                    migrations.remove(of);
                }
            }
            if is_reply {
                finishing.retain(|(of, _)| *of != key);
                calls.retain(|of| of.key != key);
            }
            if is_refused {
                given_up.truncate(CALLS - 1);
                given_up.push(key);
            }
        });
    }

    /// The destination's daemon has closed its side. A call of FINISH3 that it had by then stays without an answer.
    pub fn return_ended(&mut self) {
        self.is_over = true;
    }

    /// Whether both guests may run if the source is cut off when the bytes before `upto` may be with the destination.
    #[must_use]
    pub fn in_doubt(&self, upto: u64) -> bool {
        self.finishing.iter().any(|(_, end)| *end <= upto)
    }

    /// Takes the calls whose streams the destination has given up.
    pub fn take_given_up(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.given_up)
    }

    /// Calls and streams that the source's daemon still waits for.
    #[must_use]
    pub fn unanswered(&self) -> Vec<Header> {
        [&self.calls[..], &self.streams].concat()
    }

    /// What the source's daemon may not leave now, if there is something: from a migration's preparation until the answer to its
    /// FINISH3.
    #[must_use]
    pub fn unfinished(&self) -> Option<Unfinished> {
        if self.in_doubt(u64::MAX) {
            return Some(Unfinished::LastCall);
        }
        (!self.migrations.is_empty()).then_some(Unfinished::Migration)
    }

    /// Whether a migration has had its last answer, and no other has begun.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.has_finished && self.unfinished().is_none()
    }

    /// Whether the source's daemon waits for something that matters, or will. Behind a migration it only takes its leave.
    #[must_use]
    pub fn needs_answers(&self) -> bool {
        let calls = !self.is_settled() && !self.calls.is_empty();
        calls || self.unfinished().is_some() || !self.streams.is_empty()
    }

    /// Whether the source's daemon is at the end of a packet, so that it may be told something of ours.
    #[must_use]
    pub fn at_border(&self) -> bool {
        self.returned.packets.at_border() && !self.returned.lost
    }

    /// Whether the daemons ask each other for signs of life.
    #[must_use]
    pub fn has_keepalive(&self) -> bool {
        self.keepalive
    }
}

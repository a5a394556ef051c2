//! The source's end: the guest's stream inside the conversation goes through delta.

use super::carries_guest;
use super::growing::Call;
use super::guest::Naming;
use super::packet::{Header, Key, Kind, PacketError, Packets, Part, Status};
use crate::delta::{self, Filter, Stopped, StreamEnd};
use crate::qemu::GuestRam;
use thiserror::Error;

/// How much is put behind an element that is not whole to make it so: enough for a page of 4 KiB.
const COMPLETION: usize = 8 << 10;

/// Guests' streams that are followed at one time. One more passes as it is.
const STREAMS: usize = 8;

/// Why the conversation does not go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// What came is no packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The host wants it.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// What has come by so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The guest whose migration was prepared last, for people; `None` where its name could not be read.
    pub guest: Option<String>,
    /// Guests' streams that have begun.
    pub begun: u64,
    /// Those of them that came to their end.
    pub complete: u64,
    /// Those of them that were given up, by either daemon.
    pub given_up: u64,
}

/// Packets in, packets out: those that carry a guest's stream are made anew, all others pass as they are, at once and in
/// order. Of the input nothing is held but a header that is not whole, and an unfinished record of each guest's stream.
pub struct Tunnel {
    packets: Packets,
    /// Bytes of the input pushed last that were not looked at.
    unread: usize,
    /// The packet whose parts come, and the one in which the host has stopped.
    current: Option<Header>,
    stopped_in: Option<Header>,
    /// `None`: every byte passes as it is.
    options: Option<delta::Options>,
    delta_on: bool,
    streams: Vec<Stream>,
    now: Now,
    naming: Naming,
    report: Report,
    /// What delta did in the last stream that it has left.
    left: Option<delta::Counters>,
}

/// Where the packet goes whose body comes.
enum Now {
    /// Out, as it is.
    Through,
    /// Into the stream with this number.
    Stream(usize),
}

/// A guest's stream.
struct Stream {
    call: Call,
    /// `None` where the rest is only to be copied.
    filter: Option<Filter>,
    /// What the filter has not consumed.
    held: Vec<u8>,
    /// Bytes that its page cache may take.
    granted: u64,
    /// The destination does not want it any more.
    is_unwanted: bool,
}

/// What a tunnel needs from the one who runs it.
pub trait Host: delta::Host {
    /// Takes a piece of the stream of this call, in order with all else; [`Growing`] makes packets of such.
    ///
    /// # Errors
    /// To stop.
    fn piece(&mut self, of: &Call, bytes: &[u8]) -> Result<(), Stopped>;
}

/// What a stream's filter writes to.
struct Body<'a, H> {
    of: &'a Call,
    host: &'a mut H,
    granted: &'a mut u64,
}

impl<H: Host> delta::Host for Body<'_, H> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        self.host.piece(self.of, bytes)
    }

    fn guest(&mut self, guest: &GuestRam) -> Result<u64, Stopped> {
        *self.granted = self.host.guest(guest)?;
        Ok(*self.granted)
    }
}

impl Tunnel {
    /// At the start of a conversation; without options no stream goes through delta.
    #[must_use]
    pub fn new(options: Option<delta::Options>) -> Self {
        Tunnel {
            packets: Packets::default(),
            unread: 0,
            current: None,
            stopped_in: None,
            options,
            delta_on: true,
            left: None,
            streams: Vec::new(),
            now: Now::Through,
            naming: Naming::default(),
            report: Report::default(),
        }
    }

    /// Takes input, all of it.
    ///
    /// # Errors
    /// If it is not libvirt's protocol, or the host stops. What came before is out.
    pub fn push<H: Host>(&mut self, mut input: &[u8], host: &mut H) -> Result<(), TunnelError> {
        loop {
            let part = self.packets.next(&mut input);
            self.unread = input.len();
            let done = match part {
                Ok(Some(Part::Header(header))) => {
                    self.current = Some(header);
                    self.begin(&header, host)
                }
                Ok(Some(Part::Body(body))) => self.body(body, host),
                Ok(None) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if done.is_err() {
                self.stopped_in = self.current;
            }
            done?;
        }
    }

    /// After the host has stopped a [`push`](Self::push): how many bytes at the end of that input were not looked at.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.unread
    }

    /// After the host has stopped: the calls and the pieces of streams in what comes next, and the one in which it has stopped;
    /// nothing else is done with them.
    pub fn calls(&mut self, mut input: &[u8]) -> Vec<Header> {
        let stopped_in = self.stopped_in.take();
        let mut calls: Vec<_> = stopped_in.into_iter().collect();
        while let Ok(Some(part)) = self.packets.next(&mut input) {
            if let Part::Header(header) = part {
                calls.push(header);
            }
        }
        calls.retain(|header| matches!(header.kind, Kind::Call | Kind::Stream));
        calls
    }

    /// Input has paused: what need not wait goes out.
    ///
    /// # Errors
    /// If the host stops.
    pub fn pause<H: Host>(&mut self, host: &mut H) -> Result<(), Stopped> {
        if self.is_within_another() {
            return Ok(());
        }
        self.let_go(host)
    }

    /// The input is at its end. Returns where in the conversation, if that is no place to end.
    ///
    /// # Errors
    /// If the host stops.
    pub fn finish<H: Host>(&mut self, host: &mut H) -> Result<Option<&'static str>, Stopped> {
        let within = if !self.packets.at_border() {
            Some("a packet")
        } else if self.streams.iter().any(|stream| !stream.is_unwanted) {
            Some("a guest's stream")
        } else {
            None
        };
        while !self.streams.is_empty() && !self.is_within_another() {
            self.end(0, Status::Error, host)?;
        }
        self.report.given_up += self.streams.drain(..).len() as u64;
        host.put(self.packets.held())?;
        Ok(within)
    }

    /// The destination has given up these calls: what still comes of their streams is only copied.
    ///
    /// # Errors
    /// If the host stops.
    pub fn give_up<H: Host>(&mut self, calls: &[Key], host: &mut H) -> Result<(), Stopped> {
        for stream in &mut self.streams {
            stream.is_unwanted |= calls.contains(&stream.call.key);
        }
        if self.is_within_another() {
            return Ok(());
        }
        self.leave_given_up(host)
    }

    /// What has come by so far.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            guest: self.naming.guest.clone(),
            ..self.report
        }
    }

    /// What delta has done in the guest's stream that began last, if there was one.
    #[must_use]
    pub fn delta(&self) -> Option<&delta::Counters> {
        let live = self.streams.iter().rev().find_map(|of| of.filter.as_ref());
        live.map(Filter::counters).or(self.left.as_ref())
    }

    /// Bytes that the page caches of all streams may take.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.streams.iter().map(|stream| stream.granted).sum()
    }

    /// Changes these in the streams that there are; in those that begin later, whether differences are made.
    pub fn set(&mut self, settings: delta::Settings) {
        self.delta_on = settings.enabled.unwrap_or(self.delta_on);
        for filter in self.streams.iter_mut().filter_map(|of| of.filter.as_mut()) {
            filter.set(settings);
        }
    }

    /// In the body of a packet that passes as it is: nothing else can go out before its end.
    fn is_within_another(&self) -> bool {
        matches!(self.now, Now::Through) && self.packets.body_left() > 0
    }

    /// Sends what need not wait.
    fn let_go<H: Host>(&mut self, host: &mut H) -> Result<(), Stopped> {
        for number in 0..self.streams.len() {
            self.filtered(number, host, |filter, held, body| filter.pause(held, body))?;
        }
        Ok(())
    }

    fn leave_given_up<H: Host>(&mut self, host: &mut H) -> Result<(), Stopped> {
        for number in 0..self.streams.len() {
            if self.streams[number].is_unwanted {
                self.leave(number, host)?;
            }
        }
        Ok(())
    }

    /// A packet begins.
    fn begin<H: Host>(&mut self, header: &Header, host: &mut H) -> Result<(), Stopped> {
        let is_guests = carries_guest(header.key.program, header.key.procedure);
        self.now = Now::Through;
        self.leave_given_up(host)?;
        self.naming.begin(header);
        match (header.kind, header.status) {
            (Kind::Stream, Status::Continue) if is_guests => {
                if let Some(number) = self.stream(header, host)? {
                    self.now = Now::Stream(number);
                    return Ok(());
                }
            }
            (Kind::Stream, status) if is_guests => {
                if let Some(number) = self.number(header.key) {
                    self.end(number, status, host)?;
                }
            }
            _ => {}
        }
        // What came before a packet goes out before it.
        self.let_go(host)?;
        host.put(&header.to_bytes())
    }

    fn body<H: Host>(&mut self, body: &[u8], host: &mut H) -> Result<(), Stopped> {
        match self.now {
            Now::Through => {
                self.naming.body(body, self.packets.body_left());
                host.put(body)
            }
            Now::Stream(number) => self.feed(number, body, host),
        }
    }

    /// Puts a piece of a guest's stream through its filter.
    fn feed<H: Host>(&mut self, number: usize, piece: &[u8], host: &mut H) -> Result<(), Stopped> {
        let mut held = std::mem::take(&mut self.streams[number].held);
        let mut rest = piece;
        // An element that was not whole is made so of as little as that takes; the rest need not be copied.
        while !held.is_empty() && !rest.is_empty() {
            let before = held.len();
            let (more, behind) = rest.split_at(rest.len().min(COMPLETION));
            held.extend_from_slice(more);
            let consumed = self
                .filtered(number, host, |filter, _, body| filter.push(&held, body))?
                .unwrap_or(0);
            if consumed < before {
                held.drain(..consumed);
                rest = behind;
            } else {
                held.clear();
                rest = &rest[consumed - before..];
            }
        }
        if !rest.is_empty() {
            let consumed =
                self.filtered(number, host, |filter, _, body| filter.push(rest, body))?;
            let stream = &mut self.streams[number];
            let Some(consumed) = consumed else {
                // There is no filter any more, and so nothing was held.
                return host.piece(&stream.call, piece);
            };
            held.extend_from_slice(&rest[consumed..]);
        }
        let stream = &mut self.streams[number];
        stream.held = held;
        let is_verbatim = stream.filter.as_ref().is_some_and(Filter::is_verbatim);
        if is_verbatim && stream.held.is_empty() {
            self.left = stream.filter.take().map(|filter| filter.counters().clone());
            stream.granted = 0;
        }
        Ok(())
    }

    /// Has the filter of a stream do something, if it has one.
    fn filtered<H: Host, T>(
        &mut self,
        number: usize,
        host: &mut H,
        action: impl FnOnce(&mut Filter, &[u8], &mut Body<'_, H>) -> Result<T, Stopped>,
    ) -> Result<Option<T>, Stopped> {
        let stream = &mut self.streams[number];
        let Some(mut filter) = stream.filter.take() else {
            return Ok(None);
        };
        let mut granted = stream.granted;
        let mut body = Body {
            of: &stream.call,
            host,
            granted: &mut granted,
        };
        let done = action(&mut filter, &stream.held, &mut body)?;
        stream.granted = granted;
        stream.filter = Some(filter);
        Ok(Some(done))
    }

    fn number(&self, key: Key) -> Option<usize> {
        self.streams
            .iter()
            .position(|stream| stream.call.key == key)
    }

    /// The number of the stream that a packet is a piece of, which may begin here; `None` where it passes as it is.
    fn stream<H: Host>(&mut self, header: &Header, host: &mut H) -> Result<Option<usize>, Stopped> {
        if let Some(number) = self.number(header.key) {
            return Ok(self.options.map(|_| number));
        }
        if self.streams.len() == STREAMS {
            let Some(number) = self.streams.iter().position(|of| of.is_unwanted) else {
                return Ok(None);
            };
            self.end(number, Status::Error, host)?;
        }
        let filter = self.options.map(|options| {
            let mut filter = Filter::new(options);
            filter.set(delta::Settings {
                enabled: Some(self.delta_on),
                ..delta::Settings::default()
            });
            filter
        });
        self.report.begun += 1;
        self.streams.push(Stream {
            call: Call {
                key: header.key,
                version: header.version,
            },
            filter,
            held: Vec::new(),
            granted: 0,
            is_unwanted: false,
        });
        Ok(self.options.map(|_| self.streams.len() - 1))
    }

    /// What comes of a stream is only to be copied from here on. Returns whether it is at its end.
    fn leave<H: Host>(&mut self, number: usize, host: &mut H) -> Result<bool, Stopped> {
        let ended = self.filtered(number, host, |filter, held, body| filter.finish(held, body))?;
        let stream = &mut self.streams[number];
        stream.held.clear();
        stream.granted = 0;
        if let Some(filter) = stream.filter.take() {
            self.left = Some(filter.counters().clone());
        }
        Ok(!matches!(ended, Some(StreamEnd::Truncated { .. })))
    }

    /// A stream is over.
    fn end<H: Host>(&mut self, number: usize, status: Status, host: &mut H) -> Result<(), Stopped> {
        let is_whole = self.leave(number, host)?;
        self.streams.remove(number);
        if status == Status::Ok && is_whole {
            self.report.complete += 1;
        } else {
            self.report.given_up += 1;
        }
        Ok(())
    }
}

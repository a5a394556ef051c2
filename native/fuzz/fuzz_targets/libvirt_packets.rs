//! A conversation of two libvirt daemons, mangled in any way: it is refused or goes on, at the same place in all who read
//! it, however it is cut; nothing is lost, nothing is put in, and without delta every byte is the same.
//!
//! Input: a byte that says how to cut, then the conversation.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_core::delta::{self, Stopped};
use pagewire_core::libvirt::{Allow, Call, Doubt, Gate, Growing, Host, Outlet, PacketError, Tunnel};
use pagewire_core::qemu::GuestRam;

/// A frame's size.
const FRAME: usize = 4096;

#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    /// Where the last frame begins.
    frame: usize,
    growing: Growing,
}

impl delta::Host for Out {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        self.growing.end();
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn guest(&mut self, guest: &GuestRam) -> Result<u64, Stopped> {
        Ok(delta::full_cache(guest).min(1 << 20))
    }
}

impl Host for Out {
    fn piece(&mut self, of: &Call, mut bytes: &[u8]) -> Result<(), Stopped> {
        while !bytes.is_empty() {
            let filled = self.bytes.len() - self.frame;
            self.bytes.resize(self.frame + FRAME.max(filled), 0);
            let room = &mut self.bytes[self.frame..];
            let (filled, taken) = self.growing.put(of, bytes, room, filled);
            self.bytes.truncate(self.frame + filled);
            bytes = &bytes[taken..];
            if taken == 0 || filled >= FRAME {
                self.growing.end();
                self.frame = self.bytes.len();
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Seen {
    passed: Vec<u8>,
    answered: usize,
}

impl Outlet for Seen {
    type Error = PacketError;

    fn pass(&mut self, bytes: &[u8]) -> Result<(), PacketError> {
        self.passed.extend_from_slice(bytes);
        Ok(())
    }

    fn answer(&mut self, packet: Vec<u8>) -> Result<(), PacketError> {
        self.answered += packet.len();
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let options = delta::Options::default();
    let (mut tunnel, mut out) = (Tunnel::new(Some(options)), Out::default());
    let (mut plain, mut same) = (Tunnel::new(None), Out::default());
    let (mut gate, mut seen) = (Gate::new(Allow::All), Seen::default());
    let (mut strict, mut less) = (Gate::new(Allow::default()), Seen::default());
    let mut doubt = Doubt::default();
    let mut is_whole = true;
    for piece in bytes.chunks(usize::from(cut) + 1) {
        is_whole = tunnel.push(piece, &mut out).is_ok();
        assert_eq!(is_whole, plain.push(piece, &mut same).is_ok());
        assert_eq!(is_whole, gate.push(piece, &mut seen).is_ok());
        assert_eq!(is_whole, strict.push(piece, &mut less).is_ok());
        doubt.sent(piece);
        doubt.returned(piece);
        if !is_whole {
            break;
        }
        tunnel.pause(&mut out).expect("room");
        let _ = (doubt.in_doubt(u64::MAX), doubt.unanswered());
    }
    let within = tunnel.finish(&mut out).expect("room");
    assert_eq!(within.is_some(), plain.finish(&mut same).expect("room").is_some());
    assert!(bytes.starts_with(&seen.passed) && less.passed.len() <= seen.passed.len());
    if is_whole {
        assert!(same.bytes == bytes);
    }
    // What comes out is a conversation again, as far as it came.
    let mut again = Tunnel::new(None);
    let is_conversation = again.push(&out.bytes, &mut Out::default()).is_ok();
    assert!(is_conversation || !is_whole);
});

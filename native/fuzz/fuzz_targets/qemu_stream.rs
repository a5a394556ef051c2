//! The reader of QEMU's streams finds the same elements however the input is cut, and a filtered stream leaves the same
//! RAM as the one that it was made from.
//!
//! Input: a byte that says how to cut, then the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_core::delta::{self, Filter, Host, Stopped};
use pagewire_core::qemu::replay::RamImage;
use pagewire_core::qemu::{GuestRam, MAX_ELEMENT, Parsed, Reader};

/// The largest guest whose RAM is compared.
const RAM: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, stream)) = input.split_first() else {
        return;
    };
    let whole = read(stream, stream.len().max(1));
    let step = usize::from(cut) + 1;
    assert_eq!(whole, read(stream, step));

    let filtered = filter(stream, stream.len().max(1));
    assert_eq!(filtered, filter(stream, step));
    let (mut before, mut after) = (RamImage::new(RAM), RamImage::new(RAM));
    if before.push(stream).is_ok() {
        after
            .push(&filtered)
            .expect("what could be applied still can");
        assert_eq!(before.digests(), after.digests());
    }
});

/// The elements and how the parsing ended, with `step` more bytes offered whenever the reader wants more.
fn read(stream: &[u8], step: usize) -> Vec<String> {
    let mut reader = Reader::new();
    let mut elements = Vec::new();
    let (mut at, mut end) = (0, step.min(stream.len()));
    loop {
        match reader.next(&stream[at..end]) {
            Parsed::Element(element, length) => {
                assert!((1..=MAX_ELEMENT).contains(&length) && at + length <= end);
                elements.push(format!("{element:?}"));
                at += length;
                assert_eq!(reader.offset(), at as u64);
            }
            Parsed::NeedMore if end == stream.len() => {
                break elements.push(format!("ends at {at}"));
            }
            Parsed::NeedMore => {
                assert!(end - at < MAX_ELEMENT);
                end = stream.len().min(end + step);
            }
            Parsed::Verbatim(reason) => break elements.push(format!("{reason:?} at {at}")),
        }
    }
    elements
}

/// What the filter makes of the stream, offered `step` more bytes at a time.
fn filter(stream: &[u8], step: usize) -> Vec<u8> {
    let mut filter = Filter::new(delta::Options::default());
    let mut output = Output(Vec::new());
    let (mut at, mut end) = (0, 0);
    while end < stream.len() {
        end = stream.len().min(end + step);
        at += filter
            .push(&stream[at..end], &mut output)
            .expect("nobody stops it");
    }
    filter
        .finish(&stream[at..], &mut output)
        .expect("nobody stops it");
    output.0
}

struct Output(Vec<u8>);

impl Host for Output {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Stopped> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn guest(&mut self, guest: &GuestRam) -> Result<u64, Stopped> {
        Ok(delta::full_cache(guest).min(4 * RAM))
    }
}

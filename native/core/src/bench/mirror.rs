//! The pages of a stream as a destination would have them: what becomes a pair of versions, and a digest of the end.

use super::BenchError;
use super::walk::walk;
use crate::checksum::ContentHash;
use crate::codec::{Codec, Unpacker};
use crate::qemu::{Element, Found, Part, Reason};
use crate::xbzrle;
use std::collections::HashMap;
use std::io::Read;

/// What stands in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamFacts {
    /// Whether it is a QEMU stream whose RAM was named.
    pub is_qemu: bool,
    /// Empty where the stream does not tell it.
    pub machine: String,
    /// The guest's RAM, in bytes.
    pub ram_bytes: u64,
    /// Bytes; 0 where nothing tells it.
    pub page_size: u32,
    /// Page records of every kind.
    pub records: u64,
    /// Records of whole pages.
    pub whole: u64,
    /// Of those, pages that had come before.
    pub again: u64,
    /// Different pages that came with content, not as one byte all over.
    pub distinct: u64,
    /// From where on, and why, a QEMU stream is not understood before its device states; `None` where all is well.
    pub fault: Option<(u64, Reason)>,
}

/// Two versions of pages, side by side: `old` and `new` hold as many pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// As the destination had them.
    pub old: Vec<u8>,
    /// As they came.
    pub new: Vec<u8>,
}

/// Counts what is there.
///
/// # Errors
/// If reading fails.
pub fn facts(input: impl Read) -> Result<StreamFacts, BenchError> {
    let mut facts = StreamFacts::default();
    let mut seen: HashMap<u64, bool> = HashMap::new();
    let walked = walk(input, |reader, part, _, _| {
        let Part::Element(Found { element, .. }) = part else {
            return Ok::<bool, BenchError>(reader.guest().is_none() && reader.reason().is_none());
        };
        if let (Some(guest), false) = (reader.guest(), facts.is_qemu) {
            facts.is_qemu = true;
            facts.machine = String::from_utf8_lossy(&guest.machine).into_owned();
            facts.ram_bytes = guest.total_bytes;
            facts.page_size = guest.page_size;
        }
        let Some(at) = element.page() else {
            return Ok(true);
        };
        facts.records += 1;
        let is_whole = matches!(element, Element::Page { .. });
        facts.whole += u64::from(is_whole);
        let is_content = !matches!(element, Element::Fill { .. });
        let before = seen.insert(at.number, is_content);
        facts.again += u64::from(is_whole && before.is_some());
        if is_content && before != Some(true) {
            facts.distinct += 1;
        }
        Ok(true)
    })?;
    facts.fault = walked
        .reason
        .filter(|reason| facts.is_qemu && !reason.is_regular())
        .map(|reason| (walked.understood, reason));
    Ok(facts)
}

/// The pairs of a stream that has `again` of them, evenly chosen where they are more than `limit` bytes (of each side).
/// Holds one copy of each page of the stream.
///
/// # Errors
/// If reading fails, or a record cannot be applied.
pub fn pairs(input: impl Read, again: u64, limit: u64) -> Result<Pairs, BenchError> {
    let mut mirror = Mirror::default();
    let mut pairs = Pairs::default();
    let mut count = 0u64;
    walk(input, |reader, part, offset, _| {
        let Part::Element(Found { element, .. }) = part else {
            return Ok(false);
        };
        let page_size = reader.guest().map_or(0, |guest| guest.page_size as usize);
        if let Element::Page { at, content } = &element {
            let room = limit / page_size.max(1) as u64;
            if let Some(old) = mirror.pages.get(&at.number) {
                // Every page's share of the room, without a fraction: pair n is taken where the share steps up.
                let step = |n: u64| u128::from(n) * u128::from(room) / u128::from(again.max(1));
                if again <= room || step(count + 1) > step(count) {
                    match old {
                        Page::Fill(byte) => pairs.old.resize(pairs.old.len() + page_size, *byte),
                        Page::Content(old) => pairs.old.extend_from_slice(old),
                    }
                    pairs.new.extend_from_slice(content);
                }
                count += 1;
            }
        }
        mirror.apply(&element, page_size, offset)?;
        Ok::<bool, BenchError>(true)
    })?;
    Ok(pairs)
}

/// XXH3-128 of what a destination has after the stream: its pages, in their order, and all that is no page. Equal for a
/// stream and for what delta makes of it. Holds one copy of each page of the stream.
///
/// # Errors
/// If reading fails, or a record cannot be applied.
pub fn ram_digest(input: impl Read) -> Result<u128, BenchError> {
    let mut mirror = Mirror::default();
    let mut hash = ContentHash::new();
    walk(input, |reader, part, offset, bytes| {
        match part {
            Part::Element(Found { element, .. }) if element.page().is_some() => {
                let page_size = reader.guest().map_or(0, |guest| guest.page_size as usize);
                mirror.apply(&element, page_size, offset)?;
            }
            _ => hash.update(bytes),
        }
        Ok::<bool, BenchError>(true)
    })?;
    let mut numbers: Vec<_> = mirror.pages.keys().copied().collect();
    numbers.sort_unstable();
    for number in numbers {
        hash.update(&number.to_le_bytes());
        // A page can become one byte all over by a difference too.
        match &mirror.pages[&number] {
            Page::Fill(byte) => hash.update(&[0, *byte]),
            Page::Content(page) if page.iter().all(|byte| *byte == page[0]) => {
                hash.update(&[0, page[0]]);
            }
            Page::Content(page) => {
                hash.update(&[1]);
                hash.update(page);
            }
        }
    }
    Ok(hash.digest())
}

/// A page as the destination has it.
enum Page {
    /// One byte all over.
    Fill(u8),
    Content(Box<[u8]>),
}

/// Pages by their number.
#[derive(Default)]
struct Mirror {
    pages: HashMap<u64, Page>,
    unpacker: Unpacker,
}

impl Mirror {
    fn apply(
        &mut self,
        element: &Element<'_>,
        page_size: usize,
        offset: u64,
    ) -> Result<(), BenchError> {
        let Some(at) = element.page() else {
            return Ok(());
        };
        // Memory that was never sent is zero.
        let page = self.pages.entry(at.number).or_insert(Page::Fill(0));
        if let Element::Fill { byte, .. } = element {
            *page = Page::Fill(*byte);
            return Ok(());
        }
        if let Page::Fill(byte) = *page {
            *page = Page::Content(vec![byte; page_size].into_boxed_slice());
        }
        let Page::Content(page) = page else {
            return Ok(());
        };
        let applied = match element {
            Element::Page { content, .. } => {
                page.copy_from_slice(content);
                true
            }
            Element::Xbzrle { delta, .. } => xbzrle::decode(delta, page).is_ok(),
            Element::CompressPage { zlib, .. } => {
                self.unpacker.unpack(Codec::Zlib, zlib, page).is_ok()
            }
            _ => true,
        };
        if applied {
            Ok(())
        } else {
            Err(BenchError::Record { offset })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{extent, thin, walk};
    use super::*;
    use crate::qemu::Writer;

    const PAGE: usize = 4096;

    fn page(seed: u64) -> Vec<u8> {
        (0..PAGE as u64)
            .map(|i| {
                if i % 64 == 0 {
                    seed as u8
                } else {
                    (i >> 3) as u8
                }
            })
            .collect()
    }

    /// Two blocks of 4 MiB, all of them sent, then every other page of the first one again, each by `again`.
    fn stream(again: fn(&mut Writer, &[u8], u64)) -> Vec<u8> {
        let mut writer = Writer::new();
        let (one, other) = (&b"one"[..], &b"other"[..]);
        writer.header().configuration(b"pc-test");
        writer.ram_start(2, &[(one, 4 << 20), (other, 4 << 20)]);
        writer.end_of_section().footer(2).section_part(2);
        for (block, first) in [(one, 0), (other, 1024)] {
            for n in 0..1024 {
                writer.page(block, n * PAGE as u64, &page(first + n));
            }
        }
        writer.end_of_section().footer(2).section_end(2);
        for n in (0..1024).step_by(2) {
            again(&mut writer, one, n);
        }
        writer.end_of_section().footer(2);
        writer.raw(&[4]).raw(b"devices");
        writer.take()
    }

    fn whole(writer: &mut Writer, block: &[u8], n: u64) {
        writer.page(block, n * PAGE as u64, &page(n + 7));
    }

    fn as_delta(writer: &mut Writer, block: &[u8], n: u64) {
        let mut delta = vec![0; PAGE];
        let length = xbzrle::encode(&page(n), &page(n + 7), &mut delta);
        match length {
            Some(length) => writer.xbzrle(block, n * PAGE as u64, &delta[..length]),
            None => writer.page(block, n * PAGE as u64, &page(n + 7)),
        };
    }

    fn others(writer: &mut Writer, block: &[u8], n: u64) {
        writer.page(block, n * PAGE as u64, &page(n + 8));
    }

    #[test]
    fn a_stream_is_counted_and_its_pairs_found() {
        let stream = stream(whole);
        let found = facts(&stream[..]).expect("facts");
        assert_eq!(
            (found.records, found.again, found.distinct),
            (2560, 512, 2048)
        );
        assert!(found.is_qemu && found.page_size == 4096 && found.ram_bytes == 8 << 20);
        assert_eq!(found.fault, None);
        let mut damaged = stream.clone();
        let middle = damaged.len() / 2;
        damaged[middle..][..2 * PAGE].fill(0xff);
        let (from, _) = facts(&damaged[..]).expect("facts").fault.expect("a fault");
        assert!((middle as u64..(middle + 2 * PAGE) as u64).contains(&from));

        let all = pairs(&stream[..], found.again, 64 << 20).expect("pairs");
        assert_eq!(all.new.len(), 512 * PAGE);
        assert!(all.old[..PAGE] == page(0) && all.new[..PAGE] == page(7));
        let some = pairs(&stream[..], found.again, 100 * PAGE as u64).expect("pairs");
        assert_eq!((some.old.len(), some.new.len()), (100 * PAGE, 100 * PAGE));
    }

    #[test]
    fn a_thinned_stream_is_one_of_a_smaller_guest() {
        let stream = stream(whole);
        let mut thinned = Vec::new();
        let total = stream.len() as u64;
        let found = extent(&stream[..], None).expect("reads");
        assert_eq!(found, extent(&stream[..], Some(total)).expect("reads"));
        assert_eq!((found.bytes, found.ram_bytes), (total, 8 << 20));
        assert!(found.is_beyond(total / 3) && !found.is_beyond(total));
        let result = thin(&stream[..], found, total / 3, &mut thinned).expect("thins");
        assert_eq!(result.bytes, total);
        assert_eq!(result.kept, thinned.len() as u64);
        assert!(thinned.len() < stream.len() && thinned.ends_with(b"devices"));
        let kept = facts(&thinned[..]).expect("facts");
        assert!(kept.is_qemu && kept.records % 128 == 0, "{kept:?}");
        // Parsed to the end of the RAM.
        let ended = walk::walk(&thinned[..], |_, _, _, _| Ok::<bool, BenchError>(true));
        assert_eq!(ended.expect("walks").reason, Some(Reason::DeviceState));
        // All of it is the stream itself.
        let mut whole = Vec::new();
        thin(&stream[..], found, total, &mut whole).expect("thins");
        assert!(whole == stream);
    }

    #[test]
    fn a_large_guest_of_empty_pages_is_thinned_by_its_pages() {
        let mut writer = Writer::new();
        let pages = 64 * 256;
        writer.header().configuration(b"pc-test");
        writer.ram_start(2, &[(b"one", pages * PAGE as u64)]);
        writer.end_of_section().footer(2).section_end(2);
        for n in 0..pages {
            writer.fill(b"one", n * PAGE as u64, 0);
        }
        writer.end_of_section().footer(2).raw(&[4]);
        let stream = writer.take();
        // The stream has no more bytes than the limit, the guest 64 MiB.
        let (total, limit) = (stream.len() as u64, 256 << 10);
        let found = extent(&stream[..], Some(total)).expect("reads");
        assert!(total < limit && found.is_beyond(limit));
        let mut thinned = Vec::new();
        thin(&stream[..], found, limit, &mut thinned).expect("thins");
        let records = facts(&thinned[..]).expect("facts").records;
        assert!(records > 0 && records < pages / 8, "{records}");
    }

    #[test]
    fn the_digest_is_of_the_end_and_not_of_the_way() {
        let digest = |stream: &[u8]| ram_digest(stream).expect("a digest");
        let plain = stream(whole);
        assert_eq!(digest(&plain), digest(&stream(as_delta)));
        assert_ne!(digest(&plain), digest(&stream(others)));
        assert_ne!(digest(&plain), digest(&plain[..plain.len() - 1]));
    }
}

//! Page records of frames on their way, kept small: where a guest's memory is all zero, a frame of 1 MiB has 116,508 of them.
//!
//! Records of pages that are whole wait as they are: a worker adds their hashes. All others are packed, and take no more bytes
//! than the stream's own records do:
//!
//! ```text
//! whole page   1: 0
//! fill         up to 8: the page's number less the one expected, and the kind │ 1: the byte
//! packed       up to 8
//! ```

use super::index::{Content, PageRecord};
use crate::leb128::{self, unzigzag, zigzag};

/// Bytes of the stream that the shortest record of a page takes: a word, and a byte to fill the page with.
pub(super) const LEAST_RECORD: usize = 8 + 1;
/// The same of a whole page.
const LEAST_WHOLE: usize = 8 + 4096;

/// Kinds, in the two lowest bits of a record's first number.
const WHOLE: u64 = 0;
const FILL: u64 = 1;
const PACKED: u64 = 2;

/// The page records that end in a frame, in their order.
#[derive(Debug, Default)]
pub(super) struct Records {
    order: Box<[u8]>,
    /// Those with [`Content::At`] or [`Content::AsInBase`].
    pub(super) whole: Box<[PageRecord]>,
}

impl Records {
    /// What those of a frame with so many bytes of the stream take at the most. One may have begun in the frame before.
    pub(super) fn bytes(frame_size: usize) -> usize {
        most_order(frame_size) + Self::most_whole(frame_size) * size_of::<PageRecord>()
    }

    /// How many whole pages may end in it.
    pub(super) fn most_whole(frame_size: usize) -> usize {
        frame_size / LEAST_WHOLE + 2
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = PageRecord> + '_ {
        let (mut order, mut whole) = (&self.order[..], self.whole.iter());
        let mut expected = 0;
        std::iter::from_fn(move || {
            // It was written by `Gathering`, and cannot be wrong.
            let head = leb128::read(&mut order).ok()?;
            let number = u64::wrapping_add(expected, unzigzag(head >> 2) as u64);
            let record = match head & 3 {
                WHOLE => *whole.next()?,
                FILL => {
                    let (byte, rest) = order.split_first()?;
                    order = rest;
                    let content = Content::Fill(*byte);
                    PageRecord { number, content }
                }
                _ => PageRecord {
                    number,
                    content: Content::Packed,
                },
            };
            expected = record.number.wrapping_add(1);
            Some(record)
        })
    }
}

fn most_order(frame_size: usize) -> usize {
    frame_size + LEAST_RECORD
}

/// Where the records of one frame after the other are gathered.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    order: Vec<u8>,
    whole: Vec<PageRecord>,
    expected: u64,
}

impl Gathering {
    /// Before a frame with so many bytes of the stream.
    pub(super) fn begin(&mut self, frame_size: usize) {
        // All that there can be, so that nothing grows beyond. Memory is touched only where records come.
        self.order.reserve_exact(most_order(frame_size));
        self.whole.reserve_exact(Records::most_whole(frame_size));
        self.expected = 0;
    }

    /// The next record of the frame.
    pub(super) fn push(&mut self, record: PageRecord) {
        let (kind, fill) = match record.content {
            Content::At { .. } | Content::AsInBase { .. } => {
                self.order.push(WHOLE as u8);
                self.whole.push(record);
                self.expected = record.number.wrapping_add(1);
                return;
            }
            Content::Fill(byte) => (FILL, Some(byte)),
            Content::Packed => (PACKED, None),
        };
        // Of a guest with 2⁶⁴ bytes of RAM numbers have 52 bits: with their sign and the kind they are 8 bytes.
        let delta = zigzag(record.number.wrapping_sub(self.expected) as i64);
        let _ = leb128::write(delta << 2 | kind, |byte| {
            self.order.push(byte);
            Some(())
        });
        self.order.extend(fill);
        self.expected = record.number.wrapping_add(1);
    }

    /// The records of the frame.
    pub(super) fn end(&mut self) -> Records {
        let records = Records {
            order: self.order.as_slice().into(),
            whole: self.whole.as_slice().into(),
        };
        self.order.clear();
        self.whole.clear();
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = PageRecord> {
        let content = prop_oneof![
            any::<u8>().prop_map(Content::Fill),
            Just(Content::Packed),
            any::<(u64, Option<[u8; 16]>)>()
                .prop_map(|(offset, hash)| Content::At { offset, hash }),
            any::<u64>().prop_map(|offset| Content::AsInBase { offset }),
        ];
        (0u64..1 << 52, content).prop_map(|(number, content)| PageRecord { number, content })
    }

    proptest! {
        #[test]
        fn records_come_back_frame_by_frame(
            frames in proptest::collection::vec(proptest::collection::vec(any_record(), 0..40), 1..4),
        ) {
            let mut gathering = Gathering::default();
            for records in frames {
                let length: usize = records.iter().map(|record| match record.content {
                    Content::At { .. } | Content::AsInBase { .. } => LEAST_WHOLE,
                    Content::Fill(_) | Content::Packed => LEAST_RECORD,
                }).sum();
                gathering.begin(length);
                let room = (gathering.order.capacity(), gathering.whole.capacity());
                records.iter().for_each(|record| gathering.push(*record));
                prop_assert_eq!(room, (gathering.order.capacity(), gathering.whole.capacity()));
                let packed = gathering.end();
                prop_assert!(packed.iter().eq(records));
                let bytes = packed.order.len() + size_of_val(&*packed.whole);
                prop_assert!(bytes <= Records::bytes(length));
            }
        }
    }
}

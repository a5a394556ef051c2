//! Frames that are damaged in any way, checksums apart (they are put right, or nothing would come past them), are read
//! or refused within the format's bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagewire_core::checksum::xxh3_64;
use pagewire_core::codec::Unpacker;
use pagewire_core::frame::{End, FrameType, HEADER_LEN, Header, MAGIC, MAX_RAW, Start};

fuzz_target!(|input: &[u8]| {
    let mut unpacker = Unpacker::new();
    let mut rest = input;
    while let Some((head, behind)) = rest.split_first_chunk::<HEADER_LEN>() {
        let mut head = *head;
        head[..4].copy_from_slice(&MAGIC);
        let packed = usize::from_le_bytes([head[28], head[29], head[30], head[31], 0, 0, 0, 0])
            .min(behind.len());
        let payload = &behind[..packed];
        head[32..40].copy_from_slice(&xxh3_64(payload).to_le_bytes());
        let hash = xxh3_64(&head[..40]);
        head[40..].copy_from_slice(&hash.to_le_bytes());

        let Ok(header) = Header::from_bytes(&head) else {
            return;
        };
        assert_eq!(header.to_bytes(), head, "nothing is lost");
        assert!(header.packed_len <= header.raw_len && header.raw_len as usize <= MAX_RAW);
        if payload.len() < header.packed_len as usize {
            return;
        }
        header.check_payload(payload).expect("put right");
        match header.kind {
            FrameType::Start => _ = Start::from_bytes(payload),
            FrameType::End => _ = End::from_bytes(payload),
            FrameType::Data => {
                let mut raw = vec![0; header.raw_len as usize];
                let _ = unpacker.unpack(header.codec, payload, &mut raw);
            }
            // The target `references` looks into those.
            FrameType::Matched
            | FrameType::Abort
            | FrameType::Session(_)
            | FrameType::Other(_) => {}
        }
        rest = &behind[packed..];
    }
});

//! XBZRLE and what could stand in its place, over pairs of a page's old and new version, on one thread.

use super::{BenchError, expect};
use crate::codec::{Codec, Packer, Unpacker};
use crate::xbzrle;
use zstd_safe::{CCtx, CParameter, DCtx, ResetDirective, get_error_name};

/// How the new version of a page is told to one who has the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// As it is, whatever the old one was.
    Raw,
    /// QEMU's format.
    Xbzrle,
    /// The new page alone, packed.
    Page(Codec),
    /// Old xor new, packed.
    Xor(Codec),
    /// The new page as a Zstandard frame with the old one as its prefix.
    ZstdPrefix,
}

impl Rival {
    /// By the name that `pagewire bench` gives it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "raw" => Self::Raw,
            "xbzrle" => Self::Xbzrle,
            "page+lz4" => Self::Page(Codec::Lz4),
            "page+zstd" => Self::Page(Codec::Zstd),
            "xor+lz4" => Self::Xor(Codec::Lz4),
            "xor+zstd" => Self::Xor(Codec::Zstd),
            "zstd-prefix" => Self::ZstdPrefix,
            _ => return None,
        })
    }
}

/// Makes deltas and applies them. A delta of no bytes: the page is as it was (but for [`Rival::Raw`]); one as long as
/// the page is the page itself.
pub struct DeltaCodec {
    rival: Rival,
    level: i32,
    page: usize,
    packer: Packer,
    unpacker: Unpacker,
    scratch: Vec<u8>,
}

impl DeltaCodec {
    /// For pages of `page` bytes: a multiple of [`xbzrle::PAGE_GRAIN`] up to [`xbzrle::MAX_PAGE`], or nothing.
    #[must_use]
    pub fn new(rival: Rival, level: i32, page: usize) -> Option<Self> {
        let is_page = page > 0 && page <= xbzrle::MAX_PAGE && page % xbzrle::PAGE_GRAIN == 0;
        is_page.then(|| Self {
            rival,
            level,
            page,
            packer: Packer::new(),
            unpacker: Unpacker::new(),
            scratch: vec![0; page],
        })
    }

    /// Writes into `out`, which is as long, how to make each page of `new` from the one of `old`, and the lengths.
    /// Returns their sum.
    ///
    /// # Errors
    /// If a length is not as it must be.
    pub fn encode(
        &mut self,
        old: &[u8],
        new: &[u8],
        out: &mut [u8],
        lengths: &mut [u32],
    ) -> Result<usize, BenchError> {
        self.check(old, new, lengths)?;
        expect("room for deltas", out.len(), new.len())?;
        let mut prefixed = match self.rival {
            Rival::ZstdPrefix => CCtx::try_create(),
            _ => None,
        };
        if let Some(context) = &mut prefixed {
            context
                .set_parameter(CParameter::CompressionLevel(self.level))
                .map_err(|code| refused(0, code))?;
        }
        let mut at = 0;
        let pages = old.chunks_exact(self.page).zip(new.chunks_exact(self.page));
        for ((old, new), length) in pages.zip(lengths) {
            let room = &mut out[at..at + self.page];
            let made = match self.rival {
                Rival::Raw => None,
                Rival::Xbzrle => xbzrle::encode(old, new, room),
                _ if old == new => Some(0),
                Rival::Page(codec) => self.packer.pack(codec, self.level, new, room),
                Rival::Xor(codec) => {
                    xor(old, new, &mut self.scratch);
                    self.packer.pack(codec, self.level, &self.scratch, room)
                }
                Rival::ZstdPrefix => prefixed
                    .as_mut()
                    .and_then(|context| with_prefix(context, old, new, room)),
            };
            // XBZRLE may be as long as the page, which would be taken for the page.
            let made = made.filter(|&made| made < self.page).unwrap_or_else(|| {
                room.copy_from_slice(new);
                self.page
            });
            *length = made as u32;
            at += made;
        }
        Ok(at)
    }

    /// Makes the new pages in `out` again from the old ones and what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// If a length is not as it must be, or a delta cannot be applied.
    pub fn decode(
        &mut self,
        deltas: &[u8],
        lengths: &[u32],
        old: &[u8],
        out: &mut [u8],
    ) -> Result<(), BenchError> {
        self.check(old, out, lengths)?;
        let mut prefixed = match self.rival {
            Rival::ZstdPrefix => DCtx::try_create(),
            _ => None,
        };
        let mut rest = deltas;
        let pages = old
            .chunks_exact(self.page)
            .zip(out.chunks_exact_mut(self.page));
        for (piece, ((old, new), &length)) in pages.zip(lengths).enumerate() {
            let (delta, after) =
                rest.split_at_checked(length as usize)
                    .ok_or(BenchError::Length {
                        what: "deltas",
                        actual: deltas.len(),
                        expected: deltas.len() - rest.len() + length as usize,
                    })?;
            rest = after;
            let failed = |reason: String| BenchError::Decode { piece, reason };
            match self.rival {
                _ if delta.len() == self.page => new.copy_from_slice(delta),
                Rival::Raw => return Err(failed("a page is missing".into())),
                _ if delta.is_empty() => new.copy_from_slice(old),
                Rival::Xbzrle => {
                    new.copy_from_slice(old);
                    xbzrle::decode(delta, new).map_err(|error| failed(error.to_string()))?;
                }
                Rival::Page(codec) => self
                    .unpacker
                    .unpack(codec, delta, new)
                    .map_err(|error| failed(error.to_string()))?,
                Rival::Xor(codec) => {
                    self.unpacker
                        .unpack(codec, delta, &mut self.scratch)
                        .map_err(|error| failed(error.to_string()))?;
                    xor(old, &self.scratch, new);
                }
                Rival::ZstdPrefix => {
                    let made = prefixed.as_mut().map(|context| {
                        context.ref_prefix(old)?;
                        context.decompress(new, delta)
                    });
                    match made {
                        Some(Ok(made)) => expect("page", made, self.page)?,
                        Some(Err(code)) => return Err(refused(piece, code)),
                        None => return Err(failed("out of memory".into())),
                    }
                }
            }
        }
        expect("deltas", deltas.len() - rest.len(), deltas.len())
    }

    fn check(&self, old: &[u8], new: &[u8], lengths: &[u32]) -> Result<(), BenchError> {
        expect("old pages", old.len(), new.len())?;
        expect("pages", new.len(), lengths.len() * self.page)
    }
}

/// `None` where it would not be smaller than the page.
fn with_prefix<'a>(
    context: &mut CCtx<'a>,
    old: &'a [u8],
    new: &[u8],
    room: &mut [u8],
) -> Option<usize> {
    let made = context
        .ref_prefix(old)
        .and_then(|_| context.compress2(&mut room[..new.len() - 1], new));
    if made.is_err() {
        // A frame that did not fit is still under way.
        context.reset(ResetDirective::SessionOnly).ok()?;
    }
    made.ok()
}

fn refused(piece: usize, code: usize) -> BenchError {
    BenchError::Decode {
        piece,
        reason: get_error_name(code).to_owned(),
    }
}

fn xor(one: &[u8], other: &[u8], out: &mut [u8]) {
    for ((one, other), out) in one.iter().zip(other).zip(out) {
        *out = one ^ other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RIVALS: [&str; 7] = [
        "raw",
        "xbzrle",
        "page+lz4",
        "page+zstd",
        "xor+lz4",
        "xor+zstd",
        "zstd-prefix",
    ];
    const PAGE: usize = 4096;

    /// Equal, noise, a little changed.
    fn pairs(seed: u32) -> (Vec<u8>, Vec<u8>) {
        let mut state = seed | 1;
        let mut noise = || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (state >> 23) as u8
        };
        let old: Vec<u8> = (0..3 * PAGE).map(|_| noise()).collect();
        let mut new = old.clone();
        for byte in &mut new[PAGE..2 * PAGE] {
            *byte = noise();
        }
        for i in (2 * PAGE..3 * PAGE).step_by(97) {
            new[i] ^= 0x55;
        }
        (old, new)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_rival_gives_the_new_pages_back(seed in any::<u32>()) {
            let (old, new) = pairs(seed);
            for name in RIVALS {
                let rival = Rival::named(name).expect("a rival");
                let mut codec = DeltaCodec::new(rival, 1, PAGE).expect("a page");
                let (mut out, mut lengths) = (vec![0; new.len()], vec![0; 3]);
                let made = codec.encode(&old, &new, &mut out, &mut lengths).expect("encodes");
                let mut back = vec![7; new.len()];
                codec.decode(&out[..made], &lengths, &old, &mut back).expect("decodes");
                prop_assert!(back == new, "{}", name);
                prop_assert_eq!(lengths[0] == 0, rival != Rival::Raw, "{}", name);
                let knows_old = matches!(rival, Rival::Xbzrle | Rival::Xor(_) | Rival::ZstdPrefix);
                prop_assert!(!knows_old || lengths[2] < PAGE as u32 / 4, "{} {:?}", name, lengths);
            }
        }
    }

    #[test]
    fn what_is_damaged_or_does_not_fit_is_refused() {
        let (old, new) = pairs(0x9e37_79b9);
        for name in RIVALS {
            let rival = Rival::named(name).expect("a rival");
            let mut codec = DeltaCodec::new(rival, 1, PAGE).expect("a page");
            let (mut out, mut lengths) = (vec![0; new.len()], vec![0; 3]);
            let made = codec
                .encode(&old, &new, &mut out, &mut lengths)
                .expect("encodes");
            let mut back = vec![0; new.len()];
            assert!(
                codec
                    .decode(&out[..made - 1], &lengths, &old, &mut back)
                    .is_err()
            );
            assert!(
                codec
                    .decode(&out[..made], &lengths[1..], &old, &mut back)
                    .is_err()
            );
            assert!(
                codec
                    .encode(&old[1..], &new, &mut out, &mut lengths)
                    .is_err()
            );
        }
        assert!(DeltaCodec::new(Rival::Raw, 1, 0).is_none());
        assert!(DeltaCodec::new(Rival::Raw, 1, 4097).is_none());
        assert!(Rival::named("xyz").is_none());
    }
}

//! Zstandard frames, by libzstd: one frame a block, its size in the header, no checksum (our frame has one).

use super::UnpackError;
use crate::frame::MAX_RAW;
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, ParamSwitch, ResetDirective, get_error_name};

/// A decoder allocates no window: a block is unpacked in one piece. The cap only refuses what no encoder of ours makes.
const WINDOW_LOG_MAX: u32 = MAX_RAW.ilog2();

/// What a level of `ZSTD_fast` is tuned to, where libzstd's own is not the best for saved RAM.
struct Tuning {
    /// The logarithm of its hash table's entries: still, the table fits into a core's own cache.
    hash_log: u32,
    /// The shortest match that the table finds.
    min_match: u32,
}

/// The logarithm of how far back a match may be, with a tuning. Up to this distance libzstd looks at a candidate without a branch
/// (`ZSTD_compressBlock_fast`), which RAM makes hard to predict: that takes 7 % of the time off a Zen 5, for 0.4 % more bytes.
const WINDOW_LOG: u32 = 18;

/// Beside libzstd's own tables and windows, on a Zen 5, on what match leaves of the RAM of guests that ran sqlite and redis, literals
/// coded on both sides: level 1 makes 3.6 and 4.2 % less of it in 8 % more time, level -1 1.6 and 2.4 % less in 1.5 % more, level -3
/// 1.3 and 2.5 % less in the same time.
fn tuning(level: i32) -> Option<Tuning> {
    let (hash_log, min_match) = match level {
        1 => (16, 6),
        -1 | -3 => (15, 7),
        _ => return None,
    };
    Some(Tuning {
        hash_log,
        min_match,
    })
}

/// Literals are entropy-coded below level 0 too, where libzstd leaves them as they are. On what match leaves of the same
/// RAM, level -1 makes 15 % less of it in 17 % more time, and -10 less than -3 did, in the same time.
const LITERALS: ParamSwitch = ParamSwitch::Enable;

#[derive(Default)]
pub(super) struct Packer(Option<(i32, CCtx<'static>)>);

impl Packer {
    pub(super) fn pack(&mut self, level: i32, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        if self.0.is_none() {
            self.0 = Some((i32::MIN, CCtx::try_create()?));
        }
        let (set_to, context) = self.0.as_mut()?;
        if *set_to != level {
            // A block that did not become smaller has left the context in the middle of a frame, where it takes no parameters.
            context.reset(ResetDirective::SessionOnly).ok()?;
            context
                .set_parameter(CParameter::CompressionLevel(level))
                .ok()?;
            // 0: libzstd's own choice for the level.
            let (hash_log, min_match, window_log) =
                tuning(level).map_or((0, 0, 0), |own| (own.hash_log, own.min_match, WINDOW_LOG));
            for parameter in [
                CParameter::HashLog(hash_log),
                CParameter::MinMatch(min_match),
                CParameter::WindowLog(window_log),
            ] {
                context.set_parameter(parameter).ok()?;
            }
            context
                .set_parameter(CParameter::LiteralCompressionMode(LITERALS))
                .ok()?;
            *set_to = level;
        }
        context.compress2(out, raw).ok()
    }
}

#[derive(Default)]
pub(super) struct Unpacker(Option<DCtx<'static>>);

impl Unpacker {
    pub(super) fn unpack(&mut self, packed: &[u8], out: &mut [u8]) -> Result<usize, UnpackError> {
        let corrupt = |code| UnpackError::Corrupt(get_error_name(code).to_owned());
        if self.0.is_none() {
            let mut context =
                DCtx::try_create().ok_or_else(|| UnpackError::Corrupt("out of memory".into()))?;
            context
                .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
                .map_err(corrupt)?;
            self.0 = Some(context);
        }
        match &mut self.0 {
            Some(context) => context.decompress(out, packed).map_err(corrupt),
            None => Ok(0),
        }
    }
}

/// What libzstd 1.5's contexts were seen to take for blocks of 1 MiB, rounded up; held against them in a test. It grows
/// with the block from there on.
pub(super) fn context_bytes(level: i32, block: usize) -> u64 {
    let mib = match level {
        i32::MIN..=2 => 2,
        3..=4 => 4,
        5..=8 => 8,
        9..=12 => 14,
        13..=15 => 18,
        _ => 24,
    };
    (mib << 20) * (block.div_ceil(1 << 20).max(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of which none tells the next.
    fn random(len: usize) -> impl Iterator<Item = u8> {
        let mut state = 1u64;
        (0..len).map(move |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
    }

    #[test]
    fn literals_are_entropy_coded_at_every_level() {
        // Nothing comes again, and four bits of each byte say something.
        let raw: Vec<u8> = random(100_000).map(|byte| b'a' + byte % 16).collect();
        let mut packer = Packer::default();
        for level in [-100, -10, -3, -1, 1, 3] {
            let n = packer.pack(level, &raw, &mut vec![0; raw.len()]);
            let n = n.expect("shorter");
            assert!(n < 55_000, "level {level}: {n} bytes");
        }
    }

    #[test]
    fn a_block_that_does_not_become_smaller_changes_nothing_for_those_behind_it() {
        let random: Vec<u8> = random(1000).collect();
        let text = b"row= acct= bal= st=|".repeat(50);
        let mut packer = Packer::default();
        let mut out = vec![0; 999];
        for (level, then) in [(1, 3), (3, -1), (-1, -3), (-3, 5), (5, 1)] {
            assert_eq!(packer.pack(level, &random, &mut out), None);
            assert!(packer.pack(then, &text, &mut out).is_some(), "{then}");
        }
    }

    #[test]
    fn a_context_takes_no_more_than_is_told() {
        for mib in [1, 4] {
            let block = mib << 20;
            let raw: Vec<u8> = (0..block as u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 27) as u8)
                .collect();
            let mut out = vec![0; block];
            for level in [
                -100, -3, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
            ] {
                let mut packer = Packer::default();
                packer.pack(level, &raw, &mut out);
                let taken = packer.0.expect("a context").1.sizeof() as u64;
                let told = context_bytes(level, block);
                assert!(
                    taken <= told,
                    "level {level}, {mib} MiB: {taken} bytes, told {told}"
                );
            }
        }
    }
}

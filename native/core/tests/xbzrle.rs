//! XBZRLE on every tier against a naive encoder and decoder, written from the format.

use std::io::Write;

use pagewire_core::xbzrle::{
    DecodeError, MAX_PAGE, MAX_RUN, Tier, decode, decode_with, encode_with,
};
use proptest::prelude::*;

/// The canonical encoding: every changed run by itself. `None`: the format cannot name one.
fn oracle_encode(old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let mut delta = Vec::new();
    let mut end = 0;
    while let Some(start) = (end..new.len()).find(|&at| old[at] != new[at]) {
        while start - end > MAX_RUN {
            let same = MAX_RUN.min(start - end - 2);
            oracle_record(&mut delta, same, &new[end + same..=end + same]);
            end += same + 1;
        }
        let stop = (start..new.len())
            .find(|&at| old[at] == new[at])
            .unwrap_or(new.len());
        if stop - start > MAX_RUN {
            return None;
        }
        oracle_record(&mut delta, start - end, &new[start..stop]);
        end = stop;
    }
    Some(delta)
}

fn oracle_record(delta: &mut Vec<u8>, same: usize, changed: &[u8]) {
    for length in [same, changed.len()] {
        match length {
            0..=0x7f => delta.push(length as u8),
            _ => delta.extend([length as u8 & 0x7f | 0x80, (length >> 7) as u8]),
        }
    }
    delta.extend(changed);
}

/// Decodes on every tier, checks that all say and make the same, and gives that.
fn on_each_tier(delta: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
    let old = page.to_vec();
    let result = decode(delta, page);
    for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
        let mut other = old.clone();
        let decoded = decode_with(tier, delta, &mut other).expect("available");
        assert_eq!(decoded, result, "{tier}: {delta:x?}");
        assert!(other == page, "{tier} decodes to another page");
    }
    result
}

/// `None`: not exact in the format.
fn oracle_decode(delta: &[u8], old: &[u8]) -> Option<Vec<u8>> {
    fn length(delta: &mut &[u8]) -> Option<usize> {
        let (length, rest) = match **delta {
            [low @ ..0x80, ref rest @ ..] => (low as usize, rest),
            [low, high @ 1..0x80, ref rest @ ..] => {
                (low as usize - 0x80 + high as usize * 0x80, rest)
            }
            _ => return None,
        };
        *delta = rest;
        Some(length)
    }
    let mut page = old.to_vec();
    let mut rest = delta;
    let mut at = 0;
    while !rest.is_empty() {
        let first = rest.len() == delta.len();
        let same = length(&mut rest).filter(|&same| same > 0 || first)?;
        let changed = length(&mut rest).filter(|&changed| changed > 0)?;
        page.get_mut(at + same..at + same + changed)?
            .copy_from_slice(rest.get(..changed)?);
        (at, rest) = (at + same + changed, &rest[changed..]);
    }
    Some(page).filter(|_| delta.len() <= old.len())
}

/// A page that differs from the old one exactly where `changed` says.
fn pages(length: usize, seed: u64, changed: impl Fn(usize) -> bool) -> (Vec<u8>, Vec<u8>) {
    let mut state = seed;
    let mut byte = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    let old: Vec<u8> = (0..length).map(|_| byte()).collect();
    let new = old
        .iter()
        .enumerate()
        .map(|(at, &old)| if changed(at) { old ^ (byte() | 1) } else { old })
        .collect();
    (old, new)
}

/// Everything that must hold for a pair of pages on a tier. Returns the delta.
fn check(tier: Tier, old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    const UNTOUCHED: u8 = 0xa5;
    let encode = |limit: usize| {
        let mut out = vec![UNTOUCHED; new.len() + 64];
        let length = encode_with(tier, old, new, &mut out[..limit]).expect("the tier is available");
        assert!(
            out[limit..].iter().all(|&byte| byte == UNTOUCHED),
            "wrote beyond {limit}"
        );
        length.map(|length| out[..length].to_vec())
    };
    let delta = encode(new.len() + 64);
    let canonical = oracle_encode(old, new);
    let Some(delta) = delta else {
        assert!(
            canonical.is_none_or(|canonical| canonical.len() > new.len()),
            "gave up what fits"
        );
        return None;
    };
    let canonical = canonical.expect("what the format can express");
    assert!(
        delta.len() <= canonical.len(),
        "{} bytes, canonical {}",
        delta.len(),
        canonical.len()
    );
    assert_eq!(delta.is_empty(), old == new);
    assert!(
        oracle_decode(&delta, old).as_deref() == Some(new),
        "the oracle decodes another page"
    );
    for delta in [&delta, &canonical] {
        let mut page = old.to_vec();
        if delta.len() <= page.len() {
            on_each_tier(delta, &mut page).expect("decodes");
            assert!(page == new, "decodes to another page");
        }
    }
    let near = delta.len().saturating_sub(40)..=(delta.len() + 40).min(new.len());
    for limit in near.chain([0, 1, 2, delta.len() / 2]) {
        let expected = (limit >= delta.len()).then_some(&delta);
        assert!(
            encode(limit).as_ref() == expected,
            "limit {limit}, delta {}",
            delta.len()
        );
    }
    Some(delta)
}

/// Lengths around which something changes: a bridge, a block of the writer, a mask, a second length byte.
const LENGTHS: [usize; 22] = [
    1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 125, 126, 127, 128, 129, 130, 131,
];

fn runs_and_gaps(tier: Tier) {
    for first in LENGTHS {
        for gap in LENGTHS {
            for second in [1, 2, 3, 31, 32, 33, 124, 125, 126, 127, 128, 129, 130] {
                // A whole mask's alignments are too many for each triple: they take turns.
                let start = (first * 7 + gap * 31 + second) % 130;
                let (old, new) = pages(576, 1, |at| {
                    let at = at.wrapping_sub(start);
                    at < first || (first + gap..first + gap + second).contains(&at)
                });
                check(tier, &old, &new);
            }
        }
    }
}

fn every_alignment(tier: Tier) {
    for shift in 0..192 {
        for run in [1, 2, 3, 63, 64, 65, 127, 128] {
            for gap in [1, 2, 3, 4] {
                let (old, new) = pages(512, shift as u64, |at| {
                    let at = at.wrapping_sub(shift);
                    at < run || (run + gap..2 * run + gap).contains(&at)
                });
                check(tier, &old, &new);
            }
        }
    }
}

fn ends_of_the_page(tier: Tier) {
    for length in [64, 128, 1024, 4096, 4160, 16384] {
        for edge in [0, 1, 2, 3, 4, 31, 32, 33, 34, 63, 64] {
            for run in [1, 2, 3, 31, 32, 33] {
                let (old, new) = pages(length, 3, |at| {
                    (edge..edge + run).contains(&at)
                        || (edge..edge + run).contains(&(length - 1 - at))
                });
                check(tier, &old, &new);
            }
        }
    }
}

/// Runs of the same length, the same gap apart: bridging all of them would be one byte too many for some.
fn chains(tier: Tier) {
    for gap in 1..=4 {
        for run in [1, 2, 3, 4, 5, 20, 61, 62, 63, 64, 125, 126, 127, 128] {
            for count in 2..=(300 / (run + gap)).max(3) {
                for shift in [0, 1, 60, 62] {
                    let (old, new) = pages(1024, 4, |at| {
                        let at = at.wrapping_sub(shift);
                        at / (run + gap) < count && at % (run + gap) < run
                    });
                    check(tier, &old, &new);
                }
            }
        }
    }
}

fn unaligned_pages(tier: Tier) {
    let (old, new) = pages(1024 + 64, 5, |at| at % 11 < 3 || at % 64 == 63);
    for shift in 0..64 {
        check(tier, &old[shift..shift + 1024], &new[shift..shift + 1024]);
        let mut page = vec![0; 1024 + 64];
        page[shift..shift + 1024].copy_from_slice(&new[..1024]);
        check(tier, &old[..1024], &page[shift..shift + 1024]);
    }
}

/// Pages of which a run can be longer than a length can name.
fn long_runs(tier: Tier) {
    let big = MAX_PAGE;
    for same in [
        MAX_RUN - 1,
        MAX_RUN,
        MAX_RUN + 1,
        MAX_RUN + 2,
        2 * MAX_RUN,
        2 * MAX_RUN + 1,
        2 * MAX_RUN + 2,
        big - 1,
    ] {
        let (old, new) = pages(big, 6, |at| at == same);
        assert!(
            check(tier, &old, &new).is_some(),
            "an unchanged run of {same} can be cut"
        );
    }
    for changed in [MAX_RUN - 1, MAX_RUN, MAX_RUN + 1, big] {
        let (old, new) = pages(big, 7, |at| at < changed);
        assert_eq!(
            check(tier, &old, &new).is_some(),
            changed <= MAX_RUN,
            "{changed}"
        );
    }
    for gap in [1, 2, 3] {
        let (old, new) = pages(big, 8, |at| {
            at < MAX_RUN || (MAX_RUN + gap..2 * MAX_RUN).contains(&at)
        });
        assert!(
            check(tier, &old, &new).is_some(),
            "can be parted at the gap of {gap}"
        );
    }
    let (old, new) = pages(big, 9, |at| at % 200 < 199 && at < 50_000);
    assert!(check(tier, &old, &new).is_some());
}

fn equal_and_opposite(tier: Tier) {
    for length in [0, 64, 1024, 4096, MAX_PAGE] {
        let (old, _) = pages(length, 10, |_| false);
        assert_eq!(encode_with(tier, &old, &old, &mut []), Ok(Some(0)));
        assert_eq!(check(tier, &old, &old), Some(vec![]));
        let (old, new) = pages(length, 11, |_| true);
        assert_eq!(check(tier, &old, &new).is_some(), length == 0);
    }
}

/// Gaps and runs as they come, most of them short.
fn layout() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let length =
        || prop_oneof![6 => 1..6usize, 2 => 1..40usize, 2 => 120..135usize, 1 => 1..2000usize];
    prop::collection::vec((length(), length()), 0..120)
}

fn any_page(tier: Tier, length: usize, first: bool, layout: &[(usize, usize)], seed: u64) {
    let mut changed = vec![first; usize::from(first)];
    for &(gap, run) in layout {
        changed.extend(std::iter::repeat_n(false, gap));
        changed.extend(std::iter::repeat_n(true, run));
    }
    changed.resize(length, false);
    let (old, new) = pages(length, seed, |at| changed[at]);
    let delta = check(tier, &old, &new);
    assert!(
        delta == check(Tier::Scalar, &old, &new),
        "another delta than the scalar tier's"
    );
}

/// Stamps the properties on a tier. On a machine that lacks it nothing is asserted, and `tiers_that_did_not_run` says so.
macro_rules! on_tier {
    ($name:ident, $tier:expr) => {
        mod $name {
            use super::*;

            on_tier!(@each $tier; runs_and_gaps every_alignment ends_of_the_page chains unaligned_pages long_runs
                equal_and_opposite);

            proptest! {
                #[test]
                fn any_page(
                    length in prop::sample::select(vec![64, 1024, 2048, 4096, 4096, 8192, 16384, 32768, 65536]),
                    first in any::<bool>(),
                    layout in layout(),
                    seed in any::<u64>(),
                ) {
                    if $tier.is_available() {
                        super::any_page($tier, length, first, &layout, seed);
                    }
                }
            }
        }
    };
    (@each $tier:expr; $($property:ident)*) => {
        $(#[test]
        fn $property() {
            if $tier.is_available() {
                super::$property($tier);
            }
        })*
    };
}

on_tier!(scalar, Tier::Scalar);
on_tier!(avx2, Tier::Avx2);
on_tier!(avx512bw, Tier::Avx512Bw);
on_tier!(avx512vbmi2, Tier::Avx512Vbmi2);
on_tier!(neon, Tier::Neon);

/// Says so past libtest's capture, for the test runner to report.
#[test]
fn tiers_that_did_not_run() {
    for tier in Tier::ALL {
        if let Some(why) = tier.lack() {
            writeln!(
                std::io::stderr(),
                "PAGEWIRE-NOT-RUN xbzrle on {tier}: {why}"
            )
            .expect("stderr");
            assert!(encode_with(tier, &[0; 64], &[1; 64], &mut [0; 64]).is_err());
        }
    }
}

#[test]
fn decode_refuses_what_is_not_exact() {
    use DecodeError::*;
    let page = 64;
    let refused: &[(&[u8], DecodeError)] = &[
        (&[0; 65], LongerThanPage { length: 65, page }),
        (
            &[5],
            Truncated {
                offset: 1,
                expected: 1,
            },
        ),
        (
            &[0x85],
            Truncated {
                offset: 1,
                expected: 1,
            },
        ),
        (
            &[0, 0x81],
            Truncated {
                offset: 2,
                expected: 1,
            },
        ),
        (
            &[0, 3, b'a'],
            Truncated {
                offset: 3,
                expected: 2,
            },
        ),
        (
            &[0, 1, b'a', 1],
            Truncated {
                offset: 4,
                expected: 1,
            },
        ),
        (&[0, 0], EmptyRun { offset: 1 }),
        (&[7, 0, 1, 1, b'a'], EmptyRun { offset: 1 }),
        (&[0, 1, b'a', 0, 1, b'b'], EmptyRun { offset: 3 }),
        (&[0x80, 0x00, 1, b'a'], LengthNotMinimal { offset: 0 }),
        (&[0, 0x81, 0x00, b'a'], LengthNotMinimal { offset: 1 }),
        (&[0x81, 0x80, 0x01, 1, b'a'], LengthTooLong { offset: 0 }),
        (
            &[64, 1, b'a'],
            BeyondPage {
                offset: 1,
                end: 65,
                page,
            },
        ),
        (
            &[65, 1, b'a'],
            BeyondPage {
                offset: 0,
                end: 65,
                page,
            },
        ),
        (
            &[62, 3, b'a', b'b', b'c'],
            BeyondPage {
                offset: 1,
                end: 65,
                page,
            },
        ),
        (
            &[0xff, 0x7f, 1, b'a'],
            BeyondPage {
                offset: 0,
                end: MAX_RUN,
                page,
            },
        ),
    ];
    for (delta, error) in refused {
        assert_eq!(
            on_each_tier(delta, &mut vec![0; page]),
            Err(*error),
            "{delta:x?}"
        );
        assert_eq!(oracle_decode(delta, &vec![0; page]), None, "{delta:x?}");
    }
    let accepted: &[&[u8]] = &[
        &[],
        &[0, 1, b'a'],
        &[63, 1, b'a'],
        &[0, 1, b'a', 62, 1, b'b'],
        &[9, 2, 0, 0],
    ];
    for delta in accepted {
        let mut page = vec![0; page];
        assert_eq!(on_each_tier(delta, &mut page), Ok(()), "{delta:x?}");
        assert_eq!(oracle_decode(delta, &[0; 64]), Some(page), "{delta:x?}");
    }
}

proptest! {
    #[test]
    fn decode_agrees_with_the_oracle(
        page in prop::sample::select(vec![0usize, 1, 63, 64, 300, 1024]),
        delta in prop::collection::vec(prop_oneof![4 => 0..5u8, 1 => any::<u8>()], 0..64),
    ) {
        let old = vec![0x55; page];
        let mut new = old.clone();
        let result = on_each_tier(&delta, &mut new);
        prop_assert_eq!(result.ok().map(|()| new), oracle_decode(&delta, &old));
    }
}

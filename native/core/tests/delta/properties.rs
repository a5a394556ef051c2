//! Whatever the stream, however it is cut: the filtered stream leaves the same RAM.

use super::guest::{
    Collect, Model, any_model, any_options, at_the_end_of_parsing, cache_bytes, filter, replay,
};
use pagewire_core::delta::{Filter, Options, Settings, StreamEnd};
use proptest::prelude::*;

/// Pushes a stream in pieces of the lengths given, again and again, with a call between the pieces.
fn in_pieces(
    stream: &[u8],
    filter: &mut Filter,
    host: &mut Collect,
    lengths: &[usize],
    mut between: impl FnMut(usize, &mut Filter, &[u8], &mut Collect),
) -> StreamEnd {
    let (mut start, mut end) = (0, 0);
    for piece in 0.. {
        if end == stream.len() {
            break;
        }
        end = (end + lengths[piece % lengths.len()]).min(stream.len());
        start += filter.push(&stream[start..end], host).unwrap();
        between(piece, filter, &stream[start..end], host);
    }
    filter.finish(&stream[start..], host).unwrap()
}

fn check_same_guest(stream: &[u8], out: &[u8]) -> Result<(), TestCaseError> {
    prop_assert_eq!(replay(stream), replay(out), "RAM");
    let (block, rest) = at_the_end_of_parsing(stream);
    let (out_block, out_rest) = at_the_end_of_parsing(out);
    prop_assert_eq!(block, out_block, "the last block");
    prop_assert!(rest == out_rest, "what is not parsed");
    Ok(())
}

proptest! {
    #[test]
    fn same_guest(model in any_model(120), options in any_options(), copies in 0..Model::pages() + 2) {
        let stream = model.stream();
        let (out, _, filter) = filter(&stream, options, cache_bytes(copies));
        // Only names of blocks, where CONTINUE would not do any more, and what follows them can make it longer.
        prop_assert!(out.len() <= stream.len() + 100 * filter.counters().total.skipped as usize);
        check_same_guest(&stream, &out)?;
    }

    #[test]
    fn same_output_however_it_is_cut(
        model in any_model(40),
        options in any_options(),
        copies in 0..Model::pages() + 2,
        lengths in prop_oneof![
            Just(vec![1]),
            prop::collection::vec(1..9000usize, 1..20),
            prop::collection::vec(1..20usize, 1..20),
        ],
        pauses in any::<u64>(),
    ) {
        let stream = model.stream();
        let (whole, end, _) = filter(&stream, options, cache_bytes(copies));
        let (mut filter, mut host) = (Filter::new(options), Collect::new(cache_bytes(copies)));
        let cut_end = in_pieces(&stream, &mut filter, &mut host, &lengths, |piece, filter, held, host| {
            if pauses >> (piece % 64) & 1 == 1 {
                filter.pause(held, host).unwrap();
            }
        });
        prop_assert_eq!(end, cut_end);
        prop_assert!(whole == host.out);
        prop_assert_eq!(filter.counters().total.bytes_out, host.out.len() as u64);
        prop_assert_eq!(filter.counters().total.bytes_in, stream.len() as u64);
        prop_assert!(host.guests.len() == 1);
    }

    #[test]
    fn same_guest_when_switched_and_resized(
        model in any_model(120),
        options in any_options(),
        lengths in prop::collection::vec(1..9000usize, 1..20),
        changes in prop::collection::vec((0..8u8, 0..Model::pages() + 2), 1..50),
    ) {
        let stream = model.stream();
        let (mut filter, mut host) = (Filter::new(options), Collect::new(cache_bytes(12)));
        in_pieces(&stream, &mut filter, &mut host, &lengths, |piece, filter, _, _| {
            let mut settings = Settings::default();
            match changes[piece % changes.len()] {
                (0, _) => settings.enabled = Some(false),
                (1, _) => settings.enabled = Some(true),
                (2, copies) => settings.cache_bytes = Some(cache_bytes(copies)),
                (3, 0) => settings.cache_bytes = Some(0),
                (4, _) => settings.takes_in = Some(false),
                (5, _) => settings.takes_in = Some(true),
                _ => {}
            }
            filter.set(settings);
        });
        check_same_guest(&stream, &host.out)?;
    }

    #[test]
    fn what_is_broken_breaks_in_the_same_way(
        model in any_model(40),
        options in any_options(),
        copies in 0..Model::pages() + 2,
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6),
        near_start in any::<bool>(),
        lengths in prop::collection::vec(1..9000usize, 1..20),
    ) {
        let mut stream = model.stream();
        for (index, byte, how) in &mutations {
            let at = index.index(if near_start { stream.len().min(400) } else { stream.len() });
            match how {
                0 => stream[at] = *byte,
                1 => stream[at] ^= 1 << (byte % 8),
                _ => {
                    stream.remove(at);
                }
            }
        }
        let (mut filter, mut host) = (Filter::new(options), Collect::new(cache_bytes(copies)));
        in_pieces(&stream, &mut filter, &mut host, &lengths, |_, filter, held, host| {
            filter.pause(held, host).unwrap();
        });
        prop_assert_eq!(replay(&stream), replay(&host.out));
    }

    #[test]
    fn any_bytes_behind_a_header(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let stream = [&b"QEVM\0\0\0\x03"[..], &bytes].concat();
        let (out, _, _) = filter(&stream, Options::default(), cache_bytes(5));
        prop_assert_eq!(out, stream);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn cut_short_anywhere(model in any_model(12), options in any_options()) {
        let stream = model.stream();
        let (_, rest) = at_the_end_of_parsing(&stream);
        let parsed = stream.len() - rest.len();
        let (whole, _, _) = filter(&stream, options, cache_bytes(20));
        // Every place in the first part, and of what follows, which is long, about a thousand.
        let stride = stream.len() / 1000 + 1;
        for length in (0..stream.len()).filter(|&at| at < 500 || at % stride == 0) {
            let (out, end, filter) = filter(&stream[..length], options, cache_bytes(20));
            prop_assert_eq!(replay(&stream[..length]), replay(&out));
            let verbatim = filter.counters().verbatim.is_some();
            match end {
                StreamEnd::NotQemu => prop_assert!(length < 8),
                StreamEnd::Truncated { end, element, .. } => {
                    prop_assert!(length >= 8 && element <= parsed as u64 && end == length as u64 && element <= end);
                    prop_assert!(!verbatim);
                }
                StreamEnd::Complete => prop_assert!(verbatim),
            }
            if length < 8 {
                prop_assert_eq!(&out[..], &whole[..length]);
            }
        }
    }
}

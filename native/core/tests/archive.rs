//! Files: written by real flows, read at random, damaged in every bit and cut at every byte.

use pagewire_core::archive::{
    Archive, ArchiveError, BasePages, Bases, Builder, Content, Directory, PageRecord, Part, PartAt,
    Tally, Verified, salvage, verify,
};
use pagewire_core::codec::Codec;
use pagewire_core::flow::{Capacity, Direct, EncodeOptions, Event, Flow, MatchOptions};
use pagewire_core::frame::{End, FrameType, HEADER_LEN, Header, Start};
use pagewire_core::matching::{Effort, MIN_WINDOW};
use pagewire_core::qemu::Writer;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long something may take that takes milliseconds; only a hang takes longer.
const HANG: Duration = Duration::from_secs(60);
const PAGE: usize = 4096;
/// The smallest frame: a page with its head does not fit into one.
const FRAME: usize = 4096;

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "pagewire-archive-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::SeqCst)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a folder");
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How a file is written.
#[derive(Clone, Copy)]
struct How<'a> {
    codec: Codec,
    frame: usize,
    index: bool,
    base: Option<&'a Path>,
}

const ZSTD: How = How {
    codec: Codec::Zstd,
    frame: FRAME,
    index: true,
    base: None,
};

const CREW: Capacity = Capacity {
    in_flight: 4,
    packers: 2,
    threads: 2,
};

/// Runs a flow to its end, and tells whether it left an index alone. What it reads and writes are files.
fn run(start: impl FnOnce(Box<dyn Fn(Event) + Send + Sync>) -> Flow) -> Result<bool, String> {
    let (tell, ended) = channel();
    let listener = Box::new(move |event| {
        let _ = tell.send(event);
    });
    let flow = start(listener);
    let mut failure = None;
    loop {
        let result = match ended.recv_timeout(HANG).expect("an end, not a hang") {
            Event::SourceEnded => {
                flow.finish();
                flow.source_result().and_then(Result::err)
            }
            Event::SinkEnded => {
                let result = flow.damage().or(flow.sink_result().and_then(Result::err));
                return match result.map(|error| error.to_string()).or(failure) {
                    Some(error) => Err(error),
                    None => Ok(flow.index_left()),
                };
            }
            _ => None,
        };
        failure = failure.or(result.map(|error| error.to_string()));
    }
}

fn save(stream: &[u8], to: &Path, how: How<'_>) {
    let from = to.with_extension("in");
    fs::write(&from, stream).expect("written");
    let base = how.base.map(|base| {
        let archive = Archive::open(base, &Bases::default()).expect("a base");
        BasePages::load(Arc::new(archive)).expect("a base's pages")
    });
    let options = EncodeOptions {
        frame_size: how.frame,
        frames: true,
        delta: None,
        libvirt: false,
        matching: Some(MatchOptions {
            window: MIN_WINDOW,
            effort: Effort::Deep,
        }),
        index: how.index.then(|| Arc::new(Builder::new(true, base))),
        direct: Direct::Packed(how.codec, 1),
    };
    let (input, output) = (
        File::open(&from).expect("opened"),
        File::create(to).expect("made"),
    );
    let flow = |listener| {
        Flow::encode(input.into(), output.into(), options, None, CREW, listener).expect("a flow")
    };
    run(flow).expect("saved");
    fs::remove_file(from).expect("removed");
}

fn restore(from: &Path, bases: &Bases) -> Result<Vec<u8>, String> {
    decode(from, bases, None).map(|(restored, _)| restored)
}

/// Holds a file against its index while it is decoded: `false` where it has one that has to be held against it otherwise.
fn hold(file: &Path, bases: &Bases) -> Result<bool, String> {
    decode(file, bases, Some(file)).map(|(_, index_left)| !index_left)
}

/// Both ways to check a file find it right.
fn right(file: &Path, bases: &Bases) -> Verified {
    assert_eq!(hold(file, bases), Ok(true));
    verify(file, bases).expect("right")
}

/// What was decoded, and whether an index was left alone.
fn decode(from: &Path, bases: &Bases, file: Option<&Path>) -> Result<(Vec<u8>, bool), String> {
    let folder = Folder::new();
    let to = folder.file("restored");
    let (input, output) = (
        File::open(from).expect("opened"),
        File::create(&to).expect("made"),
    );
    let bases = bases.clone();
    let flow = |listener| {
        Flow::decode(
            input.into(),
            output.into(),
            CREW,
            (64 + 80) << 20,
            bases,
            file.map(Path::to_path_buf),
            listener,
        )
        .expect("a flow")
    };
    let result = run(flow);
    let restored = fs::read(&to).expect("read");
    result.map(|index_left| (restored, index_left))
}

/// Bytes that no codec packs, and that differ from seed to seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A page with some content that is its own: mostly alike, so that small files stay small.
fn page(seed: u64) -> Vec<u8> {
    let mut page = vec![seed as u8; PAGE];
    page[100..148].copy_from_slice(&noise(48, seed));
    page
}

/// A guest's stream with these pages: `None` is zero, and every fourth page goes into a second block.
fn guest(pages: &[Option<Vec<u8>>]) -> Vec<u8> {
    let of = |second: bool| {
        pages
            .iter()
            .enumerate()
            .filter(move |(i, _)| (i % 4 == 3) == second)
    };
    let length = |second| (of(second).count() * PAGE) as u64;
    let mut s = Writer::new();
    s.header().configuration(b"pc-q35-9.2");
    s.ram_start(
        2,
        &[(b"pc.ram", length(false)), (b"vga.vram", length(true))],
    );
    s.end_of_section().footer(2).section_part(2);
    for (name, second) in [(&b"pc.ram"[..], false), (b"vga.vram", true)] {
        for (at, (_, page)) in of(second).enumerate() {
            let address = (at * PAGE) as u64;
            match page {
                Some(page) => s.page(name, address, page),
                None => s.fill(name, address, 0),
            };
        }
    }
    s.end_of_section()
        .footer(2)
        .section_end(2)
        .end_of_section()
        .footer(2);
    s.full_section(5, b"timer", 2, &noise(300, 77))
        .end_of_stream(None);
    s.bytes
}

/// The last version of each page, as the guest was made of them.
fn expect_pages(archive: &Archive, pages: &[Option<Vec<u8>>]) {
    let (mut first, mut second) = (0, 0);
    for (i, page) in pages.iter().enumerate() {
        let (block, at) = if i % 4 == 3 {
            (&b"vga.vram"[..], &mut second)
        } else {
            (&b"pc.ram"[..], &mut first)
        };
        let found = archive.page(block, (*at * PAGE) as u64).expect("a page");
        let expected = page.clone().unwrap_or_else(|| vec![0; PAGE]);
        assert!(found == expected, "page {i}");
        *at += 1;
    }
}

fn small() -> Vec<Option<Vec<u8>>> {
    (0..6u64).map(|i| (i != 2).then(|| page(i))).collect()
}

fn whole(archive: &Archive) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = vec![0; archive.end().expect("an end").raw_bytes as usize];
    archive.read(0, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn what_is_saved_can_be_read_anywhere() {
    let folder = Folder::new();
    let mut pages: Vec<_> = (0..600u64)
        .map(|i| (i % 5 != 2).then(|| page(i % 97)))
        .collect();
    pages[11] = Some(noise(PAGE, 5));
    let stream = guest(&pages);
    for how in [
        ZSTD,
        How {
            codec: Codec::None,
            ..ZSTD
        },
        How {
            codec: Codec::Lz4,
            frame: 100_000,
            ..ZSTD
        },
        How {
            frame: 1 << 20,
            ..ZSTD
        },
    ] {
        let file = folder.file("guest.pw");
        save(&stream, &file, how);
        assert_eq!(restore(&file, &Bases::default()).as_ref(), Ok(&stream));
        let archive = Archive::open(&file, &Bases::default()).expect("a file");
        expect_pages(&archive, &pages);
        for (offset, length) in [(0, 1), (4095, 2), (30_000, 9000), (stream.len() - 5, 5)] {
            let mut bytes = vec![0; length];
            archive.read(offset as u64, &mut bytes).expect("bytes");
            assert_eq!(bytes, stream[offset..offset + length]);
        }
        assert!(archive.read(stream.len() as u64 - 1, &mut [0; 2]).is_err());
        assert!(archive.page(b"pc.ram", 5).is_err() && archive.page(b"rom", 0).is_err());
        let directory = archive.directory().expect("an index");
        assert_eq!(directory.ram_bytes(), (pages.len() * PAGE) as u64);
        let devices = directory.device_state.expect("devices") as usize;
        assert_eq!(stream[devices], 4);
        let verified = right(&file, &Bases::default());
        assert_eq!(
            (verified.raw_bytes, verified.pages),
            (stream.len() as u64, 600)
        );
    }
}

#[test]
fn the_last_version_of_a_page_is_found() {
    let folder = Folder::new();
    let mut stream = guest(&small());
    let devices = stream
        .windows(6)
        .position(|w| w == [4, 0, 0, 0, 5, 5])
        .expect("devices");
    let rest = stream.split_off(devices);
    let mut again = Writer::new();
    again
        .section_part(2)
        .page(b"pc.ram", PAGE as u64, &page(42))
        .end_of_section()
        .footer(2);
    // A section's last part has come already: the stream is not understood from there on.
    let refused = [&stream[..], &again.bytes, &rest].concat();
    save(&refused, &folder.file("a.pw"), ZSTD);
    let archive = Archive::open(&folder.file("a.pw"), &Bases::default()).expect("a file");
    assert!(matches!(
        archive.page(b"pc.ram", 0),
        Err(ArchiveError::NoIndex { .. })
    ));
    // Before the last part it is another version of the page.
    let last = stream.len() - 5 - 8 - 5;
    let fine = [&stream[..last], &again.bytes, &stream[last..], &rest].concat();
    save(&fine, &folder.file("b.pw"), ZSTD);
    let archive = Archive::open(&folder.file("b.pw"), &Bases::default()).expect("a file");
    assert_eq!(
        archive.page(b"pc.ram", PAGE as u64).expect("a page"),
        page(42)
    );
}

#[test]
fn a_large_index_has_several_parts() {
    let folder = Folder::new();
    let file = folder.file("many.pw");
    let pages: Vec<_> = (0..150_000)
        .map(|i| (i % 50_000 == 7).then(|| page(i)))
        .collect();
    let stream = guest(&pages);
    save(
        &stream,
        &file,
        How {
            frame: 1 << 20,
            ..ZSTD
        },
    );
    let archive = Archive::open(&file, &Bases::default()).expect("a file");
    let directory = archive.directory().expect("an index");
    assert_eq!(directory.parts.len(), 3);
    let kinds = archive.part(0).expect("a part").pages;
    assert_eq!(
        kinds
            .iter()
            .filter(|page| page.content == Content::Fill(0))
            .count(),
        65_536
    );
    for i in [7, 50_007, 100_007, 149_999usize] {
        let (block, before) = if i % 4 == 3 {
            (&b"vga.vram"[..], i / 4)
        } else {
            (&b"pc.ram"[..], i - i / 4)
        };
        let expected = pages[i].clone().unwrap_or_else(|| vec![0; PAGE]);
        assert_eq!(
            archive.page(block, (before * PAGE) as u64).expect("a page"),
            expected
        );
    }
    assert_eq!(right(&file, &Bases::default()).pages, 150_000);
    assert_eq!(restore(&file, &Bases::default()), Ok(stream));
}

#[test]
fn what_is_no_guest_has_frames_and_no_pages() {
    let folder = Folder::new();
    for stream in [Vec::new(), b"hello".to_vec(), noise(50_000, 3)] {
        let file = folder.file("any.pw");
        save(&stream, &file, ZSTD);
        assert_eq!(restore(&file, &Bases::default()).as_ref(), Ok(&stream));
        let archive = Archive::open(&file, &Bases::default()).expect("a file");
        assert_eq!(whole(&archive).expect("bytes"), stream);
        assert!(matches!(
            archive.page(b"pc.ram", 0),
            Err(ArchiveError::NoIndex { .. })
        ));
        right(&file, &Bases::default());
    }
}

#[test]
fn files_without_an_index_behind_others_and_behind_a_header_are_read() {
    let folder = Folder::new();
    let (plain, indexed) = (folder.file("plain.pw"), folder.file("indexed.pw"));
    let stream = guest(&small());
    save(
        &stream,
        &plain,
        How {
            index: false,
            ..ZSTD
        },
    );
    save(&stream, &indexed, ZSTD);
    let archive = Archive::open(&plain, &Bases::default()).expect("a file");
    assert_eq!(whole(&archive).expect("bytes"), stream);
    assert!(matches!(
        archive.page(b"pc.ram", 0),
        Err(ArchiveError::NoIndex { .. })
    ));

    let (plain, indexed) = (
        fs::read(plain).expect("read"),
        fs::read(indexed).expect("read"),
    );
    let both = folder.file("both.pw");
    for (pieces, streams) in [
        (vec![&plain[..], &indexed], 2),
        (vec![&indexed[..], &plain], 2),
        (vec![&indexed[..], &indexed, &indexed], 3),
        // As libvirt does.
        (vec![&b"LibvirtQemudSave and some XML"[..], &indexed], 1),
    ] {
        fs::write(&both, pieces.concat()).expect("written");
        let archive = Archive::open(&both, &Bases::default()).expect("a file");
        assert_eq!(whole(&archive).expect("bytes"), stream);
        let verified = verify(&both, &Bases::default()).expect("right");
        assert_eq!(
            (verified.streams, verified.raw_bytes),
            (streams, streams * stream.len() as u64)
        );
        // In one pass only where an index at the file's end is that of all of it; a header is another program's to read.
        let held = hold(&both, &Bases::default());
        assert!(held == Ok(false) || streams == 1 && held.is_err());
    }
    fs::write(&both, &plain).expect("written");
    assert_eq!(hold(&both, &Bases::default()), Ok(true));
    fs::write(&both, b"LibvirtQemudSave only").expect("written");
    assert!(Archive::open(&both, &Bases::default()).is_err());
}

#[test]
fn an_incremental_save_needs_its_base_and_no_other() {
    let folder = Folder::new();
    let [full, second, third] = ["full.pw", "second.pw", "third.pw"].map(|name| folder.file(name));
    // Noise, so that only the base makes files small.
    let mut pages: Vec<_> = (0..400u64)
        .map(|i| (i % 7 != 2).then(|| noise(PAGE, i)))
        .collect();
    let how = How {
        frame: 100_000,
        ..ZSTD
    };
    save(&guest(&pages), &full, how);
    let before = pages.clone();
    for i in (0..400).step_by(20) {
        if let Some(page) = &mut pages[i] {
            page[1000..1032].copy_from_slice(&noise(32, 9000 + i as u64));
        }
    }
    pages[2] = before[5].clone(); // a page that the base has elsewhere
    pages[5] = Some(noise(PAGE, 5555)); // and a new one
    let stream = guest(&pages);
    save(
        &stream,
        &second,
        How {
            base: Some(&full),
            ..how
        },
    );
    let size = |path: &Path| fs::metadata(path).expect("a file").len();
    // One whole page, those that are cut by the ends of frames, and 20 times 32 bytes.
    assert!(
        size(&second) * 10 < size(&full),
        "{} of {}",
        size(&second),
        size(&full)
    );

    pages[9] = Some(noise(PAGE, 9999));
    let last = guest(&pages);
    save(
        &last,
        &third,
        How {
            base: Some(&second),
            ..how
        },
    );
    let none = Bases::default();
    for (file, stream) in [(&second, &stream), (&third, &last)] {
        assert_eq!(restore(file, &none).as_ref(), Ok(stream));
        let archive = Archive::open(file, &none).expect("a file");
        assert_eq!(&whole(&archive).expect("bytes"), stream);
        right(file, &none);
    }
    expect_pages(&Archive::open(&third, &none).expect("a file"), &pages);

    // Elsewhere, beside the file, they are found; elsewhere alone, when they are named.
    let moved = Folder::new();
    for name in ["full.pw", "second.pw", "third.pw"] {
        fs::rename(folder.file(name), moved.file(name)).expect("moved");
    }
    let [full, second, third] = ["full.pw", "second.pw", "third.pw"].map(|name| moved.file(name));
    verify(&third, &none).expect("found beside it");
    let beside = Bases {
        beside: Some(moved.0.clone()),
        ..Bases::default()
    };
    assert_eq!(restore(&third, &beside), Ok(last.clone()));
    let far = folder.file("far.pw");
    fs::rename(&full, &far).expect("moved");
    let missing = Archive::open(&third, &none);
    assert!(
        matches!(missing, Err(ArchiveError::BaseMissing { .. })),
        "{missing:?}"
    );
    assert!(restore(&third, &beside).is_err());
    let named = Bases {
        named: vec![far.clone(), second.clone()],
        ..Bases::default()
    };
    assert_eq!(restore(&third, &named), Ok(last));

    // Another file in its place, or named, is refused.
    save(&guest(&before[1..]), &full, how);
    let wrong = Bases {
        named: vec![full.clone()],
        ..Bases::default()
    };
    for bases in [&none, &wrong] {
        let refused = Archive::open(&second, bases);
        assert!(
            matches!(refused, Err(ArchiveError::WrongBase { .. })),
            "{refused:?}"
        );
        let said = restore(&second, bases).expect_err("refused");
        assert!(
            said.contains("is not its base") || said.contains("not found"),
            "{said}"
        );
    }
}

#[test]
fn a_file_without_hashes_is_no_base() {
    let folder = Folder::new();
    let file = folder.file("plain.pw");
    save(
        &guest(&small()),
        &file,
        How {
            index: false,
            ..ZSTD
        },
    );
    let archive = Archive::open(&file, &Bases::default()).expect("a file");
    assert!(matches!(
        BasePages::load(Arc::new(archive)),
        Err(ArchiveError::NoIndex { .. })
    ));
}

#[test]
fn every_flipped_bit_is_found_and_no_wrong_byte_comes_out() {
    let folder = Folder::new();
    let full = folder.file("full.pw");
    let mut pages = small();
    save(&guest(&pages), &full, ZSTD);
    pages[4] = pages[0].clone();
    if let Some(page) = &mut pages[1] {
        page[5] = 1;
    }
    let stream = guest(&pages);
    let file = folder.file("small.pw");
    save(
        &stream,
        &file,
        How {
            base: Some(&full),
            ..ZSTD
        },
    );
    let none = Bases::default();
    let archive = Archive::open(&file, &none).expect("a file");
    let frames = archive.frames().expect("frames");
    let good = fs::read(&file).expect("read");
    assert!(
        verify(&file, &none).is_ok() && good.len() < 8000,
        "{}",
        good.len()
    );
    let bad = folder.file("bad.pw");
    for at in 0..good.len() {
        // All bits of some bytes, and one of each.
        for bit in if at % 16 == 0 {
            0..8
        } else {
            at % 8..at % 8 + 1
        } {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            fs::write(&bad, &bytes).expect("written");
            assert!(verify(&bad, &none).is_err(), "byte {at} bit {bit}");
            if let Ok(archive) = Archive::open(&bad, &none) {
                for frame in &frames {
                    let mut raw = vec![0; frame.raw_len as usize];
                    if archive.read(frame.offset, &mut raw).is_ok() {
                        assert!(
                            stream[frame.offset as usize..].starts_with(&raw),
                            "byte {at} bit {bit}"
                        );
                    }
                }
                if let Ok(found) = archive.page(b"pc.ram", PAGE as u64) {
                    assert_eq!(Some(&found), pages[1].as_ref(), "byte {at} bit {bit}");
                }
            }
            right_pieces(&bad, &stream, &format!("byte {at} bit {bit}"));
        }
        if at % 64 == 0 {
            assert!(restore(&bad, &none).is_err(), "byte {at}");
            assert!(hold(&bad, &none).is_err(), "byte {at}");
        }
    }
}

#[test]
fn an_index_of_another_stream_is_found_though_all_frames_are_right() {
    let folder = Folder::new();
    let none = Bases::default();
    let how = How {
        codec: Codec::None,
        ..ZSTD
    };
    let mut pages: Vec<Option<Vec<u8>>> = (0..40).map(|i| Some(noise(PAGE, i))).collect();
    let [ours, theirs] = [7, 1000].map(|seed| {
        pages[7] = Some(noise(PAGE, seed));
        let file = folder.file("one.pw");
        save(&guest(&pages), &file, how);
        let archive = Archive::open(&file, &none).expect("a file");
        let index = archive.directory().expect("an index").parts[0].position as usize;
        (fs::read(&file).expect("read"), index)
    });
    assert_eq!((ours.0.len(), ours.1), (theirs.0.len(), theirs.1));
    let end = ours.0.len() - 96;
    let swapped = [&ours.0[..ours.1], &theirs.0[theirs.1..end], &ours.0[end..]].concat();
    let file = folder.file("swapped.pw");
    fs::write(&file, swapped).expect("written");
    assert!(restore(&file, &none).is_ok());
    wrong(&file, "tells of other pages");
}

/// The file with another directory in the place of its own, and with what must agree with its length.
fn with_directory(file: &[u8], directory: &Directory) -> Vec<u8> {
    let end_at = file.len() - HEADER_LEN - End::LEN;
    let end_header = Header::from_bytes(&file[end_at..].first_chunk().copied().expect("END"));
    let end_header = end_header.expect("a header");
    let mut end = End::from_bytes(&file[end_at + HEADER_LEN..]).expect("END");
    let at = end_at - end.index as usize;
    let payload = directory.to_payload();
    let header = Header::stored(
        FrameType::Other(0x81),
        end_header.sequence - 1,
        end_header.offset,
        &payload,
    );
    end.index = (HEADER_LEN + payload.len()) as u64;
    let end = end.to_bytes();
    let last = Header::stored(FrameType::End, end_header.sequence, end_header.offset, &end);
    [
        &file[..at],
        &header.to_bytes(),
        &payload,
        &last.to_bytes(),
        &end,
    ]
    .concat()
}

/// Both ways to check a file find it wrong, and say so.
fn wrong(file: &Path, says: &str) {
    let none = Bases::default();
    for error in [
        verify(file, &none).map(drop).map_err(|e| e.to_string()),
        hold(file, &none).map(drop),
    ] {
        let error = error.expect_err(says);
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_directory_whose_counts_alone_are_wrong_is_found() {
    let folder = Folder::new();
    let file = folder.file("counts.pw");
    save(&guest(&small()), &file, ZSTD);
    let good = fs::read(&file).expect("read");
    let archive = Archive::open(&file, &Bases::default()).expect("a file");
    let directory = archive.directory().expect("an index").clone();
    assert!(with_directory(&good, &directory) == good);
    let one_more: [fn(&mut Tally); 9] = [
        |tally| tally.codecs[0] += 1,
        |tally| tally.codecs[1] += 1,
        |tally| tally.codecs[2] += 1,
        |tally| tally.codecs[3] += 1,
        |tally| tally.matched += 1,
        |tally| tally.level += 1,
        |tally| tally.records[0] += 1,
        |tally| tally.records[1] += 1,
        |tally| tally.records[2] += 1,
    ];
    for more in one_more {
        let mut directory = directory.clone();
        more(&mut directory.tally);
        fs::write(&file, with_directory(&good, &directory)).expect("written");
        assert!(restore(&file, &Bases::default()).is_ok());
        wrong(&file, "it tells of another stream");
    }
}

#[test]
fn an_index_of_more_pages_than_its_frames_have_room_for_is_not_read_to_its_end() {
    let folder = Folder::new();
    let file = folder.file("parts.pw");
    save(&guest(&small()), &file, ZSTD);
    let good = fs::read(&file).expect("read");
    let archive = Archive::open(&file, &Bases::default()).expect("a file");
    let mut directory = archive.directory().expect("an index").clone();
    let own = archive.part(0).expect("a part");
    assert_eq!(directory.parts.len(), 1);
    let at = directory.parts[0].position as usize;
    let header = Header::from_bytes(&good[at..].first_chunk().copied().expect("a part"));
    let header = header.expect("a header");
    let end_at = good.len() - HEADER_LEN - End::LEN;
    let mut end = End::from_bytes(&good[end_at + HEADER_LEN..]).expect("END");
    // Parts without frames and full of pages, before the one that has the frames: nothing says how many there may be.
    let full = Part {
        frames: Vec::new(),
        pages: vec![
            PageRecord {
                number: 0,
                content: Content::Fill(0),
            };
            1 << 16
        ],
    };
    let mut bytes = good[..at].to_vec();
    let mut parts = Vec::new();
    let all = [vec![&full; 12], vec![&own]].concat();
    for (number, part) in all.iter().enumerate() {
        let payload = part.to_payload(PAGE as u32);
        let mut header = header;
        header.sequence += number as u32;
        let header = Header::stored(header.kind, header.sequence, header.offset, &payload);
        parts.push(PartAt {
            position: bytes.len() as u64,
            frames: part.frames.len() as u32,
            pages: part.pages.len() as u32,
            ..if part.frames.is_empty() {
                PartAt {
                    lowest: 0,
                    highest: 0,
                    ..directory.parts[0]
                }
            } else {
                directory.parts[0]
            }
        });
        bytes.extend_from_slice(&header.to_bytes());
        bytes.extend_from_slice(&payload);
    }
    directory.from_start = bytes.len() as u64;
    directory.tally.records[1] += 12 << 16;
    directory.parts = parts;
    // A directory and END behind them, which `with_directory` writes anew.
    let last = Header::stored(
        FrameType::Other(0x81),
        header.sequence + all.len() as u32,
        header.offset,
        &[],
    );
    bytes.extend_from_slice(&last.to_bytes());
    end.index = HEADER_LEN as u64;
    end.frames += all.len() as u64 - 1;
    let payload = end.to_bytes();
    let sequence = last.sequence + 1;
    let last = Header::stored(FrameType::End, sequence, header.offset, &payload);
    bytes.extend_from_slice(&last.to_bytes());
    bytes.extend_from_slice(&payload);
    fs::write(&file, with_directory(&bytes, &directory)).expect("written");
    wrong(&file, "it tells of more than its frames have room for");
}

/// What is salvaged is right, and said not to be whole. Gives the number of bytes.
fn right_pieces(file: &Path, stream: &[u8], what: &str) -> u64 {
    let Ok(salvaged) = salvage(file, &Bases::default()) else {
        return 0;
    };
    assert!(!salvaged.whole && !salvaged.faults.is_empty(), "{what}");
    for piece in &salvaged.pieces {
        let mut bytes = Vec::new();
        let copied = salvaged.copy(*piece, |read| {
            bytes.extend_from_slice(read);
            Ok(())
        });
        copied.expect("copied");
        assert_eq!(bytes.len() as u64, piece.length, "{what}");
        assert!(
            stream[piece.offset as usize..].starts_with(&bytes),
            "{what}"
        );
    }
    salvaged.pieces.iter().map(|piece| piece.length).sum()
}

#[test]
fn every_cut_is_found_and_what_is_whole_before_it_is_had() {
    let folder = Folder::new();
    let stream = guest(&small());
    let file = folder.file("small.pw");
    save(&stream, &file, ZSTD);
    let none = Bases::default();
    let archive = Archive::open(&file, &none).expect("a file");
    let frames = archive.frames().expect("frames");
    let good = fs::read(&file).expect("read");
    let bad = folder.file("bad.pw");
    for cut in 0..good.len() {
        fs::write(&bad, &good[..cut]).expect("written");
        assert!(
            verify(&bad, &none).is_err() && Archive::open(&bad, &none).is_err(),
            "{cut}"
        );
        let whole = frames
            .iter()
            .filter(|frame| frame.position + 48 + u64::from(frame.packed_len) <= cut as u64);
        let expected: u64 = whole.map(|frame| u64::from(frame.raw_len)).sum();
        assert_eq!(
            right_pieces(&bad, &stream, &format!("cut at {cut}")),
            expected,
            "{cut}"
        );
        if cut % 64 == 0 {
            assert!(restore(&bad, &none).is_err(), "{cut}");
        }
    }
    // And nothing behind it is taken for a part of it.
    fs::write(&bad, [&good[..], b"x"].concat()).expect("written");
    assert!(verify(&bad, &none).is_err() && restore(&bad, &none).is_err());
}

#[test]
fn a_damaged_frame_costs_itself_and_what_refers_to_it() {
    let folder = Folder::new();
    let file = folder.file("file.pw");
    let bad = folder.file("bad.pw");
    // Noise, so that nothing refers to anything.
    let stream = guest(&(0..40).map(|i| Some(noise(PAGE, i))).collect::<Vec<_>>());
    for index in [true, false] {
        save(&stream, &file, How { index, ..ZSTD });
        let frames = Archive::open(&file, &Bases::default())
            .expect("a file")
            .frames()
            .expect("frames");
        let good = fs::read(&file).expect("read");
        let all: u64 = frames.iter().map(|frame| u64::from(frame.raw_len)).sum();
        for (number, frame) in frames.iter().enumerate() {
            // Its header, then its payload.
            for at in [5, 48 + 70] {
                let mut bytes = good.clone();
                bytes[frame.position as usize + at] ^= 0x40;
                fs::write(&bad, &bytes).expect("written");
                let found = right_pieces(&bad, &stream, &format!("frame {number}"));
                assert_eq!(
                    found,
                    all - u64::from(frame.raw_len),
                    "frame {number} {index}"
                );
            }
        }
        // A START that is lost takes nothing with it.
        let mut bytes = good.clone();
        bytes[5] ^= 1;
        fs::write(&bad, &bytes).expect("written");
        assert_eq!(right_pieces(&bad, &stream, "START"), all);
        // Without an end mark, what lies behind a damaged header cannot be told from a file in the guest's memory.
        bytes = good[..good.len() - 1].to_vec();
        bytes[frames[7].position as usize + 5] ^= 1;
        fs::write(&bad, &bytes).expect("written");
        assert_eq!(
            right_pieces(&bad, &stream, "cut and damaged"),
            frames[7].offset
        );
    }
}

#[test]
fn a_whole_file_is_salvaged_whole() {
    let folder = Folder::new();
    let file = folder.file("file.pw");
    let stream = guest(&small());
    save(&stream, &file, ZSTD);
    let salvaged = salvage(&file, &Bases::default()).expect("a file");
    assert!(salvaged.whole && salvaged.faults.is_empty());
    assert_eq!(salvaged.raw_bytes, Some(stream.len() as u64));
    assert_eq!(salvaged.pieces.len(), 1);
    fs::write(&file, b"not ours, and long enough to hold a header of ours").expect("written");
    assert!(salvage(&file, &Bases::default()).is_err());
}

#[test]
fn a_pipe_is_no_file() {
    let folder = Folder::new();
    assert!(matches!(
        Archive::open(&folder.0, &Bases::default()),
        Err(ArchiveError::NotAFile { .. })
    ));
    assert_eq!(Verified::default().streams, 0);
}

#[test]
fn what_is_reserved_in_version_1_0_is_no_window() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.pw");
    let golden = fs::read(golden).expect("a golden file");
    let (_, rest) = golden.split_first_chunk::<HEADER_LEN>().expect("a header");
    let (start, rest) = rest.split_first_chunk::<{ Start::LEN }>().expect("START");
    let mut start = *start;
    start[8..].fill(0xff);
    let header = Header::stored(FrameType::Start, 0, 0, &start);
    let folder = Folder::new();
    let file = folder.file("reserved.pw");
    fs::write(&file, [&header.to_bytes()[..], &start, rest].concat()).expect("written");
    let archive = Archive::open(&file, &Bases::default()).expect("a file");
    let info = archive.info().expect("a file");
    assert_eq!((info.minor, info.window), (0, 0));
    assert_eq!(
        whole(&archive).expect("bytes"),
        restore(&file, &Bases::default()).expect("bytes")
    );
}

/// An index, references into a base, and its name, as they are in format 1.1: `PAGEWIRE_WRITE_GOLDEN=1` wrote the files once.
#[test]
fn the_golden_files_of_version_1_1_are_still_read() {
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
    let (base, file) = (
        golden.join("v1.1-base.pw"),
        golden.join("v1.1-incremental.pw"),
    );
    let mut pages = small();
    let before = guest(&pages);
    pages[4] = pages[0].clone();
    pages[1] = Some(page(1000));
    let after = guest(&pages);
    if std::env::var_os("PAGEWIRE_WRITE_GOLDEN").is_some() {
        let folder = Folder::new();
        let names = ["v1.1-base.pw", "v1.1-incremental.pw"];
        save(&before, &folder.file(names[0]), ZSTD);
        // The base's path stands in the file: not one of the machine that wrote it.
        std::env::set_current_dir(&folder.0).expect("there");
        let incremental = How {
            base: Some(Path::new(names[0])),
            ..ZSTD
        };
        save(&after, &folder.file(names[1]), incremental);
        for name in names {
            fs::copy(folder.file(name), golden.join(name)).expect("copied");
        }
    }
    let bases = Bases {
        beside: Some(golden.to_owned()),
        ..Bases::default()
    };
    for (file, stream) in [(base, before), (file, after)] {
        let verified = right(&file, &bases);
        assert_eq!((verified.pages, verified.without_index), (6, 0));
        let archive = Archive::open(&file, &bases).expect("a file");
        assert!(whole(&archive).expect("bytes") == stream);
        assert!(restore(&file, &bases).expect("restored") == stream);
    }
    let archive = Archive::open(&golden.join("v1.1-incremental.pw"), &bases).expect("a file");
    expect_pages(&archive, &pages);
}

//! The file that an incremental save refers to: its name in START, where it is found, and which page it has where.

use super::build::MIN_RUN;
use super::error::ArchiveError;
use super::file::Archive;
use super::index::Content;
use super::page_hash::PageHash;
use crate::frame::{End, FrameError, Start};
use crate::matching::{Reference, Source};
use crate::qemu::GuestRam;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Longest path in START.
const MAX_PATH: usize = 2048;
/// Bytes of START's extension before the path.
const PREFIX: usize = 8 + 16 + 2;

/// A base as START names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseName {
    /// Bytes of its original stream.
    pub raw_bytes: u64,
    /// The hash of its original stream.
    pub content_hash: u128,
    /// Where it was.
    pub path: PathBuf,
}

impl BaseName {
    /// The name of the stream with this end.
    #[must_use]
    pub fn new(end: &End, path: &Path) -> Self {
        BaseName {
            raw_bytes: end.raw_bytes,
            content_hash: end.content_hash,
            path: path.to_owned(),
        }
    }

    /// What stands in START behind its 16 bytes. A path that is too long for it is left out: the base is then found
    /// beside the file, or where the user says.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let path = self.path.as_os_str().as_bytes();
        let path = if path.len() <= MAX_PATH { path } else { &[] };
        let mut bytes = self.raw_bytes.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.content_hash.to_le_bytes());
        bytes.extend_from_slice(&(path.len() as u16).to_le_bytes());
        bytes.extend_from_slice(path);
        bytes
    }

    /// The base that a START payload names, if it does.
    ///
    /// # Errors
    /// If what stands behind its 16 bytes is no name of a base.
    pub fn from_start(payload: &[u8]) -> Result<Option<Self>, FrameError> {
        let extension = payload.get(Start::LEN..).unwrap_or_default();
        if extension.is_empty() {
            return Ok(None);
        }
        let short = |least: usize| FrameError::Short {
            field: "length of the base's name in START",
            value: extension.len() as u64,
            least: least as u64,
        };
        let (prefix, rest) = extension
            .split_first_chunk::<PREFIX>()
            .ok_or_else(|| short(PREFIX))?;
        if *prefix == [0; PREFIX] {
            return Ok(None);
        }
        let number = |from: usize, to: usize| {
            prefix[from..to]
                .iter()
                .rev()
                .fold(0u128, |number, byte| number << 8 | u128::from(*byte))
        };
        let length = number(24, 26) as usize;
        if length > MAX_PATH {
            return Err(FrameError::Field {
                field: "length of the base's path in START",
                value: length as u64,
                limit: MAX_PATH as u64,
            });
        }
        let path = rest.get(..length).ok_or_else(|| short(PREFIX + length))?;
        Ok(Some(BaseName {
            raw_bytes: number(0, 8) as u64,
            content_hash: number(8, 24),
            path: PathBuf::from(OsStr::from_bytes(path)),
        }))
    }

    /// The identity, for people.
    #[must_use]
    pub fn identity(&self) -> String {
        identity(self.content_hash, self.raw_bytes)
    }

    fn is(&self, end: &End) -> bool {
        (self.content_hash, self.raw_bytes) == (end.content_hash, end.raw_bytes)
    }
}

fn identity(content_hash: u128, raw_bytes: u64) -> String {
    format!("{content_hash:032x} ({raw_bytes} bytes)")
}

/// Where bases are looked for: what the user has named, else where they were, else beside the file.
#[derive(Clone, Debug, Default)]
pub struct Bases {
    /// Files that the user named; for a chain, in any order.
    pub named: Vec<PathBuf>,
    /// The folder of the file that is read; of an archive, its own.
    pub beside: Option<PathBuf>,
}

impl Bases {
    /// Opens the base of the file at `path`, and with it the base's own. `depth` counts the chain.
    pub(super) fn open(
        &self,
        base: &BaseName,
        path: &Path,
        depth: usize,
    ) -> Result<Archive, ArchiveError> {
        let folder = path.parent().map(Path::to_owned);
        let mut tried = None;
        let mut wrong = None;
        let mut places: Vec<PathBuf> = self.named.clone();
        let named = places.len();
        // A path of no characters is one that was too long to be kept.
        if !base.path.as_os_str().is_empty() {
            places.push(base.path.clone());
        }
        if let Some(name) = base.path.file_name() {
            places.extend(
                [&self.beside, &folder]
                    .into_iter()
                    .flatten()
                    .map(|folder| folder.join(name)),
            );
        }
        for (at, place) in places.iter().enumerate() {
            // The file itself may stand where its base was.
            match Archive::identify(place) {
                Ok(end) if base.is(&end) => return Archive::open_at_depth(place, self, depth + 1),
                Ok(end) => {
                    let actual = identity(end.content_hash, end.raw_bytes);
                    // What the user named may be another one of the chain's.
                    if wrong.is_none() {
                        wrong = Some((place.clone(), actual));
                    }
                }
                Err(ArchiveError::Io { source, .. })
                    if at >= named && source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) if at < named => return Err(error),
                Err(error) => tried = tried.or(Some(error.to_string())),
            }
        }
        Err(match wrong {
            Some((other, actual)) => ArchiveError::WrongBase {
                path: path.to_owned(),
                base: other,
                expected: base.identity(),
                actual,
            },
            None => ArchiveError::BaseMissing {
                path: path.to_owned(),
                base: base.path.clone(),
                tried,
            },
        })
    }
}

/// Which page a base has where.
#[derive(Debug)]
pub struct BasePages {
    archive: Arc<Archive>,
    /// By number in the base; the last version.
    pages: Vec<Page>,
    /// Hash prefix and number, sorted.
    by_hash: Vec<(u64, u32)>,
    /// Of the guest that is saved now: where each of its blocks begins, and where in the base.
    blocks: OnceLock<Vec<Met>>,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    /// In the base's original stream; [`ABSENT`] where its content is not there.
    offset: u64,
    hash: PageHash,
}

const ABSENT: u64 = u64::MAX;

/// A block that both have: its pages' numbers here, and the number of the first in the base.
#[derive(Clone, Copy, Debug)]
struct Met {
    first: u64,
    end: u64,
    there: u64,
}

impl BasePages {
    /// Reads a base's index. Takes 40 bytes for each of its guest's pages.
    ///
    /// # Errors
    /// If it has no index, or one without hashes of pages.
    pub fn load(archive: Arc<Archive>) -> Result<Self, ArchiveError> {
        let Some(directory) = archive.directory().filter(|directory| directory.hashes) else {
            return Err(ArchiveError::NoIndex {
                path: archive.path().to_owned(),
                what: "it has no hashes of pages, so it cannot be a base (save it anew, or flatten it)",
            });
        };
        // Each page of RAM that a directory claims takes memory here. So its parts are read first, which must be as it says,
        // and have brought most of those pages: a guest may leave out what it has no use for.
        for at in 0..directory.parts.len() {
            archive.part(at)?;
        }
        let claimed = directory.pages();
        let brought = directory
            .tally
            .records
            .iter()
            .fold(0u64, |sum, n| sum.saturating_add(*n));
        let absent = Page {
            offset: ABSENT,
            hash: PageHash::default(),
        };
        let listed: u64 = directory
            .parts
            .iter()
            .map(|part| u64::from(part.pages))
            .sum();
        let with_pages = directory.parts.iter().filter(|part| part.pages > 0);
        let highest = with_pages.map(|part| part.highest + 1).max();
        let count = highest.unwrap_or(0).min(claimed);
        let sparse = count > listed.saturating_mul(8).saturating_add(1 << 16);
        if brought != listed || count > u64::from(u32::MAX) || sparse {
            return Err(archive.damaged_index("its sums do not add up"));
        }
        let older = match archive.base() {
            Some(base) => Some(BasePages::load(Arc::clone(base))?),
            None => None,
        };
        let mut pages = vec![absent; count as usize];
        let place = |number| directory.place(number);
        for at in 0..directory.parts.len() {
            for record in archive.part(at)?.pages {
                let Some(page) = pages.get_mut(record.number as usize) else {
                    return Err(archive.damaged_index("a page beyond its part"));
                };
                *page = match record.content {
                    Content::At {
                        offset,
                        hash: Some(hash),
                    } => Page { offset, hash },
                    Content::AsInBase { offset } => {
                        let hash = older
                            .as_ref()
                            .zip(place(record.number))
                            .and_then(|(older, (block, address))| older.hash_at(block, address));
                        match hash {
                            Some(hash) => Page { offset, hash },
                            None => {
                                return Err(
                                    archive.damaged_index("a page that its base does not have")
                                );
                            }
                        }
                    }
                    _ => absent,
                };
            }
        }
        let mut by_hash: Vec<(u64, u32)> = (0u32..)
            .zip(&pages)
            .filter(|(_, page)| page.offset != ABSENT)
            .map(|(number, page)| (prefix(&page.hash), number))
            .collect();
        by_hash.sort_unstable();
        Ok(BasePages {
            archive,
            pages,
            by_hash,
            blocks: OnceLock::new(),
        })
    }

    /// The file.
    #[must_use]
    pub fn archive(&self) -> &Arc<Archive> {
        &self.archive
    }

    /// The hash of a page's last version.
    #[must_use]
    pub fn hash_at(&self, block: &[u8], address: u64) -> Option<PageHash> {
        let number = self.archive.directory()?.number(block, address)?;
        let page = self.pages.get(number as usize)?;
        (page.offset != ABSENT).then_some(page.hash)
    }

    /// The guest that is saved has these blocks.
    pub(super) fn meet(&self, guest: &GuestRam) {
        let Some(directory) = self.archive.directory() else {
            return;
        };
        let page = u64::from(guest.page_size);
        let met = guest.blocks.iter().filter_map(|block| {
            let there = directory.number(&block.name, 0)?;
            let theirs = directory
                .blocks
                .iter()
                .find(|(name, _)| **name == *block.name)?
                .1;
            Some(Met {
                first: block.first_page,
                end: block.first_page + block.used_length.min(theirs) / page,
                there,
            })
        });
        let met: Vec<Met> = if guest.page_size == directory.page_size {
            met.collect()
        } else {
            Vec::new()
        };
        let _ = self.blocks.set(met);
    }

    /// The base's page of the same block and address: where it stands, and its hash.
    pub(super) fn same_place(&self, number: u64) -> Option<(u64, PageHash)> {
        let mut blocks = self.blocks.get()?.iter();
        let met = blocks.find(|met| (met.first..met.end).contains(&number))?;
        let page = self.pages.get((number - met.first + met.there) as usize)?;
        (page.offset != ABSENT).then_some((page.offset, page.hash))
    }

    /// Where the base has a page with this hash.
    pub(super) fn anywhere(&self, hash: &PageHash) -> Option<u64> {
        // Pages of another size are other pages.
        self.blocks.get().filter(|met| !met.is_empty())?;
        let first = self.by_hash.partition_point(|entry| entry.0 < prefix(hash));
        self.by_hash[first..]
            .iter()
            .take_while(|entry| entry.0 == prefix(hash))
            .map(|entry| &self.pages[entry.1 as usize])
            .find(|page| page.hash == *hash)
            .map(|page| page.offset)
    }

    /// References for the runs in which `page`, which stands at `at` of its frame, is as the base's page at `there`.
    pub(super) fn nearly(&self, there: u64, page: &[u8], at: u32, into: &mut Vec<Reference>) {
        let mut old = vec![0; page.len()];
        // A base that cannot be read is no help, and no harm: the page is written out.
        if self.archive.read(there, &mut old).is_err() {
            return;
        }
        let mut from = 0;
        while from < page.len() {
            let run = common(&page[from..], &old[from..]);
            if run >= MIN_RUN {
                into.push(Reference {
                    at: at + from as u32,
                    len: run as u32,
                    source: Source::Base(there + from as u64),
                });
            }
            from += run;
            from += different(&page[from..], &old[from..]);
        }
    }
}

/// How many bytes are the same from the start on.
fn common(a: &[u8], b: &[u8]) -> usize {
    let words = a.chunks_exact(8).zip(b.chunks_exact(8));
    let same = words.take_while(|(a, b)| a == b).count() * 8;
    same + a[same..]
        .iter()
        .zip(&b[same..])
        .take_while(|(a, b)| a == b)
        .count()
}

/// How many bytes differ from the start on.
fn different(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a != b).count()
}

fn prefix(hash: &PageHash) -> u64 {
    hash.first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Ending;

    fn name(path: &str) -> BaseName {
        let end = End {
            raw_bytes: 7 << 33,
            frames: 3,
            content_hash: u128::MAX - 5,
            ending: Ending::Complete,
            index: 0,
        };
        BaseName::new(&end, Path::new(path))
    }

    fn start(extension: &[u8]) -> Vec<u8> {
        [&[1; Start::LEN], extension].concat()
    }

    #[test]
    fn a_name_survives_its_bytes_and_no_cut_of_it_does() {
        let bytes = start(&name("/var/lib/saves/monday.pw").to_bytes());
        let read = BaseName::from_start(&bytes);
        assert_eq!(read, Ok(Some(name("/var/lib/saves/monday.pw"))));
        assert_eq!(BaseName::from_start(&bytes[..Start::LEN]), Ok(None));
        // A later version may have something to say behind a base that there is not.
        let none = [&bytes[..Start::LEN], &[0; PREFIX], b"more"].concat();
        assert_eq!(BaseName::from_start(&none), Ok(None));
        for cut in Start::LEN + 1..bytes.len() {
            let read = BaseName::from_start(&bytes[..cut]);
            assert!(matches!(read, Err(FrameError::Short { .. })), "{cut}");
        }
        let mut long = bytes;
        long[Start::LEN + PREFIX - 1] = 0xff;
        let read = BaseName::from_start(&long);
        assert!(matches!(read, Err(FrameError::Field { .. })));
    }

    #[test]
    fn a_path_that_is_too_long_is_left_out() {
        let long = "a".repeat(MAX_PATH + 1);
        let read = BaseName::from_start(&start(&name(&long).to_bytes()));
        assert_eq!(read, Ok(Some(name(""))));
    }

    #[test]
    fn runs_are_counted_to_the_byte() {
        let a: Vec<u8> = (0..100).collect();
        for cut in 0..100 {
            let mut b = a.clone();
            b[cut] ^= 1;
            assert_eq!((common(&a, &b), different(&a[cut..], &b[cut..])), (cut, 1));
        }
        assert_eq!(common(&a, &a), 100);
    }
}

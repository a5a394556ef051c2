//! The guest's name, from the call that prepares its migration. For people only: nothing depends on the name.

use super::packet::{Header, Key, Kind};
use super::{carries_guest, procedure};
use crate::text::readable;

/// What of the call's body is looked at. The name stands in the first lines of the guest's XML.
const LOOKED_AT: usize = 16 << 10;

/// The longest name that is shown.
const LONGEST: usize = 128;

/// How a typed parameter's value is encoded.
mod typed {
    pub const INT: u32 = 1;
    pub const UINT: u32 = 2;
    pub const LLONG: u32 = 3;
    pub const ULLONG: u32 = 4;
    pub const DOUBLE: u32 = 5;
    pub const BOOLEAN: u32 = 6;
    pub const STRING: u32 = 7;
}

/// Looks at the calls that come by.
#[derive(Clone, Debug, Default)]
pub(super) struct Naming {
    /// The procedure of the call whose body comes, and what has come of it.
    now: Option<(u32, Vec<u8>)>,
    /// The guest whose migration was prepared last.
    pub(super) guest: Option<String>,
    /// How many were.
    pub(super) prepared: u64,
}

impl Naming {
    /// A packet begins.
    pub(super) fn begin(&mut self, header: &Header) {
        let Key {
            program, procedure, ..
        } = header.key;
        let prepares = header.kind == Kind::Call && carries_guest(program, procedure);
        self.now = prepares.then(|| (procedure, Vec::new()));
        if prepares {
            self.prepared += 1;
            self.guest = None;
        }
    }

    /// Bytes of its body; as many as `left` follow.
    pub(super) fn body(&mut self, bytes: &[u8], left: u32) {
        let Some((procedure, seen)) = &mut self.now else {
            return;
        };
        seen.extend_from_slice(&bytes[..bytes.len().min(LOOKED_AT - seen.len())]);
        if left == 0 || seen.len() == LOOKED_AT {
            self.guest = name(*procedure, seen);
            self.now = None;
        }
    }
}

/// The guest's name as the destination is to know it, if it stands in what there is of the call's body.
fn name(number: u32, body: &[u8]) -> Option<String> {
    let mut xdr = Xdr(body);
    let (new_name, xml) = match number {
        procedure::MIGRATE_PREPARE_TUNNEL3_PARAMS => params(&mut xdr),
        _ => arguments(&mut xdr).unwrap_or_default(),
    };
    let name = new_name.map(<[u8]>::to_vec).or_else(|| name_in(xml?))?;
    Some(readable(&name[..name.len().min(LONGEST)]))
}

/// `destination_name` and `destination_xml`, as far as they came.
fn params<'a>(xdr: &mut Xdr<'a>) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
    let (mut name, mut xml) = (None, None);
    let mut read = || {
        for _ in 0..xdr.word()? {
            let field = xdr.bytes()?;
            match xdr.word()? {
                typed::INT | typed::UINT | typed::BOOLEAN => xdr.skip(4)?,
                typed::LLONG | typed::ULLONG | typed::DOUBLE => xdr.skip(8)?,
                typed::STRING => {
                    let is_whole = Xdr(xdr.0).bytes().is_some();
                    let value = xdr.bytes_so_far()?;
                    match field {
                        b"destination_name" if is_whole => name = Some(value),
                        b"destination_xml" => xml = Some(value),
                        _ => {}
                    }
                }
                _ => return None,
            }
        }
        Some(())
    };
    read();
    (name, xml)
}

/// The same of the older procedure: cookie, flags, name, bandwidth, XML.
#[allow(clippy::type_complexity)]
fn arguments<'a>(xdr: &mut Xdr<'a>) -> Option<(Option<&'a [u8]>, Option<&'a [u8]>)> {
    xdr.bytes()?;
    xdr.skip(8)?;
    let name = if xdr.word()? == 1 {
        Some(xdr.bytes()?)
    } else {
        None
    };
    xdr.skip(8)?;
    Some((name, xdr.bytes_so_far()))
}

/// The first `<name>` of a guest's XML is the guest's.
fn name_in(xml: &[u8]) -> Option<Vec<u8>> {
    let find = |tag: &[u8]| xml.windows(tag.len()).position(|window| window == tag);
    let start = find(b"<name>")? + b"<name>".len();
    let end = find(b"</name>")?;
    let text = std::str::from_utf8(xml.get(start..end)?).ok()?;
    let plain = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (escaped, plain)| {
        text.replace(escaped, plain)
    });
    Some(plain.into_bytes())
}

/// What is left of an XDR encoding: words of four bytes, strings padded to them.
struct Xdr<'a>(&'a [u8]);

impl<'a> Xdr<'a> {
    fn skip(&mut self, length: usize) -> Option<()> {
        self.0 = self.0.get(length..)?;
        Some(())
    }

    fn word(&mut self) -> Option<u32> {
        let word = u32::from_be_bytes(*self.0.first_chunk()?);
        self.skip(4)?;
        Some(word)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.word()? as usize;
        let bytes = self.0.get(..length)?;
        self.skip(length.checked_next_multiple_of(4)?)?;
        Some(bytes)
    }

    /// The same, or what there is of it.
    fn bytes_so_far(&mut self) -> Option<&'a [u8]> {
        let length = self.word()? as usize;
        let bytes = &self.0[..length.min(self.0.len())];
        self.0 = self
            .0
            .get(length.checked_next_multiple_of(4)?..)
            .unwrap_or_default();
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &[u8]) -> Vec<u8> {
        let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(text);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn params(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut body = (fields.len() as u32 + 1).to_be_bytes().to_vec();
        body.extend(string(b"bandwidth"));
        body.extend([0, 0, 0, 4]);
        body.extend([0; 8]);
        for (field, value) in fields {
            body.extend(string(field));
            body.extend([0, 0, 0, 7]);
            body.extend(string(value));
        }
        body
    }

    #[test]
    fn the_name_stands_in_the_xml_or_beside_it() {
        let xml: &[u8] = b"<domain type='qemu' id='1'>\n  <name>a &amp; b</name>\n</domain>";
        let number = procedure::MIGRATE_PREPARE_TUNNEL3_PARAMS;
        let of_xml = params(&[(b"destination_xml", xml)]);
        assert_eq!(name(number, &of_xml).as_deref(), Some("a & b"));
        let renamed = params(&[(b"destination_name", b"new"), (b"destination_xml", xml)]);
        assert_eq!(name(number, &renamed).as_deref(), Some("new"));
        let mut older = string(b"cookie");
        older.extend([0; 8 + 4 + 8]);
        older.extend(string(xml));
        assert_eq!(
            name(procedure::MIGRATE_PREPARE_TUNNEL3, &older).as_deref(),
            Some("a & b")
        );
        // As much as is needed, and no more, must have come; whatever else comes is no reason to panic.
        for end in 0..of_xml.len() {
            let found = name(number, &of_xml[..end]);
            assert!(
                found.is_none() || found.as_deref() == Some("a & b"),
                "{end}"
            );
            let _ = name(procedure::MIGRATE_PREPARE_TUNNEL3, &of_xml[..end]);
        }
    }
}

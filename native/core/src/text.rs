//! What others say, for people.

/// The text of a peer's, of a guest's or of a file's: whatever a terminal could take for more than text is escaped.
pub(crate) fn readable(said: &[u8]) -> String {
    let mut text = String::new();
    for char in String::from_utf8_lossy(said).chars() {
        match char {
            '\'' | '"' | '\\' => text.push(char),
            _ => text.extend(char.escape_debug()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_and_the_rest_is_seen() {
        assert_eq!(
            readable(b"QEMU's \"vm1\" \\ Z\xc3\xbcrich"),
            "QEMU's \"vm1\" \\ Z\u{fc}rich"
        );
        assert_eq!(readable(b"\x1b[2J\n\xff"), "\\u{1b}[2J\\n\u{fffd}");
    }
}

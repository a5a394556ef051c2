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

/// Bytes, with three digits and a binary unit.
pub(crate) fn amount(bytes: u64) -> String {
    let (mut amount, mut units) = (
        bytes as f64,
        ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].iter(),
    );
    let mut unit = units.next();
    while amount >= 1000.0 && units.len() > 0 {
        amount /= 1024.0;
        unit = units.next();
    }
    let digits = match amount {
        _ if unit == Some(&"B") => 0,
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{amount:.digits$} {}", unit.unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_three_digits() {
        let shown = [
            0,
            999,
            1000,
            70_000,
            600 << 20,
            512 << 20,
            (12 << 30) + (1 << 29),
            u64::MAX,
        ]
        .map(amount);
        let expected = [
            "0 B",
            "999 B",
            "0.98 KiB",
            "68.4 KiB",
            "600 MiB",
            "512 MiB",
            "12.5 GiB",
            "16384 PiB",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn text_stays_and_the_rest_is_seen() {
        assert_eq!(
            readable(b"QEMU's \"vm1\" \\ Z\xc3\xbcrich"),
            "QEMU's \"vm1\" \\ Z\u{fc}rich"
        );
        assert_eq!(readable(b"\x1b[2J\n\xff"), "\\u{1b}[2J\\n\u{fffd}");
    }
}

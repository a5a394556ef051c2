//! Unsigned LEB128 numbers of up to 64 bits, and signed ones as zigzag: in the list of references, and in an index.

/// Reads a number, and leaves `bytes` behind it.
///
/// # Errors
/// Why there is none, for people.
pub(crate) fn read(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or("it is cut off")?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            break;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number that is too long")
}

/// Gives the bytes of a number one by one; `None` as soon as `put` has no room.
pub(crate) fn write(mut number: u64, mut put: impl FnMut(u8) -> Option<()>) -> Option<()> {
    while number >= 0x80 {
        put(number as u8 | 0x80)?;
        number >>= 7;
    }
    put(number as u8)
}

/// Small numbers of either sign as small ones without.
pub(crate) fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

/// What [`zigzag`] was made of.
pub(crate) fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(number in any::<u64>(), signed in any::<i64>()) {
            let mut bytes = Vec::new();
            let written = write(number, |byte| {
                bytes.push(byte);
                Some(())
            });
            prop_assert!(written.is_some());
            prop_assert!(bytes.len() <= 10);
            let mut rest = &bytes[..];
            prop_assert_eq!(read(&mut rest), Ok(number));
            prop_assert!(rest.is_empty());
            prop_assert!(read(&mut &bytes[..bytes.len() - 1]).is_err());
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }
    }

    #[test]
    fn what_is_too_long_is_none() {
        assert!(read(&mut &[0xff; 11][..]).is_err());
        assert!(read(&mut &[[0xff; 9].as_slice(), &[2]].concat()[..]).is_err());
    }
}

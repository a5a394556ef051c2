//! Faults of our own.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A panic becomes an error, with what it said: whoever waits for the result must not wait for ever.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or_default()
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_panic_said_is_kept() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| panic!("one")), Err::<(), _>("one".into()));
        assert_eq!(caught(|| panic!("{}", 2)), Err::<(), _>("2".into()));
    }
}

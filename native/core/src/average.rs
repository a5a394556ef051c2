//! A moving average, of what is measured again and again.

/// What was known, moved by this part of the way toward the newest measurement; that alone where nothing was known (0).
pub(crate) fn moved(known: f64, newest: f64, weight: f64) -> f64 {
    if known == 0.0 {
        newest
    } else {
        known + weight * (newest - known)
    }
}

#[cfg(test)]
mod tests {
    use super::moved;

    #[test]
    fn it_begins_with_the_first_measurement_and_follows_the_others() {
        assert_eq!(moved(0.0, 50.0, 0.2), 50.0);
        assert_eq!(moved(50.0, 100.0, 0.2), 60.0);
        let last = (0..50).fold(1.0, |known, _| moved(known, 9.0, 0.4));
        assert!((last - 9.0).abs() < 1e-6, "{last}");
    }
}

//! How large the differences are between a page and its last version.

/// The size of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many bytes of XBZRLE; 0: nothing had changed.
    Bytes(usize),
    /// A record with it would be no smaller than the page's own.
    TooLarge,
}

/// Differences by their size.
#[derive(Clone, Debug)]
pub struct DeltaSizes {
    /// The largest size that each class takes: 0, then powers of two from 16 up to the page's size.
    pub bounds: Vec<u32>,
    /// How many there are in each class.
    pub counts: Vec<u64>,
    /// How many would be no smaller than the page.
    pub too_large: u64,
    /// Bytes of those that would be.
    pub bytes: u64,
}

impl DeltaSizes {
    /// For pages of so many bytes.
    #[must_use]
    pub fn new(page_size: u32) -> Self {
        let mut bounds = vec![0];
        bounds.extend((4..=page_size.max(16).ilog2()).map(|bits| 1 << bits));
        Self {
            counts: vec![0; bounds.len()],
            bounds,
            too_large: 0,
            bytes: 0,
        }
    }

    /// Counts one.
    pub fn add(&mut self, size: Size) {
        let Size::Bytes(bytes) = size else {
            self.too_large += 1;
            return;
        };
        let class = self
            .bounds
            .partition_point(|bound| (*bound as usize) < bytes);
        match self.counts.get_mut(class) {
            Some(count) => {
                *count += 1;
                self.bytes += bytes as u64;
            }
            None => self.too_large += 1,
        }
    }

    /// How many were compared.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.too_large
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_takes_up_to_its_bound() {
        let mut sizes = DeltaSizes::new(4096);
        assert_eq!(
            sizes.bounds,
            [0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
        );
        for bytes in [0, 1, 16, 17, 4095, 4096, 4097] {
            sizes.add(Size::Bytes(bytes));
        }
        sizes.add(Size::TooLarge);
        assert_eq!(sizes.counts, [1, 2, 1, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!((sizes.too_large, sizes.compared()), (2, 8));
    }
}

//! The instruction sets, and the choice of one at run time.

use std::env;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use super::copy::Plain;
use super::decode::{DecodeError, apply};
use super::scalar;
use super::vector::PART;

/// Overrides the choice of the tier: one of the tiers' names. For tests and for hunting a fault.
pub const ENVIRONMENT_VARIABLE: &str = "PAGEWIRE_SIMD";

/// An instruction set that the encoder and the decoder are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tier {
    /// Eight bytes at a time, on every machine.
    Scalar,
    /// x86-64 with AVX2, BMI1, BMI2, LZCNT and POPCNT (Haswell and Zen, and newer).
    Avx2,
    /// x86-64 with AVX-512BW besides (Skylake's servers, and newer). Only in builds by Rust 1.89 and newer.
    Avx512Bw,
    /// x86-64 with AVX-512VBMI2 besides (Ice Lake and Zen 4, and newer).
    Avx512Vbmi2,
    /// Every aarch64.
    Neon,
}

impl Tier {
    /// All tiers, of any machine, the best last.
    pub const ALL: [Tier; 5] = [
        Tier::Scalar,
        Tier::Neon,
        Tier::Avx2,
        Tier::Avx512Bw,
        Tier::Avx512Vbmi2,
    ];

    /// The name, as in `PAGEWIRE_SIMD`.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Scalar => "scalar",
            Tier::Avx2 => "avx2",
            Tier::Avx512Bw => "avx512bw",
            Tier::Avx512Vbmi2 => "avx512vbmi2",
            Tier::Neon => "neon",
        }
    }

    /// Whether this build and this machine have the tier.
    pub fn is_available(self) -> bool {
        self.lack().is_none()
    }

    /// Why the tier cannot be used here, if so.
    pub fn lack(self) -> Option<&'static str> {
        match self {
            Tier::Scalar => None,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => (!has_avx2()).then_some("this processor lacks it"),
            #[cfg(all(target_arch = "x86_64", pagewire_avx512))]
            Tier::Avx512Bw => (!has_avx512bw()).then_some("this processor lacks it"),
            #[cfg(all(target_arch = "x86_64", pagewire_avx512))]
            Tier::Avx512Vbmi2 => (!has_avx512vbmi2()).then_some("this processor lacks it"),
            #[cfg(all(target_arch = "x86_64", not(pagewire_avx512)))]
            Tier::Avx512Bw | Tier::Avx512Vbmi2 => Some("it takes a build by Rust 1.89 or newer"),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => (!std::arch::is_aarch64_feature_detected!("neon"))
                .then_some("this processor lacks it"),
            #[allow(unreachable_patterns)] // which tiers are left depends on the architecture
            _ => Some("it belongs to another architecture"),
        }
    }

    /// The best tier of this machine.
    fn best() -> Tier {
        Tier::ALL
            .into_iter()
            .rev()
            .find(|tier| tier.is_available())
            .unwrap_or(Tier::Scalar)
    }

    /// Encodes pages that have been checked, on a tier that is available.
    #[inline]
    pub(super) fn encode_checked(self, old: &[u8], new: &[u8], out: &mut [u8]) -> Option<usize> {
        debug_assert!(self.is_available());
        if self != Tier::Scalar && new.len() % PART != 0 {
            return self.encode_padded(old, new, out);
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `tier` and `encode_with` let only available tiers come here.
            Tier::Avx2 => unsafe { encode_avx2(old, new, out) },
            #[cfg(all(target_arch = "x86_64", pagewire_avx512))]
            // SAFETY: as above.
            Tier::Avx512Bw => unsafe { encode_avx512bw(old, new, out) },
            #[cfg(all(target_arch = "x86_64", pagewire_avx512))]
            // SAFETY: as above.
            Tier::Avx512Vbmi2 => unsafe { encode_avx512vbmi2(old, new, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Tier::Neon => unsafe { encode_neon(old, new, out) },
            _ => scalar::encode(old, new, out),
        }
    }

    /// Applies a delta on a tier that is available.
    #[inline]
    pub(super) fn decode_available(self, delta: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
        debug_assert!(self.is_available());
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `tier` and `decode_with` let only available tiers come here.
            Tier::Avx2 => unsafe { decode_avx2(delta, page) },
            #[cfg(all(target_arch = "x86_64", pagewire_avx512))]
            // SAFETY: as above; VBMI2's tier has AVX-512BW.
            Tier::Avx512Bw | Tier::Avx512Vbmi2 => unsafe { decode_avx512(delta, page) },
            // SAFETY: it asks for no instruction set.
            _ => unsafe { apply::<Plain>(delta, page) },
        }
    }

    /// Encodes pages that are no multiple of 4 KiB, as no guest of today's has them: with equal bytes behind them, which
    /// are not written.
    #[cold]
    fn encode_padded(self, old: &[u8], new: &[u8], out: &mut [u8]) -> Option<usize> {
        let padded = |page: &[u8]| {
            let mut padded = page.to_vec();
            padded.resize(page.len().next_multiple_of(PART), 0);
            padded
        };
        let limit = out.len().min(new.len());
        self.encode_checked(&padded(old), &padded(new), &mut out[..limit])
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tier {
    type Err = ();

    fn from_str(name: &str) -> Result<Tier, ()> {
        Tier::ALL
            .into_iter()
            .find(|tier| tier.name() == name)
            .ok_or(())
    }
}

/// A tier was asked for that this machine or this build lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use {tier}: {}", .tier.lack().unwrap_or("it is available"))]
pub struct TierUnavailable {
    /// What was asked for.
    pub tier: Tier,
}

/// What was chosen, and what was not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// The tier in use.
    pub tier: Tier,
    /// What `PAGEWIRE_SIMD` asked for in vain, and why: for the log.
    pub refused: Option<String>,
}

/// The tier that [`encode`](super::encode) uses: `PAGEWIRE_SIMD`'s if it names one that is available, else the best.
/// Chosen at the first call, for the process's life.
#[inline]
pub fn tier() -> Tier {
    selection().tier
}

/// [`tier`], with what became of `PAGEWIRE_SIMD`.
pub fn selection() -> &'static Selection {
    static SELECTION: OnceLock<Selection> = OnceLock::new();
    SELECTION.get_or_init(|| {
        select(env::var_os(ENVIRONMENT_VARIABLE).map(|it| it.to_string_lossy().into_owned()))
    })
}

pub(super) fn select(asked: Option<String>) -> Selection {
    let best = Tier::best();
    // An empty value is how one unsets a variable for a single command.
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else {
        return Selection {
            tier: best,
            refused: None,
        };
    };
    let lack = match asked.parse::<Tier>() {
        Ok(tier) => match tier.lack() {
            None => {
                return Selection {
                    tier,
                    refused: None,
                };
            }
            Some(lack) => lack,
        },
        Err(()) => "no such instruction set (scalar, avx2, avx512bw, avx512vbmi2, neon)",
    };
    Selection {
        tier: best,
        refused: Some(format!(
            "{ENVIRONMENT_VARIABLE}={asked}: {lack}; using {best}"
        )),
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}

#[cfg(all(target_arch = "x86_64", pagewire_avx512))]
fn has_avx512bw() -> bool {
    has_avx2() && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

#[cfg(all(target_arch = "x86_64", pagewire_avx512))]
fn has_avx512vbmi2() -> bool {
    has_avx512bw() && is_x86_feature_detected!("avx512vbmi2")
}

/// # Safety
/// The processor has the tier, see [`has_avx2`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn encode_avx2(old: &[u8], new: &[u8], out: &mut [u8]) -> Option<usize> {
    // SAFETY: the caller's promise, passed on.
    unsafe { super::masks::encode::<super::vector::x86_64::Avx2>(old, new, out) }
}

/// # Safety
/// The processor has the tier, see [`has_avx512bw`].
#[cfg(all(target_arch = "x86_64", pagewire_avx512))]
#[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn encode_avx512bw(old: &[u8], new: &[u8], out: &mut [u8]) -> Option<usize> {
    // SAFETY: the caller's promise, passed on.
    unsafe { super::masks::encode::<super::vector::x86_64::Avx512Bw>(old, new, out) }
}

/// # Safety
/// The processor has the tier, see [`has_avx512vbmi2`].
#[cfg(all(target_arch = "x86_64", pagewire_avx512))]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn encode_avx512vbmi2(old: &[u8], new: &[u8], out: &mut [u8]) -> Option<usize> {
    // SAFETY: the caller's promise, passed on.
    unsafe { super::masks::encode::<super::vector::x86_64::Avx512Vbmi2>(old, new, out) }
}

/// # Safety
/// The processor has the tier, see [`has_avx2`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn decode_avx2(delta: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
    // SAFETY: the caller's promise, passed on.
    unsafe { apply::<super::copy::x86_64::Avx2>(delta, page) }
}

/// # Safety
/// The processor has the tier, see [`has_avx512bw`].
#[cfg(all(target_arch = "x86_64", pagewire_avx512))]
#[target_feature(enable = "avx512f,avx512bw,avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn decode_avx512(delta: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
    // SAFETY: the caller's promise, passed on.
    unsafe { apply::<super::copy::x86_64::Avx512>(delta, page) }
}

/// # Safety
/// The processor has NEON.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn encode_neon(old: &[u8], new: &[u8], out: &mut [u8]) -> Option<usize> {
    // SAFETY: the caller's promise, passed on.
    unsafe { super::masks::encode::<super::vector::aarch64::Neon>(old, new, out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_overrides_the_choice() {
        let best = Selection {
            tier: Tier::best(),
            refused: None,
        };
        assert_eq!(select(None), best);
        assert_eq!(select(Some(String::new())), best);
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
            assert_eq!(
                select(Some(tier.name().into())),
                Selection {
                    tier,
                    refused: None
                }
            );
        }
    }

    #[test]
    fn what_cannot_be_had_is_told_and_the_best_used() {
        let lacking = Tier::ALL
            .into_iter()
            .find(|tier| !tier.is_available())
            .expect("no machine has AVX2 and NEON");
        for asked in [lacking.name(), "mmx", "AVX2"] {
            let Selection { tier, refused } = select(Some(asked.into()));
            assert_eq!(tier, Tier::best());
            let refused = refused.expect("a reason");
            assert!(
                refused.starts_with(&format!("PAGEWIRE_SIMD={asked}: ")),
                "{refused}"
            );
            assert!(refused.ends_with(&format!("using {tier}")), "{refused}");
        }
    }
}

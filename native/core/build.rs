//! Tells the source which of the optional parts this compiler has: AVX-512 intrinsics are stable since Rust 1.89, and
//! the crate must build with 1.85 (Debian 13), where the tier is left out.

use std::process::Command;

/// The first compiler whose AVX-512 intrinsics are stable.
const AVX512_SINCE: u32 = 89;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    println!("cargo::rustc-check-cfg=cfg(pagewire_avx512)");
    if minor_version().is_some_and(|minor| minor >= AVX512_SINCE) {
        println!("cargo::rustc-cfg=pagewire_avx512");
    }
}

/// `rustc 1.85.0 (…)` → 85. `None` (an unknown compiler) means that nothing optional is used.
fn minor_version() -> Option<u32> {
    let rustc = std::env::var_os("RUSTC")?;
    let output = Command::new(rustc).arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version
        .split_whitespace()
        .nth(1)?
        .strip_prefix("1.")?
        .split('.')
        .next()?
        .parse()
        .ok()
}

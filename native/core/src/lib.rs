//! The native core of pagewire: everything that happens per byte and per page of a virtual machine's memory stream.
//!
//! It knows nothing of Node; `native/node` is a thin binding on top of it.
//!
//! One page's way: [`flow`] reads the bytes from QEMU's descriptor, [`qemu`] parses them, [`delta`] decides what becomes
//! of the page with the help of [`page_cache`] and [`xbzrle`], the result lands in a slot of the [`flow`]'s arena,
//! a worker replaces what stood earlier by references ([`matching`]) and packs the rest with a [`codec`] into a
//! [`frame`], and [`flow`] writes it to the wire.

pub mod archive;
mod average;
pub mod bench;
pub mod checksum;
pub mod codec;
pub mod delta;
mod descriptor;
mod fault;
pub mod file;
pub mod flow;
pub mod frame;
pub mod inspect;
mod leb128;
pub mod libvirt;
mod lock;
pub mod matching;
pub mod measuring;
pub mod net;
pub mod page_cache;
pub mod qemu;
mod schedule;
pub mod session;
mod text;
pub mod xbzrle;

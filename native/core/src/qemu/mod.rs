//! QEMU's migration stream: [`Reader`], [`Writer`] and [`replay`]; and what the two ends have told each other:
//! [`Switchover`], [`ReturnPath`] and [`Doubt`].
//!
//! ```text
//!  QEVM 3 │ 07 machine [05 …]… │ 01 ram  sizes EOS │ 02 ram  records EOS │ 08 command │ … │ 03 ram  records EOS │ 04 devices …
//!  header │ configuration      │ section [footer]  │ section  [footer]   │            │   │ section   [footer]  │ unparsed
//! ```
//!
//! The format belongs to QEMU; this module was written from a description of it and from streams. Whatever is not
//! known for certain ends the parsing ([`Reason`]): from there on a stream is opaque bytes, to be copied untouched.

mod doubt;
mod elements;
mod guest_ram;
mod page_watch;
mod reader;
pub mod replay;
mod return_path;
mod switchover;
pub mod wire;
mod writer;

pub use doubt::Doubt;
pub use elements::{Elements, Found, Part};
pub use guest_ram::{Block, GuestRam};
pub use page_watch::{PageWatch, Seen};
pub use reader::{Element, MAX_ELEMENT, PageAt, Parsed, Place, Reader, Reason};
pub use return_path::{Message, ReturnPath};
pub use switchover::{Phase, Switchover};
pub use writer::{MAX_RECORD_HEAD, Writer, record_head};

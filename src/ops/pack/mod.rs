//! Packs: the metadata of a store in one small file, without the data of any chunk.

mod record; // the bytes of a pack: banner, tags, lengths, checksums
mod planes; // exceptions, so that they compress well
mod area_shaped; // what looks like areas where no header says where they are
mod reader; // a pack, record by record
mod writer; // of a store
mod unpack; // and back

pub use reader::{PackHead, read_pack};
pub use record::PackError;
pub use unpack::{Unpacked, unpack};
pub(super) use writer::pack_to_repair;
pub use writer::{PackOptions, Packed, pack};

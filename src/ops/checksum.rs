use crc::{CRC_32_ISCSI, Crc, Table};

/// CRC-32C, of packs and of dumps.
pub(super) static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// A CRC-32C that is being computed.
pub(super) type Sum = crc::Digest<'static, u32, Table<16>>;

use std::fmt;

use dmsnap::format::{ChunkSize, SECTOR_BYTES};

/// Bytes from what people write: `4096`, `4k`, `16M`, `8s` (sectors). Never zero.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(format!("found `{text}`, which does not begin with a number{FORM}"));
    }
    let unit_bytes = match unit {
        "" => 1,
        "s" | "S" => SECTOR_BYTES,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        _ => return Err(format!("found the unit `{unit}`{FORM}")),
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_bytes)) {
        Some(0) => Err("found zero, which is not a size".into()),
        Some(bytes) => Ok(bytes),
        None => Err(format!("found {text}, which is 16 EiB or more")),
    }
}

/// The same, or 0 for none.
pub(crate) fn parse_or_none(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse(text) }
}

const FORM: &str = "; a size is a number of bytes, or one followed by k, M, G, T or s (sectors)";

/// The chunk size of a new store, [`ChunkSize::DEFAULT`], as a command line has it.
pub(crate) const CHUNK_SIZE: &str = "4k";

/// A chunk size from the same.
pub(crate) fn parse_chunk_size(text: &str) -> Result<ChunkSize, String> {
    let bytes = parse(text)?;
    let sectors = (bytes % SECTOR_BYTES == 0)
        .then(|| u32::try_from(bytes / SECTOR_BYTES).ok())
        .flatten()
        .and_then(|sectors| ChunkSize::from_sectors(sectors).ok());
    sectors.ok_or_else(|| {
        let meant = match bytes < SECTOR_BYTES {
            true => format!(" ({bytes} sectors are `{bytes}s`)"),
            false => String::new(),
        };
        format!("found {bytes} bytes{meant}; a chunk size is a power of two from 512 to 1G")
    })
}

/// So many bytes, and what is missing to a whole sector.
pub(crate) fn whole_sectors(bytes: u64) -> Result<u64, String> {
    // Positions in files are signed.
    bytes
        .checked_next_multiple_of(SECTOR_BYTES)
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| format!("found {bytes} bytes, which is more than any file has"))
}

/// A size from the same, rounded up to whole sectors.
#[allow(dead_code, reason = "fuzz takes this file in from elsewhere")]
pub(crate) fn parse_sectors(text: &str) -> Result<u64, String> {
    whole_sectors(parse(text)?)
}

/// Bytes for people to read: `512 B`, `4 KiB`, `1.5 GiB`. Cut, not rounded, after one decimal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = self.0.max(1).ilog2() / 10;
        let unit = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][power as usize];
        let whole = self.0 >> (10 * power);
        match self.0 - (whole << (10 * power)) {
            0 => write!(f, "{whole} {unit}"),
            // Ten times what is left of an exabyte still fits.
            rest => write!(f, "{whole}.{} {unit}", (rest * 10) >> (10 * power)),
        }
    }
}

/// Sectors, exactly and for people: `8 sectors (4 KiB)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sectors(pub(crate) u64);

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", Count(self.0, "sector"), Bytes(self.0.saturating_mul(SECTOR_BYTES)))
    }
}

/// So many of something: `1 window`, `2 windows`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count(pub(crate) u64, pub(crate) &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_of_the_command_line_is_that_of_the_format() {
        assert_eq!(parse_chunk_size(CHUNK_SIZE), Ok(ChunkSize::DEFAULT));
    }

    #[test]
    fn every_unit_is_read_in_either_case() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("8s", 4096),
            ("8S", 4096),
            ("4k", 4096),
            ("4K", 4096),
            ("16m", 16 << 20),
            ("16M", 16 << 20),
            ("3g", 3 << 30),
            ("3G", 3 << 30),
            ("2t", 2 << 40),
            ("2T", 2 << 40),
            ("18446744073709551615", u64::MAX),
            ("16777215T", 16_777_215 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_and_named() {
        for (text, named) in [
            ("", "``"),
            ("k", "`k`"),
            ("-1", "`-1`"),
            ("+1", "`+1`"),
            (" 1", "` 1`"),
            ("4kb", "`kb`"),
            ("4 k", "` k`"),
            ("1.5G", "`.5G`"),
            ("4ö", "`ö`"),
            ("0", "zero"),
            ("0k", "zero"),
            ("18446744073709551616", "16 EiB"),
            ("16777216T", "16 EiB"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn a_chunk_size_is_a_power_of_two_from_a_sector_to_a_gibibyte() {
        for (text, sectors) in
            [("512", 1), ("1s", 1), ("4k", 8), ("32s", 32), ("512K", 1024), ("1G", 2_097_152)]
        {
            assert_eq!(parse_chunk_size(text).map(ChunkSize::sectors), Ok(sectors), "{text}");
        }
        for text in ["256", "513", "1536", "3k", "2G", "16777215T"] {
            let error = parse_chunk_size(text).expect_err(text);
            assert!(error.contains("power of two from 512 to 1G"), "{text}: {error}");
        }
        assert!(parse_chunk_size("8").expect_err("8 bytes").contains("`8s`"));
    }

    #[test]
    fn bytes_are_shown_in_the_largest_unit_they_fill() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1025, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 20, "1 MiB"),
            (5 << 30, "5 GiB"),
            // Just above seven tenths.
            (22_226_622_138, "20.7 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
    }

    #[test]
    fn no_file_is_larger_than_its_positions_can_tell() {
        assert_eq!(whole_sectors(1), Ok(512));
        assert_eq!(whole_sectors((1 << 63) - 512), Ok((1 << 63) - 512));
        for bytes in [(1 << 63) - 511, 1 << 63, u64::MAX] {
            let refused = whole_sectors(bytes).expect_err("too large");
            assert!(refused.contains("more than any file has"), "{refused}");
        }
    }

    #[test]
    fn sectors_are_shown_exactly_too() {
        assert_eq!(Sectors(1).to_string(), "1 sector (512 B)");
        assert_eq!(Sectors(8).to_string(), "8 sectors (4 KiB)");
    }
}

//! Sizes as people write them, and as they are shown.
#![no_main]

#[path = "../../crates/cli/src/size.rs"]
#[allow(dead_code, missing_docs, reason = "the command uses all of it")]
mod size;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = size::parse(text);
    assert_eq!(parsed.as_ref().ok(), meant(text).as_ref(), "{text:?}: {parsed:?}");
    let chunk = size::parse_chunk_size(text);
    let fits = |bytes: &u64| bytes.is_power_of_two() && (512..=1 << 30).contains(bytes);
    assert_eq!(chunk.is_ok(), parsed.as_ref().is_ok_and(fits), "{text:?}: {chunk:?}");
    if let (Ok(bytes), Ok(chunk)) = (&parsed, &chunk) {
        assert_eq!(*bytes, chunk.bytes());
    }
    for error in [parsed.as_ref().err(), chunk.as_ref().err()].into_iter().flatten() {
        assert!(error.starts_with("found "), "{error}");
    }
    if let Ok(bytes) = parsed {
        is_shown(bytes);
    }
});

/// Character by character; `None` where there is no such size.
fn meant(text: &str) -> Option<u64> {
    let mut number: Option<u128> = None;
    let mut letters = text.chars();
    let unit: u128 = loop {
        match letters.next() {
            None => break 1,
            Some(digit @ '0'..='9') => {
                let digit = u128::from(digit) - u128::from('0');
                // Whatever has this many digits is too much in any unit.
                number = Some((number.unwrap_or(0) * 10 + digit).min(1 << 100));
            }
            Some('s' | 'S') => break 512,
            Some('k' | 'K') => break 1 << 10,
            Some('m' | 'M') => break 1 << 20,
            Some('g' | 'G') => break 1 << 30,
            Some('t' | 'T') => break 1 << 40,
            Some(_) => return None,
        }
    };
    let none_left = letters.next().is_none();
    let bytes = number?.checked_mul(unit).and_then(|bytes| u64::try_from(bytes).ok());
    bytes.filter(|bytes| *bytes > 0 && none_left)
}

/// What is shown is what is there, cut after one decimal.
fn is_shown(bytes: u64) {
    let shown = size::Bytes(bytes).to_string();
    let (number, unit) = shown.split_once(' ').expect("a number and a unit");
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = units.iter().position(|known| *known == unit).expect("a unit");
    let unit_bytes = 1_u128 << (10 * power);
    let (whole, tenths) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = whole.parse().expect("digits");
    assert!((1..1024).contains(&whole), "{shown}");
    let bytes = u128::from(bytes);
    let least = whole * unit_bytes;
    let (least, most) = match tenths.parse::<u128>() {
        Ok(tenths) => {
            let least = least + (tenths * unit_bytes).div_ceil(10);
            (least, least + unit_bytes.div_ceil(10))
        }
        // Without a decimal it is exact.
        Err(_) => (least, least + 1),
    };
    assert!((least..most).contains(&bytes), "{bytes} bytes are shown as {shown}");
}

//! A COW device and an origin as they come: what the commands make of them, compared with each
//! other, and then a life as a volume.

use std::rc::Rc;

use dmsnap::device::Device;
use dmsnap::ops::{self, Error, ExportOptions, MergeOptions, Severity, Silent};
use futures_executor::block_on;

use crate::case::Case;
use crate::input::Input;
use crate::live;
use crate::sparse::{Sparse, index};

/// The shape of the devices, a store, what went wrong with it, then what clients do.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let case = Case::new(&mut input, &[1, 1, 2, 8], 100, 64);
    let origin = Rc::new(Sparse::zeroed(case.origin_bytes.unwrap_or(3000)));
    spoil(&case, &origin, &mut input);
    let cow = Rc::new(case.cow);
    judge(&cow, &origin, 512 * u64::from(input.u8()));
    live::run(cow, origin, &mut input);
}

/// Data everywhere, and a few things that are not as they should be.
pub(crate) fn spoil(case: &Case, origin: &Sparse, input: &mut Input<'_>) {
    let chunk = case.layout.chunk_size().bytes();
    let (list, _) = case.list();
    for (n, (_, new)) in list.iter().enumerate() {
        // Not over the areas.
        if *new < case.extents.cow_chunks && new % case.layout.stride() > 1 {
            let tag = u8::try_from(n % 251).unwrap_or(0);
            case.cow.put(new * chunk, &vec![tag | 0x80; index(chunk)]);
        }
    }
    let end = origin.len_bytes().expect("known");
    for at in (0..end).step_by(512) {
        let tag = u8::try_from(at / 512 % 127).unwrap_or(0);
        origin.put(at, &vec![tag; index((end - at).min(512))]);
    }
    let cow_end = case.cow.len_bytes().expect("known");
    for _ in 0..input.u8() % 4 {
        match input.u8() % 8 {
            // Any byte of the header, and of the first area.
            0 => put(&case.cow, input.below(16), &[input.u8()]),
            1 => put(&case.cow, input.below(1024), &[input.u8()]),
            2 => put(&case.cow, 4, &input.u32().to_le_bytes()),
            3 => put(&case.cow, 12, &(1_u32 << (input.u8() % 32)).to_le_bytes()),
            4 => case.cow.resize(input.below(cow_end + 1)),
            5 => case.cow.resize(cow_end + u64::from(input.u16())),
            6 => put(origin, 0, b"SnAp"),
            _ => origin.resize(input.below(end + 1)),
        }
    }
    case.cow.take_writes();
}

fn put(device: &Sparse, at: u64, bytes: &[u8]) {
    if at + bytes.len() as u64 <= device.len_bytes().expect("known") {
        device.put(at, bytes);
    }
}

/// What every command makes of the two. Whatever is refused is refused before it is written.
fn judge(cow: &Rc<Sparse>, origin: &Rc<Sparse>, window_bytes: u64) {
    let mut damage = Vec::new();
    let checked = block_on(ops::check(cow, Some(origin), |it| {
        if it.damage.severity() == Severity::Damage {
            damage.push(it.damage.name());
        }
    }));
    let info = block_on(ops::info(cow));
    let mut dumped = 0;
    let dump = block_on(ops::dump(cow, |run| {
        dumped += run.len;
        Ok(())
    }));
    assert_eq!(info.is_ok(), dump.is_ok(), "{info:?}, {dump:?}");
    if let Ok(info) = &info {
        assert_eq!(info.exceptions, dumped);
    }
    let image_bytes = origin.len_bytes().expect("known").next_multiple_of(512);
    let image = Sparse::zeroed(image_bytes);
    let exported = block_on(ops::export(cow, origin, &image, ExportOptions::default(), &Silent));
    // Both ways to move a window.
    let long_run_bytes = if (window_bytes / 512).is_multiple_of(2) { 0 } else { u64::MAX };
    let options = MergeOptions { window_bytes, long_run_bytes, ..MergeOptions::default() };
    let planned = block_on(ops::plan_merge(cow, origin, options));
    assert_eq!(cow.take_writes() + origin.take_writes(), 0, "written by a reader");

    let (cow, before) = (cow.copy(), origin);
    let origin = before.copy();
    let merged = block_on(ops::merge(&cow, &origin, options, &Silent));
    let wiped = ["stray-slots"];
    let refusable = damage.iter().any(|kind| !wiped.contains(kind)) || checked.is_err();
    assert_eq!(merged.is_err(), refusable, "{damage:?}, {checked:?}, {merged:?}");
    match (planned, merged) {
        (Ok(planned), Ok(merged)) => {
            assert_eq!((planned.exceptions, planned.bytes), (merged.exceptions, merged.bytes));
            assert_eq!((planned.windows, true), (merged.windows, merged.finished));
            let exported = exported.expect("a merge accepted it");
            assert_eq!(exported.exceptions, merged.exceptions);
            assert!(origin.content(0..image_bytes) == image.content(0..image_bytes));
            let after = block_on(ops::check(&cow, None::<&Sparse>, |_| {})).expect("readable");
            assert!(after.sound && after.exceptions == Some(0), "{after:?}");
        }
        (Err(planned), Err(merged)) => {
            assert_eq!(planned.to_string(), merged.to_string());
            assert_eq!(cow.take_writes() + origin.take_writes(), 0, "{merged}");
            // These an export may show: it wipes nothing.
            let shown = matches!(merged, Error::OriginIsStore | Error::FrontZeroed { .. });
            assert!(exported.is_err() || shown, "{merged}");
        }
        (planned, merged) => panic!("planned {planned:?}, merged {merged:?}"),
    }
}

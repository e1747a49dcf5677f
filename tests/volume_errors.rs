//! Why a volume, or a device of one, did not do what was asked: as a variant, not as words.

use std::io::{self, ErrorKind};

use dmsnap::copy::Silent;
use dmsnap::device::{Device, DynDevice};
use dmsnap::store::StoreError;
use dmsnap::volume::{OnFull, SnapshotOptions, View, VolumeError};
use dmsnap_sim::{Power, run};

use crate::common::live::{add, any_volume, data, empty_cow, on_full, origin};

fn inside(ended: io::Result<()>) -> VolumeError {
    ended.expect_err("refused").downcast().expect("the volume's own error")
}

/// The kind is that of the error inside, which can be taken out again.
#[test]
fn what_a_device_of_a_volume_refuses_says_why() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    let full = add(&volume, "full", empty_cow(1, 3, &power), on_full(OnFull::Fail));
    let view = View::snapshot(&volume, &full);
    run(view.write(0, data(100, 1))).expect("there is room for one");
    for ended in
        [run(view.write(4096, data(100, 1))), run(View::origin(&volume).write(4096, data(7, 1)))]
    {
        assert_eq!(ended.as_ref().map_err(io::Error::kind), Err(ErrorKind::StorageFull));
        assert!(matches!(inside(ended), VolumeError::NoRoom { .. }));
    }
    run(volume.invalidate(&full)).expect("marked");
    assert!(matches!(inside(run(view.write(0, data(100, 1)))), VolumeError::Invalid));
    run(volume.remove(&full)).expect("it is out");
    let gone = run(volume.publish(&full)).expect_err("refused");
    assert!(matches!(gone, VolumeError::TakenOut), "{gone}");
}

#[test]
fn the_calls_of_a_volume_say_what_they_refuse() {
    let power = Power::steady();
    let volume = any_volume(origin(64, &power));
    assert!(matches!(run(volume.run_merge(4096, &Silent)), Err(VolumeError::NotMerging)));
    let snapshot = add(&volume, "s", empty_cow(1, 100, &power), SnapshotOptions::default());
    let cow = || DynDevice::new(empty_cow(1, 100, &power));
    let again = run(volume.open("s", cow(), SnapshotOptions::default())).expect_err("refused");
    assert!(matches!(&again, VolumeError::NameTaken { name } if name == "s"), "{again}");
    let longer = SnapshotOptions { len_bytes: Some(1 << 20), ..SnapshotOptions::default() };
    let longer = run(volume.open("longer", cow(), longer)).expect("zeroes follow the origin");
    let refused = run(volume.start_merge(&longer)).expect_err("refused");
    assert!(matches!(refused, VolumeError::SizeTooLarge { found: 1_048_576, .. }), "{refused}");
    run(volume.remove(&longer)).expect("it is out");
    let blank =
        run(volume.open("t", DynDevice::new(origin(64, &power)), SnapshotOptions::default()));
    let refused = blank.expect_err("refused");
    assert!(matches!(refused, VolumeError::Store(StoreError::Header(_))), "{refused}");
    run(volume.start_merge(&snapshot)).expect("nothing is in its way");
    for refused in [run(volume.remove(&snapshot)), run(volume.invalidate(&snapshot))] {
        let refused = refused.expect_err("it merges");
        assert!(
            matches!(&refused, VolumeError::Merging { snapshot } if snapshot == "s"),
            "{refused}"
        );
    }
}

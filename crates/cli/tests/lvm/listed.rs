use serde_json::Value;

use crate::lvm::samples::{sample, samples, text};

/// What LVM would say of a snapshot's store if it were active, from the kernel's own words.
fn store_words(status: &str) -> (String, &'static str) {
    let numbers: Vec<f64> =
        status.split([' ', '/']).filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [used, _, metadata] if used == metadata => ("0.00".into(), ""),
        [used, total, _] => (format!("{:.2}", used * 100.0 / total), ""),
        _ => ("100.00".into(), "snapshot invalid"),
    }
}

/// A row of an LVM report, when nothing is active, with what is known without activation.
fn expected(row: &Value, status: Option<&str>) -> Value {
    let mut row = row.clone();
    let Some(status) = status else { return row };
    let (percent, invalid) = store_words(status);
    row["data_percent"] = percent.clone().into();
    row["snap_percent"] = percent.into();
    row["lv_snapshot_invalid"] = invalid.into();
    row["lv_merge_failed"] = "".into();
    if !invalid.is_empty() {
        let attr = text(&row["lv_attr"]);
        row["lv_attr"] = format!("{}I{}", &attr[..4], &attr[5..]).into();
    }
    row
}

#[test]
fn every_volume_is_listed_as_lvs_lists_it() {
    for sample in samples() {
        let listed = sample.listed(&["--all"]);
        let rows = sample.rows("lvs");
        assert_eq!(listed.keys().collect::<Vec<_>>(), rows.keys().collect::<Vec<_>>());
        for (name, row) in &rows {
            let status = &sample.says["content"][name]["status"];
            let mut expected = expected(row, status.as_str());
            if text(&row["lv_layout"]) == "thin,pool" {
                // That of a thin pool is another thing.
                expected["chunk_size"] = "0B".into();
            }
            assert_eq!(listed[name], expected, "{}: {name}", sample.name);
        }
    }
}

#[test]
fn what_lvs_tells_of_active_snapshots_is_listed_without_activation() {
    let mut seen = 0;
    for sample in samples() {
        let listed = sample.listed(&[]);
        for (name, row) in sample.rows("lvs_active") {
            if text(&row["origin"]).is_empty() {
                continue;
            }
            for column in ["data_percent", "snap_percent", "lv_snapshot_invalid"] {
                assert_eq!(listed[&name][column], row[column], "{}: {name}: {column}", sample.name);
            }
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen} snapshots");
}

#[test]
fn a_list_for_reading_says_what_matters() {
    assert_eq!(
        sample("several").lvm("list", &[]).ok(),
        "\
LV         VG   Attr        LSize    Origin  Data%   Chunk    Merging  Valid
monday     vg0  swi---s---  1.2 MiB  root    18.12   4 KiB             yes
root       vg0  owi---s---  1.5 MiB
tuesday    vg0  swi---s---  1.6 MiB  root    53.85   64 KiB            yes
wednesday  vg0  swi---s---  2.5 MiB  root    100.00  512 KiB           yes
"
    );
    assert_eq!(
        sample("merging").lvm("list", &[]).ok(),
        "\
LV      VG   Attr        LSize    Origin  Data%  Chunk  Merging  Valid
root    vg0  Owi---s---  2 MiB                          yes
[snap]  vg0  Swi---s---  2.0 MiB  root    7.39   4 KiB  yes      yes
"
    );
    let hidden = sample("others");
    assert!(!hidden.lvm("list", &[]).ok().contains("rimage"));
    assert!(hidden.lvm("list", &["-a"]).ok().contains("[safe_rimage_0]"));
}

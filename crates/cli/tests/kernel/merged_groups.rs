//! Volume groups of real LVM whose snapshots dmsnap merged: LVM itself finds them healthy, activates
//! them, and the kernel shows in them what LVM's own merge left.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kernel::guest::{Guest, Said, in_guest, repository, skipped};
use crate::lvm::samples::{Sample, by_name, index, sample, text};

/// The guest has this many disks at most.
const MOST_DISKS: usize = 16;

/// What is asked of LVM, after `lvm.sh`.
pub(crate) const LOOK: &str = r#"
#   look NAME VG ORIGIN DISK...
look() {
    name=$1 vg=$2 origin=$3
    shift 3
    only=
    for disk in "$@"; do only="$only\"a|^$disk|\", "; done
    sed -i "s!filter = .*!filter = [ $only\"r|.*|\" ]!" $LVM_SYSTEM_DIR/lvm.conf
    vgck "$vg"
    # A label may lie in another sector than the usual one.
    for pv in $(pvs --noheadings -o pv_name); do
        pvck "$pv" >/dev/null 2>&1 || pvck --labelsector 2 "$pv" >/dev/null
    done
    lvchange -q -ay "$vg/$origin"
    echo "$name seqno $(vgs --noheadings -o vg_seqno "$vg" | tr -d ' ')"
    echo "$name free $(vgs --noheadings --units b -o vg_free "$vg" | tr -d ' ')"
    lvs -a --noheadings --separator ' ' -o lv_name,lv_attr "$vg" | while read -r lv attr; do
        echo "$name/$lv attr $attr"
    done
    content "$name/$origin" content "/dev/$vg/$origin"
    lvs --noheadings --separator ' ' -o lv_name,lv_attr -S "origin=$origin" "$vg" | while read -r lv attr; do
        case $attr in ????a*) content "$name/$lv" content "/dev/$vg/$lv" ;; esac
    done
    vgchange -q -an "$vg"
}

# What the metadata of before a merge brings back, for the same disks as the last `look`.
#   restore NAME VG ORIGIN SNAPSHOT BACKUP
restore() {
    force=
    case $1 in others*) force=--force ;; esac # LVM wants that where there are thin volumes
    vgcfgrestore -q -y $force -f "$5" "$2" >/dev/null
    vgck "$2"
    echo "$1 restored $(lvs -a --noheadings -o lv_name "$2" | tr -d ' []' | sort | tr '\n' ' ')"
    lvchange -q -ay "$2/$3"
    content "$1/$3" restored "/dev/$2/$3"
    # Not where LVM had begun to merge: it has nothing left to do, and ends that at once.
    if [ -e "/dev/$2/$4" ]; then content "$1/$4" restored "/dev/$2/$4"; fi
    vgchange -q -an "$2"
}
"#;

/// A merge that dmsnap did.
struct Merged {
    sample: Sample,
    name: String,
    snapshot: String,
    says: Value,
}

#[test]
fn lvm_finds_a_healthy_group_with_the_merged_content_behind_every_merge() {
    if skipped() {
        return;
    }
    let mut seen = 0;
    let mut waiting = merges();
    while !waiting.is_empty() {
        let mut disks = 0;
        let fit = waiting.iter().take_while(|merged| {
            disks += merged.sample.images.len();
            disks <= MOST_DISKS
        });
        let rest = waiting.split_off(fit.count());
        let said = look(&waiting);
        for merged in &waiting {
            merged.assert_as_lvms_own(&said);
            merged.assert_restored(&said);
            seen += 1;
        }
        waiting = rest;
    }
    assert!(seen >= 16, "{seen} merges");
}

/// Each merge that LVM once did, done by dmsnap.
fn merges() -> Vec<Merged> {
    let names = index().into_keys().filter(|name| name != "exported");
    let of = |name: String| {
        let merges = sample(&name).merges().into_iter();
        merges.map(move |(snapshot, says)| (name.clone(), snapshot, says))
    };
    let merge = |(name, snapshot, says): (String, String, Value)| {
        let sample = sample(&name);
        let ran = sample.lvm("merge", &["--drop-full", &sample.volume(&snapshot)]);
        assert_eq!(ran.status, 0, "{name}: {snapshot}: {}", ran.stderr);
        Merged { name: format!("{name}:{snapshot}"), sample, snapshot, says }
    };
    names.flat_map(of).map(merge).collect()
}

fn look(merges: &[Merged]) -> Said {
    let mut guest = Guest::new();
    let tests = in_guest(&repository().join("tests/kernel"));
    guest.line(format!("export KERNEL_TESTS={tests}\n. {tests}/lvm.sh\n{LOOK}"));
    for Merged { sample, name, snapshot, .. } in merges {
        let disks: Vec<_> = sample.images.iter().map(|image| guest.disk(image)).collect();
        let (group, origin) = (sample.group(), origin(sample, name));
        guest.line(format!("look '{name}' '{group}' '{origin}' {}", disks.join(" ")));
        let backup = sample.dir.names().into_iter().find(|it| it.ends_with(".vg"));
        let backup = in_guest(&sample.dir.path(&backup.expect("the old text is kept")));
        guest.line(format!("restore '{name}' '{group}' '{origin}' '{snapshot}' '{backup}'"));
    }
    guest.run()
}

fn origin<'a>(sample: &'a Sample, name: &str) -> &'a str {
    let (_, snapshot) = name.split_once(':').expect("of a snapshot");
    text(&sample.says["content"][snapshot]["origin"])
}

impl Merged {
    fn assert_as_lvms_own(&self, said: &Said) {
        let Self { sample, name, says, .. } = self;
        let number = |row: &Value| text(&row["vg_seqno"]).parse::<u64>().expect("a number");
        // One text that says it merges, unless LVM's did, and the last one.
        let seqno = number(&sample.says["vgs"][0]) + if name.starts_with("merg") { 1 } else { 2 };
        assert_eq!(said.get(name, "seqno"), seqno.to_string(), "{name}");
        assert_eq!(said.get(name, "free"), text(&says["vgs"][0]["vg_free"]), "{name}");
        let rows: BTreeMap<String, Value> = by_name(&says["lvs"]);
        assert!(!rows.contains_key(&self.snapshot));
        // Volumes of other types are not activated here.
        for (lv, row) in rows.iter().filter(|_| !name.starts_with("others")) {
            assert_eq!(said.get(&format!("{name}/{lv}"), "attr"), text(&row["lv_attr"]), "{name}");
        }
        let content = |lv: &str| said.get(&format!("{name}/{lv}"), "content");
        assert_eq!(content(origin(sample, name)), text(&says["origin_sha256"]), "{name}");
        for (lv, hash) in says["others"].as_object().expect("an object") {
            if let Some(hash) = hash.as_str() {
                assert_eq!(content(lv), hash, "{name}: {lv}");
            }
        }
    }

    /// The group of before, in which the snapshot has an empty store: it shows the merged origin.
    fn assert_restored(&self, said: &Said) {
        let Self { sample, name, snapshot, says } = self;
        let lvs: String = sample.rows("lvs").keys().map(|lv| format!("{lv} ")).collect();
        assert_eq!(said.get(name, "restored"), lvs, "{name}");
        let content = |lv: &str| said.get(&format!("{name}/{lv}"), "restored");
        let merged = text(&says["origin_sha256"]);
        assert_eq!(content(origin(sample, name)), merged, "{name}");
        if !name.starts_with("merg") {
            assert_eq!(content(snapshot), merged, "{name}");
        }
    }
}

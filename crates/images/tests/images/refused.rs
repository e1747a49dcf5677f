use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use dmsnap::device::{Caching, Mode, OpenError};
use dmsnap::ops::Which;
use dmsnap_images::{
    DataMerge, ImageError, ImageErrorKind as Kind, Rewrite, Scan, Subject, Volumes,
};
use dmsnap_lvm::{AreaError, DiskProblem, GroupProblem, RewriteError};

use crate::samples::{name, run, sample, unexpected};

fn refusal(images: &[&Path]) -> ImageError {
    let images: Vec<_> = images.iter().map(|it| (*it).to_owned()).collect();
    run(Scan::look(&images, unexpected)).expect_err("nothing is there")
}

#[test]
fn what_is_not_a_physical_volume_is_told_from_what_is_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let zeroes = dir.path().join("zeroes");
    fs::write(&zeroes, [0; 1 << 20]).expect("write");
    let refused = refusal(&[&zeroes]);
    assert!(matches!(*refused.kind, Kind::NoPartitionTable), "{refused}");
    assert_eq!(refused.subject, Subject::Path(zeroes.clone()));
    let refused = refusal(&[&zeroes, &zeroes]);
    assert!(matches!(&*refused.kind, Kind::SameImage(other) if *other == zeroes), "{refused}");
    let missing = dir.path().join("missing");
    let refused = refusal(&[&missing]);
    assert!(matches!(&*refused.kind, Kind::Open(OpenError::System(_))), "{refused}");
}

#[test]
fn damage_is_told_by_what_it_hits() {
    let damaged = |at: u64, bytes: &[u8]| {
        let sample = sample("one-pv");
        let file = OpenOptions::new().write(true).open(&sample.images[0]).expect("open");
        file.write_all_at(bytes, at).expect("write");
        refusal(&[&sample.images[0]])
    };
    let label = damaged(512 + 40, b"x");
    assert!(matches!(*label.kind, Kind::Disk(DiskProblem::Label { .. })), "{label}");
    let area = damaged(4096 + 30, b"xx");
    assert!(matches!(*area.kind, Kind::Area(AreaError::Checksum { .. })), "{area}");
}

#[test]
fn a_disk_that_is_missing_is_a_warning_and_a_refusal_to_write() {
    run(async {
        let sample = sample("two-pvs");
        let scan = Scan::look(&sample.images[..1], unexpected).await.expect("half a group");
        assert!(!scan.is_sound());
        let missing = |warning: &ImageError| match &*warning.kind {
            Kind::Group(GroupProblem::MissingPv { .. }) => {
                warning.subject == Subject::Group(sample.group().into())
            }
            _ => false,
        };
        assert!(scan.warnings().any(missing));
        let group = scan.groups().next().expect("it is described");
        let refused = Rewrite::plan(group, "before").expect_err("it is not whole");
        let problem = matches!(&*refused.kind, Kind::Rewrite(RewriteError::Problem(_)));
        assert!(problem, "{refused}");
    });
}

#[test]
fn names_that_mean_nothing_here_are_told_with_those_that_do() {
    run(async {
        let scan = sample("several").scan().await;
        let refused = scan.group_of(&name("vg1/root")).expect_err("there is no such group");
        let Kind::GroupNotFound { group, known } = &*refused.kind else { panic!("{refused}") };
        assert_eq!((&**group, &known[..]), ("vg1", &["vg0".to_owned()][..]));
        let refused = scan.group_of(&name("vg0/sunday")).expect_err("there is no such volume");
        let Kind::VolumeNotFound { known, .. } = &*refused.kind else { panic!("{refused}") };
        assert_eq!(known.len(), 4);
        let group = scan.groups().next().expect("a group");
        let refused = DataMerge::new(group, "root").await.expect_err("an origin");
        let Kind::NotSnapshot { known } = &*refused.kind else { panic!("{refused}") };
        assert_eq!(known.len(), 3);
        assert_eq!(refused.subject, Subject::Volume(name("vg0/root")));
    });
}

#[test]
fn a_snapshot_is_not_opened_as_an_origin() {
    run(async {
        let sample = sample("one-pv");
        let volumes = Volumes::new(unexpected);
        let snapshot = name("snap");
        let open = async |which| {
            volumes.open(&sample.images, &snapshot, which, Mode::Look, Caching::Buffered).await
        };
        open(Which::Cow).await.expect("its COW device");
        let refused = open(Which::Origin).await.expect_err("a snapshot");
        assert!(matches!(&*refused.kind, Kind::IsSnapshot { origin } if origin == "root"));
    });
}

#[test]
fn an_exported_group_is_not_rewritten_and_no_old_text_is_lost() {
    run(async {
        let scan = sample("exported").scan().await;
        let refused = Rewrite::plan(scan.groups().next().expect("a group"), "snap");
        let refused = refused.expect_err("it is exported");
        assert!(matches!(*refused.kind, Kind::Rewrite(RewriteError::Exported)), "{refused}");

        let sample = sample("one-pv");
        let precious = sample.dir.path().join("a.img.vg0-4.vg");
        fs::write(&precious, b"precious").expect("write");
        let scan = sample.scan().await;
        let rewrite = Rewrite::plan(scan.groups().next().expect("a group"), "snap").expect("sound");
        let refused = rewrite.back_up(None).expect_err("something is there");
        assert!(matches!(*refused.kind, Kind::BackupExists), "{refused}");
        assert_eq!(refused.subject, Subject::Path(precious.clone()));
        assert_eq!(fs::read(precious).expect("read"), b"precious");
    });
}

use dmsnap::device::{Caching, Mode};
use dmsnap::ops::{self, Which};
use dmsnap_images::Volumes;

use crate::samples::{bytes, name, run, samples, sha256, text, unexpected};

#[test]
fn every_volume_has_the_bytes_that_the_kernel_read() {
    let mut seen = 0;
    run(async {
        for sample in samples() {
            let scan = sample.scan().await;
            for (volume, says) in sample.says["content"].as_object().expect("an object") {
                let Some(group) = scan.groups().find(|it| it.has(volume)) else { continue };
                let Ok(device) = group.device(volume) else { continue };
                let found = sha256(&bytes(&device).await);
                assert_eq!(found, text(&says["raw_sha256"]), "{}: {volume}", sample.name);
                seen += 1;
            }
        }
    });
    assert!(seen >= 30, "{seen} volumes");
}

#[test]
fn every_snapshot_shows_what_the_kernel_shows() {
    let mut seen = 0;
    run(async {
        for sample in samples() {
            for (volume, says) in sample.says["content"].as_object().expect("an object") {
                let Some(hash) = says["sha256"].as_str() else { continue };
                assert_eq!(sample.hash(volume).await, hash, "{}: {volume}", sample.name);
                seen += 1;
            }
        }
    });
    assert!(seen >= 16, "{seen} snapshots");
}

/// Both volumes lie in the same images, which are locked once.
#[test]
fn a_task_opens_its_images_once() {
    run(async {
        for sample in samples().filter(|sample| sample.name.starts_with("two-")) {
            let (snapshot, says) = sample.merges().swap_remove(0);
            let volumes = Volumes::new(unexpected);
            let open = async |volume: &str, which| {
                let volume = name(volume);
                volumes.open(&sample.images, &volume, which, Mode::Write, Caching::Direct).await
            };
            let cow = open(&snapshot, Which::Cow).await.expect("opened");
            let origin = text(&sample.says["content"][&snapshot]["origin"]);
            let origin = open(origin, Which::Origin).await.expect("opened");
            let options = ops::MergeOptions::default();
            let merged = ops::merge(&cow, &origin, options, &ops::Silent).await.expect("merged");
            assert!(merged.finished);
            assert_eq!(sha256(&bytes(&origin).await), text(&says["origin_sha256"]));
        }
    });
}

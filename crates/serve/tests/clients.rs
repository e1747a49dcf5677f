//! Clients that others wrote get right bytes and right answers.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::common::{Plain, Serving, attempt, noise, run, texts};
use dmsnap::device::{Memory, Mode};
use dmsnap_serve::export::Extent;
use dmsnap_serve::nbd::Limits;

const MIB: usize = 1 << 20;

#[test]
fn nbdinfo_sees_every_export_and_what_it_can_do() {
    let serving = Serving::start(Limits::default(), async |_, exports| {
        exports.add(Plain::new("disk", Memory::zeroed(MIB + 700))).expect("new");
        let read_only = Plain { read_only: true, ..Plain::new("old", Memory::zeroed(4096)) };
        exports.add(read_only).expect("new");
        let again = exports.add(Plain::new("old", Memory::zeroed(512)));
        assert!(again.is_err(), "a name is served once");
    });
    for uri in serving.uris("") {
        let listed = run("nbdinfo", &["--list", &uri]);
        for told in ["export=\"disk\"", "export=\"old\"", "the test's old", "base:allocation"] {
            assert!(listed.contains(told), "{told}:\n{listed}");
        }
        // The default export is the first one. It is served to its last byte.
        assert_eq!(run("nbdinfo", &["--size", &uri]), "1049276\n");
    }
    for uri in serving.uris("disk") {
        let told = run("nbdinfo", &[&uri]);
        for fact in [
            "structured packets",
            "is_read_only: false",
            "can_cache: true",
            "can_df: true",
            "can_fast_zero: true",
            "can_flush: true",
            "can_fua: true",
            "can_multi_conn: true",
            "can_trim: true",
            "can_zero: true",
            "block_size_minimum: 1",
            "block_size_preferred: 4096",
            "block_size_maximum: 33554432",
        ] {
            assert!(told.contains(fact), "{fact}:\n{told}");
        }
    }
    let old = serving.uri("old");
    run("nbdinfo", &["--is", "read-only", &old]);
    assert!(!attempt("nbdinfo", &["--can", "trim", &old]).status.success());
    let none = attempt("nbdinfo", &[&serving.uri("none")]);
    assert!(texts(&none).1.contains("No such file or directory for export: none"), "{none:?}");
}

#[test]
fn nbdinfo_and_qemu_img_see_holes_data_and_other_contexts() {
    let serving = Serving::start(Limits::default(), async |dir, exports| {
        let file = fs::File::create(dir.join("disk")).expect("a file");
        file.set_len(8 << 20).expect("its size");
        file.write_all_at(&noise(MIB, 1), 1 << 20).expect("data");
        file.write_all_at(&noise(4096, 2), 6 << 20).expect("data");
        drop(file);
        let file = crate::common::open(&dir.join("disk"), Mode::Write).await;
        let extents =
            vec![Extent { len_bytes: 1 << 20, flags: 0 }, Extent { len_bytes: 7 << 20, flags: 1 }];
        exports.add(Plain { extents, ..Plain::new("disk", file) }).expect("new");
    });
    let uri = serving.uri("disk");
    let map = |name: &str| -> Vec<Vec<u64>> {
        let map = run("nbdinfo", &[&format!("--map{name}"), &uri]);
        let numbers = |line: &str| -> Vec<u64> {
            line.split_whitespace().map_while(|word| word.parse().ok()).collect()
        };
        map.lines().map(numbers).collect()
    };
    let expected = vec![
        vec![0, 1 << 20, 3],
        vec![1 << 20, 1 << 20, 0],
        vec![2 << 20, 4 << 20, 3],
        vec![6 << 20, 4096, 0],
        vec![(6 << 20) + 4096, (2 << 20) - 4096, 3],
    ];
    assert_eq!(map(""), expected);
    let layers = vec![vec![0, 1 << 20, 0], vec![1 << 20, 7 << 20, 1]];
    assert_eq!(map("=qemu:allocation-depth"), layers);
    assert_eq!(map("=qemu:dirty-bitmap:day"), layers);
    let map = run("qemu-img", &["map", "--output=json", &uri]);
    let data: Vec<_> = map.lines().filter(|line| line.contains("\"data\": true")).collect();
    assert_eq!(data.len(), 2, "{map}");
    assert!(data[0].contains("\"start\": 1048576, \"length\": 1048576"), "{map}");
    let bitmap = format!(
        "driver=nbd,export=disk,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:day",
        serving.socket.display()
    );
    let map = run("qemu-img", &["map", "--output=json", "--image-opts", &bitmap]);
    assert!(map.contains("\"start\": 0, \"length\": 1048576"), "{map}");
}

#[test]
fn copies_both_ways_are_equal() {
    let content = noise(64 * MIB + 512, 3);
    for serving in [
        Serving::memory(Limits::default(), content.len()),
        Serving::file(Limits::default(), content.len() as u64),
    ] {
        let [from, back] = ["from", "back"].map(|name| serving.dir.path().join(name));
        fs::write(&from, &content).expect("a file");
        let (from, back) = (from.to_str().expect("UTF-8"), back.to_str().expect("UTF-8"));
        for uri in serving.uris("disk") {
            run("nbdcopy", &["--flush", "--connections=4", from, &uri]);
            run("nbdcopy", &["--connections=4", "--requests=32", &uri, back]);
            assert!(fs::read(back).expect("the copy") == content, "nbdcopy over {uri}");
            run(
                "nbdcopy",
                &["--synchronous", "--no-extents", "--request-size=33554432", &uri, back],
            );
            assert!(fs::read(back).expect("the copy") == content, "large requests over {uri}");

            run(
                "qemu-img",
                &["convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8", from, &uri],
            );
            run("qemu-img", &["compare", "-f", "raw", "-F", "raw", from, &uri]);
            run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, back]);
            assert!(fs::read(back).expect("the copy") == content, "qemu-img over {uri}");
            let info = run("qemu-img", &["info", &uri]);
            assert!(info.contains("67109376 bytes"), "{info}");
        }
        serving.stop().expect("a good end");
    }
}

#[test]
fn qemu_io_scripts_pass() {
    let serving = Serving::file(Limits::default(), 16 << 20);
    for uri in serving.uris("disk") {
        let script = [
            "write -P 0x11 0 1M",
            "write -f -P 0x22 1M 64k",
            "aio_write -P 0x33 2M 1M",
            "aio_write -P 0x44 3M 1M",
            "aio_flush",
            "write -z 512k 4k",
            "write -z -u 516k 4k",
            "discard 3M 512k",
            "flush",
            "read -P 0x11 0 512k",
            "read -P 0 512k 8k",
            "read -P 0x11 520k 504k",
            "read -P 0x22 1M 64k",
            "read -P 0x33 2M 1M",
            "read -P 0x44 3584k 512k",
            // Not aligned: qemu itself reads around it and writes back.
            "write -P 0x55 4097 1000",
            "read -P 0x55 4097 1000",
            "read -P 0x11 4096 1",
            "writev -P 0x66 5M 4k 8k 512",
            "readv -P 0x66 5M 512 8k 4k",
        ];
        let mut arguments = vec!["-f", "raw", "-t", "none", &uri];
        arguments.extend(script.iter().flat_map(|line| ["-c", line]));
        let told = run("qemu-io", &arguments);
        assert!(!told.contains("failed"), "{told}");
    }
}

#[test]
fn a_read_only_export_refuses_writes() {
    let serving = Serving::start(Limits::default(), async |_, exports| {
        let disk = Plain::new("disk", Memory::from(noise(MIB, 5)));
        exports.add(Plain { read_only: true, ..disk }).expect("new");
    });
    let uri = serving.uri("disk");
    let output = attempt("qemu-io", &["-f", "raw", &uri, "-c", "write 0 4k"]);
    let (stdout, stderr) = texts(&output);
    assert!(stderr.contains("Permission denied"), "{stdout}{stderr}");
    run("qemu-io", &["-r", "-f", "raw", &uri, "-c", "read 0 1M"]);
}

#[test]
fn fio_finds_every_byte_it_wrote() {
    for serving in
        [Serving::memory(Limits::default(), 32 * MIB), Serving::file(Limits::default(), 32 << 20)]
    {
        let [unix, tcp] = serving.uris("disk");
        for (uri, block) in [(&unix, "4k"), (&tcp, "16k")] {
            run(
                "fio",
                &[
                    "--name=verify",
                    "--ioengine=nbd",
                    &format!("--uri={uri}"),
                    "--rw=randwrite",
                    &format!("--bs={block}"),
                    "--iodepth=32",
                    "--numjobs=4",
                    "--size=8m",
                    "--offset_increment=8m",
                    "--verify=crc32c",
                    "--verify_fatal=1",
                    "--group_reporting",
                    "--fsync=64",
                    "--verify_state_save=0",
                ],
            );
        }
    }
}

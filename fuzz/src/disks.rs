use std::io::Read;
use std::path::Path;

use dmsnap::device::Device;
use dmsnap_lvm::{AREA_HEADER_BYTES, Disk, DiskScan, MAX_SCAN_BYTES, MAX_TEXT_BYTES, Step};

use crate::input::Input;
use crate::sparse::{Sparse, index};

/// Sets of disks that LVM wrote, in `tests/data/lvm`.
const SETS: [&[&str]; 10] = [
    &["one-pv.a"],
    &["two-areas.a"],
    &["wrapped.a"],
    &["several.a"],
    &["merging.a"],
    &["two-pvs.a", "two-pvs.b"],
    &["striped.a", "striped.b"],
    &["others.a", "others.b"],
    &["gpt.a"],
    &["mbr.a"],
];

/// Words that the metadata is made of.
const WORDS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "=",
    "\"",
    ",",
    "\n",
    "#",
    "segment1 {\n",
    "id = \"",
    "seqno = ",
    "extent_size = ",
    "stripes = [\"pv0\", 0]\n",
    "type = \"striped\"\n",
    "type = \"snapshot\"\n",
    "origin = \"",
    "cow_store = \"",
    "merging_store = \"",
    "stripe_count = ",
    "start_extent = ",
    "extent_count = ",
    "logical_volumes {\n",
    "9223372036854775807",
];

/// The list of disks that a reader of LVM metadata meets.
#[derive(Debug)]
pub(crate) struct Disks(Vec<Sparse>);

/// What LVM wrote, as far as a reader looks at it.
pub(crate) fn sets() -> Vec<Disks> {
    SETS.iter().map(|names| Disks(names.iter().map(|name| unpacked(name)).collect())).collect()
}

fn unpacked(name: &str) -> Sparse {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/lvm");
    let packed = std::fs::File::open(folder.join(format!("{name}.img.zst"))).expect("a sample");
    let mut reader = ruzstd::decoding::StreamingDecoder::new(packed).expect("a zstd frame");
    let mut image = Vec::new();
    reader.read_to_end(&mut image).expect("whole");
    let disk = Sparse::zeroed(image.len() as u64);
    let mut scan = DiskScan::new(image.len() as u64);
    while let Some(range) = scan.needs() {
        let bytes = &image[index(range.start)..index(range.end)];
        disk.put(range.start, bytes);
        scan.give(bytes);
    }
    disk
}

impl Disks {
    pub(crate) fn copy(&self) -> Self {
        Self(self.0.iter().map(Sparse::copy).collect())
    }

    pub(crate) fn len_bytes(&self, disk: usize) -> u64 {
        self.0[disk].len_bytes().expect("known")
    }

    pub(crate) fn content(&self, disk: usize, range: std::ops::Range<u64>) -> Vec<u8> {
        self.0[disk].content(range)
    }

    /// What is on them. A reader asks for nothing beyond their ends, and for no more than it says.
    pub(crate) fn scan(&self) -> Vec<Disk> {
        let scan = |disk: usize| {
            let end = self.len_bytes(disk);
            let (mut scan, mut sum) = (DiskScan::new(end), 0);
            while let Some(range) = scan.needs() {
                assert!(range.start <= range.end && range.end <= end, "{range:?} of {end}");
                assert!(range.end - range.start <= MAX_TEXT_BYTES, "{range:?}");
                sum += range.end - range.start;
                assert!(sum <= MAX_SCAN_BYTES + (4 << 20), "{sum} bytes were asked for");
                scan.give(&self.content(disk, range));
            }
            scan.finish()
        };
        (0..self.0.len()).map(scan).collect()
    }

    pub(crate) fn apply(&self, steps: &[Step]) {
        for step in steps {
            if let Step::Write { disk, start, bytes } = step {
                let end = start + bytes.len() as u64;
                assert!(end <= self.len_bytes(*disk), "written to {start}..{end}");
                self.0[*disk].put(*start, bytes);
            }
        }
    }

    /// Changes the texts, then any bytes of labels and headers, then the disks.
    pub(crate) fn spoil(&mut self, input: &mut Input<'_>) {
        let found = self.scan();
        let mut text = found[0].pvs[0].areas.first().and_then(|area| area.text.clone().ok()?);
        if let (Some(text), true) = (&mut text, !input.u8().is_multiple_of(4)) {
            edit(text, input);
            let some = input.u8();
            self.put_text(&found, text, some);
        }
        for _ in 0..input.u8() % 4 {
            let disk = usize::from(input.u8()) % self.0.len();
            let at = match input.u8() % 4 {
                0 => input.below(2048),
                1 => 4096 + input.below(512),
                2 => 1 << 20 | input.below(8192),
                _ => input.below(self.len_bytes(disk).max(1)),
            };
            let bytes = match input.u8() % 3 {
                0 => vec![input.u8()],
                1 => input.number().to_le_bytes().to_vec(),
                _ => input.bytes(16).to_vec(),
            };
            if at + bytes.len() as u64 <= self.len_bytes(disk) {
                self.0[disk].put(at, &bytes);
            }
        }
        if input.u8().is_multiple_of(2) {
            self.seal(&found);
        }
        self.rearrange(input);
    }

    /// Disks that are missing, there twice, too short or too long.
    fn rearrange(&mut self, input: &mut Input<'_>) {
        let disk = usize::from(input.u8()) % self.0.len();
        match input.u8() {
            0..=0x0F => drop(self.0.remove(disk)),
            0x10..=0x1F => self.0.push(self.0[disk].copy()),
            0x20..=0x2F => self.0[disk].resize(input.below(self.len_bytes(disk) + 1)),
            0x30..=0x3F => self.0[disk].resize(self.len_bytes(disk) + input.number() % (1 << 62)),
            _ => {}
        }
    }

    /// Puts a text into the metadata areas, in some of them if so asked, with a right checksum.
    fn put_text(&self, found: &[Disk], text: &[u8], some: u8) {
        let bytes = [text, &[0]].concat();
        for (n, (disk, pv)) in pvs(found).enumerate() {
            for area in pv.areas.iter().filter_map(|it| it.header.as_ref().ok()) {
                let (Some(live), true) = (area.live, some >> (n % 8) & 1 == 0) else { continue };
                let base = pv.place.start + area.place.start;
                let room = area.place.len - AREA_HEADER_BYTES;
                let bytes = &bytes[..bytes.len().min(index(room))];
                let first = bytes.len().min(index(area.place.len - live.offset));
                self.0[disk].put(base + live.offset, &bytes[..first]);
                self.0[disk].put(base + AREA_HEADER_BYTES, &bytes[first..]);
                let size = (bytes.len() as u64).to_le_bytes();
                let checksum = checksum(bytes).to_le_bytes();
                self.0[disk].put(base + 48, &[&size[..], &checksum].concat());
            }
        }
        self.seal(found);
    }

    /// Makes the checksums of labels and headers right where they were.
    fn seal(&self, found: &[Disk]) {
        for (disk, pv) in pvs(found) {
            let label = pv.place.start + pv.label.sector * 512;
            let sum = checksum(&self.content(disk, label + 20..label + 512));
            self.0[disk].put(label + 16, &sum.to_le_bytes());
            for area in &pv.label.metadata_areas {
                let header = pv.place.start + area.start;
                let sum = checksum(&self.content(disk, header + 4..header + 512));
                self.0[disk].put(header, &sum.to_le_bytes());
            }
        }
    }
}

fn pvs(found: &[Disk]) -> impl Iterator<Item = (usize, &dmsnap_lvm::FoundPv)> {
    found.iter().enumerate().flat_map(|(disk, found)| found.pvs.iter().map(move |pv| (disk, pv)))
}

/// Cuts, copies and writes at some places of a text.
fn edit(text: &mut Vec<u8>, input: &mut Input<'_>) {
    if input.u8() == 0xFF {
        text.clear();
    }
    for _ in 0..input.u8() % 8 {
        let at = index(input.below(text.len() as u64 + 1));
        let end = text.len().min(at + usize::from(input.u8() % 64));
        let other = index(input.below(text.len() as u64 + 1));
        let with = match input.u8() % 5 {
            0 => WORDS[usize::from(input.u8()) % WORDS.len()].into(),
            1 => input.number().to_string().into_bytes(),
            2 => {
                let len = usize::from(input.u8());
                input.bytes(len).to_vec()
            }
            3 => text[other..text.len().min(other + usize::from(input.u16() % 1024))].to_vec(),
            _ => Vec::new(),
        };
        text.splice(at..end, with);
    }
}

/// LVM's checksum, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xF597_A6CF_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xEDB8_8320 * (sum & 1)))
    })
}

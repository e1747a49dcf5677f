//! The picture of the house, `docs/house.svg`, drawn from the imports of the sources.
//!
//! `DMSNAP_DRAW=1 cargo test --test integration house` draws it again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::floors::place;

/// A room: where it stands in the picture, and what it is about.
struct Room {
    name: &'static str,
    floor: usize,
    column: usize,
    noun: &'static str,
}

const fn room(name: &'static str, floor: usize, column: usize, noun: &'static str) -> Room {
    Room { name, floor, column, noun }
}

/// Every room of the house, from the ground up.
const ROOMS: [Room; 17] = [
    room("lvm", 0, 0, "LVM2 on disk"),
    room("sync", 0, 1, "tasks that wait"),
    room("format", 0, 2, "stores as bytes"),
    room("nbd", 0, 4, "NBD as bytes"),
    room("device", 1, 2, "bytes at positions"),
    room("signature", 2, 1, "what lies on a disk"),
    room("store", 2, 2, "exceptions on disk"),
    room("table", 2, 3, "exceptions in memory"),
    room("copy", 3, 2, "many chunks moved"),
    room("merge", 4, 2, "back to the origin"),
    room("volume", 5, 2, "origin and snapshots"),
    room("ops", 6, 2, "whole tasks"),
    room("blocking", 7, 2, "without a runtime"),
    room("images", 7, 0, "LVM in disk images"),
    room("serve", 7, 4, "servers and control"),
    room("cli", 8, 2, "words and signals"),
    room("sim", 8, 4, "simulated machines"),
];

const TOP: usize = 8;
const ROOM: (usize, usize) = (148, 44);
const COLUMN: usize = 176;
const STOREY: usize = 84;
const MARGIN: (usize, usize) = (64, 24);

/// From a room to one that it imports.
type Arrow = (&'static str, &'static str);

fn find(name: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| room.name == name)
}

/// Every import from room to room. `planted` is not a room: it is empty in production.
fn arrows() -> BTreeSet<Arrow> {
    let mut arrows = BTreeSet::new();
    for path in crate::sources::files().iter().filter(|path| path.ends_with(".rs")) {
        let Some(source) = place(path).filter(|_| !path.contains("tests")) else { continue };
        let Some(own) = source.room().filter(|own| *own != "planted") else { continue };
        let from = find(own).unwrap_or_else(|| panic!("{path}: {own} has no place in the picture"));
        for (used, _) in source.used(&crate::sources::text(Path::new(path))) {
            if let Some(to) = find(&used).filter(|to| to.name != from.name) {
                assert!(to.floor < from.floor, "{path}: {used} is not below {own}");
                arrows.insert((from.name, to.name));
            }
        }
    }
    arrows
}

/// The arrows that no chain of others stands for.
fn needed(all: &BTreeSet<Arrow>) -> Vec<Arrow> {
    let leads = |from: &str, to: &str| {
        let mut next = vec![from];
        let mut seen = BTreeSet::new();
        while let Some(room) = next.pop() {
            if room == to {
                return true;
            }
            let below = all.iter().filter(|(importer, _)| *importer == room).map(|it| it.1);
            next.extend(below.filter(|below| seen.insert(*below)));
        }
        false
    };
    let by_another = |(from, to): Arrow| {
        all.iter().any(|(importer, via)| *importer == from && *via != to && leads(via, to))
    };
    all.iter().copied().filter(|arrow| !by_another(*arrow)).collect()
}

/// The middle of a room, at its upper edge.
fn middle(room: &Room) -> (usize, usize) {
    let x = MARGIN.0 + room.column * COLUMN + ROOM.0 / 2;
    (x, MARGIN.1 + (TOP - room.floor) * STOREY)
}

/// The middle of the side of a room that faces a column.
fn side(room: &Room, column: usize) -> (usize, usize) {
    let (x, y) = middle(room);
    let x = if column > room.column { x + ROOM.0 / 2 } else { x - ROOM.0 / 2 };
    (x, y + ROOM.1 / 2)
}

/// Where an arrow begins and ends, so that it passes behind no other room.
fn ends(from: &Room, to: &Room) -> ((usize, usize), (usize, usize)) {
    if from.column == to.column {
        let (x, y) = middle(from);
        return ((x, y + ROOM.1), middle(to));
    }
    let covered = |other: &Room| other.column == to.column && other.floor == to.floor + 1;
    let end = match ROOMS.iter().any(covered) {
        true => side(to, from.column),
        false => middle(to),
    };
    (side(from, to.column), end)
}

fn draw(arrows: &[Arrow]) -> String {
    let width = MARGIN.0 + 4 * COLUMN + ROOM.0 + 24;
    let height = MARGIN.1 + TOP * STOREY + ROOM.1 + 24;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" text-anchor=\"middle\">\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" \
         markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#556\"/></marker></defs>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for floor in 0..=TOP {
        let y = MARGIN.1 + (TOP - floor) * STOREY + ROOM.1 / 2;
        let (top, end) = (y - STOREY / 2, width - 12);
        if floor % 2 == 0 {
            writeln!(
                svg,
                "<rect x=\"12\" y=\"{top}\" width=\"{}\" height=\"{STOREY}\" fill=\"#f2f4f7\"/>",
                end - 12
            )
            .expect("a string takes all");
        }
        writeln!(
            svg,
            "<text x=\"34\" y=\"{}\" font-size=\"16\" fill=\"#99a\">{floor}</text>",
            y + 6
        )
        .expect("a string takes all");
    }
    for room in &ROOMS {
        let ((x, y), (w, h)) = (middle(room), ROOM);
        writeln!(
            svg,
            "<rect x=\"{}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"5\" fill=\"#fff\" stroke=\"#334\" stroke-width=\"1.4\"/>\n\
             <text x=\"{x}\" y=\"{}\" font-weight=\"bold\" fill=\"#113\">{}</text>\n\
             <text x=\"{x}\" y=\"{}\" fill=\"#445\">{}</text>",
            x - w / 2, y + 18, room.name, y + 35, room.noun,
        )
        .expect("a string takes all");
    }
    for (from, to) in arrows {
        let (Some(from), Some(to)) = (find(from), find(to)) else { continue };
        let ((x, y), (x2, y2)) = ends(from, to);
        writeln!(svg, "<path d=\"M{x} {y}L{x2} {y2}\" stroke=\"#556\" stroke-width=\"1.4\" fill=\"none\" marker-end=\"url(#tip)\"/>")
            .expect("a string takes all");
    }
    svg + "</svg>\n"
}

#[test]
fn the_picture_shows_the_imports() {
    let drawn = draw(&needed(&arrows()));
    let path = "docs/house.svg";
    if std::env::var_os("DMSNAP_DRAW").is_some() {
        fs::write(crate::sources::root().join(path), &drawn).expect("docs can be written");
    }
    let kept = crate::sources::text(Path::new(path));
    assert!(kept == drawn, "{path} is of other imports: run this test with DMSNAP_DRAW=1");
}

/// `| 7 | `crates/serve` (...) |` in docs/architecture.md: every room, on the floor it stands on.
#[test]
fn the_table_of_floors_names_every_room() {
    let text = crate::sources::text(Path::new("docs/architecture.md"));
    for room in ROOMS.iter().filter(|room| room.name != "sim") {
        let paths = ["crates/", "src/"].map(|folder| format!("| `{folder}{}", room.name));
        let ends = ["`", ".rs`"];
        let is = |line: &&str| {
            paths.iter().any(|path| {
                line.split_once(path.as_str())
                    .is_some_and(|(_, rest)| ends.iter().any(|end| rest.starts_with(end)))
            })
        };
        let row = text.lines().find(is);
        let row = row.unwrap_or_else(|| panic!("{} is not in the table", room.name));
        assert!(row.starts_with(&format!("| {} |", room.floor)), "{row}");
    }
}

#[test]
fn an_arrow_that_others_stand_for_is_left_out() {
    let all = BTreeSet::from([("cli", "ops"), ("ops", "store"), ("cli", "store"), ("cli", "lvm")]);
    assert_eq!(needed(&all), [("cli", "lvm"), ("cli", "ops"), ("ops", "store")]);
}

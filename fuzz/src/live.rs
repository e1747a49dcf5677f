//! A volume with two snapshots, against a naive model of what its clients know.

mod machine; // the volume, its devices, and what is known of them
mod requests; // what clients do
mod operator; // what an operator does, and what happens to devices
mod restarts; // the server ends and starts again

use std::rc::Rc;

use dmsnap::volume::{OnFull, Volume};

use self::machine::{Layer, Machine};
use crate::content::Content;
use crate::input::{Input, told};
use crate::sparse::Sparse;

/// The most steps of one history.
const MOST_STEPS: usize = 60;

/// Serves the store as the first of two snapshots, if it can be opened.
pub(crate) fn run(cow: Rc<Sparse>, origin: Rc<Sparse>, input: &mut Input<'_>) {
    let policies = [OnFull::Invalidate, OnFull::Fail];
    let layer = |name, cow, on_full| Layer {
        name,
        cow,
        on_full,
        content: None,
        sick: false,
        marked: false,
        cleared: false,
        moment: None,
    };
    let second = layer("b", Rc::new(Sparse::default()), input.pick(&policies));
    let layers = [layer("a", cow, input.pick(&policies)), second];
    let volume = Rc::new(Volume::new(origin.clone()).expect("a size"));
    let len = volume.len_bytes();
    let content = Content::of(origin.content(0..len));
    let before = (layers[0].cow.copy(), content.now.clone());
    let backlog_bytes = input.pick(&[0, 16 << 10, 64 << 10]);
    volume.allow_backlog(backlog_bytes);
    let mut machine = Machine {
        origin,
        origin_sick: false,
        content,
        layers,
        merging: None,
        volume,
        backlog_bytes,
        next_tag: 0,
    };
    if len == 0 || machine.open(0).is_err() {
        assert!(*machine.layers[0].cow == before.0, "written to, and then refused");
        return;
    }
    assert!(machine.origin.content(0..len) == before.1, "written to by an opening");
    machine.live(input);
    machine.end();
}

impl Machine {
    fn live(&mut self, input: &mut Input<'_>) {
        let mut steps = 0;
        while !input.is_empty() && steps < MOST_STEPS {
            steps += 1;
            let what = input.u8();
            told(|| format!("step {steps}: {what:#x}; {}", self.summary()));
            match what {
                0..=0x2F => self.read(input),
                0x30..=0x9F => self.change(input),
                0xA0..=0xAF => self.flush(input),
                0xB0..=0xBF => self.start_merge(input),
                0xC0..=0xCF => self.run_merge(input),
                0xD0..=0xD7 => self.cancel_merge(),
                0xD8..=0xDF => self.create(input),
                0xE0..=0xE3 => self.remove(),
                0xE4..=0xE7 => self.invalidate(input),
                0xE8..=0xEF => self.fail(input),
                0xF0..=0xF3 => self.grow(input),
                0xF4..=0xF9 => self.reopen(),
                _ => self.verify(),
            }
            self.look_for_the_dropped();
        }
        self.verify();
    }

    fn summary(&self) -> String {
        let layers = self.layers.iter().map(|layer| {
            let there = layer.content.is_some();
            format!("{} there {there}, sick {}, {:?}", layer.name, layer.sick, layer.on_full)
        });
        let layers: Vec<String> = layers.collect();
        format!("{}; merging {:?}", layers.join("; "), self.volume.merge_state())
    }
}

use std::rc::Rc;

use dmsnap::ops::{self, ExportOptions, MergeOptions, Silent};
use dmsnap::volume::Volume;
use futures_executor::block_on;

use super::machine::Machine;
use crate::sparse::Sparse;

impl Machine {
    /// The server ends, the devices heal, and it starts again.
    pub(super) fn reopen(&mut self) {
        let ended = block_on(self.volume.flush_all());
        // What waited in memory may have needed room.
        self.look_for_the_dropped();
        let sick = self.origin_sick || self.layers.iter().any(|layer| layer.sick);
        assert!(ended.is_ok() || sick, "{ended:?}");
        if ended.is_ok() && !sick {
            let layers = self.layers.iter_mut().filter_map(|layer| layer.content.as_mut());
            layers.chain([&mut self.content]).for_each(|content| content.safe.fill(true));
        }
        self.origin.fail_after(None);
        self.origin_sick = false;
        self.layers.iter().for_each(|layer| layer.cow.fail_after(None));
        self.volume = Rc::new(Volume::new(self.origin.clone()).expect("a size"));
        self.volume.allow_backlog(self.backlog_bytes);
        // What the origin should be is known unless a merge was under way.
        let merging = self.merging.take();
        let expected = self.content.clone();
        self.learn_the_origin();
        if merging.is_none() {
            expected.has_kept(&self.content.now, "the origin");
        }
        for n in 0..2 {
            self.reopen_layer(n);
        }
    }

    pub(super) fn reopen_layer(&mut self, n: usize) {
        let Some(expected) = self.layers[n].content.take() else {
            if self.layers[n].marked {
                assert!(self.open(n).is_err(), "{} was dropped", self.layers[n].name);
            }
            return;
        };
        let opened = self.open(n);
        assert!(opened.is_ok(), "{}: {opened:?}", self.layers[n].name);
        let found = self.layers[n].content.clone().expect("it was opened");
        expected.has_kept(&found.now, self.layers[n].name);
    }

    /// What lies on the devices is what the commands find.
    pub(super) fn end(&mut self) {
        self.reopen();
        let options = MergeOptions { force: true, ..MergeOptions::default() };
        for layer in &self.layers {
            let Some(expected) = &layer.content else { continue };
            let checked = block_on(ops::check(&layer.cow, None::<&Sparse>, |_| {}));
            assert!(checked.as_ref().is_ok_and(|report| report.sound), "{checked:?}");
            let image = Sparse::zeroed(self.volume.len_bytes());
            let exported =
                ops::export(&layer.cow, &self.origin, &image, ExportOptions::default(), &Silent);
            block_on(exported).expect("sound");
            let all = 0..self.volume.len_bytes();
            assert!(image.content(all.clone()) == expected.now, "{}: exported", layer.name);
            let (cow, origin) = (layer.cow.copy(), self.origin.copy());
            block_on(ops::merge(&cow, &origin, options, &Silent)).expect("sound");
            assert!(origin.content(all) == expected.now, "{}: merged", layer.name);
        }
    }
}

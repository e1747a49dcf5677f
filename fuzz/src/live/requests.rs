use std::io;
use std::ops::Range;

use bytes::Bytes;
use dmsnap::device::{Allocation, Device};
use futures_executor::block_on;

use super::machine::Machine;
use crate::input::{Input, told};
use crate::sparse::index;

impl Machine {
    pub(super) fn read(&mut self, input: &mut Input<'_>) {
        let (layer, range) = (self.device(input), self.range(input));
        self.is_right(layer, range.clone());
        let next = block_on(self.view(layer).next_data(range.start));
        let next = next.expect("known").map_or(self.len(), |data| {
            assert!(data.end > range.start && data.start < data.end, "{data:?} of {range:?}");
            data.start
        });
        let hole = index(range.start)..index(next.max(range.start));
        let losing = self.is_losing(layer);
        let content = self.content(layer);
        let lost = |at| content.unsure.contains_key(&at) || losing && !content.safe[at];
        let zero = |at: usize| content.now[at] == 0 || lost(at);
        assert!(hole.into_iter().all(zero), "a hole with data");
    }

    pub(super) fn is_right(&mut self, layer: Option<usize>, range: Range<u64>) {
        let read = block_on(self.view(layer).read(range.start, index(range.end - range.start)));
        match read {
            Ok(found) => {
                let losing = self.is_losing(layer);
                let content = self.content(layer);
                let right =
                    content.learn(index(range.start), &found, |it, at| losing && !it.safe[at]);
                assert!(right, "{layer:?}, {range:?}");
            }
            Err(error) => assert!(self.is_sick(layer), "{layer:?}, {range:?}: {error}"),
        }
    }

    pub(super) fn change(&mut self, input: &mut Input<'_>) {
        let (layer, range) = (self.device(input), self.range(input));
        let (view, len) = (self.view(layer), range.end - range.start);
        let kind = input.u8() % 8;
        self.next_tag = self.next_tag.wrapping_add(1).max(1);
        let (byte, ended) = match kind {
            0 => (0, block_on(view.write_zeroes(range.start, len, Allocation::MayPunch))),
            1 if self.is_of_the_origin(layer) => (0, block_on(view.discard(range.start, len))),
            1 => {
                // Does nothing, there.
                let ended = block_on(view.discard(range.start, len));
                assert!(ended.is_ok() || self.is_held(layer), "{ended:?}");
                return;
            }
            _ => {
                let data = Bytes::from(vec![self.next_tag; index(len)]);
                (self.next_tag, block_on(view.write(range.start, data)))
            }
        };
        told(|| format!("{kind} at {range:?} of {layer:?}, byte {byte}: {ended:?}"));
        self.changed(layer, range, byte, ended);
    }

    /// What a snapshot calls unchanged is what the origin was when it was made.
    pub(super) fn unchanged_is_right(&mut self) {
        let sick = self.is_losing(None);
        for n in 0..2 {
            let (Some(snapshot), Some(moment)) = (self.snapshot(n), self.layers[n].moment.clone())
            else {
                continue;
            };
            let Ok(told) = self.volume.changed_since(&snapshot, 0..self.len(), usize::MAX) else {
                continue;
            };
            let content = self.content(None);
            let mut at = 0;
            for (len, changed) in told {
                let range = at..at + index(len);
                at = range.end;
                let right = |at: usize| {
                    let lost = content.unsure.contains_key(&at) || sick && !content.safe[at];
                    lost || content.now[at] == moment[at]
                };
                assert!(changed || range.clone().all(right), "{n}: a change in {range:?}");
            }
            assert_eq!(at, moment.len());
        }
    }

    /// What was written is there; of what could not be, every sector is the old or the new one.
    pub(super) fn changed(
        &mut self,
        layer: Option<usize>,
        range: Range<u64>,
        byte: u8,
        ended: io::Result<()>,
    ) {
        self.look_for_the_dropped();
        if layer.is_some_and(|n| self.layers[n].content.is_none()) {
            return;
        }
        let bytes = index(range.start)..index(range.end);
        let Err(error) = ended else { return self.content(layer).put(bytes, byte) };
        let full = error.kind() == io::ErrorKind::StorageFull;
        assert!(full || self.is_held(layer), "{layer:?}, {range:?}: {error}");
        let found = block_on(self.view(layer).read(range.start, bytes.len()));
        let content = self.content(layer);
        content.may_be(bytes.clone(), byte);
        match found {
            Ok(found) => {
                let right = content.learn(bytes.start, &found, |_, _| false);
                assert!(right, "{layer:?}, {range:?}: neither old nor new");
            }
            Err(error) => assert!(self.is_sick(layer), "{error}"),
        }
        self.content(layer).safe[bytes].fill(false);
    }

    pub(super) fn flush(&mut self, input: &mut Input<'_>) {
        let layer = self.device(input);
        let ended = block_on(self.view(layer).flush());
        told(|| format!("flush of {layer:?}: {ended:?}"));
        assert!(ended.is_ok() || self.is_held(layer), "{layer:?}: {ended:?}");
        if ended.is_ok() {
            self.content(layer).safe.fill(true);
        }
    }

    pub(super) fn verify(&mut self) {
        self.look_for_the_dropped();
        for layer in [None, Some(0), Some(1)] {
            if layer.is_none_or(|n| self.layers[n].content.is_some()) {
                self.is_right(layer, 0..self.len());
            }
        }
        self.unchanged_is_right();
    }
}

use crate::medium::{Block, Medium};
use crate::survivors::choose;

/// Every content a disk can have after a power cut, one at a time.
#[derive(Debug)]
pub struct Reboots {
    medium: Medium,
    blocks: Vec<Block>,
    choices: Box<[Vec<usize>]>,
    next: usize,
}

impl Reboots {
    pub(crate) fn new(medium: Medium, seed: u64) -> Self {
        let blocks = medium.blocks();
        let options: Vec<_> = blocks.iter().map(|block| block.versions.len() + 1).collect();
        let choices = choose(&options, &[], seed).into();
        Self { medium, blocks, choices, next: 0 }
    }

    /// How many contents there are to try.
    pub fn choices(&self) -> usize {
        self.choices.len()
    }
}

impl Iterator for Reboots {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let choice = self.choices.get(self.next)?;
        self.next += 1;
        let chosen = self.blocks.iter().zip(choice.iter().copied());
        Some(self.medium.survivor(chosen, true))
    }
}

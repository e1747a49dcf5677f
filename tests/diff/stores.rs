use dmsnap::ops::{self, DiffOptions, DiffSide, Error, Which};

use super::{SECTOR, all, between, excepted, memory, naive, sectors, shown};
use crate::common::bytes;
use crate::kernel_stores::kernel_stores;

#[test]
fn differences_of_every_store_of_a_kernel_are_those_of_the_contents() {
    let mut compared = 0;
    let stores = kernel_stores();
    for store in &stores {
        let (cow, origin) = (memory(&store.content), memory(&store.origin()));
        let header = futures_executor::block_on(ops::info(&cow)).expect("a store");
        let options = DiffOptions::default();
        let listed = futures_executor::block_on(DiffSide::listed(&cow, Some(&origin), options));
        if !header.valid {
            assert!(matches!(listed, Err(Error::Invalid)), "{}", store.name);
            continue;
        }
        let of_origin = || futures_executor::block_on(DiffSide::origin(&origin)).expect("a side");
        let chunk = u64::from(header.chunk_size_sectors);
        let count = (origin.content().len() as u64).div_ceil(512);
        let by_list = between(of_origin(), listed.expect("a side"));
        let flags = sectors(&all(&by_list), count);
        assert_eq!(flags, excepted(&cow, chunk, count), "{}", store.name);
        let side = DiffSide::readable((&cow, Which::Cow), &origin, options);
        let side = futures_executor::block_on(side).expect("a side");
        let exact = between(side, of_origin());
        let mut before = origin.content();
        before.resize(bytes(count) * 512, 0);
        let expected = naive(&shown(&cow, &origin), &before, chunk * SECTOR);
        assert_eq!(all(&exact), expected, "{}", store.name);
        compared += 1;
        let second = store.name.replace(".cow.", ".cow2.");
        let Some(other) = stores.iter().find(|it| it.name == second && it.name != store.name)
        else {
            continue;
        };
        let other = memory(&other.content);
        let sides = [(&cow, Which::Cow), (&other, Which::Second)]
            .map(|cow| futures_executor::block_on(DiffSide::readable(cow, &origin, options)));
        let [a, b] = sides.map(|side| side.expect("a side"));
        let expected = naive(&shown(&cow, &origin), &shown(&other, &origin), chunk * SECTOR);
        assert_eq!(all(&between(a, b)), expected, "{}", store.name);
        compared += 1;
    }
    assert!(compared >= 17, "only {compared} comparisons");
}

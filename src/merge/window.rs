use dmsnap_format::Layout;

/// Where the merge of a store with `end` exceptions cuts its next window: the window is the
/// exceptions from there to `end`, at most `most` of them (at least one).
///
/// The cut is such that clearing the window takes one untorn write, however many areas it spans:
/// what is cleared in the area of the cut lies in one unit of `unit_slots`, and the areas after
/// it need no write at all. So a window costs one flush of the origin and one of the COW device.
pub(crate) fn window_start(layout: Layout, unit_slots: u64, end: u64, most: u64) -> u64 {
    let lowest = end.saturating_sub(most.max(1));
    let (lowest_area, _) = layout.position(lowest);
    let area_end = (lowest_area + 1) * layout.exceptions_per_area();
    let last = area_end.min(end) - 1;
    lowest.max(last - last % unit_slots)
}

#[cfg(test)]
mod tests {
    use dmsnap_format::ChunkSize;

    use super::*;

    /// Every store of up to four areas, every window size, every unit: the windows together clear
    /// everything, none is larger than asked, and none touches two units of the area it cuts.
    #[test]
    fn every_window_is_cleared_by_one_untorn_write() {
        let layout = Layout::new(ChunkSize::from_sectors(8).expect("legal"));
        let per_area = layout.exceptions_per_area();
        for unit_slots in [32, 64, 256] {
            for exceptions in 1..=4 * per_area {
                for most in [1, 31, 33, 255, 256, 257, 700, 5000] {
                    let mut end = exceptions;
                    while end > 0 {
                        let first = window_start(layout, unit_slots, end, most);
                        let area_end = (layout.position(first).0 + 1) * per_area;
                        let last = area_end.min(end) - 1;
                        assert!(first < end && end - first <= most);
                        assert_eq!(first / unit_slots, last / unit_slots, "{first}..{end}");
                        end = first;
                    }
                }
            }
        }
    }

    #[test]
    fn a_large_window_spans_areas() {
        let layout = Layout::new(ChunkSize::from_sectors(8).expect("legal"));
        // 64 MiB of 4 KiB chunks; with a unit of 4 KiB the cut falls on the begin of an area.
        assert_eq!(window_start(layout, 256, 131_072, 16_384), 131_072 - 16_384);
        assert_eq!(window_start(layout, 32, 131_072, 16_384), 131_072 - 16_384 + 224);
        assert_eq!(window_start(layout, 256, 100, 16_384), 0);
    }
}

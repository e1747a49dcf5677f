use super::{LogicalVolume, SegmentKind, Snapshot, Target, VolumeGroup, has};

/// What is known about an LV beside the metadata, for the fifth letter of [`VolumeGroup::lv_attr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Activity {
    /// Nobody uses it.
    #[default]
    Inactive,
    /// In use.
    Active,
    /// A snapshot whose store is invalid.
    Invalid,
}

/// What an LV is to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Nothing.
    Plain,
    /// It has snapshots.
    Origin,
    /// It is the COW device of a snapshot, and users know the snapshot by its name.
    Snapshot,
    /// The hidden LV of a snapshot.
    SnapshotHolder,
    /// One copy or stripe of a RAID LV.
    RaidImage,
    /// What a RAID LV knows about its copies.
    RaidMetadata,
    /// Data of a pool.
    PoolData,
    /// Metadata of a pool.
    PoolMetadata,
    /// Room for the repair of a pool's metadata.
    PoolSpare,
    /// Another part of an LV.
    Part,
}

impl VolumeGroup {
    /// What an LV is to others.
    pub fn role(&self, lv: &LogicalVolume) -> Role {
        if lv.is_holder() {
            return Role::SnapshotHolder;
        }
        if self.snapshot(&lv.name).is_some() {
            return Role::Snapshot;
        }
        if self.snapshots_of(&lv.name).next().is_some() {
            return Role::Origin;
        }
        if lv.name.starts_with("lvol") && lv.name.ends_with("_pmspare") {
            return Role::PoolSpare;
        }
        match self.part_of.get(&lv.name).map(|(kind, key)| (kind.as_str(), key.as_str())) {
            None => Role::Plain,
            Some((kind, "raids" | "raid0_lvs")) if kind.starts_with("raid") => {
                if lv.name.contains("_rmeta_") { Role::RaidMetadata } else { Role::RaidImage }
            }
            Some(("thin-pool" | "cache-pool", "pool" | "data")) => Role::PoolData,
            Some(("thin-pool" | "cache-pool", "metadata")) => Role::PoolMetadata,
            // A thin LV does not hold its pool, it lives in it.
            Some(("thin", _)) => Role::Plain,
            Some(_) => Role::Part,
        }
    }

    /// The ten letters of `lvs -o lv_attr`. `partial`: a PV it needs is not there.
    ///
    /// Exact for linear and striped LVs, origins and snapshots. What other types show of their
    /// state in a running kernel is left out.
    pub fn lv_attr(&self, lv: &LogicalVolume, activity: Activity, partial: bool) -> String {
        let flagged = |word| has(&lv.status, word) || has(&lv.flags, word);
        let policy = policy_letter(lv.allocation_policy.as_deref(), 'i');
        [
            self.type_letter(lv),
            if lv.is_writable() { 'w' } else { 'r' },
            if flagged("LOCKED") { policy.to_ascii_uppercase() } else { policy },
            if flagged("FIXED_MINOR") { 'm' } else { '-' },
            match activity {
                Activity::Inactive => '-',
                Activity::Active => 'a',
                Activity::Invalid => 'I',
            },
            '-',
            self.target_letter(lv),
            '-',
            if partial { 'p' } else { '-' },
            if flagged("ACTIVATION_SKIP") { 'k' } else { '-' },
        ]
        .iter()
        .collect()
    }

    fn type_letter(&self, lv: &LogicalVolume) -> char {
        let merges = |snapshot: &Snapshot| snapshot.merging;
        match self.role(lv) {
            Role::Snapshot if self.snapshot(&lv.name).is_some_and(merges) => 'S',
            Role::Snapshot => 's',
            Role::Origin if self.snapshots_of(&lv.name).any(merges) => 'O',
            Role::Origin => 'o',
            Role::RaidImage => 'I',
            Role::PoolData => 'T',
            Role::RaidMetadata | Role::PoolMetadata | Role::PoolSpare => 'e',
            Role::Plain | Role::Part | Role::SnapshotHolder => match lv.kinds().next() {
                Some("thin") => 'V',
                Some("thin-pool") => 't',
                Some("mirror") => 'm',
                Some("cache" | "cache-pool" | "writecache") => 'C',
                Some(kind) if kind.starts_with("raid") => 'r',
                _ => '-',
            },
        }
    }

    fn target_letter(&self, lv: &LogicalVolume) -> char {
        match self.role(lv) {
            Role::Snapshot | Role::Origin | Role::SnapshotHolder => 's',
            Role::RaidImage | Role::RaidMetadata => 'r',
            _ => match lv.kinds().next() {
                Some("thin" | "thin-pool") => 't',
                Some("mirror") => 'm',
                Some("cache" | "cache-pool" | "writecache") => 'C',
                Some(kind) if kind.starts_with("raid") => 'r',
                _ => '-',
            },
        }
    }

    /// As `lvs -o lv_layout`: `linear`, `striped`, `raid,raid1`, `thin,pool`, ...
    pub fn lv_layout(&self, lv: &LogicalVolume) -> String {
        let mut kinds: Vec<_> = lv.kinds().collect();
        kinds.dedup();
        match kinds[..] {
            ["thin-pool"] => "thin,pool".to_owned(),
            ["thin"] => "thin,sparse".to_owned(),
            [kind] if kind.starts_with("raid") => format!("raid,{kind}"),
            _ => kinds.join(","),
        }
    }

    /// As `lvs -o lv_role`: `public,origin,thickorigin`, `private,raid,image`, ...
    pub fn lv_role(&self, lv: &LogicalVolume) -> &'static str {
        match self.role(lv) {
            Role::Snapshot => "public,snapshot,thicksnapshot",
            Role::Origin if self.snapshots_of(&lv.name).nth(1).is_some() => {
                "public,origin,thickorigin,multithickorigin"
            }
            Role::Origin => "public,origin,thickorigin",
            Role::RaidImage => "private,raid,image",
            Role::RaidMetadata => "private,raid,metadata",
            Role::PoolData => "private,thin,pool,data",
            Role::PoolMetadata => "private,thin,pool,metadata",
            Role::PoolSpare => "private,pool,spare",
            Role::Part | Role::SnapshotHolder => "private",
            Role::Plain if lv.kinds().any(|kind| kind == "thin-pool") => "private",
            Role::Plain if self.is_visible(lv) => "public",
            Role::Plain => "private",
        }
    }

    /// The six letters of `vgs -o vg_attr`. `partial`: a PV is not there.
    pub fn vg_attr(&self, partial: bool) -> String {
        [
            if has(&self.status, "WRITE") { 'w' } else { 'r' },
            if has(&self.status, "RESIZEABLE") { 'z' } else { '-' },
            if self.is_exported() { 'x' } else { '-' },
            if partial { 'p' } else { '-' },
            policy_letter(self.allocation_policy.as_deref(), 'n'),
            if self.lock_type.is_some() { 's' } else { '-' },
        ]
        .iter()
        .collect()
    }

    /// Extents of all PVs together.
    pub fn extents(&self) -> u64 {
        self.pvs.iter().fold(0, |sum, pv| sum.saturating_add(pv.pe_count))
    }

    /// Extents that no LV has.
    pub fn free_extents(&self) -> u64 {
        let segments = self.lvs.iter().flat_map(|lv| &lv.segments);
        let used = segments.fold(0_u64, |used, segment| match &segment.kind {
            SegmentKind::Striped { stripes, .. } => {
                let on_pvs = stripes.iter().filter(|stripe| matches!(stripe.on, Target::Pv(_)));
                let each = segment.extent_count / stripes.len() as u64;
                used.saturating_add(each.saturating_mul(on_pvs.count() as u64))
            }
            _ => used,
        });
        self.extents().saturating_sub(used)
    }
}

fn policy_letter(policy: Option<&str>, inherited: char) -> char {
    match policy {
        Some("contiguous") => 'c',
        Some("cling" | "cling_by_tags") => 'l',
        Some("normal") => 'n',
        Some("anywhere") => 'a',
        _ => inherited,
    }
}
